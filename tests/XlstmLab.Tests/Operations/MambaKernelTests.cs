using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class MambaKernelTests
{
    [Theory]
    [InlineData(2, 1, 64, true, false, 1)]
    [InlineData(1, 37, 24, true, true, 1)]
    [InlineData(2, 70, 40, false, true, 1)]
    [InlineData(1, 33, 16, true, false, 40)]
    public void The_scan_agrees_with_float64_in_outputs_states_and_gradients(
        int batch, int length, int dim, bool hasInitial, bool hasLayout, double deltaScale)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(batch + length + dim);
        var product = randn(batch, length, 2 * dim).to(bfloat16).requires_grad_();
        var delta = (randn(batch, length, dim) * deltaScale - 1).to(bfloat16).requires_grad_();
        var selected = randn(batch, length, 3 + 32).to(bfloat16).requires_grad_(); // b and c lie askew
        var (bias, skip) = ((randn(dim) - 3).requires_grad_(), randn(dim).requires_grad_());
        var a = (-arange(1, 17, dtype: float32) * (randn(dim, 16) * 0.5).exp()).requires_grad_();
        var initial = hasInitial ? randn(batch, dim, 16).requires_grad_() : null;
        var starts = hasLayout ? rand(batch, length).lt(0.15) : null;
        var real = hasLayout ? rand(batch, length).gt(0.15) : null;
        var (dy, dLast) = (randn(batch, length, dim).to(bfloat16), randn(batch, dim, 16));
        Assert.True(SelectiveScanSequenceKernel.Serves(product, 16));

        var halves = product.chunk(2, -1);
        var (y, last) = SelectiveScanSequenceKernel.Forward(
            halves[0], delta, bias, a, selected.narrow(2, 3, 16), selected.narrow(2, 19, 16), skip, halves[1], initial, starts, real,
            returnLast: true);
        ((y * dy).sum().to(float32) + (last! * dLast).sum()).backward();

        Tensor[] inputs = [product, delta, bias, a, selected, skip, .. initial is null ? [] : new[] { initial }];
        var wide = inputs.Select(t => t.detach().to(float64).requires_grad_()).ToArray();
        var halves64 = wide[0].chunk(2, -1);
        var dt = nn.functional.softplus(wide[1] + wide[2]);
        dt = real is null ? dt : dt * real.unsqueeze(2);
        var (scanned, last64) = SelectiveScan.Recurrent(
            halves64[0], dt, wide[3], wide[4].narrow(2, 3, 16), wide[4].narrow(2, 19, 16), initial is null ? null : wide[6], starts);
        var y64 = (scanned + halves64[0] * wide[5]) * nn.functional.silu(halves64[1]);
        ((y64 * dy.to(float64)).sum() + (last64 * dLast.to(float64)).sum()).backward();
        Assert.InRange(KernelRun.Error(y, y64), 0, 5e-3);
        Assert.InRange(KernelRun.Error(last!, last64), 0, 1e-4);
        foreach (var (mine, expected) in inputs.Zip(wide))
        {
            Assert.InRange(KernelRun.Error(mine.grad!, expected.grad!), 0, 1e-2);
        }
    }

    [Fact]
    public void The_scan_goes_on_where_it_stopped()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var still = no_grad();
        KernelRun.Seed(5);
        var (x, delta, z) = (randn(1, 21, 32).to(bfloat16), randn(1, 21, 32).to(bfloat16), randn(1, 21, 32).to(bfloat16));
        var (b, c) = (randn(1, 21, 16).to(bfloat16), randn(1, 21, 16).to(bfloat16));
        var (bias, skip, a) = (randn(32) - 2, randn(32), -rand(32, 16));
        (Tensor Y, Tensor? Last) Read(int from, int count, Tensor? state)
        {
            Tensor Cut(Tensor t) => t.narrow(1, from, count);
            return SelectiveScanSequenceKernel.Forward(
                Cut(x), Cut(delta), bias, a, Cut(b), Cut(c), skip, Cut(z), state, null, null, returnLast: true);
        }

        var whole = Read(0, 21, null);
        var first = Read(0, 13, null);
        var second = Read(13, 8, first.Last);
        Assert.InRange(KernelRun.Error(cat([first.Y, second.Y], 1), whole.Y), 0, 1e-6);
        Assert.InRange(KernelRun.Error(second.Last!, whole.Last!), 0, 1e-6);
    }

    [Theory]
    [InlineData(1, 1, 8, 4, true, false, true)]
    [InlineData(2, 50, 136, 4, true, true, false)]
    [InlineData(1, 300, 20, 3, false, true, true)]
    [InlineData(2, 9, 8, 8, true, true, true)]
    public void The_convolution_agrees_with_float64(
        int batch, int length, int channels, int taps, bool activate, bool hasStarts, bool hasBefore)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(length + channels);
        var product = randn(batch, length, 2 * channels).to(bfloat16).requires_grad_();
        var before = hasBefore ? randn(batch, taps - 1, channels).to(bfloat16).requires_grad_() : null;
        var (weight, bias) = (randn(channels, taps).requires_grad_(), randn(channels).requires_grad_());
        var starts = hasStarts ? rand(batch, length).lt(0.2) : null;
        var dy = randn(batch, length, channels).to(bfloat16);

        var y = ConvolutionKernel.Forward(product.chunk(2, -1)[1], before, weight, bias, starts, activate);
        y.backward([dy]);

        Tensor[] inputs = [product, weight, bias, .. before is null ? [] : new[] { before }];
        var wide = inputs.Select(t => t.detach().to(float64).requires_grad_()).ToArray();
        var all = cat([before is null ? zeros(batch, taps - 1, channels, dtype: float64) : wide[3], wide[0].chunk(2, -1)[1]], 1);
        var documents = cat([zeros(batch, taps - 1, dtype: int64), (starts ?? zeros(batch, length, dtype: @bool)).to(int64).cumsum(1)], 1);
        var y64 = wide[2] + zeros(batch, length, channels, dtype: float64);
        for (var tap = 0; tap < taps; tap++)
        {
            var seen = documents.narrow(1, tap, length).eq(documents.narrow(1, taps - 1, length)).unsqueeze(2);
            y64 = y64 + wide[1].select(1, tap) * all.narrow(1, tap, length) * seen;
        }

        y64 = activate ? nn.functional.silu(y64) : y64;
        y64.backward([dy.to(float64)]);
        Assert.InRange(KernelRun.Error(y, y64), 0, 5e-3);
        foreach (var (mine, expected) in inputs.Zip(wide))
        {
            Assert.InRange(KernelRun.Error(mine.grad!, expected.grad!), 0, 5e-3);
        }
    }

    [Fact]
    public void Both_halves_write_their_gradient_into_one_tensor()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        var product = randn(2, 21, 48).to(bfloat16).requires_grad_();
        var (weight, bias, a) = (randn(24, 4), randn(24), -rand(24, 16));
        var (delta, b, c) = (randn(2, 21, 24).to(bfloat16), randn(2, 21, 16).to(bfloat16), randn(2, 21, 16).to(bfloat16));
        var dy = randn(2, 21, 24).to(bfloat16);
        Tensor Gradient(bool joined)
        {
            var halves = new Halves(product);
            var parts = joined ? [halves.First, halves.Second] : product.chunk(2, -1);
            var u = ConvolutionKernel.Forward(parts[0], null, weight, bias, null, activate: true, joined ? halves.FirstRoom : null);
            var (y, _) = SelectiveScanSequenceKernel.Forward(
                u, delta, bias, a, b, c, bias, parts[1], null, null, null, returnLast: false, joined ? halves.SecondRoom : null);
            y.backward([dy]);
            var gradient = product.grad!.clone();
            product.grad!.zero_();
            return gradient;
        }

        var expected = Gradient(joined: false);
        Assert.Equal(0, KernelRun.Error(Gradient(joined: true), expected));
        Assert.Equal(0, KernelRun.Error(Gradient(joined: true), expected));
    }

    [Theory]
    [InlineData(false, 19)]
    [InlineData(true, 150)]
    public void A_model_in_bfloat16_is_near_the_one_in_float32(bool second, int length)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(2);
        LanguageModelConfig config = second
            ? new Mamba2Config
            {
                VocabularySize = 50,
                EmbeddingDim = 128,
                BlockCount = 2,
                HeadDim = 32,
                HeadCount = 8,
                StateSize = 32,
                GroupCount = 1,
            }
            : new MambaConfig { VocabularySize = 50, EmbeddingDim = 32, BlockCount = 2 };
        var (model, dim) = (KernelRun.Model(config), config.EmbeddingDim);
        var embedded = randn(2, length, dim).to(get_default_device());
        var layout = new SequenceLayout(rand(2, length).lt(0.1), rand(2, length).lt(0.1));
        var (expected, state) = model.ForwardHidden(embedded, null, layout, returnState: true);
        var (hidden, last) = model.ForwardHidden(embedded.to(bfloat16), null, layout, returnState: true);
        var real = layout.Padding!.logical_not().unsqueeze(2);
        Assert.InRange(KernelRun.Error(hidden * real, expected * real), 0, 2e-2);
        Assert.InRange(KernelRun.Error(last!["blocks.1.ssm"], state!["blocks.1.ssm"]), 0, 2e-2);
        Assert.InRange(KernelRun.Error(last["blocks.1.conv"], state["blocks.1.conv"]), 0, 2e-2);

        // The gradients of what the blocks compute with, which meet every kernel of a block.
        var dy = randn(2, length, dim) * real;
        (expected * dy).sum().backward();
        var wide = Gradients(model);
        (hidden.to(float32) * dy).sum().backward();
        foreach (var (name, gradient) in Gradients(model))
        {
            Assert.True(KernelRun.Error(gradient, wide[name]) < 5e-2, name);
        }
    }

    [Fact]
    public void Leaves_no_tensor_behind()
    {
        using var run = KernelRun.Begin();
        TrainThrice();
        var before = Live();
        TrainThrice();
        Assert.InRange(Live(), 0, before); // what other tests left may go meanwhile
    }

    [Fact]
    public void A_models_backward_pass_leaves_no_tensor_behind()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var model = (MambaLanguageModel)KernelRun.Model(new MambaConfig { VocabularySize = 50, EmbeddingDim = 32, BlockCount = 2 });
        TrainModel(model);
        var before = Live();
        TrainModel(model);
        Assert.InRange(Live(), 0, before); // what other tests left may go meanwhile
    }

    private static Dictionary<string, Tensor> Gradients(LanguageModel model)
    {
        var gradients = new Dictionary<string, Tensor>();
        foreach (var (name, parameter) in model.named_parameters())
        {
            if (parameter.grad is { } gradient)
            {
                gradients[name] = gradient.clone();
                gradient.zero_();
            }
        }

        return gradients;
    }

    private static void TrainModel(MambaLanguageModel model)
    {
        for (var step = 0; step < 2; step++)
        {
            using var scope = NewDisposeScope();
            var embedded = randn(1, 9, 32).to(bfloat16).requires_grad_();
            var (hidden, _) = model.ForwardHidden(embedded);
            hidden.to(float32).square().sum().backward();
            embedded.grad!.Dispose();
            foreach (var parameter in model.parameters())
            {
                parameter.grad?.Dispose();
                parameter.grad = null;
            }
        }
    }

    private static void TrainThrice()
    {
        for (var step = 0; step < 3; step++)
        {
            using var scope = NewDisposeScope();
            Tensor New(params long[] shape) => randn(shape).to(bfloat16).requires_grad_();
            var (product, delta, b, c) = (New(1, 9, 32), New(1, 9, 16), New(1, 9, 16), New(1, 9, 16));
            var (weight, a, channel) = (randn(16, 4).requires_grad_(), (-rand(16, 16)).requires_grad_(), randn(16).requires_grad_());
            var starts = rand(1, 9).lt(0.2);
            var halves = new Halves(product);
            var u = ConvolutionKernel.Forward(halves.First, null, weight, channel, starts, activate: true, halves.FirstRoom);
            var (y, _) = SelectiveScanSequenceKernel.Forward(
                u, delta, channel, a, b, c, channel, halves.Second, null, starts, null, returnLast: false, halves.SecondRoom);
            y.to(float32).sum().backward();
            foreach (var input in new[] { product, delta, b, c, weight, a, channel })
            {
                input.grad!.Dispose();
            }
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
}
