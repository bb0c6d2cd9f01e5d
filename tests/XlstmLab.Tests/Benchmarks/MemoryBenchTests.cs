using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class MemoryBenchTests
{
    [Theory]
    [InlineData(100, 100, true)]
    [InlineData(101, 100, false)]
    [InlineData(100, 104.9, true)]
    [InlineData(100, 105.1, false)]
    public void IsConstant_GrowthAfterTheWarmUp_IsNot(long tensors, double mebibytes, bool constant) =>
        Assert.Equal(constant, MemoryBench.IsConstant(
            [new("w", 1, 1, 1, false), new("w", 2, 100, 100, true), new("w", 3, tensors, mebibytes, true)]));
}
