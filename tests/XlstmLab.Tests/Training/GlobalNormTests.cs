using CsCheck;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Training;

public sealed class GlobalNormTests
{
    [Fact]
    public void Of_RandomShapes_EqualsTheSumInDoublePrecision() =>
        Gen.Float[-100, 100].Array[0, 70].Array[1, 5].Sample(
            arrays =>
            {
                using var scope = NewDisposeScope();
                var expected = Math.Sqrt(arrays.Sum(a => a.Sum(x => (double)x * x)));
                var tensors = arrays.Select(a => tensor(a)).ToArray();
                Assert.Equal(expected, GlobalNorm.Of(tensors), expected * 1e-12);
                Assert.Equal(expected, Math.Sqrt(GlobalNorm.SquaredSum(tensors)), expected * 1e-12);
            },
            iter: 200);

    [Fact]
    public void Of_ManyBlocksAndTransposed_EqualsOtherDevicesPath()
    {
        using var scope = NewDisposeScope();
        var tensors = new[] { randn(300, 401), randn(7), randn(100, 3).t(), randn(1 << 15) };
        Assert.Equal(Math.Sqrt(GlobalNorm.SquaredSum(tensors)), GlobalNorm.Of(tensors), 1e-9);
        Assert.Equal(GlobalNorm.Of(tensors), GlobalNorm.Of(tensors));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void Of_ElementNotFinite_IsNotFinite(float value)
    {
        using var scope = NewDisposeScope();
        var values = zeros(1000);
        values[997] = value;
        Assert.False(double.IsFinite(GlobalNorm.Of([values])));
    }

    [Fact]
    public void Of_HugeElements_DoesNotOverflow()
    {
        using var scope = NewDisposeScope();
        Assert.Equal(2e30, GlobalNorm.Of([full(4, 1e30f)]), 1e24);
        Assert.Equal(0, GlobalNorm.Of([]));
    }
}
