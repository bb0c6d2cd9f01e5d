using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Tests.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class XlstmLanguageModelTests
{
    [Theory]
    [InlineData("xlstm_large_tiny")]
    [InlineData("xlstm_large_bias_fused")]
    public void Model_GoldenCase_EqualsPublishedImplementation(string name)
    {
        using var scope = NewDisposeScope();
        var golden = GoldenTensors.Read(TestSetup.Golden($"{name}.safetensors"));
        using var model = new XlstmLanguageModel(GoldenConfig(name));
        Load(model, golden);
        var input = golden["input_ids"];
        var context = input.narrow(1, 0, input.shape[1] - 1);

        var logits = model.Forward(context).Logits;
        var loss = nn.functional.cross_entropy(logits.flatten(0, 1), input.narrow(1, 1, context.shape[1]).flatten());
        loss.backward();

        Within(golden["logits"], logits, 1e-4);
        Assert.Equal(golden["loss"].item<float>(), loss.item<float>(), 1e-4);
        foreach (var (parameter, value) in model.named_parameters())
        {
            MLstmTests.Near(golden["grad." + Published(parameter)], value.grad!, 1e-3, parameter);
        }

        using var grad = no_grad();
        var (first, state) = model.Forward(context.narrow(1, 0, 20), returnState: true);
        var steps = new List<Tensor> { first };
        for (var t = 20; t < context.shape[1]; t++)
        {
            (var next, state) = model.Forward(context.narrow(1, t, 1), state, returnState: true);
            steps.Add(next);
        }

        Within(golden["logits_recurrent"], cat(steps, 1), 1e-4);
        for (var b = 0; b < 2; b++)
        {
            MLstmTests.Near(golden[$"state.{b}.c"], state![$"blocks.{b}.c"], 1e-4, "c");
            MLstmTests.Near(golden[$"state.{b}.m"], state[$"blocks.{b}.m"], 1e-4, "m");
        }
    }

    [Fact]
    public void Model_FusedWeights_HaveSameCountAndOutputAsSingle()
    {
        using var scope = NewDisposeScope();
        var config = new XlstmConfig { VocabularySize = 50, EmbeddingDim = 32, HeadCount = 2, BlockCount = 1 };
        using var single = new XlstmLanguageModel(config);
        using var fused = new XlstmLanguageModel(config with { WeightMode = WeightMode.Fused });
        Assert.Equal(XlstmAccounting.ParameterCount(config), single.parameters().Sum(p => p.NumberOfElements));
        Assert.Equal(XlstmAccounting.ParameterCount(config), fused.parameters().Sum(p => p.NumberOfElements));

        XlstmAxesTests.CopyIntoFused(single, fused);
        var tokens = randint(0, 50, [2, 70], dtype: ScalarType.Int64, generator: new Generator(3, CPU));
        var (expected, actual) = (single.Forward(tokens).Logits, fused.Forward(tokens).Logits);
        MLstmTests.Near(expected, actual, 1e-5, "logits");
        expected.square().sum().backward();
        actual.square().sum().backward();
        var gradients = single.named_parameters().ToDictionary(p => p.name, p => p.parameter.grad!);
        var gate = "backbone.blocks.0.ffn.proj_up_gate";
        MLstmTests.Near(
            cat([gradients[gate + ".weight"], gradients["backbone.blocks.0.ffn.proj_up.weight"]], 0),
            fused.named_parameters().First(p => p.name == gate + "_z.weight").parameter.grad!, 1e-4, gate);
    }

    [Fact]
    public void Model_FreshWeights_GiveNearUniformLoss()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(XlstmPresets.Bytes1M, seed: 1);
        var tokens = randint(0, 257, [2, 65], dtype: ScalarType.Int64, generator: new Generator(1, CPU));
        var loss = nn.functional.cross_entropy(
            model.Forward(tokens.narrow(1, 0, 64)).Logits.flatten(0, 1), tokens.narrow(1, 1, 64).flatten());
        Assert.Equal(Math.Log(257), loss.item<float>(), 0.3);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 2e-5)]
    [InlineData(ScalarType.BFloat16, 3e-2)]
    public void Model_NarrowCompute_StaysNearFloat64(ScalarType type, double bound)
    {
        using var scope = NewDisposeScope();
        var config = new XlstmConfig { VocabularySize = 50, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 };
        using var wide = new XlstmLanguageModel(config, seed: 2);
        using var narrow = new XlstmLanguageModel(config, seed: 2) { ComputeType = type };
        wide.to(ScalarType.Float64);
        var tokens = randint(0, 50, [2, 70], dtype: ScalarType.Int64);
        var logits = narrow.Forward(tokens).Logits;
        Assert.Equal(ScalarType.Float32, logits.dtype);
        MLstmTests.Near(wide.Forward(tokens).Logits, logits, bound, "logits");
    }

    [Fact]
    public void Model_PaddedBatch_EqualsRowsAlone()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var config = new XlstmConfig { VocabularySize = 50, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2, ChunkSize = 8 };
        using var model = new XlstmLanguageModel(config, seed: 3);
        var rows = new[] { 5, 19, 1 }.Select(n => randint(0, 50, [1, n], dtype: ScalarType.Int64)).ToArray();
        var tokens = zeros(3, 19, dtype: ScalarType.Int64);
        var padding = ones(3, 19, dtype: ScalarType.Bool);
        for (var r = 0; r < 3; r++)
        {
            tokens[r].narrow(0, 0, rows[r].shape[1]).copy_(rows[r][0]);
            padding[r].narrow(0, 0, rows[r].shape[1]).fill_(false);
        }

        var (logits, state) = model.Forward(tokens, layout: new(null, padding), returnState: true);
        for (var r = 0; r < 3; r++)
        {
            var (alone, last) = model.Forward(rows[r], returnState: true);
            MLstmTests.Near(alone[0], logits[r].narrow(0, 0, rows[r].shape[1]), 1e-5, "logits");
            MLstmTests.Near(last!["blocks.1.c"][0], state!["blocks.1.c"][r], 1e-5, "state");
        }
    }

    [Fact]
    public void Observer_SeesGatesOfEveryBlock()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(new XlstmConfig { VocabularySize = 50, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 });
        var seen = new HashSet<(int, string)>();
        model.Observer = (block, name, value) => seen.Add((block, $"{name}:{string.Join(',', value.shape)}"));
        model.Forward(zeros(1, 5, dtype: ScalarType.Int64));
        Assert.Contains((1, "igate_preact:1,2,5"), seen);
        Assert.Contains((0, "ogate_preact:1,5,32"), seen);
    }

    [Fact]
    public void Forward_WrongTokens_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(new XlstmConfig { VocabularySize = 50, EmbeddingDim = 32, HeadCount = 2, BlockCount = 1 });
        Assert.Contains(
            "0 to 49, got 50",
            Assert.Throws<ArgumentOutOfRangeException>(() => model.Forward(full([1, 2], 50, dtype: ScalarType.Int64))).Message,
            StringComparison.Ordinal);
        Assert.Contains("int64", Assert.Throws<ArgumentException>(() => model.Forward(zeros(1, 2))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ParameterCount_PublishedSizes_Match()
    {
        Assert.Equal(164_110_224, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm160M));
        Assert.Equal(406_856_896, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm400M));
        Assert.Equal(841_496_256, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm830M));
        Assert.Equal(1_420_839_104, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm1400M));
        Assert.Equal(2_780_449_600, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm2700M));
        Assert.Equal(6_865_424_896, XlstmAccounting.ParameterCount(XlstmPresets.Xlstm7B));
    }

    [Fact]
    public void Flops_PublishedValues_Match()
    {
        foreach (var (heads, published) in new[] { (4, 7.59e10), (8, 4.13e10), (16, 2.40e10), (32, 1.55e10) })
        {
            var counted = XlstmAccounting.CellFlops(XlstmPresets.Xlstm7B with { HeadCount = heads }, 8192);
            Assert.Equal(1.0, counted / published, 0.005);
        }

        Assert.Equal(1.0, XlstmAccounting.ForwardFlopsPerToken(XlstmPresets.Xlstm7B, 8192) / 1.348e10, 0.002);
        // The state of the 7B model: 134.2 MB of C, as printed, and a little for n and m.
        Assert.Equal(1.0, XlstmAccounting.StateBytes(XlstmPresets.Xlstm7B) / 134.2e6, 0.005);
    }

    internal static XlstmConfig GoldenConfig(string name)
    {
        var header = GoldenTensors.About(TestSetup.Golden($"{name}.safetensors"))["config"]!.AsObject();
        var config = new XlstmConfig { FeedForwardFactor = 2.6667 };
        foreach (var (key, value) in header)
        {
            config = key switch
            {
                "embedding_dim" => config with { EmbeddingDim = (int)value! },
                "num_heads" => config with { HeadCount = (int)value! },
                "num_blocks" => config with { BlockCount = (int)value! },
                "vocab_size" => config with { VocabularySize = (int)value! },
                "use_bias" => config with { UseBias = (bool)value! },
                "weight_mode" => config with { WeightMode = (string)value! == "fused" ? WeightMode.Fused : WeightMode.Single },
                "qk_dim_factor" => config with { QkDimFactor = (double)value! },
                "ffn_proj_factor" => config with { FeedForwardFactor = (double)value! },
                "ffn_round_up_to_multiple_of" => config with { FeedForwardRoundUpTo = (int)value! },
                _ => throw new InvalidDataException(key),
            };
        }

        return config;
    }

    private static void Load(XlstmLanguageModel model, Dictionary<string, Tensor> golden)
    {
        using var grad = no_grad();
        foreach (var (name, value) in model.named_parameters())
        {
            value.copy_(golden["param." + Published(name)]);
        }
    }

    private static string Published(string name) => name.Replace("backbone.embeddings.", "embedding.", StringComparison.Ordinal);

    private static void Within(Tensor expected, Tensor actual, double bound) =>
        Assert.InRange((expected - actual).abs().max().item<float>(), 0, bound);
}
