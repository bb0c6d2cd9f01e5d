using System.Text.Json;
using Plotly.NET;
using XlstmLab.Analysis;
using XlstmLab.Experiments;
using XlstmLab.Visualization;
using Xunit;

namespace XlstmLab.Tests.Visualization;

[Collection(nameof(TextCollection))]
public sealed class StudyPlotsTests
{
    [Fact]
    public void StudyCurves_Seeds_AreAMeanInABandWithTheLegendBeside()
    {
        var (traces, layout) = Figure(Plots.StudyCurves(Result()));
        Assert.Equal([null, null, "beta1=0.8", "beta1=0.9"], traces.Select(Name));
        Assert.Equal("toself", traces[0].GetProperty("fill").GetString());
        Assert.Equal([2.4, 1.4], Numbers(traces[2], "y").Select(v => Math.Round(v, 9)));
        Assert.Equal([2.5, 1.5, 1.3, 2.3], Numbers(traces[0], "y").Select(v => Math.Round(v, 9)));
        Assert.True(layout.GetProperty("legend").GetProperty("x").GetDouble() > 1);

        // What lies before the first fifth does not stretch the axis.
        Assert.True(layout.GetProperty("yaxis").GetProperty("range")[1].GetDouble() < 2.3);
        var all = Figure(Plots.StudyCurves(Result(), from: 0)).Layout;
        Assert.True(all.GetProperty("yaxis").GetProperty("range")[1].GetDouble() > 3.4);
        Assert.Throws<ArgumentException>(() => Plots.StudyCurves(Result(), StudyCurve.Accuracy));
        var (perplexities, _) = Figure(Plots.StudyCurves(Result(), StudyCurve.Perplexity));
        Assert.Equal(new[] { 2.3, 2.4, 2.5 }.Average(Math.Exp), Numbers(perplexities[2], "y")[0], 1e-6);
    }

    [Fact]
    public void StudyDifferences_Comparison_HasAnIntervalAndAPointEach()
    {
        var comparison = StudyComparison.Of(Result());
        var (traces, layout) = Figure(Plots.StudyDifferences(comparison, "Test loss (nats)"));
        var difference = comparison.Variants[1].Difference!;
        Assert.Equal([difference.Low, difference.High], Numbers(traces[0], "x").Select(v => v), (a, b) => Math.Abs(a - b) < 1e-5);
        Assert.Equal(1.0, Numbers(traces[1], "x").Single(), 1e-6);
        Assert.Equal(
            "Test loss (nats), less that of 'beta1=0.8'", layout.GetProperty("xaxis").GetProperty("title").GetProperty("text").GetString());
        Assert.Equal("beta1=0.9", layout.GetProperty("yaxis").GetProperty("ticktext")[0].GetString());
    }

    /// <summary>A study without runs has an empty frame that says so, and no plot of it fails.</summary>
    [Fact]
    public void StudyOverview_OfRuns_IsWhatTheQuestionAsksFor()
    {
        var whole = Result();
        var none = whole with { Rows = [] };
        foreach (var frame in new[] { Plots.StudyOverview(none), Plots.StudyGradients(none), Plots.StudyTasks([none]) })
        {
            Assert.Equal(
                "drawn: not run yet: 0 of 6 runs", Figure(frame).Layout.GetProperty("annotations")[0].GetProperty("text").GetString());
        }

        var scores = Figure(Plots.StudyOverview(whole)).Traces.Single();
        Assert.Equal(("heatmap", "0.50"), (scores.GetProperty("type").GetString(), scores.GetProperty("text")[0][0].GetString()));
        Assert.Equal(
            ["drawn"], Figure(Plots.StudyTasks([whole])).Traces.Single().GetProperty("x").EnumerateArray().Select(x => x.GetString()));

        var text = whole with { Rows = [.. whole.Rows.Select(row => row with { Scores = [] })] };
        Assert.Contains("beta1=0.9", Figure(Plots.StudyOverview(text)).Traces.Select(Name));
        Assert.Equal(
            "Greatest gradient norm between validations",
            Figure(Plots.StudyGradients(text)).Layout.GetProperty("yaxis").GetProperty("title").GetProperty("text").GetString());

        var places = text with
        {
            Rows = [.. text.Rows.Select(row => row with { Positions = [new(0, 64, 2 + 0.1 * row.Seed, false), new(64, 256, 1, true)] })],
        };
        var (lines, layout) = Figure(Plots.StudyOverview(places));
        Assert.Equal(["beta1=0.8", "beta1=0.9"], lines.Select(Name));
        Assert.Equal([2.2, 1], Numbers(lines[0], "y").Select(y => Math.Round(y, 6)));
        Assert.Equal(64, layout.GetProperty("shapes")[0].GetProperty("x0").GetDouble());
    }

