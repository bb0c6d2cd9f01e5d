using XlstmLab.Operations;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The kernels of gates, embedding, loss and optimiser against libtorch's operations in float64.</summary>
public sealed class TrainingKernelTests
{
    [Theory]
    [InlineData(64, 4, 15.0, true)]
    [InlineData(136, 3, null, false)]
    [InlineData(200, 12, 15.0, true)]
    public void Gates_agree_with_float64(int dim, int heads, double? cap, bool forgets)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(6);
        const int length = 21;
        var x = randn(2, length, dim).to(bfloat16).requires_grad_();
        var weights = (randn(2, heads, dim) / 4).requires_grad_();
        var biases = (randn(2, heads) * 4).requires_grad_();
        var gradient = randn(2, 2, heads, length);
        var (w, b) = (weights.unbind(), biases.unbind());
        var (input, forget, through) = GateKernel.Forward(x, (w[0], b[0]), forgets ? (w[1], b[1]) : (null, null), heads, cap);
        Assert.True(through.equal(x).all().item<bool>());
        var elsewhere = forgets ? randn(2, length, dim).to(bfloat16) : null;
        autograd.backward(
            elsewhere is null ? [input, forget] : [input, forget, through],
            elsewhere is null ? [gradient[0], gradient[1]] : [gradient[0], gradient[1], elsewhere]);

