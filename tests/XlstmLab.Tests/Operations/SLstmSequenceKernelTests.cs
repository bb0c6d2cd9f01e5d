using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class SLstmSequenceKernelTests
{
    [Theory]
    [InlineData(1, 1, 1, 32, false, false, false)]
    [InlineData(3, 7, 2, 32, true, true, false)]
    [InlineData(9, 5, 1, 48, false, true, true)]
    [InlineData(2, 6, 1, 128, true, false, false)]
    public void Agrees_with_float64_in_outputs_states_and_gradients(
        int batch, int length, int heads, int size, bool hasInitial, bool hasLayout, bool exponential)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(batch + length + size);
        var x = randn([batch, length, 4, heads, size]).to(bfloat16).requires_grad_();
        var r = (randn(heads, 4, size, size) / Math.Sqrt(size)).to(bfloat16).to(float32).requires_grad_();
        var b = randn(4, heads, size).requires_grad_();
        var initial = hasInitial
            ? new SLstmState(randn(batch, heads, size), randn(batch, heads, size), rand(batch, heads, size) + 1, randn(batch, heads, size))
            : null;
        var layout = hasLayout ? new SequenceLayout(rand(batch, length).lt(0.3), rand(batch, length).lt(0.2)) : null;
        var options = new SLstmOptions { ForgetGate = exponential ? ForgetGate.Exponential : ForgetGate.Sigmoid };
        var (dh, dc) = (randn(batch, heads, length, size).to(bfloat16), randn(batch, heads, size));
        Assert.True(SLstmSequenceKernel.Serves(x));

        var (h, last) = SLstmCell.Forward(x, r, b, initial, layout, options);
        ((h * dh).sum().to(float32) + (last.H * dc).sum()).backward();

        var (x64, r64, b64) = (Wide(x), Wide(r), Wide(b));
        var (h64, last64) = SLstmRecurrent.Forward(x64, r64, b64, initial?.Map(t => t.to(float64)), layout, options);
        ((h64 * dh.to(float64)).sum() + (last64.H * dc.to(float64)).sum()).backward();
        Assert.InRange(KernelRun.Error(h, h64), 0, 5e-3);
        Assert.InRange(KernelRun.Error(last.C, last64.C), 0, 5e-3);
        Assert.InRange(KernelRun.Error(last.H, last64.H), 0, 5e-3);
        Assert.InRange(KernelRun.Error(x.grad!, x64.grad!), 0, 1e-2);
        Assert.InRange(KernelRun.Error(b.grad!, b64.grad!), 0, 1.5e-2);
        if (length > 1 || hasInitial)
        {
            Assert.InRange(KernelRun.Error(r.grad!, r64.grad!), 0, 1.5e-2);
        }
    }

    private static Tensor Wide(Tensor x) => x.detach().to(float64).requires_grad_();
}
