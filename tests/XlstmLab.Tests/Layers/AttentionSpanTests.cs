using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Layers;

public sealed class AttentionSpanTests
{
    /// <summary>A graph may not read where documents begin, and serves batches in which they begin elsewhere.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    public void Of_Recorded_HasTheMaskOfAnyLayoutWithoutALook(int cached)
    {
        using var scope = NewDisposeScope();
        var layout = new SequenceLayout(zeros(2, 7, dtype: ScalarType.Bool), zeros(2, 7, dtype: ScalarType.Bool));
        AttentionSpan Span() => AttentionSpan.Of(2, 7, cached, null, null, layout, CPU);
        var byHost = Span();
        Assert.Equal(cached == 0, byHost.Mask is null);
        AttentionSpan? recorded = null;
        Kernel.AsRecorded(() => recorded = Span());
        Assert.False(Kernel.Records);
        Assert.Equal([2, 1, 7, 7 + cached], recorded!.Mask!.shape);
        var causal = cat([ones(7, cached, dtype: ScalarType.Bool), ones(7, 7, dtype: ScalarType.Bool).tril()], 1);
        Assert.True(recorded.Mask.eq(causal).all().item<bool>());
        Assert.True(recorded.Positions.view(2, 7).eq(byHost.Positions).all().item<bool>());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    public void Forward_AttentionRecorded_IsThatOfTheHost(int border)
    {
        using var model = new XlstmConfig
        {
            VocabularySize = 29,
            EmbeddingDim = 32,
            BlockCount = 1,
            HeadCount = 2,
            FeedForwardRoundUpTo = 8,
            Mixers = new AttentionMixerConfig(),
        }.CreateModel(1);
        model.eval();
        using var scope = NewDisposeScope();
        using var none = no_grad();
        var tokens = randint(0, 29, [2, 12], dtype: ScalarType.Int64, generator: new Generator(3));
        var starts = zeros(2, 12, dtype: ScalarType.Bool);
        starts[0, border] = true;
        var byHost = model.Forward(tokens, layout: new SequenceLayout(starts)).Logits;
        var recorded = byHost;
        Kernel.AsRecorded(() => recorded = model.Forward(tokens, layout: new SequenceLayout(starts)).Logits);
        Assert.True((recorded - byHost).abs().max().item<float>() <= 1e-5f);
    }
}
