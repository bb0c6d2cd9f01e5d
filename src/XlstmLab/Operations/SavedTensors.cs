using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What a hand-written operation keeps for its backward pass, where some of the tensors may be absent.</summary>
internal static class SavedTensors
{
    /// <summary>Keeps tensors for the backward pass. An absent one, null, keeps its place.</summary>
    /// <param name="context">The operation's context.</param>
    /// <param name="scope">
    /// The forward pass's own scope, if it has one. libtorch takes the tensors when the pass has returned, so that those made in the scope
    /// have to leave it; those of the caller stay where they are.
    /// </param>
    /// <param name="tensors">The tensors. Of an output, an alias: the output itself holds the graph that would hold it.</param>
    public static void Save(this autograd.AutogradContext context, DisposeScope? scope, params List<Tensor?> tensors)
    {
        scope?.MoveToOuter(tensors.OfType<Tensor>());
        context.save_for_backward(tensors!);
    }

    /// <summary>What was kept, in its order, in the current scope; null in the place of an absent tensor.</summary>
    public static IReadOnlyList<Tensor?> Load(this autograd.AutogradContext context) => context.get_saved_variables();
}
