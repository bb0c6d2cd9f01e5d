using XlstmLab.Checkpoints;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Tests.Mixers;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class MixerPatternTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 11,
        EmbeddingDim = 16,
        HeadCount = 2,
        BlockCount = 4,
        FeedForwardRoundUpTo = 8,
    };

    static MixerPatternTests() => MixerConfig.Know<MovingAverageMixerConfig>();

    [Theory]
    [InlineData("mlstm", "mlstm mlstm mlstm mlstm")]
    [InlineData("attention", "attention attention attention attention")]
    [InlineData("[3:1]", "mlstm mlstm mlstm slstm")]
    [InlineData("[1:1]", "mlstm slstm mlstm slstm")]
    [InlineData("[0:1]", "slstm slstm slstm slstm")]
    [InlineData("gla[1:1]sliding_window", "gla sliding_window gla sliding_window")]
    [InlineData("[1:3] attention", "mlstm attention attention attention")]
    [InlineData("lstm, gru", "lstm gru lstm gru")]
    [InlineData("gated-delta[3:1]sliding-window", "gated_delta gated_delta gated_delta sliding_window")]
    [InlineData("delta", "delta delta delta delta")]
    [InlineData("moving_average", "moving_average moving_average moving_average moving_average")]
    public void Parse_Text_GivesTheMixerOfEachBlock(string text, string expected) =>
        Assert.Equal(
            expected, string.Join(' ', Enumerable.Range(0, 4).Select(block => (Small with { Mixers = text }).MixerAt(block).Kind)));

    [Fact]
    public void SLstmAt_IsAPatternOfMixers()
    {
        Assert.Equal("[3]", (Small with { Mixers = "[3:1]" }).SLstmAt.ToString());
        Assert.Equal(MixerPattern.WithSLstmAt([1]), (Small with { SLstmAt = [1] }).Mixers);
        Assert.Equal("mlstm slstm mlstm mlstm", string.Join(
            ' ', Enumerable.Range(0, 4).Select(block => (Small with { SLstmAt = [1] }).MixerAt(block).Kind)));
        Assert.Equal(BlockList.None, (Small with { Mixers = "attention" }).SLstmAt);
    }

    [Fact]
    public void Model_OfRatioAndOfSLstmAt_AreOne()
    {
        using var scope = NewDisposeScope();
        using var ratio = new XlstmLanguageModel(Small with { Mixers = "[3:1]" }, 5);
        using var listed = new XlstmLanguageModel(Small with { SLstmAt = [3] }, 5);
        Assert.Equal(ModelIdentity.Of(listed), ModelIdentity.Of(ratio));
        Assert.DoesNotContain("mixers", ModelConfigJson.Text(ratio.Config), StringComparison.Ordinal);
    }

    public static TheoryData<string, string> Written { get; } = new()
    {
        { "attention", "\"mixers\": \"attention\"" },
        { "window", "\"kind\": \"sliding_window\",\n    \"window\": 16,\n    \"num_heads\": 4" },
        { "own", "\"kind\": \"moving_average\",\n    \"decay\": 0.5" },
        { "list", "\"mixers\": [\n    \"mlstm\",\n    \"mamba\"\n  ]" },
        { "other mlstm", "\"input_gate\": \"sigmoid\"" },
    };

    [Theory]
    [MemberData(nameof(Written))]
    public void Json_OfAPattern_IsReadBack(string which, string expected)
    {
        var config = Small with
        {
            Mixers = which switch
            {
                "attention" => "attention",
                "window" => new SlidingWindowMixerConfig { Window = 16, HeadCount = 4 },
                "own" => new MovingAverageMixerConfig { Decay = 0.5 },
                "list" => ["mlstm", new MambaMixerConfig()],
                _ => ["mlstm", Small.MLstm with { InputGate = XlstmLab.Operations.InputGate.Sigmoid }],
            },
        };
        var text = ModelConfigJson.Text(config);
        Assert.Contains(expected, text, StringComparison.Ordinal);
        Assert.DoesNotContain("slstm_at", text, StringComparison.Ordinal);
        Assert.Equal(config, ModelConfigJson.Parse(text));
    }

    [Theory]
    [InlineData("\"atention\"", "There is no mixer 'atention'. Did you mean 'attention'?")]
    [InlineData("\"atention\"", "--plugin its.dll")]
    [InlineData("[\"mlstm\", \"attention\", \"gla\"]", "expected a divisor of num_blocks 4")]
    [InlineData("[]", "mixers is []; expected a mixer's name")]
    [InlineData("3", "mixers is 3; expected a mixer's name")]
    [InlineData("{\"num_heads\": 2}", "expected a mixer's name, or an object with its kind")]
    [InlineData("{\"kind\": \"attention\", \"num_head\": 2}", "there is no 'mixers.num_head'. Did you mean 'num_heads'?")]
    [InlineData("[\"mlstm\", {\"kind\": \"gla\", \"conv_size\": \"x\"}]", "mixers[1].conv_size has a value of the wrong kind")]
    [InlineData("{\"kind\": \"attention\", \"num_heads\": 3}", "mixers[0], attention: num_heads is 3; expected a divisor of the width 16")]
    [InlineData("{\"kind\": \"sliding_window\", \"window\": 0}", "window is 0; expected at least 1")]
    public void Json_WrongMixers_AreRefused(string mixers, string reason)
    {
        var json =
            $$"""{"model_type": "xlstm", "vocab_size": 11, "embedding_dim": 16, "num_heads": 2, "num_blocks": 4, "mixers": {{mixers}}}""";
        Assert.Contains(reason, Assert.Throws<ConfigException>(() => ModelConfigJson.Parse(json)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Json_MixersAndSLstmAt_AreRefusedTogether() =>
        Assert.Contains(
            "mixers and slstm_at are given",
            Assert.Throws<ConfigException>(() =>
                ModelConfigJson.Parse("""{"model_type": "xlstm", "mixers": "gla", "slstm_at": [1]}""")).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Json_OldSLstmAt_MeansTheSame()
    {
        var read = (XlstmConfig)ModelConfigJson.Parse("""{"model_type": "xlstm", "num_blocks": 4, "slstm_at": [1, 3]}""");
        Assert.Equal("[1, 3]", read.SLstmAt.ToString());
        Assert.Contains("slstm_at", ModelConfigJson.Text(read), StringComparison.Ordinal);
    }

    [Fact]
    public void Create_NoMixer_Throws() => Assert.Throws<ConfigException>(() => MixerPattern.Create([]));

    [Fact]
    public void Know_AKindOfTheLibrary_IsRefused() =>
        Assert.Contains(
            "which is the library's own", Assert.Throws<ArgumentException>(MixerConfig.Know<False>).Message, StringComparison.Ordinal);

    private sealed record False : MixerConfig
    {
        public override string Kind => "mamba";

        public override Mixer Create(MixerSite site) => throw new NotSupportedException();
    }
}
