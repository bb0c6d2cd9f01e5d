using CsCheck;
using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class StateRankTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 17,
        EmbeddingDim = 24,
        HeadCount = 2,
        BlockCount = 2,
        QkDimFactor = 1,
        FeedForwardRoundUpTo = 8,
        ChunkSize = 4,
    };

    [Fact]
    public void Ranks_OfSingularValues_FollowTheirDefinitions()
    {
        Assert.Equal(3, StateRanks.EffectiveRank([2, 2, 2, 0]), 1e-12);
        Assert.Equal(Math.Exp(-0.75 * Math.Log(0.75) - 0.25 * Math.Log(0.25)), StateRanks.EffectiveRank([3, 1]), 1e-12);
        Assert.Equal(10.0 / 9, StateRanks.StableRank([3, 1]), 1e-12);
        Assert.Equal((0, 0), (StateRanks.EffectiveRank([0, 0]), StateRanks.StableRank([0, 0])));
        Gen.Double[0, 10].Array[1, 8].Sample(
            s =>
            {
                var (effective, stable) = (StateRanks.EffectiveRank(s), StateRanks.StableRank(s));
                Assert.InRange(effective, 0, s.Length + 1e-9);
                Assert.InRange(stable, 0, s.Length + 1e-9);
                Assert.Equal(effective, StateRanks.EffectiveRank([.. s.Select(x => 7 * x)]), 1e-9);
            },
            iter: 50);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(5)]
    public void Measure_DistinctKeys_BoundTheRank(int keys)
    {
        using var model = GateCaptureTests.Lively(Small);
        int[] tokens = [.. Enumerable.Range(0, 41).Select(t => t * t % keys)];
        var distinct = tokens.Distinct().Count();

        var ranks = StateRanks.Measure(model, tokens, every: 7);

        // Only the first block's keys are functions of the token alone.
        var first = ranks.Where(r => r.Layer == 0).ToArray();
        Assert.Equal([6, 13, 20, 27, 34, 40], first.Where(r => r.Head == 0).Select(r => r.Token));
        Assert.All(first, r => Assert.InRange(r.NumericalRank, 1, distinct));
        Assert.All(first, r => Assert.InRange(r.EffectiveRank, 1 - 1e-6, distinct + 1e-3));
        Assert.All(first, r => Assert.InRange(r.StableRank, 1 - 1e-6, r.EffectiveRank + 1e-6));
        Assert.All(ranks, r => Assert.Equal(12, r.FullRank));
        Assert.Equal(distinct, first.Max(r => r.NumericalRank));
    }

    [Theory]
    [InlineData(InputGate.Exponential)]
    [InlineData(InputGate.Sigmoid)]
    public void Measure_Norm_EqualsTheRecordedMemory(InputGate gate)
    {
        using var scope = NewDisposeScope();
        using var model = GateCaptureTests.Lively(Small with { InputGate = gate });
        var tokens = tensor(Enumerable.Range(0, 26).Select(t => (long)(t * 5 % 17)).ToArray(), [2, 13]);
        var starts = zeros(2, 13, dtype: ScalarType.Bool);
        starts[1, 6] = tensor(true);
        var recording = GateCapture.Run(model, tokens, new(starts));

        var ranks = StateRanks.Measure(model, tokens, every: 3, new(starts));

        Assert.Equal(5 * 2 * 2 * 2, ranks.Count);
        Assert.All(ranks, r =>
        {
            var expected = recording.Values(GateQuantity.MemoryNorm, r.Layer, r.Head, r.Sequence)[r.Token];
            Assert.Equal(expected, r.Norm, 1e-4 * expected);
        });
    }

    [Fact]
    public void Measure_Twice_LeavesNoTensorAndNamesWhatIsMissing()
    {
        using var model = GateCaptureTests.Lively(Small);
        StateRanks.Measure(model, [1, 2, 3]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        StateRanks.Measure(model, [1, 2, 3], every: 2);
        var error = Assert.Throws<InvalidOperationException>(() => StateRanks.Measure(model, [1, 2, 3], state: "s"));

        Assert.Contains("blocks.0.c [1, 2, 12, 12]", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => StateRanks.Measure(model, [1, 2, 3], every: 0));
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }
}
