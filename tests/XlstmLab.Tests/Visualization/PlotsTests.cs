using System.Text.Json;
using Plotly.NET;
using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Tests.Analysis;
using XlstmLab.Visualization;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Visualization;

public sealed class PlotsTests : IDisposable
{
    private readonly List<JsonDocument> _figures = [];

    private static PlotRun SomeRun { get; } = new("a", MetricsTable.From(new Metrics[]
    {
        new(1, 100, 4, null, 0.1, 3), new(2, 200, double.NaN, null, 0.2, 2), new(3, 300, 2, 2.5, 0.1, 1),
    }))
    { FlopsPerToken = 10, BytesPerToken = 2 };

    public void Dispose() => _figures.ForEach(f => f.Dispose());

    [Fact]
    public void LearningCurves_OneRun_HasTrainingAndValidationWithGaps()
    {
        var (traces, layout) = Figure(Plots.LearningCurves([SomeRun]));

        Assert.Equal(["training", "validation"], traces.Select(Name));
        Assert.Equal([4, null, 2], Numbers(traces[0], "y"));
        Assert.Equal([1, 2, 3], Numbers(traces[0], "x"));
        Assert.Equal([3], Numbers(traces[1], "x"));
        Assert.Equal([2.5], Numbers(traces[1], "y"));
        Assert.Equal(("Training step", "Cross-entropy (nats per token)"), Titles(layout));
        Assert.Equal((760, 420), (layout.GetProperty("width").GetInt32(), layout.GetProperty("height").GetInt32()));
        Assert.False(layout.TryGetProperty("title", out _));
    }

    [Fact]
    public void LearningCurves_SmoothedBitsPerByteAgainstFlops_ConvertsUnits()
    {
        var (traces, layout) = Figure(Plots.LearningCurves(
            [SomeRun, SomeRun with { Name = "b" }], CurveMetric.BitsPerByte, CurveAxis.Flops, smoothing: 0.5, logX: true));

        Assert.Equal(["a, training, raw", "a, training", "a, validation"], traces.Take(3).Select(Name));
        Assert.Equal([1000, 2000, 3000], Numbers(traces[1], "x"));
        var bits = 1 / Math.Log(2) / 2;
        Assert.Equal(4 * bits, Numbers(traces[1], "y")[0]!.Value, 1e-6);
        Assert.Null(Numbers(traces[1], "y")[1]);
        Assert.Equal((0.25 * 4 + 0.5 * 2) / 0.75 * bits, Numbers(traces[1], "y")[2]!.Value, 1e-6);
        Assert.Equal(2.5 * bits, Numbers(traces[2], "y")[0]!.Value, 1e-6);
        Assert.Equal(",~f", layout.GetProperty("xaxis").GetProperty("hoverformat").GetString());
        Assert.Equal("log", layout.GetProperty("xaxis").GetProperty("type").GetString());
        Assert.Equal(("Training compute (FLOPs)", "Cross-entropy (bits per byte)"), Titles(layout));
    }

    [Fact]
    public void LearningCurves_BadInput_SaysWhatIsMissing()
    {
        var bare = new PlotRun("bare", SomeRun.Metrics);
        Complains("at least one run", () => Plots.LearningCurves([]));
        Complains("'bare' has no metrics", () => Plots.LearningCurves([new("bare", MetricsTable.From(Array.Empty<Metrics>()))]));
        Complains("FlopsPerToken of run 'bare'", () => Plots.LearningCurves([bare], axis: CurveAxis.Flops));
        Complains("BytesPerToken of run 'bare'", () => Plots.LearningCurves([bare], CurveMetric.BitsPerByte));
        Complains("below 1", () => Plots.LearningCurves([bare], smoothing: 1));
        Complains("'gradient_norm'", () => Plots.Optimization([new("x", MetricsTable.From([new { Step = 1, LearningRate = 1.0 }]))]));
    }

