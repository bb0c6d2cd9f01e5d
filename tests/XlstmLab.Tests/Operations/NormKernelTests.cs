using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class NormKernelTests
{
    [Theory]
    [InlineData(64, 5, false, false)]
    [InlineData(96, 33, true, false)]
    [InlineData(768, 50, false, true)]
    [InlineData(1032, 3, true, true)]
    public void Agrees_with_float64_forward_and_backward(int dim, int rows, bool center, bool bias)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(dim + rows);
        var x = (randn(2, rows, dim) * 3 + 1).to(bfloat16).requires_grad_();
        var weight = (randn(dim) + 1).requires_grad_();
        var shift = bias ? randn(dim).requires_grad_() : null;
        var dy = randn(2, rows, dim).to(bfloat16);

        var y = NormKernel.Forward(x, weight, shift, 1e-5, center);
        y.backward([dy]);

        var (x64, w64, b64) = (Wide(x), Wide(weight), shift is null ? null : Wide(shift));
        var expected = Norm(x64, w64, b64, 1e-5, center);
        expected.backward([dy.to(float64)]);
        Assert.InRange(KernelRun.Error(y, expected), 0, 3e-3);
        Assert.InRange(KernelRun.Error(x.grad!, x64.grad!), 0, 3e-3);
        Assert.InRange(KernelRun.Error(weight.grad!, w64.grad!), 0, 1e-5);
        if (bias)
        {
            Assert.InRange(KernelRun.Error(shift!.grad!, b64!.grad!), 0, 1e-5);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Adds_before_the_norm_and_passes_both_gradients_back(bool wide)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(1);
        var x = randn(3, 17, 128).to(wide ? float32 : bfloat16).requires_grad_();
        var delta = randn(3, 17, 128).to(bfloat16).requires_grad_();
        var weight = (randn(128) + 1).requires_grad_();
        var (dy, ds) = (randn(3, 17, 128).to(bfloat16), randn(3, 17, 128).to(x.dtype));

        var (sum, y) = NormKernel.AddForward(x, delta, weight, null, 1e-6, center: false);
        ((sum * ds).sum() + (y * dy).sum()).backward();

        var (x64, d64, w64) = (Wide(x), Wide(delta), Wide(weight));
        var sum64 = x64 + d64;
        var y64 = Norm(sum64, w64, null, 1e-6, center: false);
        ((sum64 * ds.to(float64)).sum() + (y64 * dy.to(float64)).sum()).backward();
        Assert.Equal(x.dtype, sum.dtype);
        Assert.Equal(bfloat16, y.dtype);
        Assert.InRange(KernelRun.Error(sum, sum64), 0, wide ? 1e-7 : 3e-3);
        Assert.InRange(KernelRun.Error(y, y64), 0, 5e-3);
        Assert.InRange(KernelRun.Error(x.grad!, x64.grad!), 0, wide ? 1e-3 : 5e-3);
        Assert.InRange(KernelRun.Error(delta.grad!, d64.grad!), 0, 5e-3);
        Assert.InRange(KernelRun.Error(weight.grad!, w64.grad!), 0, 3e-3);
    }

    [Fact]
    public void Leaves_no_tensor_behind()
    {
        using var run = KernelRun.Begin();
        TrainThrice();
        var before = Live(); // what the engine's thread keeps of its last pass
        TrainThrice();
        Assert.InRange(Live(), 0, before); // what other tests left may go meanwhile
    }

    private static void TrainThrice()
    {
        for (var step = 0; step < 3; step++)
        {
            using var scope = NewDisposeScope();
            var x = randn(1, 4, 64).to(bfloat16).requires_grad_();
            var weight = ones(64).requires_grad_();
            NormKernel.Forward(x, weight, null, 1e-6, center: false).to(float32).sum().backward();
            x.grad!.Dispose();
            weight.grad!.Dispose();
        }
    }

    private static long Live()
    {
        // A finalised context lets go of what it saved, which then is finalised itself.
        for (var round = 0; round < 3; round++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }

        return Tensor.TotalCount;
    }

    private static Tensor Wide(Tensor x) => x.detach().to(float64).requires_grad_();

    private static Tensor Norm(Tensor x, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        var centered = center ? x - x.mean([-1], keepdim: true) : x;
        var y = centered * rsqrt(centered.pow(2).mean([-1], keepdim: true) + epsilon) * weight;
        return bias is null ? y : y + bias;
    }
}
