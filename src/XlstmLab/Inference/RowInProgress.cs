using System.Text;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Inference;

/// <summary>One text in the making.</summary>
/// <param name="options">How its tokens are chosen.</param>
/// <param name="row">Its number among texts of the same options: its draws are those of the seed plus this.</param>
/// <param name="prompt">The ids that are read before it.</param>
/// <param name="tokenizer">What spells its ids.</param>
internal sealed class RowInProgress(GenerationOptions options, int row, int[] prompt, ITokenizer tokenizer)
{
    private readonly TokenSampler _sampler = new(options, options.Seed + row, prompt);
    private readonly StopStringFilter _filter = new(options.StopStrings);
    private readonly Utf8StreamDecoder _decoder = Begin(options, tokenizer);
    private readonly double[] _logits = new double[tokenizer.VocabularySize];
    private readonly List<GeneratedToken> _steps = [];
    private readonly Queue<(int Id, double LogProbability)> _choices = [];
    private bool _hasLogits;

    /// <summary>The ids so far.</summary>
    public List<int> Tokens { get; } = [];

    /// <summary>The last of <see cref="Tokens"/>.</summary>
    public GeneratedToken Last { get; private set; }

    /// <summary>Text that the last token made sure of.</summary>
    public string Piece { get; private set; } = "";

    /// <summary>All pieces.</summary>
    public StringBuilder Text { get; } = new();

    /// <summary>The sum over all tokens.</summary>
    public double LogProbability { get; private set; }

    /// <summary>Whether the model has read the last token.</summary>
    public bool HasLogits => _hasLogits || _choices.Count > 0;

    /// <summary>The state after the row finished, where it is wanted.</summary>
    public ModelState? State { get; set; }

    /// <summary>Whether its tokens can be chosen beside the model, on a device: no others' logits are wanted, none biased.</summary>
    public bool IsChosenOnDevice => options is { TopLogProbabilities: 0, LogitBias.Count: 0 };

    /// <summary>How many tokens are still to come at most.</summary>
    public int Remaining => options.MaxNewTokens - Tokens.Count;

    /// <summary>Whether it may end before those.</summary>
    public bool MayEndEarly => options.StopAtEndOfDocument || options.StopStrings.Count > 0;

    /// <summary>What the model is to read next: the last token, or that of the prompt where none was generated.</summary>
    public int Unread => Tokens.Count > 0 ? Tokens[^1] : prompt[^1];

    /// <summary>Takes what the model makes of all that was read, [V].</summary>
    public void SetLogits(ReadOnlySpan<double> logits)
    {
        logits.CopyTo(_logits);
        _hasLogits = true;
    }

    /// <inheritdoc cref="SetLogits(ReadOnlySpan{double})"/>
    public void SetLogits(ReadOnlySpan<float> logits)
    {
        TensorPrimitives.ConvertTruncating(logits, _logits);
        _hasLogits = true;
    }

    /// <summary>Takes a token that is to come, behind those that were taken before it, where it was chosen beside the model.</summary>
    /// <param name="id">The token.</param>
    /// <param name="logProbability">No number where the logits were none.</param>
    public void SetChoice(int id, double logProbability) => _choices.Enqueue((id, logProbability));

    /// <inheritdoc cref="TokenSampler.ForDevice"/>
    public TokenChoiceRow ForDevice(int ids) => _sampler.ForDevice(ids);

    /// <inheritdoc cref="TokenSampler.Occurred"/>
    public IEnumerable<(int Id, int Generated)>? Occurred() => _sampler.Occurred();

    /// <summary>Chooses a token; returns why it is the last, if it is.</summary>
    /// <exception cref="InvalidOperationException">Logits are not numbers.</exception>
    public FinishReason? Add()
    {
        var (id, logProbability) = _choices.Count > 0 ? Chosen() : _sampler.Next(_logits);
        var likeliest = options.TopLogProbabilities > 0 ? Sampling.Likeliest(_logits, options.TopLogProbabilities) : null;
        _hasLogits = false;
        Tokens.Add(id);
        LogProbability += logProbability;
        Piece = _filter.Push(_decoder.Push(id));
        FinishReason? reason =
            _filter.Stopped ? FinishReason.StopString
            : options.StopAtEndOfDocument && id == tokenizer.EndOfDocument ? FinishReason.EndOfDocument
            : Tokens.Count == options.MaxNewTokens ? FinishReason.Length
            : null;
        if (reason is not null)
        {
            Piece += _filter.Push(options.GoesOn ? "" : _decoder.Flush()) + _filter.Flush();
        }

        Text.Append(Piece);
        Last = new(id, logProbability, reason, likeliest);
        _steps.Add(Last);
        return reason;
    }

    /// <summary>The finished text.</summary>
    public GeneratedSequence ToSequence() =>
        new([.. Tokens], Text.ToString(), LogProbability, Last.FinishReason ?? FinishReason.Length) { Steps = _steps };

    private (int Id, double LogProbability) Chosen()
    {
        var choice = _choices.Dequeue();
        if (!double.IsFinite(choice.LogProbability))
        {
            throw TokenSampler.NoNumbers();
        }

        _sampler.Note(choice.Id);
        return choice;
    }

    private static Utf8StreamDecoder Begin(GenerationOptions options, ITokenizer tokenizer)
    {
        var decoder = new Utf8StreamDecoder(tokenizer);
        decoder.PushBytes([.. options.EarlierBytes]);
        return decoder;
    }
}