    [Fact]
    public void Optimization_OneRun_HasTwoPanels()
    {
        var (traces, layout) = Figure(Plots.Optimization([SomeRun]));

        Assert.Equal([0.1, 0.2, 0.1], Numbers(traces[0], "y"));
        Assert.Equal([3, 2, 1], Numbers(traces[1], "y"));
        Assert.Equal("y2", traces[1].GetProperty("yaxis").GetString());
        Assert.Equal("Gradient norm", layout.GetProperty("yaxis2").GetProperty("title").GetProperty("text").GetString());
        Assert.Equal(("Training step", "Learning rate"), Titles(layout));
    }

    [Fact]
    public void Stability_TwoRuns_HasLossesAboveAndNormsBelow()
    {
        var (traces, layout) = Figure(Plots.Stability([SomeRun, SomeRun with { Name = "b" }], smoothing: 0.5));

        Assert.Equal(["a", "a", "b", "b"], traces.Select(Name));
        Assert.Equal(4, Numbers(traces[0], "y")[0]);
        Assert.Null(Numbers(traces[0], "y")[1]);
        Assert.Equal((0.25 * 4 + 0.5 * 2) / 0.75, Numbers(traces[0], "y")[2]!.Value, 1e-5);
        Assert.Equal((0.5 * 3 + 2) / 1.5, Numbers(traces[1], "y")[1]!.Value, 1e-5);
        Assert.Equal("y2", traces[3].GetProperty("yaxis").GetString());
        Assert.Equal(("Training step", "Loss (nats per token)"), Titles(layout));
        Complains("below 1", () => Plots.Stability([SomeRun], smoothing: 1));
        Complains("at least one run", () => Plots.Stability([]));
    }

    [Fact]
    public void Lines_LogarithmicInOneDirection_HasTitlesAndCurves()
    {
        var (traces, layout) = Figure(
            Plots.Lines([new("a", [1, 10], [3, 4]), new("b", [1, 10], [5, double.NaN])], "length", "bytes", logX: true));

        Assert.Equal(["a", "b"], traces.Select(Name));
        Assert.Equal([5, null], Numbers(traces[1], "y"));
        Assert.Equal("log", layout.GetProperty("xaxis").GetProperty("type").GetString());
        Assert.False(layout.GetProperty("yaxis").TryGetProperty("type", out _));
        Assert.Equal(("length", "bytes"), Titles(layout));
        Complains("1 positions and 2 values", () => Plots.Lines([new("a", [1], [1, 2])], "x", "y"));
    }

    [Fact]
    public void GateHeatMap_WithTexts_HasHeadsByTokens()
    {
        var recording = Recording();

        var (traces, layout) = Figure(
            Plots.GateHeatMap(recording, GateQuantity.ForgetGate, 1, ["<s>", " a", "\n", ""], start: 1, count: 3));

        var z = traces[0].GetProperty("z");
        Assert.Equal((2, 3), (z.GetArrayLength(), z[0].GetArrayLength()));
        Assert.Equal(recording.Values(GateQuantity.ForgetGate, 1, 1)[2], z[1][1].GetDouble(), 1e-6);
        Assert.Equal(
            ["␣a", "⏎", "∅"], layout.GetProperty("xaxis").GetProperty("ticktext").EnumerateArray().Select(t => t.GetString()));
        Assert.Equal(1, traces[0].GetProperty("zmax").GetDouble());
        Assert.Equal("Viridis", traces[0].GetProperty("colorscale").GetString());
        Complains("each of 4 tokens", () => Plots.GateHeatMap(recording, GateQuantity.ForgetGate, 0, ["a"]));
        Complains("got 3 from 2", () => Plots.GateHeatMap(recording, GateQuantity.ForgetGate, 0, start: 2, count: 3));
        Complains("Recorded blocks: 0, 1", () => Plots.GateHeatMap(recording, GateQuantity.ForgetGate, 7));
    }

