using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>Rounding by libtorch's operations, where a matrix lies, and by loops.</summary>
public sealed class PackedRowsTests
{
    private const int Columns = 600;

    [Theory]
    [InlineData(WeightFormat.Int8, ScalarType.Float32)]
    [InlineData(WeightFormat.Float8, ScalarType.Float32)]
    [InlineData(WeightFormat.Int8, ScalarType.BFloat16)]
    [InlineData(WeightFormat.Float8, ScalarType.BFloat16)]
    public void Pack_Tensor_IsTheLoopsBitForBit(WeightFormat format, ScalarType type)
    {
        using var scope = NewDisposeScope();
        var weight =
            cat([tensor(Rows(), [Rows().Length / Columns, Columns]), Draw(40) * (Draw(40).narrow(1, 0, 1) * 20).exp()], 0).to(type);
        var expected = ByLoops(format, weight);
        foreach (var pieceBytes in new[] { 1L, 7 * sizeof(float) * Columns, 64 << 20 })
        {
            var (numbers, units) = Room(format, weight.shape[0]);
            PackedRows.Pack(format, weight, numbers, units, pieceBytes);
            Assert.Equal(expected.Numbers.bytes.ToArray(), numbers.bytes.ToArray());
            Assert.Equal(expected.Units.bytes.ToArray(), units.bytes.ToArray());
        }
    }

    [Theory]
    [InlineData(WeightFormat.Float32, ScalarType.Float32)]
    [InlineData(WeightFormat.BFloat16, ScalarType.Float32)]
    [InlineData(WeightFormat.Int8, ScalarType.Float32)]
    [InlineData(WeightFormat.Float8, ScalarType.Float32)]
    [InlineData(WeightFormat.Int8, ScalarType.BFloat16)]
    [InlineData(WeightFormat.Float8, ScalarType.BFloat16)]
    public unsafe void Round_Tensor_IsTheLoopsBitForBit(WeightFormat format, ScalarType type)
    {
        using var scope = NewDisposeScope();
        var weight = tensor(Rows(), [Rows().Length / Columns, Columns]).to(type);
        var expected = weight.to(ScalarType.Float32, copy: true);
        PackedRows.Round(format, new(CpuMemory.Floats(expected), (int)expected.NumberOfElements), Columns);
        expected = expected.to(type);
        foreach (var pieceBytes in new[] { 1L, 7 * sizeof(float) * Columns, 64 << 20 })
        {
            var rounded = weight.clone().view(-1, 3, Columns);
            PackedRows.Round(format, rounded, pieceBytes);
            AssertSameNumbers(expected, rounded.view(-1, Columns));
        }
    }

    /// <summary>Zeros by their signs too; of what is no number there is one.</summary>
    private static void AssertSameNumbers(Tensor expected, Tensor actual)
    {
        var (none, noneThere) = (expected.isnan(), actual.isnan());
        Assert.True(none.eq(noneThere).all().item<bool>());
        Assert.Equal(
            expected.masked_fill(none, 0).contiguous().bytes.ToArray(), actual.masked_fill(noneThere, 0).contiguous().bytes.ToArray());
    }

    [Theory]
    [InlineData(WeightFormat.Float32)]
    [InlineData(WeightFormat.BFloat16)]
    [InlineData((WeightFormat)9)]
    public void Pack_TensorInAFormatWithoutUnits_Throws(WeightFormat format)
    {
        using var scope = NewDisposeScope();
        var (numbers, units) = Room(format, 2);
        Assert.Throws<ArgumentOutOfRangeException>(() => PackedRows.Pack(format, zeros(2, Columns), numbers, units));
    }

    /// <summary>
    /// All numbers of both formats with what is halfway between them and next to that; zeros, numbers without a leading bit, the
    /// largest, and rows that are not finite.
    /// </summary>
    private static float[] Rows()
    {
        var whole = Enumerable.Range(0, 127).Select(k => k + 0.5f);
        var small = Enumerable.Range(0, 126).Select(code => (Float8.Widen((byte)code) + Float8.Widen((byte)(code + 1))) / 2);
        float[] ofInt8 = [127, .. whole.SelectMany(Beside)], ofFloat8 = [448, .. small.SelectMany(Beside)];
        return
        [
            .. Row(ofInt8), .. Row([.. ofInt8.Select(x => -x)]), .. Row(ofFloat8), .. Row([.. ofFloat8.Select(x => -x)]),
            .. Row([.. ofFloat8.Select(x => x * 1e-43f)]), .. Row([0]), .. Row([-0f, 0, -0f]),
            .. Row([1, -0f, -float.Epsilon, float.Epsilon]),
            .. Row([float.Epsilon]), .. Row([1e-40f, -1e-41f]), .. Row([float.MaxValue, -1, -float.MaxValue / 3]),
            .. Row([1, float.PositiveInfinity, -2]), .. Row([float.NegativeInfinity]), .. Row([1, float.NaN]),
            .. Row([float.NaN, float.PositiveInfinity]),
        ];

        static float[] Beside(float x) => [MathF.BitDecrement(x), x, MathF.BitIncrement(x), x / 3];
        static float[] Row(float[] begin) => [.. begin, .. new float[Columns - begin.Length]];
    }

    private static unsafe (Tensor Numbers, Tensor Units) ByLoops(WeightFormat format, Tensor weight)
    {
        var source = weight.to(ScalarType.Float32);
        var rows = (int)weight.shape[0];
        var (numbers, units) = Room(format, rows);
        PackedRows.Pack(format, CpuMemory.Floats(source), rows, Columns, CpuMemory.Data<byte>(numbers), CpuMemory.Floats(units));
        return (numbers, units);
    }

    private static (Tensor Numbers, Tensor Units) Room(WeightFormat format, long rows) => (
        full([rows, Columns], 77, dtype: format == WeightFormat.Int8 ? ScalarType.Int8 : ScalarType.Byte),
        full([rows], 77, dtype: ScalarType.Float32));

    private static Tensor Draw(long rows) => randn(rows, Columns, generator: new Generator(3));
}
