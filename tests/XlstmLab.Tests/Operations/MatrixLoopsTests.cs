using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class MatrixLoopsTests
{
    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(6, 16, 5)]
    [InlineData(23, 37, 19)]
    [InlineData(64, 8, 40)]
    public unsafe void Multiply_AnySize_IsTheProduct(int rows, int depth, int columns)
    {
        using var scope = NewDisposeScope();
        var (a, b, c) = (Draw(1, rows, depth), Draw(2, depth, columns), Draw(3, rows, columns));
        var across = a.t().contiguous();
        var (expected, result) = (a.matmul(b), empty(rows, columns));
        MatrixLoops.Multiply(
            CpuMemory.Floats(a), depth, 1, rows, depth, CpuMemory.Floats(b), columns, columns, CpuMemory.Floats(result), columns,
            add: false);
        MLstmTests.Near(expected, result, 1e-6, "product", floor: 1e-6);
        MatrixLoops.Multiply(
            CpuMemory.Floats(across), 1, rows, rows, depth, CpuMemory.Floats(b), columns, columns, CpuMemory.Floats(c), columns, add: true);
        MLstmTests.Near(Draw(3, rows, columns) + expected, c, 1e-6, "sum", floor: 1e-6);
    }

    private static Tensor Draw(int seed, params long[] shape) => CpuLoops.Draw(seed, shape).to(ScalarType.Float32);
}
