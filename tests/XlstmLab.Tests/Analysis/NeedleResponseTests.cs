using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Models;
using XlstmLab.Operations;
using Xunit;

namespace XlstmLab.Tests.Analysis;

public sealed class NeedleResponseTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 17,
        EmbeddingDim = 16,
        HeadCount = 2,
        BlockCount = 2,
        FeedForwardRoundUpTo = 8,
        ChunkSize = 4,
    };

    private static readonly int[] Before = [1, 2, 3, 4, 5];
    private static readonly int[] Needle = [6, 7, 8];
    private static readonly int[] After = [9, 10, 11, 12, 13, 14, 1, 2];

    [Theory]
    [InlineData(InputGate.Exponential)]
    [InlineData(InputGate.Sigmoid)]
    public void Measure_FirstBlock_DecaysByItsForgetGatesAlone(InputGate gate)
    {
        using var model = GateCaptureTests.Lively(Small with { InputGate = gate });

        // In float32 a product's rows are rounded by their place among the others, and the same tokens thus a little differently in a
        // longer text.
        model.to(torch.float64);
        var forget = GateCapture.Run(model, [.. Before, .. After]);

        var response = NeedleResponse.Measure(model, Before, Needle, After);

        for (var head = 0; head < 2; head++)
        {
            var effects = response.Effects.Where(e => e.Layer == 0 && e.Head == head).ToArray();
            Assert.Equal(Enumerable.Range(0, After.Length + 1), effects.Select(e => e.Age));
            Assert.True(double.IsNaN(effects[0].InputChange));
            var expected = effects[0].Distance;
            Assert.InRange(expected, 1e-6, 1e6);
            for (var age = 1; age <= After.Length; age++)
            {
                expected *= forget.Values(GateQuantity.ForgetGate, 0, head)[Before.Length + age - 1];
                Assert.Equal(expected, effects[age].Distance, 1e-3 * expected);
                Assert.Equal(
                    effects[age].Distance / forget.Values(GateQuantity.MemoryNorm, 0, head)[Before.Length + age - 1],
                    effects[age].RelativeDistance,
                    1e-3 * effects[age].RelativeDistance);
                Assert.Equal(0, effects[age].InputChange, 1e-5);
                Assert.Equal(0, effects[age].ForgetChange, 1e-5);
            }
        }

        Assert.Contains(response.Effects, e => e.Layer == 1 && Math.Abs(e.InputChange) > 1e-4);
    }

    [Fact]
    public void Measure_Summaries_HoldTheirDefinitions()
    {
        using var model = GateCaptureTests.Lively(Small);
        var with = GateCapture.Run(model, [.. Before, .. Needle, .. After]);

        var response = NeedleResponse.Measure(model, Before, Needle, After);

        Assert.Equal(4, response.Heads.Count);
        foreach (var head in response.Heads)
        {
            var input = with.Values(GateQuantity.LogInputGate, head.Layer, head.Head).ToArray();
            Assert.Equal(input[5..8].Average() - input[..5].Average(), head.InputExcess, 1e-4);
            var effects = response.Effects.Where(e => e.Layer == head.Layer && e.Head == head.Head).ToArray();
            Assert.Equal(effects[0].RelativeDistance, head.Written);
            if (double.IsFinite(head.Lifetime))
            {
                Assert.All(effects, e => Assert.True(e.Age <= head.Lifetime || e.RelativeDistance < head.Written / Math.E));
            }
            else
            {
                Assert.True(effects[^1].RelativeDistance >= head.Written / Math.E);
            }
        }
    }

    [Fact]
    public void Measure_ConstantGate_LifetimeOfDistanceIsItsMemoryLength()
    {
        // Tokens with equal gates and one key and value keep the memory's direction: its norm is in balance, the needle's trace decays by
        // f.
        using var model = TraceLifetimeTests.ConstantModel(0.8);
        int[] same = [.. Enumerable.Repeat(1, 80)];

        var response = NeedleResponse.Measure(model, same, [2], same);

        Assert.All(response.Heads, h => Assert.Equal((0.0, 0.0), (Math.Round(h.InputExcess, 5), Math.Round(h.ForgetExcess, 5))));
        Assert.All(response.Heads, h => Assert.Equal(1 / -Math.Log(0.8), h.Lifetime, 1e-2));
    }

    [Fact]
    public void Measure_EmptyPart_IsRefusedAndNothingStays()
    {
        using var model = GateCaptureTests.Lively(Small);
        NeedleResponse.Measure(model, Before, Needle, After);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        NeedleResponse.Measure(model, Before, Needle, After);
        var error = Assert.Throws<ArgumentException>(() => NeedleResponse.Measure(model, Before, [], After));

        Assert.Contains("got 5, 0 and 8", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }
}
