using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models.Blocks;

/// <summary>Each axis changes what it says and nothing else.</summary>
public sealed class BlockAxesTests
{
    private static readonly XlstmConfig PreUp = BlockVariants.All["pre-up [1:0]"] with { SLstmAt = [1] };

    private static readonly XlstmConfig PostUp = BlockVariants.All["post-up mLSTM"] with { SLstmAt = [1] };

    [Theory]
    [InlineData("conv", "blocks.0.xlstm.conv1d.conv.weight: 64x1x4 -> 64x1x7; blocks.1.xlstm.conv1d.conv.weight: 16x1x4 -> 16x1x7")]
    [InlineData("no conv", "blocks.0.xlstm.conv1d.conv.bias: 64 -> none; blocks.0.xlstm.conv1d.conv.weight: 64x1x4 -> none; "
        + "blocks.1.xlstm.conv1d.conv.bias: 16 -> none; blocks.1.xlstm.conv1d.conv.weight: 16x1x4 -> none")]
    [InlineData("slstm conv", "blocks.1.xlstm.conv1d.conv.bias: 16 -> none; blocks.1.xlstm.conv1d.conv.weight: 16x1x4 -> none")]
    [InlineData("skip", "blocks.0.xlstm.learnable_skip: 64 -> none")]
    [InlineData(
        "qkv",
        "blocks.0.xlstm.k_proj.weight: 16x4x4 -> 4x16x16; blocks.0.xlstm.q_proj.weight: 16x4x4 -> 4x16x16; "
        + "blocks.0.xlstm.v_proj.weight: 16x4x4 -> 4x16x16")]
    [InlineData(
        "gate source", "blocks.0.xlstm.mlstm_cell.fgate.weight: 2x192 -> 2x16; blocks.0.xlstm.mlstm_cell.igate.weight: 2x192 -> 2x16")]
    [InlineData("output gate", "blocks.0.xlstm.proj_up.weight: 128x16 -> 64x16")]
    [InlineData(
        "slstm heads",
        "blocks.1.xlstm.fgate.weight: 2x8x8 -> 4x4x4; blocks.1.xlstm.igate.weight: 2x8x8 -> 4x4x4; "
        + "blocks.1.xlstm.ogate.weight: 2x8x8 -> 4x4x4; blocks.1.xlstm.slstm_cell._recurrent_kernel_: 2x32x8 -> 4x16x4; "
        + "blocks.1.xlstm.zgate.weight: 2x8x8 -> 4x4x4")]
    [InlineData("ffn kind", "blocks.1.ffn.proj_up.weight: 128x16 -> 64x16")]
    [InlineData("ffn factor", "blocks.1.ffn.proj_down.weight: 16x64 -> 16x128; blocks.1.ffn.proj_up.weight: 128x16 -> 256x16")]
    [InlineData(
        "no ffn",
        "blocks.1.ffn.proj_down.weight: 16x64 -> none; blocks.1.ffn.proj_up.weight: 128x16 -> none; "
        + "blocks.1.ffn_norm.weight: 16 -> none")]
    [InlineData("q-k norm", "blocks.0.xlstm.mlstm_cell.k_norm.weight: none -> 64; blocks.0.xlstm.mlstm_cell.q_norm.weight: none -> 64")]
    [InlineData("head norm", "blocks.0.xlstm.mlstm_cell.outnorm.weight: 64 -> none; blocks.1.xlstm.group_norm.weight: 16 -> none")]
    [InlineData(
        "post-norm",
        "blocks.0.xlstm_post_norm.weight: none -> 16; blocks.1.ffn_post_norm.weight: none -> 16; "
        + "blocks.1.xlstm_post_norm.weight: none -> 16")]
    [InlineData("recurrent init", "")]
    [InlineData("forget bias", "")]
    [InlineData("forget gate", "")]
    [InlineData("clip", "")]
    public void PreUp_Axis_ChangesTheseShapesOnly(string axis, string expected) =>
        Assert.Equal(expected, Difference(PreUp, axis switch
        {
            "conv" => PreUp with { ConvKernelSize = 7 },
            "no conv" => PreUp with { ConvKernelSize = 0 },
            "slstm conv" => PreUp with { SLstmConvKernelSize = 0 },
            "skip" => PreUp with { LearnableSkip = false },
            "qkv" => PreUp with { QkvBlockSize = 16 },
            "gate source" => PreUp with { GateSource = GateSource.Input },
            "output gate" => PreUp with { OutputGate = false },
            "slstm heads" => PreUp with { SLstmHeadCount = 4 },
            "ffn kind" => PreUp with { SLstmFeedForward = FeedForwardKind.Mlp },
            "ffn factor" => PreUp with { SLstmFeedForwardFactor = 5 },
            "no ffn" => PreUp with { SLstmFeedForward = FeedForwardKind.None },
            "q-k norm" => PreUp with { QkNorm = true },
            "head norm" => PreUp with { HeadNorm = HeadNormKind.None },
            "post-norm" => PreUp with { PostNorm = NormKind.Rms },
            "recurrent init" => PreUp with { SLstmRecurrentInit = RecurrentInit.Normal },
            "forget bias" => PreUp with { SLstmForgetBias = SLstmForgetBias.Linear },
            "forget gate" => PreUp with { SLstmForgetGate = ForgetGate.Exponential },
            "clip" => PreUp with { SLstmGradientClip = 10 },
            _ => throw new ArgumentOutOfRangeException(nameof(axis)),
        }));

