using CsCheck;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Models.Blocks;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Models;

public sealed class XlstmAccountingTests
{
    [Fact]
    public void ParameterCountAndStateBytes_AnyConfiguration_EqualTheBuiltModels() =>
        Configurations.Where(IsPossible).Sample(
            config =>
            {
                using var scope = NewDisposeScope();
                using var grad = no_grad();
                using var model = new XlstmLanguageModel(config);
                Assert.Equal(model.parameters().Sum(p => p.NumberOfElements), XlstmAccounting.ParameterCount(config));
                using var state = model.Forward(tensor(new long[,] { { 1, 2, 3 } }), returnState: true).State!;
                Assert.Equal(state.SizeInBytes, XlstmAccounting.StateBytes(config));
                return true;
            },
            iter: LongTests.Cases(all: 150, few: 40));

    [Theory]
    [InlineData("post-up mLSTM", 2 * (2192 + 480 + 4640) + 352)]
    [InlineData("pre-up [1:0]", 2 * (4096 + 576 + 1536 + 1536 + 12824 + 128 + 128 + 2048) + 352)]
    [InlineData("pre-up [0:1]", 2 * (1024 + 144 + 1024 + 384 + 6176) + 352)]
    [InlineData("post-up sLSTM", 2 * (2048 + 512 + 512 + 384 + 4640) + 352)]
    public void ForwardFlops_SmallModels_EqualACountByHand(string variant, double expected)
    {
        // V = 11, d = 16, two blocks: projections or up, convolution, q k v, gates, cell, skip, z, down; cell; feed-forward.
        var config = BlockVariants.All[variant] with { Form = MLstmForm.Recurrent, UseBias = false };
        Assert.Equal(expected, XlstmAccounting.ForwardFlopsPerToken(config, 13), 1e-9);
    }

    private static bool IsPossible(XlstmConfig config)
    {
        try
        {
            config.Validate();
            return true;
        }
        catch (ConfigException)
        {
            return false;
        }
    }

    private static Gen<T> OneOf<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(i => values[i]);

    private static readonly Gen<XlstmConfig> Configurations =
        from style in Gen.Enum<BlockStyle>()
        from shape in Gen.Select(Gen.Int[1, 3], OneOf(8, 16, 24), OneOf(1, 2, 4))
        from slstm in Gen.Bool.Array[shape.Item1]
        from gates in Gen.Select(
            Gen.Enum<InputGate>(), Gen.Enum<ForgetGate>(), Gen.Enum<GatePreactivation>(), Gen.Enum<GatePreactivation>(),
            Gen.Enum<GateSource>().Nullable())
        from norms in Gen.Select(Gen.Enum<NormKind>(), Gen.Enum<NormKind>(), Gen.Enum<HeadNormKind>(), Gen.Bool, Gen.Bool)
        from feedForward in Gen.Select(Gen.Enum<FeedForwardKind>(), Gen.Enum<FeedForwardKind>(), OneOf(1.3, 5))
        from conv in Gen.Select(Gen.Int[0, 5].Nullable(), Gen.Int[0, 5].Nullable())
        from flags in Gen.Select(Gen.Bool, Gen.Bool, Gen.Bool, Gen.Bool, Gen.Bool)
        from other in Gen.Select(OneOf(1, 4, 8), OneOf(1, 2, 8), OneOf(2.0, 5.0))
        select new XlstmConfig
        {
            VocabularySize = 7,
            BlockStyle = style,
            BlockCount = shape.Item1,
            EmbeddingDim = shape.Item2,
            HeadCount = shape.Item3,
            SLstmAt = [.. Enumerable.Range(0, shape.Item1).Where(block => slstm[block])],
            InputGate = gates.Item1,
            ForgetGate = gates.Item2,
            InputGatePreactivation = gates.Item1 == InputGate.None ? GatePreactivation.Learned : gates.Item3,
            ForgetGatePreactivation = gates.Item2 == ForgetGate.None ? GatePreactivation.Learned : gates.Item4,
            GateSource = gates.Item5,
            PreNorm = norms.Item1,
            PostNorm = norms.Item2,
            HeadNorm = norms.Item3,
            QkNorm = norms.Item4,
            AddOutNorm = norms.Item5,
            FeedForward = feedForward.Item1,
            SLstmFeedForward = feedForward.Item2,
            SLstmFeedForwardFactor = feedForward.Item3,
            FeedForwardRoundUpTo = 8,
            ConvKernelSize = conv.Item1,
            SLstmConvKernelSize = slstm.Contains(true) ? conv.Item2 : null,
            UseBias = flags.Item1,
            TieWordEmbeddings = flags.Item2,
            OutputGate = flags.Item3,
            LearnableSkip = flags.Item4,
            WeightMode = flags.Item5 && style == BlockStyle.PostUp && conv.Item1 is null or 0 ? WeightMode.Fused : WeightMode.Single,
            QkvBlockSize = other.Item1,
            SLstmHeadCount = slstm.Contains(true) ? other.Item2 : null,
            UpFactor = other.Item3,
        };
}