    [Fact]
    public void GatePlots_OfRecording_ShowItsValues()
    {
        var recording = Recording();

        var (life, lifeLayout) = Figure(Plots.ForgetHalfLife(recording));
        Assert.Equal(Math.Log10(recording.Summarize()[3].HalfLife), life[0].GetProperty("z")[1][1].GetDouble(), 1e-6);
        Assert.Equal(recording.HeadLifetimes()[3].Median, recording.Summarize()[3].HalfLife);
        Assert.Equal("not in 1", Figure(Plots.ForgetHalfLife(Recording(1))).Traces[0].GetProperty("text")[1][1].GetString());
        Assert.Equal(("Head", "Block"), Titles(lifeLayout));

        var (violins, violinLayout) = Figure(Plots.GateViolins(recording, GateQuantity.ForgetPreactivation));
        Assert.Equal(["head 0", "head 1"], violins.Select(Name));
        var ofBlocks = new[] { 0, 1 }.Select(
            l => recording.Values(GateQuantity.ForgetPreactivation, l, 0).ToArray().Order().Select(v => (double)v));
        Assert.All(ofBlocks.SelectMany(v => v).Zip(Numbers(violins[0], "y")), pair => Assert.Equal(pair.First, pair.Second!.Value, 1e-5));
        Assert.Equal(("Block", "Forget gate pre-activation"), Titles(violinLayout));

        var (norms, normLayout) = Figure(Plots.MemoryNorm(recording, 0));
        Assert.Equal(1, Numbers(norms[1], "y")[3]!.Value / recording.Values(GateQuantity.MemoryNorm, 0, 1)[3], 1e-5);
        Assert.Equal("log", normLayout.GetProperty("yaxis").GetProperty("type").GetString());

        Assert.All(Enum.GetValues<GateQuantity>(), quantity => Figure(Plots.GateHeatMap(recording, quantity, 0)));
    }

    [Fact]
    public void GateViolins_ManyTokens_KeepExtremesAndFewPoints()
    {
        var recording = Recording(2000);

        var (violins, _) = Figure(Plots.GateViolins(recording, GateQuantity.ForgetGate));

        var all = recording.Values(GateQuantity.ForgetGate, 0, 0).ToArray();
        var shown = Numbers(violins[0], "y").Take(500).ToArray();
        Assert.Equal(1000, violins[0].GetProperty("y").GetArrayLength());
        Assert.Equal(all.Min(), shown.Min()!.Value, 1e-6);
        Assert.Equal(all.Max(), shown.Max()!.Value, 1e-6);
    }

    [Fact]
    public void GateHistogram_OfMonitor_ShowsShares()
    {
        using var value = zeros(1, 1, 4);
        var monitor = new GateMonitor();
        monitor.Observe(2, "igate_preact", value);

        var (traces, layout) = Figure(Plots.GateHistogram(monitor, "igate_preact", 2));

        Assert.Equal(100, Numbers(traces[0], "y").Sum());
        Assert.Equal("Input gate pre-activation", Titles(layout).X);
        Complains("nothing of fgate_preact", () => Plots.GateHistogram(monitor, "fgate_preact", 2));
    }

    [Fact]
    public void PerplexityByPosition_TwoCurves_MarksTrainedLength()
    {
        var (traces, layout) = Figure(Plots.PerplexityByPosition(
            [new("fresh", [64, 128], [4, double.PositiveInfinity]), new("carried", [64, 128], [3, 2])], trainedLength: 100));

        Assert.Equal([4, null], Numbers(traces[0], "y"));
        Assert.Equal(["64", "128"], layout.GetProperty("xaxis").GetProperty("ticktext").EnumerateArray().Select(t => t.GetString()));
        Assert.Equal(100, layout.GetProperty("shapes")[0].GetProperty("x0").GetInt32());
        Assert.Equal(("Position in the context (tokens)", "Perplexity per token"), Titles(layout));
        Assert.Equal(
            ("Position in the context (bytes)", "Perplexity per byte"),
            Titles(Figure(Plots.PerplexityByPosition([new("a", [1, 2], [4, 3])], unit: "byte")).Layout));
        Complains("'x' has 1 positions and 2 values", () => Plots.PerplexityByPosition([new("x", [1], [1, 2])]));
        Complains("'x' has no points", () => Plots.PerplexityByPosition([new("x", [], [])]));
        Complains("at least one curve", () => Plots.PerplexityByPosition([]));
        Complains("logarithmic axis", () => Plots.PerplexityByPosition([new("x", [0, 1], [1, 2])]));
    }

