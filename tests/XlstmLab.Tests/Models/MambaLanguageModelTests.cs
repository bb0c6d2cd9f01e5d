using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class MambaLanguageModelTests : LanguageModelContract
{
    private static readonly MambaConfig Small = new() { VocabularySize = 257, EmbeddingDim = 24, BlockCount = 2, StateSize = 4 };

    protected override LanguageModelConfig Config => Small;

    [Fact]
    public void CountParameters_PublishedSizes_Match()
    {
        Assert.Equal(129_135_360, MambaPresets.Mamba130M.CountParameters());
        Assert.Equal(371_516_416, MambaPresets.Mamba370M.CountParameters());
        Assert.Equal(793_204_224, MambaPresets.Mamba790M.CountParameters());
        Assert.Equal(1_372_178_432, MambaPresets.Mamba1400M.CountParameters());
        Assert.Equal(2_768_345_600, MambaPresets.Mamba2800M.CountParameters());
        Assert.All(MambaPresets.All.Values, config => config.Validate());
    }

    [Fact]
    public void CreateModel_EveryChoice_HasItsParametersAndRoundTrips()
    {
        var config = Small with
        {
            UseBias = true,
            UseConvBias = false,
            TieWordEmbeddings = false,
            TimeStepRank = 3,
            Expand = 3,
            ConvKernelSize = 1,
        };
        using var model = config.CreateModel();
        Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
        Assert.Equal(config, ModelConfigJson.Parse(ModelConfigJson.Text(config)));
        using var state = model.Forward(Tokens(2, 3), returnState: true).State!;
        Assert.Equal([2, 0, 72], state["blocks.0.conv"].shape);
    }

    [Fact]
    public void Initialize_Weights_HaveThePublishedDistributions()
    {
        using var scope = NewDisposeScope();
        using var model = (Small with { EmbeddingDim = 128, BlockCount = 4 }).CreateModel(seed: 3);
        var weights = model.named_parameters().ToDictionary(
            p => p.name["backbone.".Length..].Replace("layers.1.mixer.", "", StringComparison.Ordinal), p => p.parameter);
        Assert.Equal(0.02, weights["embeddings.weight"].std().item<float>(), 1e-3);
        var steps = nn.functional.softplus(weights["dt_proj.bias"]);
        Assert.InRange(steps.min().item<float>(), 0.00099, 0.002);
        Assert.InRange(steps.max().item<float>(), 0.06, 0.1001);
        Assert.Equal(Math.Log(0.01), steps.log().mean().item<float>(), 0.25);
        Assert.Equal([1f, 2f, 3f, 4f], weights["A_log"].exp()[5].data<float>().ToArray().Select(v => MathF.Round(v, 4)));
        Assert.Equal(256f, weights["D"].sum().item<float>());

        // Uniform numbers have a standard deviation of their bound over sqrt(3).
        Assert.Equal(Math.Pow(3 * 128, -0.5), weights["in_proj.weight"].std().item<float>(), 1e-3);
        Assert.Equal(Math.Pow(3 * 256, -0.5) / 2, weights["out_proj.weight"].std().item<float>(), 1e-3);
        Assert.Equal(Math.Pow(3 * 8, -0.5), weights["dt_proj.weight"].std().item<float>(), 0.01);
        Assert.InRange(weights["conv1d.weight"].abs().max().item<float>(), 0.45, 0.5);
    }

    [Fact]
    public void Decays_RatesAndSkips_AreLeftAlone()
    {
        using var model = Small.CreateModel();
        var decaying =
            model.named_parameters().Where(p => AdamW.Decays(p.name, p.parameter.shape)).Select(p => p.name.Split('.')[^2]).ToHashSet();
        Assert.Equal(["conv1d", "dt_proj", "in_proj", "out_proj", "x_proj"], decaying.Order());
    }

    [Theory]
    [InlineData("\"intermediate_size\":100", "intermediate_size is 100; expected expand times hidden_size, 1536")]
    [InlineData("\"hidden_act\":\"relu\"", "hidden_act is \"relu\"")]
    [InlineData("\"state_size\":0", "state_size is 0")]
    [InlineData("\"time_step_min\":0", "time_step_min is 0")]
    [InlineData("\"expand\":2.5", "expand has a value of the wrong kind; expected a whole number")]
    public void Parse_ImpossibleValue_SaysWhatWasExpected(string field, string reason)
    {
        var error = Assert.Throws<ConfigException>(() => ModelConfigJson.Parse($$"""{"model_type":"mamba",{{field}}}"""));
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }
}
