using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class Mamba2LanguageModelTests : LanguageModelContract
{
    private static readonly Mamba2Config Small = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 24,
        BlockCount = 2,
        HeadCount = 4,
        HeadDim = 12,
        StateSize = 5,
        GroupCount = 2,
        ChunkSize = 8,
    };

    protected override LanguageModelConfig Config => Small;

    [Fact]
    public void CountParameters_PublishedSizes_Match()
    {
        Assert.Equal(128_989_632, Mamba2Presets.Mamba2Of130M.CountParameters());
        Assert.Equal(1, Mamba2Presets.Mamba2Of370M.CountParameters() / 370e6, 0.01);
        Assert.Equal(1, Mamba2Presets.Mamba2Of780M.CountParameters() / 780e6, 0.01);
        Assert.Equal(1, Mamba2Presets.Mamba2Of1300M.CountParameters() / 1.34e9, 0.01);
        Assert.Equal(1, Mamba2Presets.Mamba2Of2700M.CountParameters() / 2.7e9, 0.01);
        Assert.All(Mamba2Presets.All.Values, config => config.Validate());
    }

    [Fact]
    public void CreateModel_EveryChoice_HasItsParametersAndRoundTrips()
    {
        foreach (var config in new[]
        {
            Small with { UseBias = true, UseConvBias = false, TieWordEmbeddings = true, ConvKernelSize = 2 },
            Small with { TimeStepLowest = 0.01, TimeStepHighest = 0.5, GroupCount = 4 },
        })
        {
            using var model = config.CreateModel();
            Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
            Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        }
    }

    [Fact]
    public void Forward_AnyChunkSize_GivesTheSameLogits()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var tokens = Tokens(2, 37);
        var starts = zeros(2, 37, dtype: ScalarType.Bool);
        starts[0, 11] = true;
        starts[1, 16] = true;
        Tensor? first = null;
        foreach (var chunk in new[] { 1, 5, 16, 37, 256 })
        {
            using var model = (Small with { ChunkSize = chunk }).CreateModel(seed: 2);
            model.to(ScalarType.Float64);
            var logits = model.Forward(tokens, layout: new(starts)).Logits;
            Near(first ??= logits, logits, $"chunk {chunk}");
        }
    }

    [Fact]
    public void Forward_StepLimits_BoundTheSteps()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var model = (Small with { TimeStepLowest = 0.01, TimeStepHighest = 0.03 }).CreateModel(seed: 2);
        var steps = new List<double>();
        model.Observer = (_, name, value) =>
        {
            if (name == "dt")
            {
                steps.AddRange([value.min().item<float>(), value.max().item<float>()]);
            }
        };
        model.Forward(Tokens(1, 30));
        Assert.Equal(0.01, steps.Min(), 1e-7);
        Assert.Equal(0.03, steps.Max(), 1e-7);
    }

    [Fact]
    public void Initialize_Weights_HaveThePublishedDistributions()
    {
        using var scope = NewDisposeScope();
        using var model = Mamba2Presets.Bytes1M.CreateModel(seed: 3);
        var weights = model.named_parameters().ToDictionary(p => p.name, p => p.parameter);
        var rates = cat([.. Enumerable.Range(0, 8).Select(b => weights[$"backbone.layers.{b}.mixer.A_log"].exp())]);
        var steps = cat([.. Enumerable.Range(0, 8).Select(b => nn.functional.softplus(weights[$"backbone.layers.{b}.mixer.dt_bias"]))]);
        Assert.InRange(rates.min().item<float>(), 1, 3);
        Assert.InRange(rates.max().item<float>(), 14, 16);
        Assert.Equal(8.5, rates.mean().item<float>(), 2.0);
        Assert.InRange(steps.min().item<float>(), 0.00099, 0.003);
        Assert.InRange(steps.max().item<float>(), 0.04, 0.1001);
        Assert.Equal(Math.Pow(3 * 256 * 8, -0.5), weights["backbone.layers.2.mixer.out_proj.weight"].std().item<float>(), 1e-3);
    }

    [Theory]
    [InlineData("[0.0, Infinity]", 0, double.PositiveInfinity)]
    [InlineData("[0.0, {\"__float__\": \"Infinity\"}]", 0, double.PositiveInfinity)]
    [InlineData("[0.001, 0.1]", 0.001, 0.1)]
    public void Parse_StepLimits_InEitherSpelling(string limit, double lowest, double highest)
    {
        var config = (Mamba2Config)ModelConfigJson.Parse($$"""{"model_type":"mamba2","time_step_limit":{{limit}}}""");
        Assert.Equal((lowest, highest), (config.TimeStepLowest, config.TimeStepHighest));
    }

    [Theory]
    [InlineData("\"num_heads\":3", "num_heads 3 times head_dim 64 is 192; expected expand times hidden_size, 8192")]
    [InlineData("\"n_groups\":3", "n_groups is 3; expected a divisor of num_heads 128")]
    [InlineData("\"time_step_limit\":[0.1]", "expected two numbers")]
    [InlineData("\"time_step_limit\":[0.2, 0.1]", "time_step_limit is [0.2, 0.1]")]
    [InlineData("\"rms_norm\":false", "not supported")]
    [InlineData("\"chunk_size\":0", "chunk_size is 0")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string reason)
    {
        var error = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse($$"""{"model_type":"mamba2",{{field}}}"""));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }
}
