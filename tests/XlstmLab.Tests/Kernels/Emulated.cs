using XlstmLab.Kernels;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Kernels;

/// <summary>While it lives, kernels run on the CPU, emulated.</summary>
internal sealed class Emulated : IDisposable
{
    private static readonly EmulatedDevice Shared = new();

    private Emulated() => Kernel.Device = Shared;

    /// <summary>Begins; a test is skipped, with the reason, where it cannot.</summary>
    public static Emulated Begin()
    {
        Assert.SkipWhen(EmulatedDevice.Absence is not null, $"The emulator of kernels does not run here: {EmulatedDevice.Absence}");
        return new();
    }

    public void Dispose() => Kernel.Device = null;

    /// <summary>‖actual − expected‖ / ‖expected‖, in double precision; NaN if an element is.</summary>
    public static double Error(Tensor actual, Tensor expected)
    {
        using var scope = NewDisposeScope();
        var (a, e) = (actual.to(float64), expected.to(float64));
        return ((a - e).norm() / e.norm()).item<double>();
    }
}
