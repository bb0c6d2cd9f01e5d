using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Frees what a hand-written backward pass leaves behind on a thread of the autograd engine.</summary>
/// <remarks>
/// For tensors on a device the engine runs backward passes on threads of its own. No dispose scope of the caller reaches there, so the
/// gradients that go out would wait for the garbage collector, which knows nothing of a device's memory. The engine has
/// taken its own references when a pass returns: the next pass on the same thread may free them.
/// </remarks>
internal static class EngineThread
{
    [ThreadStatic]
    private static List<Tensor>? _left;

    /// <summary>Frees what this thread kept before, and keeps these until the next call.</summary>
    public static void Keep(IEnumerable<Tensor?> tensors)
    {
        _left?.ForEach(t => t.Dispose());
        _left = [.. tensors.OfType<Tensor>().Where(t => !t.IsInvalid)];
    }
}
