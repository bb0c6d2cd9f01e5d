using System.Runtime.Intrinsics;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed unsafe class RowProductsTests
{
    public static TheoryData<WeightFormat, int, int, int> Shapes { get; } = new(
        from format in Enum.GetValues<WeightFormat>().Except([WeightFormat.Float8])
        from shape in new[] { (1, 1, 1), (7, 37, 3), (64, 128, 2), (13, 24, 8), (5, 100, 5), (6, 48, 4) }
        select (format, shape.Item1, shape.Item2, shape.Item3));

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Multiply_AnySize_IsTheProductOfEachRowWithTheRoundedMatrix(WeightFormat format, int outputs, int inputs, int rows)
    {
        using var scope = NewDisposeScope();
        var (w, x, bias) = (Draw(1, outputs, inputs), Draw(2, rows, inputs + 3), Draw(3, outputs));
        var rounded = w.clone();
        PackedRows.Round(format, new(At(rounded), outputs * inputs), inputs);
        using var packed = format == WeightFormat.Float32 ? null : new PackedRows(format, At(w), outputs, inputs);
        packed?.Pack();
        var y = zeros(rows, outputs + 5);
        Multiply(At(x), rows, At(y), outputs + 5);
        MLstmTests.Near(x.narrow(1, 0, inputs).matmul(rounded.t()) + bias, y.narrow(1, 0, outputs), 1e-6, "product", floor: 1e-6);
        Assert.True(y.narrow(1, outputs, 5).eq(0).all().item<bool>());
        for (var row = 0; row < rows; row++)
        {
            var alone = zeros(1, outputs);
            Multiply(At(x) + row * (inputs + 3), 1, At(alone), outputs);
            Assert.True(y[row].narrow(0, 0, outputs).equal(alone[0]).all().item<bool>(), "a row is what it is alone");
        }

        void Multiply(float* from, int count, float* to, int distance) => RowProducts.Multiply(
            packed is null ? At(w) : packed.Data, format, packed is null ? null : packed.Scales, outputs, inputs, At(bias), from,
            inputs + 3, count, to, distance);
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Multiply_VectorsOfEitherWidth_AgreeToRounding(WeightFormat format, int outputs, int inputs, int rows)
    {
        using var scope = NewDisposeScope();
        var (w, x) = (Draw(4, outputs, inputs) * 30, Draw(5, rows, inputs));
        var (narrow, wide) = (zeros(rows, outputs), zeros(rows, outputs));
        var bytes = w.to(ScalarType.Int8);
        var halves = w.to(ScalarType.BFloat16);
        switch (format)
        {
            case WeightFormat.Float32:
                Both(At(w));
                break;
            case WeightFormat.BFloat16:
                Both(CpuMemory.Data<ushort>(halves));
                break;
            case WeightFormat.Int8:
                Both(CpuMemory.Data<sbyte>(bytes));
                break;
            default:
                throw UnknownValue.Of(format);
        }

        MLstmTests.Near(narrow, wide, 1e-6, "product", floor: 1e-6);
        MLstmTests.Near(
            x.matmul((format == WeightFormat.Int8 ? bytes : format == WeightFormat.BFloat16 ? halves : w).to(ScalarType.Float32).t()), wide,
            1e-6, "wide product",
            floor: 1e-6);

        void Both<T>(T* elements)
            where T : unmanaged
        {
            RowProducts.Multiply<T, Vector256<float>, Lanes256>(elements, outputs, inputs, At(x), inputs, rows, At(narrow), outputs);
            RowProducts.Multiply<T, Vector512<float>, Lanes512>(elements, outputs, inputs, At(x), inputs, rows, At(wide), outputs);
        }
    }

    [Theory]
    [InlineData(WeightFormat.BFloat16, 1.0 / 256)]
    [InlineData(WeightFormat.Int8, 1.01 / 254)]
    public void Round_OfRows_IsNearAndStaysWhenItIsDoneAgain(WeightFormat format, double bound)
    {
        using var scope = NewDisposeScope();
        var w = Draw(6, 50, 33) * Draw(7, 50, 1).exp();
        w[3] = 0;
        var rounded = w.clone();
        PackedRows.Round(format, new(At(rounded), 50 * 33), 33);
        var largest = w.abs().amax([1], keepdim: true);
        Assert.True(((rounded - w).abs() <= largest * bound).all().item<bool>());
        Assert.True(rounded[3].eq(0).all().item<bool>());
        Assert.False(rounded.equal(w).all().item<bool>());
        var again = rounded.clone();
        PackedRows.Round(format, new(At(again), 50 * 33), 33);
        Assert.True(again.equal(rounded).all().item<bool>());
        var torchs = w.to(ScalarType.BFloat16).to(ScalarType.Float32);
        Assert.True(format != WeightFormat.BFloat16 || torchs.equal(rounded).all().item<bool>());
    }

    [Fact]
    public void Round_RowThatIsNotFinite_IsNotFiniteAfterwards()
    {
        foreach (var format in new[] { WeightFormat.BFloat16, WeightFormat.Int8 })
        {
            float[] row = [1, float.NaN, 2];
            PackedRows.Round(format, row, 3);
            Assert.Contains(row, float.IsNaN);
        }
    }

    private static float* At(Tensor tensor) => CpuMemory.Floats(tensor);

    private static Tensor Draw(int seed, params long[] shape) => randn(shape, generator: new Generator((ulong)seed));
}
