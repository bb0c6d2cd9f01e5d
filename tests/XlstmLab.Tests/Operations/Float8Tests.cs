using XlstmLab.Operations;
using Xunit;

namespace XlstmLab.Tests.Operations;

public sealed class Float8Tests
{
    [Fact]
    public void Widen_Codes_AreTheFormatsNumbers()
    {
        Assert.Equal(
            [0, 0.001953125f, 0.013671875f, 0.015625f, 1, 1.125f, -2, 448, -448],
            new[] { 0x00, 0x01, 0x07, 0x08, 0x38, 0x39, 0xc0, 0x7e, 0xfe }.Select(code => Float8.Widen((byte)code)));
        Assert.True(float.IsNaN(Float8.Widen(0x7f)) && float.IsNaN(Float8.Widen(0xff)));
    }

    [Fact]
    public void Of_Numbers_AreTheNearestAndOfTwoTheEvenOne()
    {
        var numbers = Enumerable.Range(0, 0x7f).Select(code => (Code: (byte)code, Value: Float8.Widen((byte)code))).ToArray();
        foreach (var ((low, below), (high, above)) in numbers.Zip(numbers.Skip(1)))
        {
            var middle = (below + above) / 2;
            var even = low % 2 == 0 ? low : high;
            Assert.Equal(
                [low, low, even, high], new[] { below, MathF.BitDecrement(middle), middle, MathF.BitIncrement(middle) }.Select(Float8.Of));
            Assert.Equal([low | 0x80, even | 0x80, high | 0x80], new[] { -below, -middle, -above }.Select(x => (int)Float8.Of(x)));
        }

        Assert.Equal([0x7e, 0x7e, 0xfe], new[] { 448.01f, float.PositiveInfinity, -1e9f }.Select(x => (int)Float8.Of(x)));
    }
}
