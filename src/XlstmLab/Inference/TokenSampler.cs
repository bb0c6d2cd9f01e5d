using System.Numerics.Tensors;
using XlstmLab.Operations;
using XlstmLab.Text;

namespace XlstmLab.Inference;

/// <summary>Chooses the tokens of one text: holds its draws and the ids that occurred.</summary>
internal sealed class TokenSampler(GenerationOptions options, long seed, IEnumerable<int> prompt)
{
    private readonly HashSet<int>? _occurred = options.RepetitionPenalty == 1 ? null : [.. options.EarlierTokens, .. prompt];
    private readonly Dictionary<int, int>? _generated = options.FrequencyPenalty == 0 && options.PresencePenalty == 0 ? null : [];
    private SplitMix64 _random = Begin(seed, options.EarlierDraws);
    private double[] _scores = [];

    /// <summary>What a device needs to choose the next tokens, but for what occurred.</summary>
    /// <param name="ids">The number of ids that may be chosen.</param>
    public TokenChoiceRow ForDevice(int ids) => new()
    {
        Mode = options.Temperature == 0 ? TokenChoiceMode.Greedy : TokenChoiceMode.Drawn,
        Repetition = options.RepetitionPenalty,
        Frequency = options.FrequencyPenalty,
        Presence = options.PresencePenalty,
        Steepness = (float)Math.Clamp(1 / (Math.Log(2) * options.Temperature), 1.2e-38, float.MaxValue),
        TopK = options.TopK is { } k && k < ids ? k : 0,
        TopP = options.TopP ?? 1,
        Least = options.MinP is { } share ? options.Temperature * Math.Log(share) : double.NegativeInfinity,
        Random = _random.State,
    };

    /// <summary>The ids that penalties are for, each once, with how often they were generated; null where there are no penalties.</summary>
    public IEnumerable<(int Id, int Generated)>? Occurred()
    {
        var ids = _occurred ?? _generated?.Keys.AsEnumerable();

        // What was generated has occurred too.
        return ids?.Select(id => (id, _generated?.GetValueOrDefault(id) ?? 0));
    }

    /// <summary>Notes a token that a device has chosen.</summary>
    public void Note(int id)
    {
        if (options.Temperature != 0)
        {
            _random.Skip(1);
        }

        Remember(id);
    }

    /// <summary>The next token and its logarithm of probability.</summary>
    /// <param name="logits">[V].</param>
    /// <exception cref="InvalidOperationException">Logits are not numbers.</exception>
    public (int Id, double LogProbability) Next(ReadOnlySpan<double> logits)
    {
        if (!double.IsFinite(TensorPrimitives.Max(logits)))
        {
            throw NoNumbers();
        }

        if (_scores.Length != logits.Length)
        {
            // A prompt may hold ids of the model that the tokenizer does not know.
            var ids = logits.Length;
            _scores = new double[ids];
            _occurred?.RemoveWhere(id => id >= ids);
        }

        logits.CopyTo(_scores);
        foreach (var (biased, bias) in options.LogitBias)
        {
            _scores[biased] += bias;
        }

        if (_occurred is not null)
        {
            Sampling.Penalize(_scores, _occurred, options.RepetitionPenalty);
        }

        if (_generated is not null)
        {
            Sampling.PenalizeCounts(_scores, _generated, options.FrequencyPenalty, options.PresencePenalty);
        }

        var id = options.Temperature == 0 ? Sampling.Greedy(_scores) : Draw(_scores);
        Remember(id);
        return (id, Sampling.LogProbability(logits, id));
    }

    /// <summary>What is wrong with logits that are no numbers.</summary>
    public static InvalidOperationException NoNumbers() =>
        new("The model's logits are not all numbers: its weights or the state are damaged, or its training had diverged.");

    private static SplitMix64 Begin(long seed, long drawn)
    {
        var random = new SplitMix64(seed, 0);
        random.Skip(drawn);
        return random;
    }

    private void Remember(int id)
    {
        _occurred?.Add(id);
        if (_generated is not null)
        {
            _generated[id] = _generated.GetValueOrDefault(id) + 1;
        }
    }

    private int Draw(double[] scores)
    {
        // Less its maximum, no logit overflows at a temperature near 0.
        TensorPrimitives.Subtract(scores, TensorPrimitives.Max<double>(scores), scores);
        TensorPrimitives.Divide(scores, options.Temperature, scores);
        if (options.TopK is { } k)
        {
            Sampling.KeepTopK(scores, k);
        }

        if (options.TopP is { } p)
        {
            Sampling.KeepTopP(scores, p);
        }

        if (options.MinP is { } share)
        {
            Sampling.KeepMinP(scores, share);
        }

        return Sampling.Draw(scores, _random.NextDouble());
    }
}