    [Fact]
    public void StudyScores_OfATaskAxis_HasTasksAcross()
    {
        var whole = Result();
        Assert.Equal(["8"], Labels(Figure(Plots.StudyScores(whole)).Traces.Single(), "x"));
        var varied = new StudyResult(
            whole.Study with { Axes = [.. whole.Study.Axes, new("task", "a", "b")] },
            [.. whole.Rows.SelectMany(row => new[] { "a", "b" }.Select(task => row with
            {
                Differences = new Dictionary<string, string>(row.Differences) { ["task"] = task },
                Scores = [new(task, 0.75, task == "a" ? 0.5 : -0.001, 0.1)],
            }))]);
        var map = Figure(Plots.StudyScores(varied)).Traces.Single();
        Assert.Equal(["a", "b"], Labels(map, "x"));
        Assert.Equal(["beta1=0.8", "beta1=0.9"], Labels(map, "y"));
        Assert.Equal(["0.50", "0.00"], map.GetProperty("text")[0].EnumerateArray().Select(text => text.GetString()));

        static IEnumerable<string?> Labels(System.Text.Json.JsonElement trace, string axis) =>
            trace.GetProperty(axis).EnumerateArray().Select(label => label.GetString());
    }

    [Fact]
    public void StudyHeatMap_Results_HaveTheirMeans()
    {
        var (traces, _) = Figure(Plots.StudyHeatMap([Result()], "beta1", null, "scaled@8", "Scaled accuracy"));
        Assert.Equal([0.5, 0.5], traces.Single().GetProperty("z").EnumerateArray().SelectMany(
            row => row.EnumerateArray().Select(v => v.GetDouble())));
        Assert.Equal("0.50", traces.Single().GetProperty("text")[0][0].GetString());
        Assert.Throws<ArgumentException>(() => Plots.StudyHeatMap([Result()], "beta1", null, "scaled@9", "t"));
    }

    [Fact]
    public void IsoFlops_Profiles_HaveTheirParabolasAndLowestPoints()
    {
        IsoFlopProfile[] profiles = [Profile(1e18, 1e8), Profile(1e19, 3e8)];
        var (traces, layout) = Figure(Plots.IsoFlops(profiles));
        Assert.Equal(6, traces.Length);
        Assert.Equal(1e8, Numbers(traces[2], "x").Single(), 1e3);
        Assert.Equal("10<sup>18</sup> FLOP", Name(traces[0]));
        Assert.Equal("log", layout.GetProperty("xaxis").GetProperty("type").GetString());

        var sizes = Figure(Plots.OptimalSizes([("xLSTM", profiles)])).Traces;
        Assert.Equal("xLSTM: N* ~ C<sup>0.48</sup>", Name(sizes[1]));
    }

    [Fact]
    public void LossAgainstCompute_Runs_HaveTheirFrontier()
    {
        var (traces, _) = Figure(Plots.LossAgainstCompute([("a", [(1e18, 3), (2e18, 3.5), (4e18, 2), (4.1e18, 1.9), (4.1e18, 1.95)])]));
        Assert.Equal([1e18, 4.1e18], Numbers(traces[1], "x"));
        Assert.Equal(5, Numbers(traces[0], "x").Length);
    }

    private static IsoFlopProfile Profile(double flops, double best) => IsoFlopProfile.Of(
        flops, [.. new[] { 0.25, 0.5, 1, 2, 4 }.Select(
            by => new ScalingPoint(best * by, flops / 6 / best / by, 3 + 0.1 * Math.Pow(Math.Log(by), 2)))]);

    private static StudyResult Result()
    {
        var study = new Study { Name = "drawn", Axes = [new("beta1", 0.8, 0.9)], Seeds = [1, 2, 3] };
        return new(study, [.. study.Expand().Select(run => new StudyRow
        {
            Id = run.Id,
            Variant = run.Variant,
            Differences = run.Differences,
            Seed = run.Training.Seed,
            Status = StudyStatus.Completed,
            TestLoss = (run.Training.Beta1 == 0.9 ? 2 : 1) + 0.01 * run.Training.Seed
                + (run.Variant == "beta1=0.9" && run.Training.Seed == 2
                    ? 0.003 : run.Variant == "beta1=0.9" && run.Training.Seed == 3 ? -0.003 : 0),
            Scores = [new("8", 0.75, 0.5, 0.1)],
            Curve = [new(1, 100, 5, (run.Training.Beta1 == 0.9 ? 3.2 : 2.2) + 0.1 * run.Training.Seed, null, 1), new(
                10, 1000, 2, (run.Training.Beta1 == 0.9 ? 2 : 1.2) + (run.Training.Beta1 == 0.9 ? 0 : 0.1 * run.Training.Seed), null, 1)],
        })]);
    }

    private static (JsonElement[] Traces, JsonElement Layout) Figure(GenericChart chart)
    {
        using var figure = JsonDocument.Parse(GenericChart.toFigureJson(chart));
        return ([.. figure.RootElement.GetProperty("data").EnumerateArray().Select(t => t.Clone())],
            figure.RootElement.GetProperty("layout").Clone());
    }

    private static double[] Numbers(JsonElement trace, string name) =>
        [.. trace.GetProperty(name).EnumerateArray().Select(v => v.GetDouble())];

    private static string? Name(JsonElement trace) => trace.TryGetProperty("name", out var name) ? name.GetString() : null;
}