    [Fact]
    public void PerplexityByPosition_Evaluation_LiesAtTheCentresOfBuckets()
    {
        var evaluation = new EvaluationResult(
            0, 0, 0, 1,
            [new(0, 1, 500, 500), new(1, 256, 500, 500), new(256, 512, 500, 1000), new(512, 1024, 5, 5), new(1024, null, 500, 500)], new());
        var curve = PlotSeries.PerplexityByPosition("a", evaluation, minimumTokens: 200);

        Assert.Equal([0.5, 128.5, 384], curve.X);
        Assert.Equal(Math.Exp(2), curve.Y[2], 1e-9);
        Figure(Plots.PerplexityByPosition([curve], trainedLength: 256));
    }

    [Theory]
    [InlineData(CurveMetric.Loss, CurveAxis.Steps)]
    [InlineData(CurveMetric.Loss, CurveAxis.Tokens)]
    [InlineData(CurveMetric.Loss, CurveAxis.Flops)]
    [InlineData(CurveMetric.BitsPerByte, CurveAxis.Steps)]
    [InlineData(CurveMetric.BitsPerByte, CurveAxis.Tokens)]
    [InlineData(CurveMetric.BitsPerByte, CurveAxis.Flops)]
    public void LearningCurves_RecordedRun_ShowsEveryMetric(CurveMetric metric, CurveAxis axis)
    {
        var run = PlotRun.Read(Path.Combine(TestSetup.RepositoryRoot, "results", "bytes-1m-8m")) with { FlopsPerToken = 5e6 };
        var (traces, _) = Figure(Plots.LearningCurves([run], metric, axis, smoothing: 0.9));

        Assert.Equal(["training, raw", "training", "validation"], traces.Select(Name));
        var recorded =
            run.Metrics.Numbers(metric == CurveMetric.Loss ? "validation_loss" : "validation_bits_per_byte").Where(double.IsFinite);
        Assert.All(recorded.Zip(Numbers(traces[2], "y")), pair => Assert.Equal(pair.First, pair.Second!.Value, 1e-5));
        var unit = metric == CurveMetric.Loss ? 1 : 1 / Math.Log(2);
        Assert.Equal(run.Metrics.Numbers("loss")[0] * unit, Numbers(traces[0], "y")[0]!.Value, 1e-2);
        Figure(Plots.Stability([run]));
        Figure(Plots.Optimization([run]));
    }

    [Fact]
    public void Comparison_Bars_HighlightTheModel()
    {
        var (traces, layout) = Figure(
            Plots.Comparison([new("3-gram", 2.861), new("model", 2, true), new("none", double.NaN)], "Loss (bits per byte)"));

        Assert.Equal([2.861, 2, null], Numbers(traces[0], "x"));
        Assert.Equal(["2.86", "2.00", ""], traces[0].GetProperty("text").EnumerateArray().Select(t => t.GetString()));
        Assert.Equal(PlotStyle.Color(0), traces[0].GetProperty("marker").GetProperty("color")[1].GetString());
        Assert.Equal(PlotStyle.Muted, traces[0].GetProperty("marker").GetProperty("color")[0].GetString());
        Assert.Equal("Loss (bits per byte)", Titles(layout).X);
        Complains("'a' twice", () => Plots.Comparison([new("a", 1), new("a", 2)], "x"));
        Complains("at least one bar", () => Plots.Comparison([], "x"));
    }

