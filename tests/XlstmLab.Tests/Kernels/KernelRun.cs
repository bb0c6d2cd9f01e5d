using XlstmLab.Kernels;
using XlstmLab.Native;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Kernels;

/// <summary>While it lives, tensors are made where kernels run: on the GPU if there is one, else on the CPU, with the kernels emulated.</summary>
internal sealed class KernelRun : IDisposable
{
    private static readonly EmulatedDevice Emulator = new();

    private readonly Device _before = get_default_device();

    private KernelRun()
    {
        if (NativeTorch.IsCudaAvailable && Kernel.Absence is null)
        {
            set_default_device(CUDA);
            Poison();
        }
        else
        {
            Kernel.Device = Emulator;
        }
    }

    /// <summary>Begins; a test is skipped, with the reason, where kernels can be neither run nor emulated.</summary>
    public static KernelRun Begin()
    {
        var hasGpu = NativeTorch.IsCudaAvailable && Kernel.Absence is null;
        Assert.SkipWhen(
            !hasGpu && EmulatedDevice.Absence is not null, $"Kernels run neither on a GPU ({Kernel.Absence}) nor emulated ({EmulatedDevice.Absence}).");
        return new();
    }

    public void Dispose()
    {
        Kernel.Device = null;
        set_default_device(_before);
    }

    /// <summary>Fills the memory that libtorch will give out next with NaN, so that what a kernel forgets to write is seen.</summary>
    private static void Poison()
    {
        using var scope = NewDisposeScope();
        foreach (var bytes in Enumerable.Repeat(512 << 10, 64).Concat(Enumerable.Repeat(16 << 20, 16)))
        {
            _ = full(bytes / 4, double.NaN, ScalarType.Float32);
        }
    }

    /// <summary>‖actual − expected‖ / ‖expected‖, in double precision; NaN if an element is.</summary>
    public static double Error(Tensor actual, Tensor expected)
    {
        using var scope = NewDisposeScope();
        var (a, e) = (actual.to(float64), expected.to(float64));
        return ((a - e).norm() / e.norm()).item<double>();
    }
}
