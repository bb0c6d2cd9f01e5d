using System.Runtime.InteropServices;
using TorchSharp;
using XlstmLab.Operations;
using XlstmLab.Tests.Training;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

[Collection(nameof(AloneCollection))]
public sealed class GradientsTests
{
    [Theory]
    [InlineData(2L, 3L)]
    [InlineData(1L, 1L)]
    [InlineData(1L)]
    [InlineData(0L, 7L)]
    [InlineData]
    public void Backward_OperationThatFails_ThrowsWhatItThrewAndGoesOn(params long[] shape)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var (x, factor) = (ones(shape).requires_grad_(), ones(4).requires_grad_());
        var error = Record.Exception(() => Gradients.Backward(Refusing.apply(x, factor, true)[0].sum()));
        Assert.Equal("Nobody knows this gradient.", Assert.IsType<TimeZoneNotFoundException>(error).Message);

        Gradients.Backward(Refusing.apply(x, factor, false)[0].sum());
        Assert.Equal(shape, x.grad!.shape);
        Assert.Equal(2f * x.NumberOfElements, x.grad!.sum().item<float>());
    }

    [Fact]
    public void Backward_LibtorchThatRefuses_SaysWhatItSays()
    {
        using var scope = NewDisposeScope();
        var error = Assert.Throws<ExternalException>(() => Gradients.Backward(ones(2)));
        Assert.Contains("does not require grad", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentNullException>(() => Gradients.Backward(null!));
    }

    [Fact]
    public void Backward_OfTorchSharp_ThrowsTooAndLeavesNothingAlive()
    {
        using var run = KernelRun.Begin();
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        using (NewDisposeScope())
        {
            var x = ones(2, 3).requires_grad_();
            for (var k = 0; k < 3; k++)
            {
                Assert.Throws<ExternalException>(() => Refusing.apply(x, null!, true)[0].sum().backward());
            }
        }

        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    /// <summary>What ended the process: the engine calls the pass, on a GPU on a thread of its own.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Run_TrainingWhosePassFails_ThrowsItAndTheNextTrains(bool recorded)
    {
        using var run = KernelRun.Begin();
        if (recorded)
        {
            run.Record();
        }

        var fails = true;
        using var model = KernelRun.Model(() => new TinyModel
        {
            // A third update of a shape is the one that is recorded.
            Disturb = (pass, logits) => Refusing.apply(logits, null!, fails && pass > 2)[0],
        });
        TrainingResult Train() =>
            new Trainer(model, TinyText.Training, TinyText.Packed(1), [], null).Run(TestContext.Current.CancellationToken);
        Assert.Equal("Nobody knows this gradient.", Assert.Throws<TimeZoneNotFoundException>(Train).Message);
        fails = false;
        Assert.Equal(TrainingStatus.Completed, Train().Status);
    }

    /// <summary>y = 2 x, and a second input that has no part in it.</summary>
    private sealed class Refusing : GradientFunction<Refusing>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            ctx.save_data("fails", vars[2]);
            return [(Tensor)vars[0] * 2];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients) =>
            (bool)ctx.get_data("fails") ? throw new TimeZoneNotFoundException("Nobody knows this gradient.")
                : [gradients[0] * 2, null, null];
    }
}
