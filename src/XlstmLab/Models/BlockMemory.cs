using TorchSharp;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>
/// Frees behind each block of a pass what it made for itself: the next needs the stream, what is still to be added to it and what is
/// remembered. Otherwise a pass without gradients would hold the activations of all blocks, and one with them what no gradient needs.
/// </summary>
/// <param name="pass">The dispose scope of the whole pass.</param>
/// <param name="kept">What is remembered after the last token, or null.</param>
internal sealed class BlockMemory(DisposeScope pass, Dictionary<string, Tensor>? kept)
{
    /// <summary>Goes through a block.</summary>
    /// <param name="stream">[B, S, d] what it is given; freed behind it, if it was made in this pass.</param>
    /// <param name="written">[B, S, d] what is still to be added, likewise; or null.</param>
    /// <param name="block">The block.</param>
    /// <returns>What the block gives, in the scope of the pass.</returns>
    public (Tensor Stream, Tensor? Written) Through(Tensor stream, Tensor? written, Func<(Tensor Stream, Tensor? Written)> block)
    {
        using var scope = NewDisposeScope();
        var count = kept?.Count ?? 0;
        var (next, nextWritten) = block();
        next = BackwardMarks.Behind(next);
        scope.MoveToOuter(new[] { next, nextWritten }.OfType<Tensor>());
        scope.MoveToOuter(kept?.Values.Skip(count) ?? []);
        foreach (var before in new[] { stream, written })
        {
            if (before is not null && pass.Contains(before) && !ReferenceEquals(before, next) && !ReferenceEquals(before, nextWritten))
            {
                before.Dispose();
            }
        }

        return (next, nextWritten);
    }
}