        var (x64, w64, b64) = (Wide(x), Wide(weights), Wide(biases));
        var both = Enumerable.Range(0, 2)
            .Select(k => SoftCap.Apply(nn.functional.linear(x64, w64[k], b64[k]), cap).transpose(1, 2)).ToArray();
        var second = forgets ? both[1] : both[1] * 0;
        ((both[0] * gradient[0]).sum() + (second * gradient[1]).sum()
            + (elsewhere is null ? 0 : (x64 * elsewhere.to(float64)).sum())).backward();
        Assert.InRange(KernelRun.Error(input, both[0]), 0, 1e-5);
        Assert.InRange(forgets ? KernelRun.Error(forget, both[1]) : forget.abs().max().item<float>(), 0, 1e-5);
        Assert.InRange(KernelRun.Error(x.grad!, x64.grad!), 0, 4e-3);
        Assert.InRange(KernelRun.Error(weights.grad!, w64.grad!), 0, 1e-4);
        Assert.InRange(KernelRun.Error(biases.grad!, b64.grad!), 0, 1e-5);
    }

    [Theory]
    [InlineData(64, 3000, 50)]
    [InlineData(1032, 70, 1000)]
    public void Embedding_agrees_with_float64(int dim, int positions, int vocabulary)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(7);
        var table = randn(vocabulary, dim).requires_grad_();
        var ids = (rand(2, positions / 2).square() * vocabulary).to(int64);
        var dy = randn(2, positions / 2, dim).to(bfloat16);
        var y = EmbeddingKernel.Forward(table, ids);
        y.backward([dy]);

        var table64 = Wide(table);
        var expected = table64.index_select(0, ids.flatten()).view(2, -1, dim);
        expected.backward([dy.to(float64)]);
        Assert.InRange(KernelRun.Error(y, expected), 0, 3e-3);
        Assert.InRange(KernelRun.Error(table.grad!, table64.grad!), 0, 1e-6);
    }

    [Theory]
    [InlineData(100, 30.0, 3.0)]
    [InlineData(1003, 30.0, 20.0)]
    [InlineData(1003, null, 3.0)]
    public void Head_and_cross_entropy_agree_with_float64(int vocabulary, double? cap, double spread)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(8);
        const int rows = 11, dim = 16;
        var hidden = randn(rows, dim).to(bfloat16).requires_grad_();
        var weight = (randn(vocabulary, dim) * spread / 4).to(bfloat16).to(float32).requires_grad_();
        var targets = randint(0, vocabulary, [rows], dtype: int64);
        targets[3] = CrossEntropyKernel.Ignored;
        var head = new LanguageHead(weight, null, cap);
        Assert.True(HeadLossKernel.Serves(head, bfloat16));
        var alone = HeadLossKernel.Forward(hidden.detach(), new(weight.detach(), null, cap), targets, 10);
        var loss = HeadLossKernel.Forward(hidden, head, targets, 10);
        (loss * 3).backward();

        var (hidden64, weight64) = (Wide(hidden), Wide(weight));
        var capped = SoftCap.Apply(hidden64.matmul(weight64.t()), cap);
        var expected =
            nn.functional.cross_entropy(capped, targets, reduction: nn.Reduction.Sum, ignore_index: CrossEntropyKernel.Ignored) / 10;
        (expected * 3).backward();
        Assert.InRange(KernelRun.Error(loss, expected), 0, 2e-3);
        Assert.Equal(loss.item<double>(), alone.item<double>(), 1e-5);
        Assert.InRange(KernelRun.Error(hidden.grad!, hidden64.grad!), 0, 1e-2);
        Assert.InRange(KernelRun.Error(weight.grad!, weight64.grad!), 0, 1e-2);
    }

    [Fact]
    public void AdamW_agrees_with_the_operations_and_leaves_out_what_is_not_finite()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(9);
        var weights = new[] { ("a.weight", randn(70, 96)), ("b.bias", randn(5)), ("c.weight", randn(3, 3)) }
            .Select(p => (
                Name: p.Item1,
                Kernel: new TorchSharp.Modules.Parameter(p.Item2.clone()),
                Plain: new TorchSharp.Modules.Parameter(p.Item2))).ToArray();
        using var products = new TrainedProducts(weights.Select(w => w.Kernel));
        var product = products.Serve(() => TrainedProducts.Of([weights[0].Kernel]))!;
        using var kernel = new AdamWKernel(
            weights.Select(w =>
                new AdamWParameter(w.Kernel, zeros_like(w.Kernel), zeros_like(w.Kernel), AdamW.Decays(w.Name, w.Kernel.shape))), products);
        using var plain = new AdamW(weights.Select(w => (w.Name, w.Plain)));
        var settings = new AdamWSettings { Rate = 0.01, Beta1 = 0.9, Beta2 = 0.95, Epsilon = 1e-8, Decay = 0.1, Clip = 1 };
        for (var step = 0; step < 4; step++)
        {
            foreach (var (_, byKernel, byPlain) in weights)
            {
                byPlain.grad = randn(byPlain.shape);
                byKernel.grad = byPlain.grad!.clone();
            }

            if (step == 1)
            {
                weights[0].Kernel.grad![3, 4] = double.PositiveInfinity;
                kernel.Step(settings);
                continue;
            }

            kernel.Step(settings, tensor(2.5, float64, weights[0].Kernel.device));
            var norm = GlobalNorm.Of([.. weights.Select(w => w.Plain.grad!)]);
            plain.StepAnywhere(0.01, Math.Min(1, 1 / norm));
            Assert.Equal(norm, kernel.Last.Norm, 1e-9);
        }

        var record = kernel.Last;
        Assert.Equal((3, 1, 0, 2.5), (record.Updates, record.Skipped, record.SkippedInARow, record.Loss));
        for (var k = 0; k < weights.Length; k++)
        {
            Assert.InRange(KernelRun.Error(weights[k].Kernel, weights[k].Plain), 0, 1e-6);
        }

        Assert.True(product.Joined.equal(weights[0].Kernel.to(bfloat16)).all().item<bool>());
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Muon_agrees_with_the_operations_and_clips_by_the_norm_of_all(bool nesterov)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(10);
        var first = new[] { ("wide.weight", randn(20, 32)), ("tall.weight", randn(29, 8)), ("b.bias", randn(5)) };
        var (byKernel, byPlain) = (Parameters(), Parameters());
        TorchSharp.Modules.Parameter[] Parameters() => [.. first.Select(p => new TorchSharp.Modules.Parameter(p.Item2.clone()))];
        MuonWithAdamW Optimizer(TorchSharp.Modules.Parameter[] p) => new(
            new([(first[0].Item1, p[0]), (first[1].Item1, p[1])], new() { Nesterov = nesterov }, 0.2), new([(first[2].Item1, p[2])]),
            rateFactor: 3);
        using var kernel = Optimizer(byKernel);
        using var plain = Optimizer(byPlain);
        using var products = new TrainedProducts(byKernel);
        var copies = products.Serve(() => new[] { TrainedProducts.Of([byKernel[0]])!, TrainedProducts.Of([byKernel[1]])! });
        using var average = new WeightAverage(first.Select((p, k) => (p.Item1, byKernel[k])), 0.9);
        using var expectedAverage = new WeightAverage(first.Select((p, k) => (p.Item1, byPlain[k])), 0.9);
        IDeviceOptimizer onDevice = kernel;
        Assert.True(onDevice.HasKernel);
        for (var step = 0; step < 4; step++)
        {
            for (var k = 0; k < first.Length; k++)
            {
                byPlain[k].grad = randn(byPlain[k].shape);
                byKernel[k].grad = byPlain[k].grad!.clone();
            }

            var loss = tensor(step == 2 ? double.NaN : 1.5, float64, byKernel[0].device);
            var record = onDevice.StepOnDevice(new() { Rate = 0.01, Clip = 1, AverageDecay = 0.9 }, loss, new(average, products))();
            if (step == 2)
            {
                Assert.Equal(0, record.Applied);
                continue;
            }

            var norm = GlobalNorm.Of([.. byPlain.Select(p => p.grad!)]);
            plain.Step(0.01, 1 / norm);
            expectedAverage.Update();
            Assert.Equal(norm, record.Norm, 1e-5);
        }

        for (var k = 0; k < first.Length; k++)
        {
            Assert.InRange(KernelRun.Error(byKernel[k], byPlain[k]), 0, 1e-5);
            Assert.InRange(KernelRun.Error(average.Of(first[k].Item1), expectedAverage.Of(first[k].Item1)), 0, 1e-6);
        }

        for (var k = 0; k < copies.Length; k++)
        {
            Assert.True(copies[k].Joined.equal(byKernel[k].to(bfloat16)).all().item<bool>());
        }

        foreach (var (name, tensor) in plain.StateDict())
        {
            Assert.InRange(KernelRun.Error(kernel.StateDict()[name], tensor), 0, 1e-5);
        }
    }

    private static Tensor Wide(Tensor x) => x.detach().to(float64).requires_grad_();
}
