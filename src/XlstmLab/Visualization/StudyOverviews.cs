using Plotly.NET;
using XlstmLab.Experiments;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    private const string FlopsAxis = "flops";
    private const string TaskAxis = "task";

    /// <summary>
    /// The plot that a study's question asks for, of the runs there are: the loss by position where that is measured, the loss against
    /// compute where that varies, of a synthetic task a heat map of accuracies by length, of two axes with many variants a heat map of the
    /// test's loss, else the validation's curves. Without any run an empty frame says so.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    public static GenericChart StudyOverview(StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var done = result.Rows.Where(row => row.Status == StudyStatus.Completed).ToArray();
        return done.Length == 0 ? Frame($"{result.Study.Name}: {result.Progress()}")
            : done.Any(row => row.Positions.Count > 0) ? StudyPositions(result)
            : done.Any(row => row.Scores.Count > 0) ? StudyScores(result)
            : result.Study.Axes.Any(axis => axis.Name == FlopsAxis) ? LossAgainstCompute(
                [.. done.GroupBy(row => row.Differences.First().Value)
                    .Select(g =>
                        (g.Key, (IReadOnlyList<(double, double)>)[.. g.Where(row => row.ValidationLoss is not null)
                            .Select(row => (row.Flops, row.ValidationLoss!.Value))]))])
            : result.Study.Axes.Count == 2 && result.Study.Variants.Count > PlotStyle.Palette.Count
                ? StudyHeatMap([result], result.Study.Axes[0].Name, result.Study.Axes[1].Name, "test_loss", "Test loss (nats a token)")
            : StudyCurves(result);
    }

    /// <summary>The greatest gradient norms between validations, as curves; without any run an empty frame says so.</summary>
    /// <param name="result">What the study came to.</param>
    public static GenericChart StudyGradients(StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return result.Rows.Any(row => row.Curve.Count > 0) ? StudyCurves(result, StudyCurve.GradientNorm) : Frame(
            $"{result.Study.Name}: {result.Progress()}");
    }

    /// <summary>
    /// The loss by position in long documents: a line a variant, the mean over its seeds, and a dotted line at the trained length.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    /// <exception cref="ArgumentException">No run has measured it.</exception>
    public static GenericChart StudyPositions(StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var shown = result.Study.Variants.Select(
            v => (Name: v, Rows: result.Rows.Where(row => row.Variant == v && row.Positions.Count > 0).ToArray()))
            .Where(v => v.Rows.Length > 0).ToArray();
        RequireSome(shown, "run with a loss by position");
        var lines = shown.Index().Select(v =>
        {
            var places = v.Item.Rows.SelectMany(row => row.Positions).GroupBy(p => (p.Start, p.End)).OrderBy(g => g.Key).ToArray();
            return Line(
                v.Item.Name, [.. places.Select(g => Math.Sqrt(Math.Max(1, g.Key.Start) * (double)g.Key.End))],
                [.. places.Select(g => g.Average(p => p.Loss))],
                PlotStyle.Color(v.Index), dash: PlotStyle.Dash(v.Index), markers: true);
        }).ToArray();
        var all = shown.SelectMany(v => v.Rows).SelectMany(row => row.Positions).ToArray();
        var beyond = all.Where(p => p.Beyond).Select(p => p.Start).DefaultIfEmpty(0).Min();
        object[] trained = beyond == 0 ? [] :
        [
            PlotStyle.Obj(
                ("type", "line"), ("xref", "x"), ("yref", "paper"), ("x0", beyond), ("x1", beyond), ("y0", 0), ("y1", 1),
                ("line", PlotStyle.Obj(("color", PlotStyle.Ink), ("width", 1), ("dash", "dot")))),
        ];
        return PlotStyle.Chart(
            lines, PlotStyle.LogAxis(
                "Position (tokens; dotted: the trained length)", all.Select(p => Math.Sqrt(Math.Max(1, p.Start) * (double)p.End))),
            PlotStyle.Axis("Loss (nats a token)"), PlotStyle.Height, SideLegend, ("shapes", trained));
    }

    /// <summary>
    /// The scaled accuracy of a synthetic task, chance at 0, the mean over seeds: variants down, tested lengths across; where the task
    /// varies, tasks across, each at the last of its lengths.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    /// <exception cref="ArgumentException">No run has been tested.</exception>
    public static GenericChart StudyScores(StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var tested = result.Rows.Where(row => row.Scores.Count > 0).ToArray();
        RequireSome(tested, "run with tests");
        if (tested.All(row => row.Differences.ContainsKey(TaskAxis)) && result.Study.Axes.Count > 1)
        {
            string Others(StudyRow row) => string.Join(", ", row.Differences.Where(d => d.Key != TaskAxis).Select(d => d.Value));
            string[] tasks = [.. tested.Select(row => row.Differences[TaskAxis]).Distinct()];
            return ShareMap(
                [.. tested.Select(Others).Distinct()], tasks,
                (others, column) => Mean(tested.Where(row => Others(row) == others && row.Differences[TaskAxis] == tasks[column])
                    .Select(row => row.Scores[^1].Scaled)));
        }

        string[] lengths = [.. tested.SelectMany(row => row.Scores).Select(score => score.Lengths).Distinct()];
        return ShareMap(
            [.. result.Study.Variants.Where(v => tested.Any(row => row.Variant == v))],
            lengths,
            (variant, column) => Mean(tested.Where(row => row.Variant == variant).SelectMany(row => row.Scores)
                .Where(s => s.Lengths == lengths[column]).Select(s => s.Scaled)),
            $"Length (tokens), {result.Study.Task ?? result.Study.Name}");
    }

    /// <summary>
    /// The scaled accuracy of the last tested range of lengths of several tasks, the mean over seeds: variants down, studies across.
    /// Without any run an empty frame says so.
    /// </summary>
    /// <param name="results">Studies with the same variants, one for each task.</param>
    public static GenericChart StudyTasks(IReadOnlyList<StudyResult> results)
    {
        RequireSome(results, "study");
        var tested = results.Where(result => result.Rows.Any(row => row.Scores.Count > 0)).ToArray();
        return tested.Length == 0
            ? Frame(string.Join("<br>", results.Select(result => $"{result.Study.Name}: {result.Progress()}")))
            : ShareMap(
                [.. tested.SelectMany(result => result.Study.Variants).Distinct()],
                [.. tested.Select(result => result.Study.Name)],
                (variant, column) => Mean(
                    tested[column].Rows.Where(row => row.Variant == variant && row.Scores.Count > 0).Select(row => row.Scores[^1].Scaled)));
    }

    /// <summary>An empty frame with a text in its middle, for what there is nothing of to draw.</summary>
    /// <param name="text">The text.</param>
    public static GenericChart Frame(string text)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(text);
        object[] notes =
        [
            PlotStyle.Obj(
                ("text", text), ("xref", "paper"), ("yref", "paper"), ("x", 0.5), ("y", 0.5), ("xanchor", "center"), ("yanchor", "middle"),
                ("showarrow", false),
                ("font", PlotStyle.Font(15))),
        ];
        return PlotStyle.Chart(
            [PlotStyle.Trace(
                "scatter", ("mode", "lines"), ("x", new[] { 0, 1 }), ("y", new double?[] { null, null }), ("showlegend", false))],
            PlotStyle.Axis("", ("showticklabels", false), ("ticks", ""), ("range", new[] { 0, 1 })),
            PlotStyle.Axis("", ("showticklabels", false), ("ticks", ""), ("range", new[] { 0, 1 })),
            180, ("annotations", notes));
    }

    private static double Mean(IEnumerable<double> values) => values.DefaultIfEmpty(double.NaN).Average();

    /// <summary>A heat map of shares from 0 to 1, each written in its cell.</summary>
    private static GenericChart ShareMap(string[] rows, string[] columns, Func<string, int, double> value, string across = "") => HeatMap(
        rows, columns, [.. rows.Select(row => columns.Index().Select(column => value(row, column.Index)).ToArray())], isShare: true, "0.00",
        "Scaled accuracy", "{z:.3f}", rowHeight: 28, across);
}
