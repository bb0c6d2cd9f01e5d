using System.Globalization;
using Plotly.NET;
using XlstmLab.Experiments;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>
    /// Scaled accuracy against the length of rows: a curve for each seed, and a line at the greatest length that was trained on.
    /// </summary>
    /// <param name="accuracies">Tests at single lengths; those of ranges are left out.</param>
    /// <param name="trainedLength">The greatest length that was trained on; null for no line.</param>
    /// <exception cref="ArgumentException">No test is of a single length.</exception>
    public static GenericChart AccuracyByLength(IReadOnlyList<SyntheticAccuracy> accuracies, int? trainedLength = null)
    {
        var curves = accuracies.Where(a => a.MinimumLength == a.MaximumLength)
            .GroupBy(a => a.Seed)
            .Select(g => new PlotSeries(SeedName(g.Key), [.. g.Select(a => (double)a.MaximumLength)], [.. g.Select(a => a.ScaledAccuracy)]))
            .ToArray();
        return ByLength(curves, "Scaled accuracy (chance is 0)", trainedLength);
    }

    /// <summary>Mean squared error of nearest-neighbour search against the number of vectors: a curve for each seed.</summary>
    /// <param name="runs">The runs.</param>
    /// <param name="trainedLength">The length that was trained on; null for no line.</param>
    /// <exception cref="ArgumentException">There is no run.</exception>
    public static GenericChart ErrorByLength(IReadOnlyList<VectorRun> runs, int? trainedLength = null) => ByLength(
        [.. runs.Select(r => new PlotSeries(
            SeedName(r.Seed), [.. r.Scores.Select(s => (double)s.Length)], [.. r.Scores.Select(s => s.MeanSquaredError)]))],
        "Mean squared error",
        trainedLength);

    /// <summary>Scaled accuracy against the training step: a curve for each seed and range of lengths.</summary>
    /// <param name="points">The validations.</param>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static GenericChart AccuracyCurve(IReadOnlyList<SyntheticCurvePoint> points)
    {
        var curves = points.GroupBy(p => (p.Seed, p.Lengths))
            .Select(g => new PlotSeries(
                $"{SeedName(g.Key.Seed)}, length {g.Key.Lengths}",
                [.. g.Select(p => (double)p.Step)],
                [.. g.Select(p => p.ScaledAccuracy)]))
            .ToArray();
        return PlotStyle.Chart(Curves(curves), PlotStyle.Axis("Training step"), PlotStyle.Axis("Scaled accuracy (chance is 0)"));
    }

    private static GenericChart ByLength(IReadOnlyList<PlotSeries> curves, string title, int? trainedLength)
    {
        var traces = Curves(curves);
        object[] marks = trainedLength is { } length
            ?
            [
                PlotStyle.Obj(
                    ("type", "line"), ("xref", "x"), ("yref", "paper"), ("x0", length), ("x1", length), ("y0", 0), ("y1", 1),
                    ("line", PlotStyle.Obj(("color", PlotStyle.Muted), ("width", 1.5), ("dash", "dash")))),
            ]
            : [];
        return PlotStyle.Chart(traces, PlotStyle.Axis("Length (tokens)"), PlotStyle.Axis(title), PlotStyle.Height, ("shapes", marks));
    }

    private static string SeedName(int seed) => string.Create(CultureInfo.InvariantCulture, $"seed {seed}");
}
