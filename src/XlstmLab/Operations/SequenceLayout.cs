using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What the tokens of a batch belong to, beyond their order.</summary>
/// <param name="DocumentStarts">
/// [B, S] bool, true at the first token of a document: the state is reset before that token, exactly, as if the document
/// stood alone. Null: each row continues one document.
/// </param>
/// <param name="Padding">
/// [B, S] bool, true where there is no token: such a position leaves the state as it is, and its output has no meaning.
/// Null: every position is a token.
/// </param>
public sealed record SequenceLayout(Tensor? DocumentStarts = null, Tensor? Padding = null)
{
    /// <summary>The part of the layout that belongs to the tokens [start, start + length).</summary>
    public SequenceLayout Narrow(long start, long length) =>
        new(DocumentStarts?.narrow(1, start, length), Padding?.narrow(1, start, length));

    /// <summary>The document starts, or null where there are none: most batches of long documents have no border.</summary>
    /// <remarks>Only on a CPU is that looked up: on a device the look would wait for it.</remarks>
    internal Tensor? StartsIfAny() =>
        DocumentStarts is { device_type: DeviceType.CPU } starts && !starts.any().item<bool>() ? null : DocumentStarts;
}