    [Fact]
    public void Scaling_WithSlopes_DrawsGuidesOnLogAxes()
    {
        var (traces, layout) = Figure(Plots.Scaling([new("chunkwise", [256, 512], [0.1, 0.2])], [2]));

        Assert.Equal(["slope 2", "chunkwise"], traces.Select(Name));
        Assert.Equal(4, Numbers(traces[0], "y")[1] / Numbers(traces[0], "y")[0]);
        Assert.Equal(("log", "log"), (
            layout.GetProperty("xaxis").GetProperty("type").GetString(), layout.GetProperty("yaxis").GetProperty("type").GetString()));
        Assert.Equal(("Sequence length (tokens)", "Time (s)"), Titles(layout));
        Complains("above 0", () => Plots.Scaling([new("x", [1], [0])]));
    }

    [Fact]
    public void Lifetimes_HeadsOfTwoBlocks_ShowMediansAndEndInfiniteOnesAtTheBorder()
    {
        var (traces, layout) = Figure(Plots.Lifetimes(
            [new(0, 0, 0.5, 9, 0, 1, 2, 4, 8, 16), new(
                1, 0, 0.5, 9, 1, 0, 3, double.PositiveInfinity, double.PositiveInfinity, double.PositiveInfinity)]));

        Assert.Equal([1, 16, null], Numbers(traces[0], "x"));
        Assert.Equal([2, 8, null], Numbers(traces[1], "x"));
        Assert.Equal([4], Numbers(traces[2], "x"));
        Assert.Equal("block 0", Name(traces[2]));
        Assert.Equal(16 * 1.3, Numbers(traces[3], "x")[1]!.Value, 1e-4);
        Assert.Equal([null], Numbers(traces[5], "x"));
        Assert.StartsWith("Half-life (tokens)", Titles(layout).X, StringComparison.Ordinal);
        Assert.Equal(Math.Log10(16 * 1.3), layout.GetProperty("xaxis").GetProperty("range")[1].GetDouble(), 1e-9);
        Complains("at least one head", () => Plots.Lifetimes([]));
    }

    [Fact]
    public void ReadingAge_Heads_LieAtMemoryAndAge()
    {
        var (traces, layout) = Figure(Plots.ReadingAge(
            [new(0, 0, TraceLifetimes.OneOverE, 9, 0, 1, 2, 4, 8, 16), new(
                0, 1, TraceLifetimes.OneOverE, 9, 0, 1, 2, double.PositiveInfinity, 8, 16)],
            [new(0, 0, 3, 0.1, 5, 0), new(0, 1, 3, 0.1, 5, 0)]));

        Assert.Equal((4, 3), (Numbers(traces[1], "x").Single(), Numbers(traces[1], "y").Single()));
        Assert.Equal(("Effective memory length (tokens)", "Mean age of what is read (tokens)"), Titles(layout));
        Complains("at least one head", () => Plots.ReadingAge([], []));
    }

    [Fact]
    public void StateRank_TwoHeads_ShowsRankNormAndBound()
    {
        StateRank[] ranks =
        [
            new(0, 1, 0, 3, 2.5, 1.5, 4, 10, 8),
            new(0, 1, 0, 7, 3.5, 1.5, 4, 100, 8),
            new(0, 1, 1, 7, 2, 1, 4, 1, 8),
            new(0, 0, 0, 7, 9, 1, 4, 1, 9),
        ];

        var (traces, layout) = Figure(Plots.StateRank(ranks, 1));

        Assert.Equal(["head 0", "head 0", "head 1", "head 1", "full rank"], traces.Select(Name));
        Assert.Equal([2.5, 3.5], Numbers(traces[0], "y"));
        Assert.Equal([10, 100], Numbers(traces[1], "y"));
        Assert.Equal("y2", traces[1].GetProperty("yaxis").GetString());
        Assert.Equal([8, 8], Numbers(traces[4], "y"));
        Assert.Equal("log", layout.GetProperty("yaxis2").GetProperty("type").GetString());
        Assert.Equal(("Token position", "Effective rank"), Titles(layout));
        Assert.Equal([1.5, 1.5], Numbers(Figure(Plots.StateRank(ranks, 1, stable: true)).Traces[0], "y"));
        Complains("measurement of block 5", () => Plots.StateRank(ranks, 5));
    }

