using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class WorkloadTests
{
    [Fact]
    public void Counts_AreThoseOfTheEquations()
    {
        var work = new MLstmWork("sigmoid", 8, 4, 2048, 128, 256);
        Assert.Equal((65_536.0 * (2 * 64 * 384 + 4 * 128 * 256), 65_536.0 * 1536), (work.ForwardFlops, work.ForwardBytes));
        Assert.Equal(work.ForwardBytes / 3e12, DeviceLimit.Of("NVIDIA H100 80GB HBM3")!.Seconds(work.ForwardBytes, work.ForwardFlops), 12);
        Assert.Null(DeviceLimit.Of("another"));
    }
}
