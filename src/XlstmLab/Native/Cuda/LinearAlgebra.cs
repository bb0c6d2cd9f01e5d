using static TorchSharp.torch;

namespace XlstmLab.Native.Cuda;

/// <summary>libtorch's linear algebra for GPUs, a library of its own that is loaded when it is first needed.</summary>
internal static class LinearAlgebra
{
    private static readonly Lazy<bool> Loading = new(Load);

    /// <summary>
    /// Loads it, where there is a GPU. libtorch fails ("lazy wrapper should be called at most once") where several threads are the first to
    /// need it at once.
    /// </summary>
    public static void EnsureLoaded() => _ = Loading.Value;

    private static bool Load()
    {
        if (!NativeTorch.IsCudaAvailable)
        {
            return false;
        }

        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var one = ones([1, 1], ScalarType.Float32, CUDA);
        _ = linalg.solve_triangular(one, one, upper: false);
        return true;
    }
}