    [Fact]
    public void NeedleResponse_OfBlock_ShowsDistanceAndGates()
    {
        var response = new NeedleResponse(
            [new(0, 0, 0, 2, 1, double.NaN, double.NaN), new(0, 0, 1, 1, 0.5, 0.1, -0.2), new(0, 0, 2, 1, 0.25, 0.2, 0)],
            [new(0, 0, 1, 0, 1, 1.4)]);

        var (traces, layout) = Figure(Plots.NeedleResponse(response, 0, tokens: 1));

        Assert.Equal([1, 0.5], Numbers(traces[0], "y"));
        Assert.Equal([null, 0.1], Numbers(traces[1], "y"));
        Assert.Equal("Tokens read since the needle", Titles(layout).X);
        Complains("effect in block 3", () => Plots.NeedleResponse(response, 3));
    }

    [Fact]
    public void AttentionMap_PartOfASequence_IsTriangularAndCentredOnZero()
    {
        var recording = new AttentionRecording(1, 3, new bool[3], [new(0, 1, [1, 0, 0, -2, 3, 0, 4, -5, 6])]);

        var (traces, layout) = Figure(Plots.AttentionMap(recording, 0, 0, ["a", " b", "c"], start: 1));

        var z = traces[0].GetProperty("z");
        Assert.Equal((3, JsonValueKind.Null), (z[0][0].GetDouble(), z[0][1].ValueKind));
        Assert.Equal((-5, 6), (z[1][0].GetDouble(), z[1][1].GetDouble()));
        Assert.Equal(-traces[0].GetProperty("zmax").GetDouble(), traces[0].GetProperty("zmin").GetDouble());
        Assert.Equal(["␣b", "c"], layout.GetProperty("yaxis").GetProperty("ticktext").EnumerateArray().Select(t => t.GetString()));
        Assert.Equal(("Token read", "Reading token"), Titles(layout));
        Complains("each of 3 tokens", () => Plots.AttentionMap(recording, 0, 0, ["a"]));
        Complains("got 3 from 1", () => Plots.AttentionMap(recording, 0, 0, start: 1, count: 3));
        var (positive, _) = Figure(Plots.AttentionMap(new(1, 1, [false], [new(0, 1, [1])]), 0, 0));
        Assert.Equal(0, positive[0].GetProperty("zmin").GetDouble());
    }

    [Fact]
    public void Selectivity_Heads_ShowExcessByClass()
    {
        var (traces, layout) = Figure(Plots.Selectivity(
            [new(0, 0, "Letter", 5, 1, -0.5, 1, 0.3), new(0, 0, "SentenceEnd", 5, 1, 1.25, 1, 0.3),
                new(0, 1, "Letter", 5, 1, 0.25, 1, 0.3)]));

        Assert.Equal(["letter", "sentence end"], traces[0].GetProperty("x").EnumerateArray().Select(t => t.GetString()));
        Assert.Equal(1.25, traces[0].GetProperty("z")[0][1].GetDouble());
        Assert.Equal(JsonValueKind.Null, traces[0].GetProperty("z")[1][1].ValueKind);
        Assert.Equal("−0.5", traces[0].GetProperty("text")[0][0].GetString());
        Assert.Equal((-1.25, 1.25), (traces[0].GetProperty("zmin").GetDouble(), traces[0].GetProperty("zmax").GetDouble()));
        Assert.Contains("Logarithm of the input gate", Titles(layout).X, StringComparison.Ordinal);
        var (weak, _) = Figure(Plots.Selectivity([new(0, 0, "Letter", 5, 1, -0.5, 1, 0.3)]));
        Assert.Equal("−0.50", weak[0].GetProperty("text")[0][0].GetString());
        Complains("at least one selectivity", () => Plots.Selectivity([]));
    }

