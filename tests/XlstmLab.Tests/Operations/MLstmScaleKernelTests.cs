using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The kernels' gradients through the running maximum m: by an epsilon as large as denominators, and by the last state.</summary>
public sealed class MLstmScaleKernelTests
{
    [Theory]
    [InlineData(2, false, false)]
    [InlineData(131, false, false)]
    [InlineData(300, true, false)]
    [InlineData(300, true, true)]
    public void Gradients_DenominatorsNearEpsilon_EqualFloat64(int length, bool hasState, bool hasLayout)
    {
        LongTests.SkipUnless(!hasState || hasLayout);
        using var run = KernelRun.Begin();
        Compare(new(4, 2, 32, 32), length, hasState, hasLayout);
        Assert.Contains("mlstm_gates_backward", run.Launched);
    }

    [Theory]
    [InlineData(16, 32)]
    [InlineData(24, 40)]
    public void Gradients_HeadsNarrowerThanTiles_EqualFloat64(int dk, int dv)
    {
        using var run = KernelRun.Begin();
        Compare(new(2, 2, dk, dv), 131, hasState: true, hasLayout: true);
        Assert.Contains("mlstm_gates_backward", run.Launched);
    }

    /// <summary>The shapes whose speed is published, in several chunks and an odd rest.</summary>
    [Theory]
    [InlineData(128, 256, 513, false, false)]
    [InlineData(128, 256, 2049, true, true)]
    [InlineData(256, 512, 513, true, false)]
    [InlineData(256, 512, 1025, false, true)]
    [InlineData(16, 32, 1027, true, true)]
    [InlineData(24, 48, 769, true, true)]
    public void Gradients_BenchmarkedHeads_EqualFloat64(int dk, int dv, int length, bool hasState, bool hasLayout)
    {
        using var run = KernelRun.BeginOnGpu();
        Compare(new(4, 4, dk, dv), length, hasState, hasLayout);
        Assert.Contains("mlstm_gates_backward", run.Launched);
    }

    private sealed record Heads(int Batch, int Count, int Dk, int Dv);

    private static void Compare(Heads heads, int length, bool hasState, bool hasLayout)
    {
        using var scope = NewDisposeScope();
        KernelRun.Seed(length);
        var (batch, count, dk, dv) = (heads.Batch, heads.Count, heads.Dk, heads.Dv);
        Tensor Tokens(int dim, double size = 1) => (randn(batch, length, count, dim) * size).to(bfloat16).transpose(1, 2);
        Tensor[] inputs =
        [
            Tokens(dk), Tokens(dk, 1e-6), Tokens(dv), randn(batch, count, length) * 3 + 15, randn(batch, count, length) * 2 + 2,
            randn(batch, count, dk, dv) * 1e-6, randn(batch, count, dk) * 1e-6, randn(batch, count, 1) + 15,
        ];
        var layout = hasLayout ? new SequenceLayout(rand(batch, length).lt(0.02), rand(batch, length).lt(0.1)) : null;
        Tensor[] weights = [randn(batch, count, length, dv), randn(batch, count, dk, dv), randn(batch, count, dk), randn(batch, count, 1)];
        Assert.True(MLstmSequenceKernel.Serves(inputs[0], inputs[2]));

        Tensor[] Gradients(bool wide)
        {
            var x = inputs.Select(t => (wide ? t.to(float64) : t).detach().requires_grad_()).ToArray();
            var initial = hasState ? new MLstmState(x[5], x[6], x[7]) : null;
            var (h, last) = MLstmCell.Forward(x[0], x[1], x[2], x[3], x[4], initial, layout);
            Tensor[] results = hasState ? [h, last.C, last.N, last.M] : [h];
            results.Zip(weights, (r, w) => (r.to(float64) * w).sum()).Aggregate((sum, part) => sum + part).backward();
            return [.. x.Take(hasState ? 8 : 5).Select(t => t.grad!)];
        }

        var (expected, actual) = (Gradients(wide: true), Gradients(wide: false));
        string[] names = ["dq", "dk", "dv", "di", "df", "dc0", "dn0", "dm0"];
        for (var n = 0; n < expected.Length; n++)
        {
            var error = KernelRun.Error(actual[n], expected[n]);
            Assert.True(error <= 2e-2, $"{names[n]}: {error:E1}");
        }
    }
}
