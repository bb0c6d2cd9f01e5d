using XlstmLab.Layers;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class RotaryKernelTests
{
    [Theory]
    [InlineData(16, 3, 3, false)]
    [InlineData(32, 4, 2, true)]
    [InlineData(48, 2, 1, false)]
    public void Rotate_SlicesOfOneProjection_ValuesAndGradientsAreThoseInFloat64(int dim, int heads, int keyHeads, bool positionsOfEachRow)
    {
        const int batch = 2, length = 7;
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(dim);
        long[] widths = [heads * dim, keyHeads * dim, keyHeads * dim];
        var projected = randn(batch, length, widths.Sum()).to(bfloat16).requires_grad_();
        var positions = positionsOfEachRow ? randint(0, 500, [batch, 1, length], dtype: int64) : arange(length, dtype: int64);
        var (cos, sin) = RotaryEmbedding.Angles(positions, dim, 10000, float32);
        var parts = projected.split(widths, -1);
        var turned = RotaryEmbedding.Rotate(parts[0], parts[1], parts[2], cos, sin, dim);
        Assert.Contains("rotate_heads", run.Launched);

        var projected64 = projected.detach().to(float64).requires_grad_();
        var (cos64, sin64) = RotaryEmbedding.Angles(positions, dim, 10000, float64);
        var parts64 = projected64.split(widths, -1).Select(p => p.unflatten(2, [-1, dim]).transpose(1, 2)).ToArray();
        var expected =
            new[] { RotaryEmbedding.Rotate(parts64[0], cos64, sin64), RotaryEmbedding.Rotate(parts64[1], cos64, sin64), parts64[2] };
        Tensor[] results = [turned.Q, turned.K, turned.V];
        var gradients = expected.Select((e, k) => k == 1 ? randn(batch, length, keyHeads, dim).transpose(1, 2) : randn(e.shape)).ToArray();
        for (var k = 0; k < 3; k++)
        {
            Assert.Equal(expected[k].shape, results[k].shape);
            Assert.InRange(KernelRun.Error(results[k], expected[k]), 0, 5e-3);
        }

        autograd.backward([.. results], [.. gradients.Select(g => g.to(bfloat16))]);
        autograd.backward([.. expected], [.. gradients.Select(g => g.to(bfloat16).to(float64))]);
        Assert.InRange(KernelRun.Error(projected.grad!, projected64.grad!), 0, 5e-3);
    }

    [Fact]
    public void Rotate_HeadsOfAnOddWidth_TakeOtherOperations()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var x = randn(1, 3, 24).to(bfloat16);
        var (cos, sin) = RotaryEmbedding.Angles(arange(3, dtype: int64), 24, 10000, float32);
        var turned = RotaryEmbedding.Rotate(x, x, x, cos, sin, 24);
        Assert.DoesNotContain("rotate_heads", run.Launched);
        Assert.Equal([1, 1, 3, 24], turned.Q.shape);
    }
}
