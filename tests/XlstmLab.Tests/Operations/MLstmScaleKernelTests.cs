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
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(length);
        const int Batch = 4, Heads = 2, Dk = 32, Dv = 32;
        Tensor Tokens(int dim, double size = 1) => (randn(Batch, length, Heads, dim) * size).to(bfloat16).transpose(1, 2);
        Tensor[] inputs =
        [
            Tokens(Dk), Tokens(Dk, 1e-6), Tokens(Dv), randn(Batch, Heads, length) * 3 + 15, randn(Batch, Heads, length) * 2 + 2,
            randn(Batch, Heads, Dk, Dv) * 1e-6, randn(Batch, Heads, Dk) * 1e-6, randn(Batch, Heads, 1) + 15,
        ];
        var layout = hasLayout ? new SequenceLayout(rand(Batch, length).lt(0.02), rand(Batch, length).lt(0.1)) : null;
        Tensor[] weights = [randn(Batch, Heads, length, Dv), randn(Batch, Heads, Dk, Dv), randn(Batch, Heads, Dk), randn(Batch, Heads, 1)];
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
