using System.Numerics.Tensors;
using XlstmLab.Text;

namespace XlstmLab.Inference;

/// <summary>Chooses the tokens of one text: holds its draws and the ids that occurred.</summary>
internal sealed class TokenSampler(GenerationOptions options, long seed, IEnumerable<int> prompt)
{
    private readonly HashSet<int>? _occurred = options.RepetitionPenalty == 1 ? null : [.. options.EarlierTokens, .. prompt];
    private readonly Dictionary<int, int>? _generated = options.FrequencyPenalty == 0 && options.PresencePenalty == 0 ? null : [];
    private SplitMix64 _random = Begin(seed, options.EarlierDraws);
    private double[] _scores = [];

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
            _scores = new double[logits.Length];
        }

        logits.CopyTo(_scores);
        if (_occurred is not null)
        {
            Sampling.Penalize(_scores, _occurred, options.RepetitionPenalty);
        }

        if (_generated is not null)
        {
            Sampling.PenalizeCounts(_scores, _generated, options.FrequencyPenalty, options.PresencePenalty);
        }

        var id = options.Temperature == 0 ? Sampling.Greedy(_scores) : Draw(_scores);
        _occurred?.Add(id);
        if (_generated is not null)
        {
            _generated[id] = _generated.GetValueOrDefault(id) + 1;
        }

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
