using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Frees what a hand-written backward pass leaves behind on a thread of the autograd engine.</summary>
/// <remarks>
/// For tensors on a device the engine runs backward passes on threads of its own. No dispose scope of the caller reaches there, so the
/// gradients that come in and go out would wait for the garbage collector, which knows nothing of a device's memory. The engine has
/// taken its own references when a pass returns: the next pass on the same thread may free them.
/// </remarks>
internal static class EngineThread
{
    [ThreadStatic]
    private static List<Tensor>? _left;

    /// <summary>Gives a backward pass's result to the engine.</summary>
    /// <param name="incoming">The gradients that the pass was given.</param>
    /// <param name="result">The gradients that it returns, in no dispose scope but the caller's.</param>
    /// <returns><paramref name="result"/>.</returns>
    public static List<Tensor> Return(IEnumerable<Tensor> incoming, List<Tensor> result)
    {
        if (result.Any(t => t is not null && t.device_type != DeviceType.CPU))
        {
            Keep([.. incoming, .. result]);
        }

        return result;
    }

    /// <summary>Gives a backward pass's result to the engine, and moves what was made in the pass's own scope out of it.</summary>
    /// <param name="scope">The pass's own dispose scope.</param>
    /// <param name="incoming">The gradients that the pass was given.</param>
    /// <param name="result">The gradients that it returns, null for what has none.</param>
    public static List<Tensor> Return(DisposeScope scope, IEnumerable<Tensor> incoming, params List<Tensor?> result)
    {
        scope.MoveToOuter(result.OfType<Tensor>());
        return Return(incoming, result!);
    }

    /// <summary>Frees what this thread kept before, and keeps these until the next call.</summary>
    internal static void Keep(IEnumerable<Tensor?> tensors)
    {
        _left?.ForEach(t => t.Dispose());
        _left = [.. tensors.OfType<Tensor>().Where(t => !t.IsInvalid)];
    }
}
