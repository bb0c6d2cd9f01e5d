using TorchSharp;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models.Blocks;

/// <summary>Small architectures of every kind of block, and models whose every weight matters.</summary>
internal static class BlockVariants
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

    public static IReadOnlyDictionary<string, XlstmConfig> All { get; } = new Dictionary<string, XlstmConfig>
    {
        ["post-up mLSTM"] = PostUp,
        ["post-up mLSTM with convolution"] = PostUp with { ConvKernelSize = 3, GateSource = GateSource.Qkv },
        ["post-up sLSTM"] = PostUp with { SLstmAt = BlockList.All(2), SLstmHeadCount = 4, UseBias = true },
        ["post-up [1:1] with convolution"] = PostUp with
        {
            SLstmAt = [1],
            ConvKernelSize = 4,
            SLstmConvKernelSize = 2,
            PostNorm = NormKind.Rms,
        },
        ["pre-up [1:0]"] = PreUp,
        ["pre-up [0:1]"] = PreUp with { SLstmAt = BlockList.All(2), SLstmForgetGate = ForgetGate.Exponential },
        ["pre-up [1:1]"] = PreUp with { SLstmAt = [1], SLstmHeadCount = 1, UseBias = true, PostNorm = NormKind.Layer },
        ["pre-up [1:1] without convolution"] = PreUp with { SLstmAt = [0], ConvKernelSize = 0, LearnableSkip = false, QkvBlockSize = 8 },
        ["pre-up with one tap, gates from x"] = PreUp with
        {
            ConvKernelSize = 1,
            GateSource = GateSource.Input,
            QkNorm = true,
            UpFactor = 8,
            OutputGate = false,
        },
        ["pre-up sLSTM without feed-forward"] = PreUp with
        {
            SLstmAt = BlockList.All(2),
            SLstmFeedForward = FeedForwardKind.None,
            SLstmConvKernelSize = 0,
        },
    };

    /// <summary>A float64 model with weights far from their initial zeros and ones.</summary>
    public static XlstmLanguageModel Model(XlstmConfig config)
    {
        var model = new XlstmLanguageModel(config, seed: 1);
        model.to(ScalarType.Float64);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator(2, CPU);
        foreach (var parameter in model.parameters())
        {
            parameter.add_(randn(parameter.shape, ScalarType.Float64, generator: generator) * 0.3);
        }

        return model;
    }
}