    [Fact]
    public void PreUp_UpFactor_WidensTheMLstmOnly()
    {
        var changed = Difference(PreUp, PreUp with { UpFactor = 8 }).Split("; ");
        Assert.All(changed, line => Assert.StartsWith("blocks.0.xlstm.", line, StringComparison.Ordinal));
        Assert.Contains("blocks.0.xlstm.proj_up.weight: 128x16 -> 256x16", changed);
        Assert.Contains("blocks.0.xlstm.proj_down.weight: 16x64 -> 16x128", changed);
    }

    [Fact]
    public void PostUp_SLstmAt_ChangesThatBlocksMixerOnly()
    {
        var plain = PostUp with { SLstmAt = BlockList.None };
        var changed = Difference(plain, PostUp).Split("; ");
        Assert.All(changed, line => Assert.Matches(@"^blocks\.1\.(norm_mlstm|mlstm_layer|norm_slstm|slstm_layer)\.", line));
        Assert.Contains("blocks.1.slstm_layer.slstm_cell._recurrent_kernel_: none -> 2x32x8", changed);
        Assert.Contains("blocks.1.slstm_layer.igate_preact.weight: none -> 16x16", changed);
    }

    [Fact]
    public void PostUp_ConvKernelSize_AddsAConvolutionOnly() =>
        Assert.Equal(
            "blocks.0.conv1d.conv.bias: none -> 16; blocks.0.conv1d.conv.weight: none -> 16x1x3; blocks.1.conv1d.conv.bias: none -> 16; "
            + "blocks.1.conv1d.conv.weight: none -> 16x1x3",
            Difference(PostUp, PostUp with { ConvKernelSize = 3 }));

    [Fact]
    public void LearnableSkip_OfZero_EqualsNone()
    {
        using var scope = NewDisposeScope();
        using var with = BlockVariants.Model(PreUp);
        using var without = new XlstmLanguageModel(PreUp with { LearnableSkip = false });
        without.to(ScalarType.Float64);
        CopyShared(with, without);
        Assert.False(Logits(with).allclose(Logits(without), rtol: 0, atol: 1e-6));
        using (no_grad())
        {
            with.get_parameter("backbone.blocks.0.xlstm.learnable_skip")!.zero_();
        }

        MLstmTests.Near(Logits(without), Logits(with), 1e-14, "logits");
    }

    [Fact]
    public void ConvKernelSize_WithFurtherTapsOfZero_EqualsFewerTaps()
    {
        using var scope = NewDisposeScope();
        using var few = BlockVariants.Model(PreUp with { ConvKernelSize = 2 });
        using var many = new XlstmLanguageModel(PreUp with { ConvKernelSize = 6 });
        many.to(ScalarType.Float64);
        CopyShared(few, many);
        using (no_grad())
        {
            foreach (var (name, parameter) in many.named_parameters().Where(
                p => p.name.EndsWith("conv1d.conv.weight", StringComparison.Ordinal)))
            {
                parameter.zero_().narrow(2, 4, 2).copy_(few.get_parameter(name)!);
            }
        }

        MLstmTests.Near(Logits(few), Logits(many), 1e-13, "logits");
    }

    [Fact]
    public void SLstmForgetGate_FarBelowZero_IsTheSameForBoth()
    {
        using var scope = NewDisposeScope();
        using var sigmoid = BlockVariants.Model(PreUp);
        using var exponential = BlockVariants.Model(PreUp with { SLstmForgetGate = ForgetGate.Exponential });
        Assert.False(Logits(sigmoid).allclose(Logits(exponential), rtol: 0, atol: 1e-6));
        using (no_grad())
        {
            foreach (var model in new[] { sigmoid, exponential })
            {
                model.get_parameter("backbone.blocks.1.xlstm.slstm_cell._bias_")!.view(4, 16)[1].fill_(-40);
            }
        }

        // sigmoid(f) is exp(f) there.
        MLstmTests.Near(Logits(sigmoid), Logits(exponential), 1e-13, "logits");
    }

