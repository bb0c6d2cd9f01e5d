using XlstmLab.Analysis;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Mixers;

/// <summary>Every mixer in every block: what a model promises, it keeps.</summary>
public sealed class MixerContractTests
{
    private static readonly XlstmConfig PostUp = new()
    {
        VocabularySize = 11,
        EmbeddingDim = 16,
        HeadCount = 2,
        BlockCount = 2,
        FeedForwardRoundUpTo = 8,
        ChunkSize = 4,
    };

    private static readonly XlstmConfig PreUp = XlstmPresets.FirstPaper(16, 2) with { VocabularySize = 11, HeadCount = 2, ChunkSize = 4 };

    private static readonly Dictionary<string, MixerPattern> Patterns = new()
    {
        ["mlstm"] = "mlstm",
        ["slstm"] = "slstm",
        ["attention"] = "attention",
        ["grouped attention"] = new AttentionMixerConfig { HeadCount = 4, KeyValueHeads = 2, UseBias = true },
        ["window"] = new SlidingWindowMixerConfig { Window = 5, SinkTokens = 2 },
        ["window without sinks"] = new SlidingWindowMixerConfig { Window = 3, SinkTokens = 0, KeyValueHeads = 1 },
        ["mlstm and window"] = new MLstmWindowMixerConfig { Window = 4, SinkTokens = 1, ChunkSize = 5 },
        ["mlstm and window, grouped"] = new MLstmWindowMixerConfig { HeadCount = 4, KeyValueHeads = 2, RotateFeatures = false },
        ["gla"] = new GlaMixerConfig { ConvTaps = 3 },
        ["delta"] = new DeltaMixerConfig { NegativeEigenvalues = true, ChunkSize = 4 },
        ["gated delta"] = new GatedDeltaMixerConfig { ConvTaps = 3 },
        ["mamba"] = new MambaMixerConfig { StateSize = 4 },
        ["mamba2"] = new Mamba2MixerConfig { StateSize = 4, GroupCount = 2 },
        ["mamba3"] = new Mamba3MixerConfig { StateSize = 4, ChunkSize = 6 },
        ["lstm"] = "lstm",
        ["gru"] = "gru",
        ["own"] = new MovingAverageMixerConfig { Decay = 0.7 },
        ["mlstm, attention"] = "mlstm,attention",
        ["two windows"] =
            [new SlidingWindowMixerConfig { Window = 4, SinkTokens = 1 }, new SlidingWindowMixerConfig { Window = 7, SinkTokens = 0 }],
        ["window, slstm"] = [new SlidingWindowMixerConfig { Window = 4, SinkTokens = 1 }, "slstm"],
    };

    private static readonly string[] Styles =
        ["post-up", "post-up with convolution", "post-up without feed-forward", "pre-up", "pre-up without convolution"];

    static MixerContractTests() => MixerConfig.Know<MovingAverageMixerConfig>();

    public static TheoryData<string, string> All
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (var pattern in Patterns.Keys)
            {
                foreach (var style in Styles)
                {
                    data.Add(pattern, style);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Check_MixerInABlock_KeepsEveryPromise(string pattern, string style)
    {
        // Every mixer in one block and every block with several mixers; all with all takes a minute more.
        LongTests.SkipUnless(Array.IndexOf([.. Patterns.Keys], pattern) % Styles.Length == Array.IndexOf(Styles, style));

        var block = style switch
        {
            "post-up" => PostUp,
            "post-up with convolution" =>
                PostUp with { ConvKernelSize = 3, PostNorm = NormKind.Rms, PreNorm = NormKind.Layer, Dropout = 0.1 },
            "post-up without feed-forward" => PostUp with { FeedForward = FeedForwardKind.None, UseBias = true },
            "pre-up" => PreUp,
            _ => PreUp with { ConvKernelSize = 0, LearnableSkip = false, OutputGate = false },
        };
        var report = ModelContract.Check(block with { Mixers = Patterns[pattern] });
        Assert.True(report.Holds, $"{report}");
    }

    [Fact]
    public void Check_AMixerThatSeesTheFuture_SaysSo()
    {
        var report = ModelContract.Check(PostUp with { Mixers = new Seer() });
        Assert.False(report.Holds);
        Assert.Contains("FAILS no token sees a later one", report.ToString(), StringComparison.Ordinal);
        Assert.Contains("FAILS read in pieces", report.ToString(), StringComparison.Ordinal);
        Assert.Contains("ok    rows do not depend on each other", report.ToString(), StringComparison.Ordinal);
    }

    private sealed record Seer : MixerConfig
    {
        public override Mixer Create(MixerSite site) => new Average();
    }

    private sealed class Average : Mixer
    {
        public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass) => convolved.mean([1], keepdim: true).expand_as(x);

        public override void Initialize(double inputStd, double outputStd, Generator generator)
        {
        }
    }
}