    [Fact]
    public void OutlierPlots_OfReport_ShowChannelsAndTails()
    {
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2 });
        var report = OutlierReport.Measure(model, [1, 2, 3, 4]);

        var (channels, channelLayout) = Figure(Plots.OutlierChannels(report));
        var (blocks, blockLayout) = Figure(Plots.OutliersByBlock(report));

        Assert.Equal((2, 16), (channels[0].GetProperty("z").GetArrayLength(), channels[0].GetProperty("z")[0].GetArrayLength()));
        Assert.Equal(report.Channels[19].RelativeRms, channels[0].GetProperty("z")[1][3].GetDouble(), 1e-5);
        Assert.Equal("Channel", Titles(channelLayout).X);
        Assert.Equal(report.Blocks[1].MaxOverRms, Numbers(blocks[0], "y")[1]!.Value, 1e-5);
        Assert.Equal(report.Blocks[0].Kurtosis, Numbers(blocks[1], "y")[0]!.Value, 1e-5);
        Assert.Equal(("Block", "Maximum / RMS"), Titles(blockLayout));
    }

    [Fact]
    public void UpdateTraces_TwoGroups_HaveTwoPanels()
    {
        UpdateTrace[] updates = [new(1, "a", 4, 2, 10, 1, 0.1), new(1, "b", 4, 3, 10, 2, 0.2), new(2, "a", 4, 1, 10, 0.5, 0.05)];

        var (traces, layout) = Figure(Plots.UpdateTraces(updates));

        Assert.Equal(["a", "a", "b", "b"], traces.Select(Name));
        Assert.Equal([2, 1], Numbers(traces[0], "y"));
        Assert.Equal([0.1, 0.05], Numbers(traces[1], "y"));
        Assert.Equal("y2", traces[3].GetProperty("yaxis").GetString());
        Assert.Equal(("Training step", "Gradient norm"), Titles(layout));
        Assert.Equal("y2", layout.GetProperty("xaxis").GetProperty("anchor").GetString());
        Complains("at least one update", () => Plots.UpdateTraces([]));
    }

    [Theory]
    [InlineData(0, "0")]
    [InlineData(0.2, "0.2")]
    [InlineData(1500, "1.5k")]
    [InlineData(2e6, "2M")]
    [InlineData(1e13, "10<sup>13</sup>")]
    [InlineData(5e-5, "5×10<sup>−5</sup>")]
    public void Label_Number_IsShort(double value, string expected) => Assert.Equal(expected, PlotStyle.Label(value));

    private static GateRecording Recording(int length = 4)
    {
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2 });
        return GateCapture.Run(model, [.. Enumerable.Range(0, length).Select(t => t * 5 % 9)]);
    }

    private static void Complains(string expected, Func<object> plot) =>
        Assert.Contains(expected, Assert.ThrowsAny<ArgumentException>(plot).Message, StringComparison.Ordinal);

    private static string? Name(JsonElement trace) => trace.GetProperty("name").GetString();

    private static double?[] Numbers(JsonElement trace, string name) =>
        [.. trace.GetProperty(name).EnumerateArray().Select(v => v.ValueKind == JsonValueKind.Null ? (double?)null : v.GetDouble())];

    private static (string? X, string? Y) Titles(JsonElement layout) => (Title(layout, "xaxis"), Title(layout, "yaxis"));

    private static string? Title(JsonElement layout, string axis) =>
        layout.GetProperty(axis).GetProperty("title").GetProperty("text").GetString();

    private (JsonElement[] Traces, JsonElement Layout) Figure(GenericChart chart)
    {
        var figure = JsonDocument.Parse(GenericChart.toFigureJson(chart));
        _figures.Add(figure);
        return ([.. figure.RootElement.GetProperty("data").EnumerateArray()], figure.RootElement.GetProperty("layout"));
    }

    private sealed record Metrics(int Step, long Tokens, double Loss, double? ValidationLoss, double LearningRate, double GradientNorm);
}