    [Fact]
    public void SLstmGradientClip_ChangesGradientsNotOutputs()
    {
        using var scope = NewDisposeScope();
        Tensor GradientOf(double? clip, out Tensor logits)
        {
            using var model = BlockVariants.Model(PreUp with { SLstmGradientClip = clip });
            logits = Logits(model);
            logits.square().sum().backward();
            return model.get_parameter("backbone.blocks.1.xlstm.igate.weight")!.grad!.clone();
        }

        var free = GradientOf(null, out var expected);
        var wide = GradientOf(1e6, out _);
        var narrow = GradientOf(1e-4, out var clipped);
        MLstmTests.Near(expected, clipped, 1e-15, "logits");
        MLstmTests.Near(free, wide, 1e-13, "gradient");
        Assert.False(free.allclose(narrow));
    }

    [Fact]
    public void SLstmForgetBias_HasTheDocumentedValues()
    {
        using var scope = NewDisposeScope();
        Tensor Bias(XlstmConfig config, int block)
        {
            using var model = new XlstmLanguageModel(config with { SLstmAt = BlockList.All(2) });
            return model.get_parameter($"backbone.blocks.{block}.xlstm.slstm_cell._bias_")!.detach().clone().view(4, 2, 8);
        }

        foreach (var block in new[] { 0, 1 })
        {
            var bias = Bias(PreUp, block);
            var expected = tensor(Enumerable.Range(0, 8).Select(j => (float)(5 - 12 * Math.Pow(j / 7.0, 0.3 + 1.3 * block))).ToArray());
            MLstmTests.Near(expected, bias[1, 0], 1e-6, "first head");
            MLstmTests.Near(expected, bias[1, 1], 1e-6, "second head");
            Assert.Equal(0, bias[0].abs().sum().item<float>() + bias[2..].abs().sum().item<float>());
        }

        var linear = Bias(PreUp with { SLstmForgetBias = SLstmForgetBias.Linear, ForgetGateBiasFirst = 1, ForgetGateBiasLast = 2 }, 0);
        MLstmTests.Near(linspace(1, 2, 8), linear[1, 0], 1e-6, "linear");
    }

