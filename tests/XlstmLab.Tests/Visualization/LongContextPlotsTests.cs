using System.Text.Json;
using Plotly.NET;
using XlstmLab.Evaluation;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Visualization;
using Xunit;

namespace XlstmLab.Tests.Visualization;

[Collection(nameof(TextCollection))]
public sealed class LongContextPlotsTests
{
    private static readonly RulerResult Result = new(
        [new(RulerTask.NiahSingle1, 512, 8, 400, 1), new(RulerTask.NiahSingle1, 1024, 8, 900, 0.5), new(RulerTask.Vt, 512, 8, 480, 0.5),
            new(RulerTask.Vt, 1024, 8, 990, 0)],
        [
            new(RulerTask.NiahSingle1, 512, 0, 0.5, 2, 1), new(RulerTask.NiahSingle1, 512, 0.5, 1, 6, 1),
            new(RulerTask.NiahSingle1, 1024, 0.5, 1, 8, 0.5), new(RulerTask.Vt, 512, 0, 0.5, 6, 0.5),
        ],
        [new(512, 2, 0.75), new(1024, 2, 0.25)],
        []);

    [Fact]
    public void RulerByLength_OneModel_HasATaskEachAndTheMean()
    {
        var (traces, layout) = Figure(Plots.RulerByLength(Result));
        Assert.Equal(["niah_single_1", "vt", "mean"], traces.Select(t => t.GetProperty("name").GetString()));
        Assert.Equal([75, 25], Numbers(traces[2], "y"));
        Assert.Equal([512, 1024], Numbers(traces[1], "x"));
        Assert.Equal("Score (%)", Title(layout, "yaxis"));
    }

    [Fact]
    public void Titled_Plot_IsHigherByTheTitle()
    {
        var (_, plain) = Figure(Plots.RulerByLength(Result));
        var (_, titled) = Figure(Plots.RulerByLength(Result).Titled("RULER by length"));
        Assert.False(plain.TryGetProperty("title", out _));
        Assert.Equal("RULER by length", titled.GetProperty("title").GetProperty("text").GetString());
        var added = titled.GetProperty("height").GetInt32() - plain.GetProperty("height").GetInt32();
        Assert.Equal(40, added);
        Assert.Equal(
            added, titled.GetProperty("margin").GetProperty("t").GetInt32() - plain.GetProperty("margin").GetProperty("t").GetInt32());
    }

    [Fact]
    public void RulerByLength_SeveralModels_HasAMeanEach()
    {
        var (traces, _) = Figure(Plots.RulerByLength([("a", Result), ("b", Result)]));
        Assert.Equal(["a", "b"], traces.Select(t => t.GetProperty("name").GetString()));
        Assert.Equal([75, 25], Numbers(traces[1], "y"));
        Assert.Throws<ArgumentException>(() => Plots.RulerByLength([]));
    }

    [Fact]
    public void NeedleDepths_SeveralTasks_WeighsThemByNeedles()
    {
        var (traces, layout) = Figure(Plots.NeedleDepths(Result));
        var z = traces[0].GetProperty("z").EnumerateArray().Select(Row).ToArray();
        Assert.Equal([62.5, null], z[0]);
        Assert.Equal([100, 50], z[1]);
        Assert.Equal("Depth of the needle", Title(layout, "yaxis"));
        Assert.Equal([50], Row(Figure(Plots.NeedleDepths(Result, RulerTask.Vt)).Traces[0].GetProperty("z")[0]));
        Assert.Throws<ArgumentException>(() => Plots.NeedleDepths(Result, RulerTask.Cwe));
    }

    [Fact]
    public void LengthExtrapolation_Result_MarksTheTrainedLength()
    {
        var result = new ExtrapolationResult(8, 16, 3, [new(0, 8, 24, 1, false), new(8, 16, 24, 2, true)]);
        var (traces, layout) = Figure(Plots.LengthExtrapolation([("a", result)]));
        Assert.Equal([4, 12], Numbers(traces[0], "x"));
        Assert.Equal("Perplexity per token", Title(layout, "yaxis"));
        Assert.Equal("Perplexity per byte", Title(Figure(Plots.LengthExtrapolation([("a", result)], unit: "byte")).Layout, "yaxis"));
        Assert.Equal(Math.E * Math.E, Numbers(traces[0], "y")[1]!.Value, 1e-5);
        Assert.Equal(8, layout.GetProperty("shapes")[0].GetProperty("x0").GetInt32());
    }

    private static (JsonElement[] Traces, JsonElement Layout) Figure(GenericChart chart)
    {
        using var figure = JsonDocument.Parse(GenericChart.toFigureJson(chart));
        var root = figure.RootElement.Clone();
        return ([.. root.GetProperty("data").EnumerateArray()], root.GetProperty("layout"));
    }

    private static double?[] Numbers(JsonElement trace, string name) => Row(trace.GetProperty(name));

    private static double?[] Row(JsonElement list) => [.. list.EnumerateArray().Select(
        e => e.ValueKind == JsonValueKind.Null ? (double?)null : e.GetDouble())];

    private static string? Title(JsonElement layout, string axis) =>
        layout.GetProperty(axis).GetProperty("title").GetProperty("text").GetString();
}
