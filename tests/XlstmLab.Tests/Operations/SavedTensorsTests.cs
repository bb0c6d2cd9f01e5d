using TorchSharp;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class SavedTensorsTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Load_SomeAbsent_HaveTheirPlaces(bool hasFactor)
    {
        using var scope = NewDisposeScope();
        var x = tensor(new[] { 1f, 2f }).requires_grad_();
        var factor = hasFactor ? tensor(new[] { 3f, 5f }) : null;
        Scaled.apply(x, null!, factor!)[0].sum().backward();
        Assert.Equal(hasFactor ? [6f, 10f] : [2f, 2f], x.grad!.data<float>().ToArray()); // 2 factor, the 2 made in the forward pass
    }

    [Fact]
    public void Save_TensorsOfTheCaller_StayInTheirScope()
    {
        using var outer = NewDisposeScope();
        Tensor x;
        using (var own = NewDisposeScope())
        {
            x = ones(2).requires_grad_();
            Scaled.apply(x, null!, x)[0].sum().backward();
            Assert.True(own.Contains(x));
        }

        Assert.True(x.IsInvalid);
    }

    [Fact]
    public void Save_AfterBackward_LeavesNothingAlive()
    {
        long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        void Pass()
        {
            using var scope = NewDisposeScope();
            var x = ones(2).requires_grad_();
            Scaled.apply(x, null!, ones(2))[0].sum().backward();
        }

        Pass();
        var before = Live();
        Pass();
        Assert.Equal(before, Live());
    }

    /// <summary>y = 2 factor x, keeping an absent tensor, one of the caller's that may be absent, and one of its own.</summary>
    private sealed class Scaled : GradientFunction<Scaled>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, absent, factor) = ((Tensor)vars[0], (Tensor?)vars[1], (Tensor?)vars[2]);
            var two = full_like(x, 2);
            ctx.Save(scope, absent, factor, two);
            return [(factor is null ? x * two : x * factor * two).MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.Load();
            Assert.Equal(3, saved.Count);
            Assert.Null(saved[0]);
            var dx = gradients[0] * saved[2]!;
            return [saved[1] is { } factor ? dx * factor : dx, null, null];
        }
    }
}