    [Theory]
    [InlineData(RecurrentInit.Zeros, 0, 0)]
    [InlineData(RecurrentInit.Uniform, 0.102, 0.177)]
    [InlineData(RecurrentInit.Normal, 0.177, 1)]
    public void SLstmRecurrentInit_HasTheDocumentedSpread(RecurrentInit init, double deviation, double largest)
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(PreUp with { EmbeddingDim = 64, SLstmRecurrentInit = init });
        var kernel = model.get_parameter("backbone.blocks.1.xlstm.slstm_cell._recurrent_kernel_")!;
        Assert.Equal(deviation, kernel.std().item<float>(), 0.004); // D = 32: 1/sqrt(D) = 0.177, by sqrt(3) for the uniform one
        Assert.InRange(kernel.abs().max().item<float>(), 0, largest);
    }

    [Theory]
    [InlineData("backbone.blocks.0.xlstm.conv1d.conv.weight", true)]
    [InlineData("backbone.blocks.0.xlstm.conv1d.conv.bias", false)]
    [InlineData("backbone.blocks.0.xlstm.q_proj.weight", true)]
    [InlineData("backbone.blocks.0.xlstm.learnable_skip", false)]
    [InlineData("backbone.blocks.0.xlstm.mlstm_cell.outnorm.weight", false)]
    [InlineData("backbone.blocks.0.xlstm.mlstm_cell.igate.weight", true)]
    [InlineData("backbone.blocks.0.xlstm_norm.weight", false)]
    [InlineData("backbone.blocks.1.xlstm.slstm_cell._recurrent_kernel_", true)]
    [InlineData("backbone.blocks.1.xlstm.slstm_cell._bias_", false)]
    [InlineData("backbone.blocks.1.xlstm.group_norm.weight", false)]
    [InlineData("backbone.embeddings.weight", false)]
    [InlineData("lm_head.weight", true)]
    public void WeightDecay_ActsOnMatricesAndTaps(string name, bool decays)
    {
        using var model = new XlstmLanguageModel(PreUp);
        Assert.Equal(decays, AdamW.Decays(name, model.get_parameter(name)!.shape));
    }

    public static TheoryData<string, string> Impossible { get; } = new()
    {
        { "slstm_at 2", "slstm_at is [2]; expected different blocks from 0 to 1" },
        { "slstm_at twice", "slstm_at is [1, 1]" },
        { "conv", "conv1d_kernel_size is -1" },
        { "slstm conv", "slstm_conv1d_kernel_size is -2" },
        { "qkv", "qkv_proj_blocksize is 5; expected a divisor of the inner width 64" },
        { "up", "proj_factor is 0" },
        { "heads", "expected a multiple of num_heads 3" },
        { "slstm heads", "slstm_num_heads is 3; expected a divisor of embedding_dim 16" },
        { "no forget gate", "slstm_forget_gate is None; expected sigmoid or exponential" },
        { "clip", "slstm_gradient_clip is 0" },
        { "ffn", "slstm_ffn_proj_factor is -1" },
        { "fused", "weight_mode is fused and block_style is pre_up; expected single" },
        { "fused conv", "conv1d_kernel_size is 4 with weight_mode fused" },
        { "style", "block_style is 7" },
        { "init", "slstm_recurrent_init is 9" },
        { "idle sLSTM axis", "slstm_gradient_clip is given and slstm_at is empty" },
        { "narrow sLSTM", "slstm_num_heads is 16, which leaves one unit a head" },
        { "groups", "head_norm_groups is 3; expected a divisor of embedding_dim 16" },
    };

    [Theory]
    [MemberData(nameof(Impossible))]
    public void Validate_ImpossibleCombination_SaysWhy(string which, string reason)
    {
        var config = which switch
        {
            "slstm_at 2" => PreUp with { SLstmAt = [2] },
            "slstm_at twice" => PreUp with { SLstmAt = [1, 1] },
            "conv" => PreUp with { ConvKernelSize = -1 },
            "slstm conv" => PreUp with { SLstmConvKernelSize = -2 },
            "qkv" => PreUp with { QkvBlockSize = 5 },
            "up" => PreUp with { UpFactor = 0 },
            "heads" => PreUp with { HeadCount = 3, SLstmHeadCount = 4 },
            "slstm heads" => PreUp with { SLstmHeadCount = 3 },
            "no forget gate" => PreUp with { SLstmForgetGate = ForgetGate.None },
            "clip" => PreUp with { SLstmGradientClip = 0 },
            "ffn" => PreUp with { SLstmFeedForwardFactor = -1 },
            "fused" => PreUp with { WeightMode = WeightMode.Fused },
            "fused conv" => PostUp with { WeightMode = WeightMode.Fused, ConvKernelSize = 4 },
            "style" => PreUp with { BlockStyle = (BlockStyle)7 },
            "init" => PreUp with { SLstmRecurrentInit = (RecurrentInit)9 },
            "idle sLSTM axis" => PreUp with { SLstmAt = BlockList.None, SLstmGradientClip = 10 },
            "narrow sLSTM" => PreUp with { SLstmHeadCount = 16 },
            _ => PreUp with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 3 },
        };
        Assert.Contains(reason, Assert.Throws<ConfigException>(config.Validate).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Validate_EveryVariantAndPreset_Passes()
    {
        Assert.All(BlockVariants.All.Values, config => config.Validate());
        Assert.All(XlstmPresets.All.Values, config => config.Validate());
    }

    /// <summary>The parameters whose names or shapes differ, below the backbone.</summary>
    private static string Difference(XlstmConfig left, XlstmConfig right)
    {
        var (a, b) = (Shapes(left), Shapes(right));
        return string.Join("; ", a.Keys.Union(b.Keys).Order(StringComparer.Ordinal)
            .Where(name => a.GetValueOrDefault(name) != b.GetValueOrDefault(name))
            .Select(name =>
                $"{name.Replace("backbone.", "", StringComparison.Ordinal)}: {a.GetValueOrDefault(name, "none")} -> "
                + $"{b.GetValueOrDefault(name, "none")}"));
    }

    private static Dictionary<string, string> Shapes(XlstmConfig config)
    {
        using var model = new XlstmLanguageModel(config);
        return model.named_parameters().ToDictionary(p => p.name, p => string.Join('x', p.parameter.shape));
    }

    private static void CopyShared(XlstmLanguageModel from, XlstmLanguageModel to)
    {
        using var grad = no_grad();
        var source = from.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        foreach (var (name, parameter) in to.named_parameters())
        {
            if (source[name].shape.SequenceEqual(parameter.shape))
            {
                parameter.copy_(source[name]);
            }
        }
    }

    private static Tensor Logits(XlstmLanguageModel model) =>
        model.Forward(tensor(new long[,] { { 1, 5, 2, 10, 3, 3, 7, 0, 1 } })).Logits;
}
