using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class GlaLanguageModelTests : LanguageModelContract
{
    private static readonly GlaConfig Small = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 32,
        BlockCount = 2,
        HeadCount = 2,
        FeedForwardWidth = 48,
        InitStd = 0.1,
    };

    protected override LanguageModelConfig Config => Small;

    [Theory]
    [InlineData(4, 0.5)]
    [InlineData(0, 1.0)]
    public void Forward_LogitsAndGradients_EqualTheRecurrenceWrittenOut(int taps, double keyFactor)
    {
        using var scope = NewDisposeScope();
        var config = Small with { ConvTaps = taps, KeyFactor = keyFactor };
        using var model = config.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var tokens = Tokens(2, 70); // more than a chunk
        var weights = model.named_parameters().ToDictionary(p => p.name, p => (Tensor)p.parameter);
        var target = randn(2, 70, 257, dtype: ScalarType.Float64);
        var logits = model.Forward(tokens).Logits;
        (logits * target).sum().backward();
        var gradients = weights.ToDictionary(p => p.Key, p => p.Value.grad!.clone());
        model.zero_grad();

        var expected = ByHand(config, weights, tokens);
        (expected * target).sum().backward();
        Near(expected, logits);
        Assert.All(weights, p => Near(p.Value.grad!, gradients[p.Key], p.Key));
    }

    [Theory]
    [InlineData(MLstmForm.Recurrent)]
    [InlineData(MLstmForm.Parallel)]
    public void GatedLinearAttention_EveryForm_EqualsTheChunkwise(MLstmForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5, CPU);
        Tensor Draw(params long[] shape) => randn(shape, dtype: ScalarType.Float64, generator: generator);
        var (q, k, v) = (Draw(2, 3, 21, 4), Draw(2, 3, 21, 4), Draw(2, 3, 21, 5));
        var (decay, initial) = (-Draw(2, 3, 21).abs(), Draw(2, 3, 4, 5));
        var layout = new SequenceLayout(Draw(2, 21).gt(1), Draw(2, 21).gt(1));
        var (expected, last) = GatedLinearAttention.Forward(q, k, v, decay, initial, layout, returnState: true, chunkSize: 8);
        var (actual, other) = GatedLinearAttention.Forward(q, k, v, decay, initial, layout, returnState: true, form: form);
        var present = layout.Padding!.logical_not().unsqueeze(1).unsqueeze(3);
        Near(expected * present, actual * present);
        Near(last!, other!, "state");
    }

    [Fact]
    public void GatedLinearAttention_WrongShape_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        var (q, v) = (zeros(1, 2, 3, 4), zeros(1, 2, 3, 5));
        var error = Assert.Throws<ArgumentException>(() => GatedLinearAttention.Forward(q, q, v, zeros(1, 2, 4)));
        Assert.Contains("[1, 2, 3]", error.Message, StringComparison.Ordinal);
        Assert.Contains("got [1, 2, 4]", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void CountParameters_PublishedSizes_Match()
    {
        // Without convolutions, and with the low-rank gates of one decay a channel, this is the 412 M of the first paper's table 1.
        var paper = GlaPresets.Gla400M with { ConvTaps = 0 };
        var lowRank = 24 * (16L * (1024 + 512) + 512);
        Assert.Equal(412, (paper.CountParameters() - 24 * 1025 * 4 + lowRank) / 1e6, 0.5);
        Assert.InRange(GlaPresets.Bytes1M.CountParameters(), 850_000, 1_000_000);
        Assert.All(GlaPresets.All, p => Assert.Same(p.Value, Presets.ByName(p.Key)));
        Assert.All(GlaPresets.All.Values, config => config.Validate());
    }

    [Fact]
    public void ForwardFlopsPerToken_LongSequence_IsWeightsAndChunks()
    {
        var config = Small with { ConvTaps = 0 };
        double weights = config.BlockCount * (32 * (16 + 16 + 3 * 32 + 2) + 3 * 32 * 48) + 32 * 257;
        var chunks = config.BlockCount * 2 * (2 * 64 * (8 + 16) + 4 * 8 * 16);
        Assert.Equal(2 * weights + chunks, config.ForwardFlopsPerToken(1000));
        Assert.True(config.ForwardFlopsPerToken(16) < config.ForwardFlopsPerToken(64));
    }

    [Fact]
    public void CreateModel_EveryChoice_HasItsParametersAndState()
    {
        using var scope = NewDisposeScope();
        foreach (var config in new[]
        {
            Small with { ConvTaps = 0, TieWordEmbeddings = true }, Small with { ConvTaps = 1, ValueFactor = 2 },
            Small with { HeadCount = 4, FeedForwardWidth = null },
        })
        {
            using var model = config.CreateModel();
            Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
            using var state = model.Forward(Tokens(1, 3), returnState: true).State!;
            Assert.Equal(config.StateBytes(3), state.SizeInBytes);
            Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        }
    }

    [Fact]
    public void Initialize_Weights_HaveThePublishedScales()
    {
        using var scope = NewDisposeScope();
        using var model = (Small with { EmbeddingDim = 128, BlockCount = 8, InitStd = 0.02 }).CreateModel(seed: 3);
        var weights = model.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        Assert.Equal(0.02, weights["model.embeddings.weight"].std().item<float>(), 1e-3);
        Assert.Equal(0.02, weights["model.layers.3.attn.q_proj.weight"].std().item<float>(), 1e-3);
        Assert.Equal(0.005, weights["model.layers.3.attn.o_proj.weight"].std().item<float>(), 3e-4);
        Assert.Equal(0.005, weights["model.layers.3.mlp.proj_down.weight"].std().item<float>(), 3e-4);
        Assert.Equal(0, weights["model.layers.3.attn.gk_proj.bias"].abs().max().item<float>());
    }

    [Theory]
    [InlineData("\"num_heads\":5", "expand_k is 0.5, which makes a width of 1024; expected a multiple of num_heads 5")]
    [InlineData("\"gate_logit_normalizer\":0", "gate_logit_normalizer is 0")]
    [InlineData("\"conv_size\":-1", "conv_size is -1; expected at least 0")]
    [InlineData("\"hidden_act\":\"gelu\"", "hidden_act is \"gelu\"")]
    [InlineData("\"vocab_size\":0", "vocab_size is 0; expected at least 1")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string reason)
    {
        var error = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse($$"""{"model_type":"simple_gla",{{field}}}"""));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }

    /// <summary>The model token by token, as its equations are written, for automatic differentiation.</summary>
    private static Tensor ByHand(GlaConfig config, Dictionary<string, Tensor> weights, Tensor tokens)
    {
        Tensor Norm(Tensor x, string name) =>
            x / (x.square().mean([-1L], keepdim: true) + config.NormEpsilon).sqrt() * weights[name + ".weight"];
        Tensor Project(Tensor x, string name) => x.matmul(weights[name + ".weight"].t());
        Tensor Silu(Tensor x) => x * sigmoid(x);
        var x = weights["model.embeddings.weight"][tokens]; // (B, S, d)
        var (batch, length) = (tokens.shape[0], tokens.shape[1]);
        for (var b = 0; b < config.BlockCount; b++)
        {
            var at = $"model.layers.{b}.";
            var read = Norm(x, at + "attn_norm");
            Tensor Convolved(string which)
            {
                var y = Project(read, $"{at}attn.{which}_proj");
                if (config.ConvTaps == 0)
                {
                    return y;
                }

                var w = weights[$"{at}attn.{which}_conv1d.weight"].squeeze(1); // (C, K)
                var padded = cat([zeros(batch, config.ConvTaps - 1, y.shape[2], dtype: y.dtype), y], 1);
                return Silu(
                    Enumerable.Range(0, config.ConvTaps).Select(j => padded.narrow(1, j, length) * w.select(1, j))
                        .Aggregate((a, c) => a + c));
            }

            var (q, k, v) = (Convolved("q"), Convolved("k"), Convolved("v"));
            // (B, S, NH)
            var decay = sigmoid(Project(read, at + "attn.gk_proj") + weights[at + "attn.gk_proj.bias"]).pow(1 / config.GateNormalizer);
            var heads = new List<Tensor>();
            for (var h = 0; h < config.HeadCount; h++)
            {
                var (dk, dv) = (config.QkDim / config.HeadCount, config.VDim / config.HeadCount);
                var memory = zeros(batch, dk, dv, dtype: x.dtype);
                var outputs = new List<Tensor>();
                for (long t = 0; t < length; t++)
                {
                    Tensor Part(Tensor y, long width) => y.select(1, t).narrow(1, h * width, width);
                    memory = decay.select(1, t).narrow(1, h, 1).unsqueeze(2) * memory + Part(k, dk).unsqueeze(2) * Part(v, dv).unsqueeze(1);
                    outputs.Add((Part(q, dk).unsqueeze(2) * memory).sum(1) / Math.Sqrt(dk));
                }

                heads.Add(Norm(stack(outputs, 1), at + "attn.g_norm"));
            }

            x = x + Project(Silu(Project(read, at + "attn.g_proj")) * cat(heads, 2), at + "attn.o_proj");
            var inner = Norm(x, at + "mlp_norm");
            x = x + Project(Silu(Project(inner, at + "mlp.proj_up_gate")) * Project(inner, at + "mlp.proj_up"), at + "mlp.proj_down");
        }

        return Project(Norm(x, "model.norm"), "lm_head");
    }
}
