using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class JointProjectionTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_AndBackward_AreThoseOfEachAlone(bool gradientsAreNeighbours)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(1);
        long[] widths = [24, 8, 40];
        var x = randn(2, 5, 16).to(bfloat16).requires_grad_();
        var weights = widths.Select(w => randn(w, 16).requires_grad_()).ToArray();
        Assert.True(JointProjection.Serves(x, weights));
        var results = JointProjection.Forward(x, weights, widths);
        Assert.Contains("join_weights", run.Launched);
        var memory = gradientsAreNeighbours ? JointProjection.EmptyLike(results) : [.. results.Select(r => empty(r.shape, bfloat16))];
        var gradients = memory.Select(m => m.copy_(randn(m.shape))).ToArray();
        Assert.Equal(gradientsAreNeighbours ? 72 : 24, gradients[0].stride(1));
        autograd.backward([.. results], gradients);

        var (x64, weights64) = (x.detach().to(float64).requires_grad_(),
            weights.Select(w => w.detach().to(float64).requires_grad_()).ToArray());
        for (var k = 0; k < widths.Length; k++)
        {
            var expected = x64.matmul(weights64[k].t());
            Assert.InRange(KernelRun.Error(results[k], expected), 0, 1e-2);
            expected.backward([gradients[k].to(float64)]);
        }

        Assert.InRange(KernelRun.Error(x.grad!, x64.grad!), 0, 1e-2);
        for (var k = 0; k < widths.Length; k++)
        {
            Assert.Equal(float32, weights[k].grad!.dtype);
            Assert.InRange(KernelRun.Error(weights[k].grad!, weights64[k].grad!), 0, 1e-2);
        }
    }

    [Fact]
    public void Backward_ResultThatNobodyUsed_HasNoGradient()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(2);
        var x = randn(3, 16).to(bfloat16).requires_grad_();
        var weights = new[] { randn(8, 16).requires_grad_(), randn(16, 16).requires_grad_() };
        JointProjection.Forward(x, weights, 8, 16)[1].sum().backward();
        Assert.Equal(0, weights[0].grad!.abs().max().item<float>());
        Assert.InRange(KernelRun.Error(x.grad!, weights[1].detach().sum([0L]).expand(3, 16)), 0, 1e-2);
    }

    [Fact]
    public void Forward_OneStoredWeight_SplitsItsResult()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        using var dense = new Dense(16, 48);
        dense.to(get_default_device());
        using (no_grad())
        {
            dense.Weight.normal_();
        }

        var x = randn(2, 3, 16).to(bfloat16);
        var parts = dense.ForwardSplit(x, 16, 32);
        Assert.InRange(KernelRun.Error(cat([.. parts], -1), dense.Forward(x)), 0, 1e-2);
        Assert.Contains("join_weights", run.Launched);
    }

    [Fact]
    public void EmptyLike_TensorsOfTheirOwn_AreNotJoined()
    {
        using var scope = NewDisposeScope();
        var (a, b) = (zeros(2, 3, 8), zeros(2, 3, 8));
        Assert.All(JointProjection.EmptyLike(a, b), t => Assert.True(t.is_contiguous()));

        var both = zeros(2, 3, 16).chunk(2, -1);
        Assert.All(JointProjection.EmptyLike(both[0], both[1]), t => Assert.Equal(16, t.stride(1)));
        Assert.All(JointProjection.EmptyLike(both[1], both[0]), t => Assert.True(t.is_contiguous()));
    }
}
