using CsCheck;
using XlstmLab.Analysis;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class TraceLifetimeTests
{
    [Fact]
    public void Lifetimes_ConstantForgetGate_AreItsHalfLifeAndMemoryLength() =>
        Gen.Double[0.5, 0.97].Sample(
            f =>
            {
                var recording = WithConstantGate(f, 300);
                var half = recording.HeadLifetimes().Single(h => h.Head == 1);
                var length = recording.HeadLifetimes(TraceLifetimes.OneOverE).Single(h => h.Head == 1);
                var (halfLife, memory) = (Math.Log(2) / -Math.Log(f), 1 / -Math.Log(f));
                foreach (var (found, expected) in new[] { (half, halfLife), (length, memory) })
                {
                    Assert.Equal(expected, found.Median, 1e-5 * expected);
                    Assert.Equal(expected, found.Quantile05, 1e-5 * expected);
                    Assert.Equal(expected, found.Quantile95, 1e-5 * expected);
                    Assert.Equal(300, found.Traces);
                    Assert.Equal(Math.Ceiling(expected) / 300, found.CensoredShare, 1e-9);
                }

                Assert.All(
                    recording.Lifetimes().Where(t => !t.IsCensored), t => Assert.Equal(halfLife, t.Tokens, 1e-5 * halfLife));
                Assert.All(recording.Lifetimes().Where(t => t.IsCensored), t => Assert.Equal(299 - t.Token, t.Tokens));
            },
            iter: 5);

    [Fact]
    public void Lifetimes_DocumentsAndPadding_EndAndPassTheTrace()
    {
        using var scope = NewDisposeScope();
        using var model = ConstantModel(0.5);
        var starts = zeros(1, 6, dtype: ScalarType.Bool);
        var padding = zeros(1, 6, dtype: ScalarType.Bool);
        starts[0, 4] = tensor(true);
        padding[0, 1] = tensor(true);

        var traces =
            GateCapture.Run(model, ones(1, 6, dtype: int64), new(starts, padding)).Lifetimes(0.25).Where(t => t.Head == 0).ToArray();

        Assert.Equal([0, 2, 3, 4, 5], traces.Select(t => t.Token));
        Assert.Equal([2, 1, 0, 1, 0], traces.Select(t => Math.Round(t.Tokens, 5)));
        Assert.Equal([false, true, true, true, true], traces.Select(t => t.IsCensored));
    }

    [Fact]
    public void HeadLifetimes_GateAllButOne_AreInfinite()
    {
        var recording = WithConstantGate(1 - 1e-9, 20);

        Assert.All(recording.HeadLifetimes(), h => Assert.Equal((1.0, double.PositiveInfinity), (h.CensoredShare, h.Quantile05)));
        Assert.Throws<ArgumentOutOfRangeException>(() => recording.HeadLifetimes(1));
        Assert.Throws<ArgumentOutOfRangeException>(() => recording.Lifetimes(0));
    }

    private static GateRecording WithConstantGate(double f, int length)
    {
        using var model = ConstantModel(f);
        return GateCapture.Run(model, [.. Enumerable.Repeat(1, length)]);
    }

    internal static XlstmLanguageModel ConstantModel(double f)
    {
        var model = new XlstmLanguageModel(new()
        {
            VocabularySize = 9,
            EmbeddingDim = 16,
            HeadCount = 2,
            BlockCount = 1,
            FeedForwardRoundUpTo = 8,
            GateSoftCap = null,
        });
        GateCaptureTests.SetBias(model, "fgate_preact", Math.Log(f / (1 - f)));
        GateCaptureTests.SetBias(model, "igate_preact", -1);
        return model;
    }
}
