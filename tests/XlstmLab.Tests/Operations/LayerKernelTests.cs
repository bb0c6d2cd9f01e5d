using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The kernels of a block against the layers' own operations in float64.</summary>
public sealed class LayerKernelTests
{
    /// <summary>What a pass of an mLSTM model takes of kernels, forward and backward.</summary>
    private static readonly string[] OfABlock =
    [
        "embedding_forward", "gate_forward", "gate_backward_input", "gate_backward_weight", "glu_forward", "glu_backward",
        "head_norm_gate_forward", "head_norm_gate_backward", "mlstm_backward", "mlstm_backward_scores", "mlstm_forward", "mlstm_gates",
        "mlstm_gates_backward", "mlstm_states", "norm_forward", "norm_backward",
    ];

    [Theory]
    [InlineData(FeedForwardKind.SwiGlu, true)]
    [InlineData(FeedForwardKind.SwiGlu, false)]
    [InlineData(FeedForwardKind.GeGlu, true)]
    public void Gated_middle_agrees_with_float64(FeedForwardKind kind, bool halves)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        var both = (randn(2, 13, 48) * 2).to(bfloat16).requires_grad_();
        var parts = both.chunk(2, -1);
        var dy = randn(2, 13, 24).to(bfloat16);
        var y = halves
            ? GluKernel.Forward(parts[0], parts[1], kind)
            : GluKernel.Forward(parts[0].contiguous(), parts[1].contiguous(), kind);
        y.backward([dy]);

        var wide = Wide(both);
        var (g, u) = (wide.narrow(2, 0, 24), wide.narrow(2, 24, 24));
        var expected = FeedForward.Activate(kind, g) * u;
        expected.backward([dy.to(float64)]);
        Assert.InRange(KernelRun.Error(y, expected), 0, 4e-3);
        Assert.InRange(KernelRun.Error(both.grad!, wide.grad!), 0, 4e-3);
    }

    [Fact]
    public void Squared_rectifier_agrees_with_float64()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(4);
        var g = randn(3, 5, 64).to(bfloat16).requires_grad_();
        var y = GluKernel.Forward(g, null, FeedForwardKind.ReluSquared);
        y.sum().backward();
        var wide = Wide(g);
        var expected = nn.functional.relu(wide).square();
        expected.sum().backward();
        Assert.InRange(KernelRun.Error(y, expected), 0, 4e-3);
        Assert.InRange(KernelRun.Error(g.grad!, wide.grad!), 0, 4e-3);
    }

    [Theory]
    [InlineData(HeadNormKind.Layer, 3, 64, true, false)]
    [InlineData(HeadNormKind.Rms, 4, 48, true, true)]
    [InlineData(HeadNormKind.Layer, 2, 256, false, false)]
    public void Gated_head_norm_agrees_with_float64(HeadNormKind kind, int heads, int dim, bool gated, bool bias)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(5);
        const int batch = 2;
        const int length = 11;
        var h = randn(batch, heads, length, dim).to(bfloat16).requires_grad_();
        var o = gated ? randn(batch, length, heads * dim).to(bfloat16).requires_grad_() : null;
        var weight = (randn(heads * dim) + 1).requires_grad_();
        var shift = bias ? randn(heads * dim).requires_grad_() : null;
        var dy = randn(batch, length, heads * dim).to(bfloat16);
        Assert.True(HeadNormGateKernel.Serves(h.transpose(1, 2), kind, oneGroupAHead: true));
        var y = HeadNormGateKernel.Forward(h.transpose(1, 2), o, weight, shift, kind, 1e-5);
        y.backward([dy]);

        var (h64, w64) = (Wide(h), Wide(weight));
        var (o64, b64) = (o is null ? null : Wide(o), shift is null ? null : Wide(shift));
        var x = h64.transpose(1, 2);
        var centered = kind == HeadNormKind.Layer ? x - x.mean([-1], keepdim: true) : x;
        var normed = (centered * rsqrt(centered.square().mean([-1], keepdim: true) + 1e-5)).flatten(2) * w64;
        normed = b64 is null ? normed : normed + b64;
        var expected = o64 is null ? normed : sigmoid(o64) * normed;
        expected.backward([dy.to(float64)]);
        Assert.InRange(KernelRun.Error(y, expected), 0, 4e-3);
        Assert.InRange(KernelRun.Error(h.grad!, h64.grad!), 0, 4e-3);
        Assert.InRange(KernelRun.Error(weight.grad!, w64.grad!), 0, 1e-4);
        if (o is not null)
        {
            Assert.InRange(KernelRun.Error(o.grad!, o64!.grad!), 0, 4e-3);
        }

        if (shift is not null)
        {
            Assert.InRange(KernelRun.Error(shift.grad!, b64!.grad!), 0, 1e-4);
        }
    }

    [Fact]
    public void A_model_in_bfloat16_takes_the_kernels_and_learns_as_without()
    {
        var config = XlstmPresets.ByName("bytes-1m") with { EmbeddingDim = 128, HeadCount = 2, BlockCount = 1, VocabularySize = 32 };
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var model = KernelRun.Model(config);
        KernelRun.Seed(2);
        var tokens = randint(0, 32, [2, 9], dtype: int64);
        var wide = Gradients(model, tokens, null);
        Assert.DoesNotContain(run.Launched, name => name.StartsWith("mlstm", StringComparison.Ordinal));
        var narrow = Gradients(model, tokens, ScalarType.BFloat16);
        Assert.Empty(OfABlock.Except(run.Launched));
        foreach (var (name, expected) in wide)
        {
            Assert.InRange(KernelRun.Error(narrow[name], expected), 0, 0.1);
        }
    }

    /// <summary>The small presets' own widths, and a block of the first paper: all that is not a matrix product is a kernel's.</summary>
    [Theory]
    [InlineData("bytes-1m", 1, 0.1)]
    [InlineData("bytes-3m", 1, 0.1)]
    [InlineData("parity-1-1", 2, 0.2)]
    public void Small_presets_take_the_kernels_and_learn_as_without(string preset, int blocks, double tolerance)
    {
        var config = XlstmPresets.ByName(preset) with { BlockCount = blocks, VocabularySize = 32 };
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var model = KernelRun.Model(config);
        KernelRun.Seed(2);
        var tokens = randint(0, 32, [1, 9], dtype: int64);
        var wide = Gradients(model, tokens, null);
        var narrow = Gradients(model, tokens, ScalarType.BFloat16);
        Assert.Empty(OfABlock.Except(run.Launched));
        foreach (var (name, expected) in wide)
        {
            var error = KernelRun.Error(narrow[name], expected);
            Assert.True(error <= tolerance, $"{name}: {error:E1}");
        }
    }

    private static Dictionary<string, Tensor> Gradients(LanguageModel model, Tensor tokens, ScalarType? type)
    {
        model.ComputeType = type;
        model.zero_grad();
        var logits = model.Forward(tokens).Logits; // (2, 9, V)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward();
        return model.named_parameters().Where(p => p.parameter.grad is { } g && g.norm().item<float>() > 1e-6)
            .ToDictionary(p => p.name, p => p.parameter.grad!.clone());
    }

    private static Tensor Wide(Tensor x) => x.detach().to(float64).requires_grad_();
}
