using System.Text.Json;
using Plotly.NET;
using XlstmLab.Analysis;
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
    public void GateHeatMap_WithTexts_HasHeadsByTokens()
    {
        var recording = Recording();

        var (traces, layout) = Figure(Plots.GateHeatMap(recording, GateQuantity.ForgetGate, 1, ["<s>", " a", "\n", ""], start: 1, count: 3));

        var z = traces[0].GetProperty("z");
        Assert.Equal((2, 3), (z.GetArrayLength(), z[0].GetArrayLength()));
        Assert.Equal(recording.Values(GateQuantity.ForgetGate, 1, 1)[2], z[1][1].GetDouble(), 1e-6);
        Assert.Equal(["␣a", "⏎", "∅"], layout.GetProperty("xaxis").GetProperty("ticktext").EnumerateArray().Select(t => t.GetString()));
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
        Assert.Equal(("Head", "Block"), Titles(lifeLayout));

        var (violins, violinLayout) = Figure(Plots.GateViolins(recording, GateQuantity.ForgetPreactivation));
        Assert.Equal(["head 0", "head 1"], violins.Select(Name));
        var ofBlocks = new[] { 0, 1 }.Select(l => recording.Values(GateQuantity.ForgetPreactivation, l, 0).ToArray().Order().Select(v => (double)v));
        Assert.All(ofBlocks.SelectMany(v => v).Zip(Numbers(violins[0], "y")), pair => Assert.Equal(pair.First, pair.Second!.Value, 1e-5));
        Assert.Equal(("Block", "Forget gate pre-activation"), Titles(violinLayout));

        var (norms, normLayout) = Figure(Plots.MemoryNorm(recording, 0));
        Assert.Equal(recording.Values(GateQuantity.MemoryNorm, 0, 1)[3], Numbers(norms[1], "y")[3]!.Value, 1e-5);
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
        Assert.Equal(("Position in the context (tokens)", "Perplexity"), Titles(layout));
        Complains("'x' has 1 positions and 2 values", () => Plots.PerplexityByPosition([new("x", [1], [1, 2])]));
        Complains("'x' has no points", () => Plots.PerplexityByPosition([new("x", [], [])]));
        Complains("at least one curve", () => Plots.PerplexityByPosition([]));
        Complains("logarithmic axis", () => Plots.PerplexityByPosition([new("x", [0, 1], [1, 2])]));
    }

    [Fact]
    public void Comparison_Bars_HighlightTheModel()
    {
        var (traces, layout) = Figure(Plots.Comparison([new("3-gram", 2.861), new("model", 2, true), new("none", double.NaN)], "Loss (bits per byte)"));

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

    private static string? Title(JsonElement layout, string axis) => layout.GetProperty(axis).GetProperty("title").GetProperty("text").GetString();

    private (JsonElement[] Traces, JsonElement Layout) Figure(GenericChart chart)
    {
        var figure = JsonDocument.Parse(GenericChart.toFigureJson(chart));
        _figures.Add(figure);
        return ([.. figure.RootElement.GetProperty("data").EnumerateArray()], figure.RootElement.GetProperty("layout"));
    }

    private sealed record Metrics(int Step, long Tokens, double Loss, double? ValidationLoss, double LearningRate, double GradientNorm);
}
