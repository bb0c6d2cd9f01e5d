using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Text;

/// <summary>Rows of tokens that a model reads, and what it is to predict at each of them.</summary>
/// <remarks>
/// In text, the target is the next token. A document is its end-of-document token (EOD) followed by its text: the EOD that opens a
/// document is the target that ends the one before. <see cref="DocumentStarts"/> is true at each EOD, where a model resets its state.
/// </remarks>
/// <param name="Inputs">[Rows, Length] token ids, row by row.</param>
/// <param name="Targets">[Rows, Length] token ids; <see cref="Ignored"/> where nothing is predicted.</param>
/// <param name="DocumentStarts">[Rows, Length], true at the first token of a document.</param>
/// <param name="Rows">The number of sequences, B.</param>
/// <param name="Length">The number of tokens of a row, S.</param>
public sealed record TokenBatch(int[] Inputs, int[] Targets, bool[] DocumentStarts, int Rows, int Length) : IBatch<TokenBatch>
{
    private bool _isOfBatchWithStarts;

    /// <summary>The target of a position whose prediction counts nowhere.</summary>
    public const int Ignored = -100;

    /// <summary>The UTF-8 bytes of the text that the targets stand for; null where that is not known.</summary>
    public long? TextBytes { get; init; }

    /// <summary>The number of targets that count.</summary>
    public int TargetCount => Targets.Length - Targets.AsSpan().Count(Ignored);

    /// <summary>Rows of text: of windows of S + 1 tokens, the last is only a target and the first only an input.</summary>
    /// <param name="windows">[rows, length + 1] tokens.</param>
    /// <param name="rows">The number of windows, B.</param>
    /// <param name="length">The number of tokens of a row, S.</param>
    /// <param name="endOfDocument">The token that starts a document wherever it stands.</param>
    internal static TokenBatch OfWindows(int[] windows, int rows, int length, int endOfDocument)
    {
        var (inputs, targets) = (new int[rows * length], new int[rows * length]);
        for (var row = 0; row < rows; row++)
        {
            var window = windows.AsSpan(row * (length + 1), length + 1);
            window[..^1].CopyTo(inputs.AsSpan(row * length));
            window[1..].CopyTo(targets.AsSpan(row * length));
        }

        return new(inputs, targets, Array.ConvertAll(inputs, t => t == endOfDocument), rows, length);
    }

    /// <summary>The inputs as a tensor [Rows, Length] int64.</summary>
    public Tensor ToInputTensor(Device? device = null) => tensor(Inputs, [Rows, Length], int64).ToDevice(device);

    /// <summary>The targets as a tensor [Rows, Length] int64.</summary>
    public Tensor ToTargetTensor(Device? device = null) => tensor(Targets, [Rows, Length], int64).ToDevice(device);

    /// <summary>The document starts as a tensor [Rows, Length] bool.</summary>
    public Tensor ToDocumentStartTensor(Device? device = null) => tensor(DocumentStarts, [Rows, Length], @bool).ToDevice(device);

    /// <summary>Whether a document starts anywhere but at a row's first token, where a fresh state makes no difference.</summary>
    /// <remarks>Some rows of a batch have what the whole batch has, so that all parts of an update are computed alike.</remarks>
    internal bool HasInnerStarts => _isOfBatchWithStarts
        || Enumerable.Range(0, Rows).Any(row => DocumentStarts.AsSpan(row * Length + 1, Length - 1).Contains(true));

    /// <summary>Some of the rows.</summary>
    /// <param name="first">The first of them.</param>
    /// <param name="count">How many, at least 1.</param>
    public TokenBatch Slice(int first, int count)
    {
        var range = new Range(first * Length, (first + count) * Length);
        return new(Inputs[range], Targets[range], DocumentStarts[range], count, Length) { _isOfBatchWithStarts = HasInnerStarts };
    }
}
