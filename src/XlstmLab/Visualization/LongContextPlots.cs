using System.Globalization;
using Plotly.NET;
using XlstmLab.Evaluation;
using XlstmLab.Tasks.Ruler;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>RULER's scores against length: a pale curve for each task and a strong one for their mean.</summary>
    /// <exception cref="ArgumentException">There is no score.</exception>
    public static GenericChart RulerByLength(RulerResult result)
    {
        RequireSome(result.Scores, "score");
        var tasks = result.Scores.GroupBy(s => s.Task).Select((task, at) => Line(
            task.Key.Name(),
            [.. task.Select(s => (double)s.Length)],
            [.. task.Select(s => 100 * s.Score)],
            PlotStyle.Color(at),
            width: 1.2,
            dash: PlotStyle.Dash(at),
            markers: true));
        var mean = Line(
            "mean",
            [.. result.Averages.Select(a => (double)a.Length)],
            [.. result.Averages.Select(a => 100 * a.Score)],
            PlotStyle.Ink,
            width: 3.5,
            markers: true);
        return ScoreChart([.. tasks, mean], result.Scores.Select(s => (double)s.Length));
    }

    /// <summary>RULER's mean scores against length: a curve for each model.</summary>
    /// <param name="results">Models by the names that the legend has.</param>
    /// <exception cref="ArgumentException">There is no model.</exception>
    public static GenericChart RulerByLength(IReadOnlyList<(string Name, RulerResult Result)> results)
    {
        RequireSome(results, "model");
        var series = results.Select(r => new PlotSeries(
            r.Name, [.. r.Result.Averages.Select(a => (double)a.Length)], [.. r.Result.Averages.Select(a => 100 * a.Score)])).ToArray();
        return ScoreChart(Curves(series), series.SelectMany(s => s.X));
    }

    /// <summary>A heat map of the needles that were found: lengths across, depths down, the haystack's start at the top.</summary>
    /// <param name="result">The result.</param>
    /// <param name="tasks">The tasks whose needles are counted; null for all that have needles.</param>
    /// <exception cref="ArgumentException">None of the tasks has needles.</exception>
    public static GenericChart NeedleDepths(RulerResult result, params IReadOnlyList<RulerTask>? tasks)
    {
        var cells = result.DepthScores.Where(d => tasks is not { Count: > 0 } || tasks.Contains(d.Task)).ToArray();
        RequireSome(cells, "range of depths");
        var lengths = cells.Select(c => c.Length).Distinct().Order().ToArray();
        var ranges = cells.Select(c => (c.From, c.To)).Distinct().Order().ToArray();
        var z = ranges.Select(range => PlotStyle.Gaps(lengths.Select(length =>
        {
            var here = cells.Where(c => c.Length == length && (c.From, c.To) == range).ToArray();
            return 100 * here.Sum(c => c.Score * c.Needles) / here.Sum(c => c.Needles);
        }))).ToArray();
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", lengths.Select(l => l.ToString(CultureInfo.InvariantCulture)).ToArray()),
            ("y", ranges.Select(r => string.Create(CultureInfo.InvariantCulture, $"{100 * r.From:0.#}-{100 * r.To:0.#} %")).ToArray()),
            ("z", z),
            ("zmin", 0),
            ("zmax", 100),
            ("colorscale", PlotStyle.ColorScale),
            ("colorbar", PlotStyle.ColorBar("Found (%)")),
            ("hovertemplate", "%{x} tokens<br>depth %{y}<br>%{z:.0f} %<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis("Length (tokens)", ("type", "category"), ("showgrid", false)),
            PlotStyle.Axis("Depth of the needle", ("type", "category"), ("autorange", "reversed"), ("showgrid", false)));
    }

    /// <summary>
    /// Perplexity by position within and beyond the training contexts: a curve for each model with a point at the centre of each range,
    /// the training length marked.
    /// </summary>
    /// <param name="results">Models by the names that the legend has. The first one's training length is marked.</param>
    /// <param name="logY">Whether perplexities are on a logarithmic axis.</param>
    /// <param name="unit">What a token is, for the axes: <c>token</c>, or <c>byte</c> for a model of bytes.</param>
    /// <exception cref="ArgumentException">There is no model.</exception>
    public static GenericChart LengthExtrapolation(
        IReadOnlyList<(string Name, ExtrapolationResult Result)> results, bool logY = false, string unit = "token")
    {
        RequireSome(results, "model");
        return PerplexityByPosition(
            [.. results.Select(r => PlotSeries.PerplexityByPosition(r.Name, r.Result))], results[0].Result.TrainedLength, logY: logY,
            unit: unit);
    }

    private static GenericChart ScoreChart(IReadOnlyList<Trace> traces, IEnumerable<double> lengths) => PlotStyle.Chart(
        traces,
        LengthAxis("Length (tokens)", lengths),
        PlotStyle.Axis("Score (%)", ("range", new double[] { -2, 102 })));
}
