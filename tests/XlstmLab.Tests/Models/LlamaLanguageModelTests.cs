using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class LlamaLanguageModelTests : LanguageModelContract
{
    private static readonly LlamaConfig Small = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 32,
        BlockCount = 2,
        HeadCount = 4,
        KeyValueHeads = 2,
        FeedForwardDim = 48,
    };

    protected override LanguageModelConfig Config => Small;

    [Fact]
    public void CountParameters_PublishedSizes_Match()
    {
        foreach (var (config, millions) in new (LlamaConfig, int)[]
        {
            (LlamaPresets.Llama160M, 162), (LlamaPresets.Llama400M, 407), (LlamaPresets.Llama830M, 834), (LlamaPresets.Llama1400M, 1420),
            (LlamaPresets.Llama2700M, 2780), (LlamaPresets.Llama7B, 6860),
        })
        {
            config.Validate();
            Assert.Equal(1, config.CountParameters() / (millions * 1e6), 0.002);
        }

        Assert.Equal(6_738_415_616, new LlamaConfig().CountParameters());
    }

    [Fact]
    public void ForwardFlopsPerToken_LongSequence_IsWeightsAndAttention()
    {
        var config = Small with { KeyValueHeads = null };
        double weights = config.BlockCount * (4 * 32 * 32 + 3 * 32 * 48) + 32 * 257;
        Assert.Equal(2 * weights + config.BlockCount * (4 * 100 * 32 + 3 * 100 * 4), config.ForwardFlopsPerToken(100));
    }

    [Fact]
    public void CreateModel_EveryChoice_HasItsParameters()
    {
        foreach (var config in new[]
        {
            Small with { AttentionBias = true, FeedForwardBias = true, TieWordEmbeddings = true },
            Small with { HeadWidth = 6, KeyValueHeads = 1 },
        })
        {
            using var model = config.CreateModel();
            Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
            Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        }
    }

    [Fact]
    public void Observer_Attention_IsADistributionOverThePastOfTheDocument()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = Wide();
        using var state = model.Forward(Tokens(1, 3), returnState: true).State;
        var seen = new Dictionary<string, Tensor>();
        model.Observer = (block, name, value) => seen[$"{block}.{name}"] = value.clone().DetachFromDisposeScope();
        model.Forward(Tokens(1, 6));
        Assert.Equal([1, 4, 6, 8], seen["1.q"].shape);
        Assert.Equal([1, 2, 6, 8], seen["1.k"].shape);
        CheckWeights(ones(6, 6).tril());

        var starts = zeros(1, 6, dtype: ScalarType.Bool);
        starts[0, 2] = true;
        model.Forward(Tokens(1, 6), state, new(starts));
        var mask = zeros(6, 9);
        mask.narrow(0, 0, 2).narrow(1, 0, 5).copy_(ones(2, 5).tril(3));
        mask.narrow(0, 2, 4).narrow(1, 5, 4).copy_(ones(4, 4).tril());
        CheckWeights(mask);

        void CheckWeights(Tensor visible)
        {
            var weights = seen["0.attention"][0]; // (NH, S, T + S)
            Assert.True(weights.gt(0).eq(visible.gt(0)).all().item<bool>());
            Near(ones_like(weights.sum(-1)), weights.sum(-1), "sums");
        }
    }

    /// <summary>Past the room of many tokens several times, with documents that begin on the way and padding.</summary>
    [Theory]
    [InlineData(ScalarType.Float64, null, false, 1e-11)]
    [InlineData(ScalarType.Float64, 1, true, 1e-11)]
    [InlineData(ScalarType.Float32, 2, false, 2e-4)]
    [InlineData(ScalarType.Float32, null, true, 2e-4)]
    public void Forward_TokenByToken_IsTheWholeSequence(ScalarType type, int? keyValueHeads, bool hasLayout, double bound)
    {
        const int length = 500;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = (Small with { KeyValueHeads = keyValueHeads }).CreateModel(seed: 4);
        model.to(type);
        model.eval();
        var tokens = Tokens(2, length);
        using var generator = new Generator(5);
        Tensor Some(double share) => rand(2, length, generator: generator).lt(share);
        var layout = hasLayout ? new SequenceLayout(Some(0.01), Some(0.1)) : null;
        var expected = model.Forward(tokens, layout: layout).Logits;
        ModelState? state = null;
        foreach (var (start, count) in new[] { (0, 3) }.Concat(Enumerable.Range(3, length - 3).Select(t => (t, 1))))
        {
            using var step = NewDisposeScope();
            var before = state;
            var there = layout is null ? null
                : new SequenceLayout(layout.DocumentStarts!.narrow(1, start, count), layout.Padding!.narrow(1, start, count));
            (var logits, state) = model.Forward(tokens.narrow(1, start, count), before, there, returnState: true);
            before?.Dispose();
            var difference = (logits - expected.narrow(1, start, count)).abs();
            if (there is not null)
            {
                difference *= there.Padding!.logical_not().unsqueeze(2);
            }

            Assert.InRange(difference.max().to(ScalarType.Float64).item<double>(), 0, bound);
        }

        Assert.Equal([2, keyValueHeads ?? 4, length, 8], state!["blocks.1.k"].shape);
        state.Dispose();
    }

    [Fact]
    public void Forward_StatesThatFork_AreEachAsIfAlone()
    {
        using var scope = NewDisposeScope();
        using var mode = inference_mode();
        using var model = Wide();
        var (trunk, tokens) = (Tokens(1, 70), Tokens(2, 140));
        using var begun = Read(null, trunk);
        using var forked = begun.Clone();
        using var repeated = begun.SelectRows(0, 0);
        var bytes = begun.SizeInBytes;
        ModelState[] states = [begun, begun, forked];
        var continuations = new[] { tokens.narrow(0, 0, 1), tokens.narrow(0, 1, 1), tokens.narrow(0, 1, 1) };
        for (var t = 0L; t < 140; t++)
        {
            foreach (var (k, state) in states.ToArray().Index())
            {
                states[k] = Read(state, continuations[k].narrow(1, t, 1));
                if (t > 0)
                {
                    state.Dispose();
                }
            }
        }

        Assert.Equal(bytes, begun.SizeInBytes);
        using var both = Read(repeated, tokens);
        foreach (var (k, row) in new[] { (0, 0), (1, 1), (2, 1) })
        {
            using var whole = Read(null, cat([trunk, continuations[k]], 1));
            foreach (var (name, tensor) in states[k].Tensors)
            {
                AssertNear(whole[name], tensor);
                AssertNear(both[name].narrow(0, row, 1), tensor);
            }

            states[k].Dispose();
        }

        ModelState Read(ModelState? state, Tensor read)
        {
            using var step = NewDisposeScope();
            return model.Forward(read, state, returnState: true).State!;
        }

        static void AssertNear(Tensor expected, Tensor actual) => Assert.InRange((expected - actual).abs().max().item<double>(), 0, 1e-11);
    }

    [Fact]
    public void Forward_StateSavedWithinItsRoom_GoesOnFromTheFile()
    {
        using var scope = NewDisposeScope();
        using var mode = inference_mode();
        using var model = Wide();
        var tokens = Tokens(1, 8);
        using var first = model.Forward(tokens.narrow(1, 0, 5), returnState: true).State!;
        using var second = model.Forward(tokens.narrow(1, 5, 1), first, returnState: true).State!;
        using var third = model.Forward(tokens.narrow(1, 6, 1), second, returnState: true).State!;
        var path = Path.Combine(Directory.CreateTempSubdirectory().FullName, "state.safetensors");
        ModelStateFile.Save(third, path);
        using var loaded = ModelStateFile.Load(path);
        Assert.Equal(third.SizeInBytes, loaded.SizeInBytes);
        Assert.All(third.Tensors, pair => Assert.True(pair.Value.equal(loaded[pair.Key]).all().item<bool>(), pair.Key));
        var last = tokens.narrow(1, 7, 1);
        Assert.InRange((model.Forward(last, third).Logits - model.Forward(last, loaded).Logits).abs().max().item<double>(), 0, 1e-12);
        Directory.Delete(Path.GetDirectoryName(path)!, recursive: true);
    }

    [Fact]
    public void Forward_ManyTokens_LeaveLiveTensorsConstant()
    {
        using var scope = NewDisposeScope();
        using var mode = inference_mode();
        using var model = Wide();
        var (token, state) = (Tokens(1, 1), (ModelState?)null);
        long? live = null;
        for (var t = 0; t < 200; t++)
        {
            using (NewDisposeScope())
            {
                var before = state;
                state = model.Forward(token, before, returnState: true).State;
                before?.Dispose();
            }

            live ??= DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
            Assert.Equal(live, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
        }

        state!.Dispose();
    }

    [Fact]
    public void Initialize_Weights_HaveThePublishedScales()
    {
        using var scope = NewDisposeScope();
        using var model = (Small with { EmbeddingDim = 128, BlockCount = 8, FeedForwardDim = 256 }).CreateModel(seed: 3);
        var weights = model.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        Assert.Equal(0.02, weights["model.embed_tokens.weight"].std().item<float>(), 1e-3);
        Assert.Equal(0.02, weights["model.layers.3.self_attn.q_proj.weight"].std().item<float>(), 1e-3);
        Assert.Equal(0.005, weights["model.layers.3.self_attn.o_proj.weight"].std().item<float>(), 3e-4);
        Assert.Equal(0.005, weights["model.layers.3.mlp.down_proj.weight"].std().item<float>(), 3e-4);
    }

    [Theory]
    [InlineData("\"rope_parameters\":{\"rope_theta\":500000.0,\"rope_type\":\"default\"}", 500000)]
    [InlineData("\"rope_theta\":20000,\"rope_scaling\":null", 20000)]
    [InlineData("\"use_cache\":true", 10000)]
    public void Parse_RopeInAnySpelling_IsUnderstood(string field, double theta) =>
        Assert.Equal(new LlamaConfig { RopeTheta = theta }, ModelConfigJson.Parse($$"""{"model_type":"llama",{{field}}}"""));

    [Theory]
    [InlineData("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}", "\"llama3\", which is not supported")]
    [InlineData("\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", "\"linear\", which is not supported")]
    [InlineData("\"rope_parameters\":{\"rope_type\":\"yarn\"}", "\"yarn\", which is not supported")]
    [InlineData("\"rope_parameters\":3", "rope_parameters is 3; expected an object or null")]
    [InlineData("\"hidden_act\":\"gelu\"", "hidden_act is \"gelu\"")]
    [InlineData("\"num_attention_heads\":5", "expected a divisor of hidden_size 4096")]
    [InlineData("\"num_key_value_heads\":5", "expected a divisor of num_attention_heads 32")]
    [InlineData("\"num_key_value_heads\":\"x\"", "expected a whole number of 32 bits or null")]
    [InlineData("\"head_dim\":7", "expected an even number")]
    [InlineData("\"rope_theta\":0", "rope_theta is 0")]
    [InlineData("\"vocab_size\":0", "vocab_size is 0; expected at least 1")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string reason)
    {
        var error = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse($$"""{"model_type":"llama",{{field}}}"""));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }
}
