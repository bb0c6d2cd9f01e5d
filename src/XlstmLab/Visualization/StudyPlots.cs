using System.Globalization;
using Plotly.NET;
using XlstmLab.Analysis;
using XlstmLab.Experiments;

namespace XlstmLab.Visualization;

/// <summary>What curves of a study show.</summary>
public enum StudyCurve
{
    /// <summary>The validation's loss, in nats a token.</summary>
    Validation,

    /// <summary>The exponential of the validation's loss.</summary>
    Perplexity,

    /// <summary>The mean training loss since the validation before, in nats a token.</summary>
    Training,

    /// <summary>The greatest gradient norm since the validation before.</summary>
    GradientNorm,

    /// <summary>Of synthetic tasks, the scaled accuracy of the validation.</summary>
    Accuracy,
}

public static partial class Plots
{
    /// <summary>A curve for each variant of a study, the mean over its seeds, in a band from the least to the greatest seed.</summary>
    /// <param name="result">What the study came to.</param>
    /// <param name="curve">What is shown.</param>
    /// <param name="variants">The variants; none given for all.</param>
    /// <param name="from">
    /// The share of the training that the vertical axis leaves out, as losses fall from far above: 0 to show all.
    /// </param>
    /// <exception cref="ArgumentException">No run has such a curve.</exception>
    public static GenericChart StudyCurves(
        StudyResult result, StudyCurve curve = StudyCurve.Validation, IReadOnlyCollection<string>? variants = null, double from = 0.2)
    {
        ArgumentNullException.ThrowIfNull(result);
        Func<StudyPoint, double?> value = curve switch
        {
            StudyCurve.Validation => point => point.Validation,
            StudyCurve.Perplexity =>
                point => Math.Exp(point.Validation ?? double.NaN) is var perplexity && double.IsFinite(perplexity) ? perplexity : null,
            StudyCurve.Training => point => point.Loss,
            StudyCurve.GradientNorm => point => point.GradientNorm,
            StudyCurve.Accuracy => point => point.Accuracy,
            _ => throw UnknownValue.Of(curve),
        };
        var shown = result.Study.Variants.Where(v => variants is not { Count: > 0 } || variants.Contains(v))
            .Select(v => (Name: v, Curve: Mean([.. result.Rows.Where(row => row.Variant == v && row.Status != StudyStatus.Failed)], value)))
            .Where(v => v.Curve.Count > 0).ToArray();
        RequireSome(shown, "run with such a curve");
        var bands = shown.Index().Where(v => v.Item.Curve.Any(p => p.High > p.Low)).Select(v => PlotStyle.Trace(
            "scatter",
            ("mode", "lines"),
            ("x", PlotStyle.Gaps(v.Item.Curve.Select(p => p.X).Concat(v.Item.Curve.Select(p => p.X).Reverse()))),
            ("y", PlotStyle.Gaps(v.Item.Curve.Select(p => p.High).Concat(v.Item.Curve.Select(p => p.Low).Reverse()))),
            ("fill", "toself"),
            ("fillcolor", PlotStyle.Translucent(PlotStyle.Color(v.Index), 0.18)),
            ("line", PlotStyle.Obj(("color", PlotStyle.Translucent(PlotStyle.Color(v.Index), 0)), ("width", 0))),
            ("hoverinfo", "skip"),
            ("showlegend", false)));
        var lines = shown.Index().Select(v => Line(
            v.Item.Name, [.. v.Item.Curve.Select(p => p.X)], [.. v.Item.Curve.Select(p => p.Mean)], PlotStyle.Color(v.Index),
            dash: PlotStyle.Dash(v.Index),
            inLegend: true));
        var last = shown.Max(v => v.Curve[^1].X);
        var judged = shown.SelectMany(v => v.Curve).Where(p => p.X >= from * last).SelectMany(p => new[] { p.Low, p.High })
            .Where(double.IsFinite).ToArray();
        var (low, high) = judged.Length == 0 ? (0.0, 1.0) : (judged.Min(), judged.Max());
        var margin = Math.Max((high - low) * 0.05, 1e-6);
        return PlotStyle.Chart(
            [.. bands, .. lines],
            PlotStyle.Axis("Training tokens"),
            PlotStyle.Axis(
                curve switch
                {
                    StudyCurve.Validation => "Validation loss (nats a token)",
                    StudyCurve.Perplexity => "Validation perplexity",
                    StudyCurve.Training => "Training loss (nats a token)",
                    StudyCurve.GradientNorm => "Greatest gradient norm between validations",
                    StudyCurve.Accuracy => "Scaled accuracy (chance is 0)",
                    _ => throw UnknownValue.Of(curve),
                },
                ("range", new[] { low - margin, high + margin })),
            PlotStyle.Height,
            SideLegend);
    }

    /// <summary>
    /// How variants differ from the base: a point each, with the interval that is corrected for their number, and a line at no difference.
    /// </summary>
    /// <param name="comparison">The comparison.</param>
    /// <param name="unit">The measure with its unit, for the axis; null for its name.</param>
    /// <exception cref="ArgumentException">No variant has a difference.</exception>
    public static GenericChart StudyDifferences(StudyComparison comparison, string? unit = null)
    {
        ArgumentNullException.ThrowIfNull(comparison);
        var shown = comparison.Variants.Where(v => v.Difference is { Pairs: > 0 }).ToArray();
        RequireSome(shown, "variant with a difference");
        var traces = new List<Trace>();
        foreach (var (at, variant) in shown.Index())
        {
            var (difference, color) = (variant.Difference!, variant.Difference!.IsDifferent ? PlotStyle.Color(0) : PlotStyle.Muted);
            if (!double.IsNaN(difference.Low))
            {
                traces.Add(Line(variant.Variant, [difference.Low, difference.High], [at, at], color, width: 3, inLegend: false));
            }

            traces.Add(PlotStyle.Trace(
                "scatter",
                ("name", variant.Variant),
                ("mode", "markers"),
                ("x", PlotStyle.Gaps([difference.Mean])),
                ("y", new[] { at }),
                ("showlegend", false),
                ("marker", PlotStyle.Obj(("color", color), ("size", 10))),
                ("hovertemplate", "%{x:.4g}<extra>" + variant.Variant + "</extra>")));
        }

        object[] zero =
        [
            PlotStyle.Obj(
                ("type", "line"), ("xref", "x"), ("yref", "paper"), ("x0", 0), ("x1", 0), ("y0", 0), ("y1", 1),
                ("line", PlotStyle.Obj(("color", PlotStyle.Ink), ("width", 1), ("dash", "dot")))),
        ];
        var ends =
            shown.SelectMany(v => new[] { v.Difference!.Low, v.Difference.High, v.Difference.Mean, 0 }).Where(double.IsFinite).ToArray();
        var margin = Math.Max((ends.Max() - ends.Min()) * 0.06, 1e-9);
        return PlotStyle.Chart(
            traces,
            PlotStyle.Axis(
                $"{unit ?? comparison.Metric}, less that of {Bases(comparison)}",
                ("range", new[] { ends.Min() - margin, ends.Max() + margin })),
            PlotStyle.Axis(
                "", ("tickmode", "array"), ("tickvals", Enumerable.Range(0, shown.Length).ToArray()),
                ("ticktext", shown.Select(v => v.Variant).ToArray()),
                ("range", new[] { shown.Length - 0.5, -0.5 }), ("ticks", "")),
            Math.Max(200, 110 + 34 * shown.Length),
            ("shapes", zero));

        static string Bases(StudyComparison comparison) =>
            comparison.Variants.Select(v => v.BaseVariant).Distinct().ToArray() is [var one] ? $"'{one}'" : "its base";
    }

    /// <summary>A heat map of a measure, the mean over seeds: the places of one axis down, of another across.</summary>
    /// <param name="results">Studies with the same rows, such as one for each task; or one study with two axes.</param>
    /// <param name="down">The axis whose places are rows, such as the architecture.</param>
    /// <param name="across">The axis whose places are columns; null for a column for each study.</param>
    /// <param name="metric">A name that <see cref="StudyRow.Measure"/> knows.</param>
    /// <param name="title">What the colour means, with its unit.</param>
    /// <exception cref="ArgumentException">There is no run with such a measure.</exception>
    public static GenericChart StudyHeatMap(IReadOnlyList<StudyResult> results, string down, string? across, string metric, string title)
    {
        RequireSome(results, "study");
        var cells = results.SelectMany(result => result.Rows.Select(row => (
            Row: row.Differences.GetValueOrDefault(down, row.Variant), Column: across is null ? result.Study.Name
                : row.Differences.GetValueOrDefault(across, ""),
            Value: row.Measure(metric)))).Where(cell => cell.Value is not null).ToArray();
        RequireSome(cells, $"run with {metric}");
        string[] rows = [.. cells.Select(c => c.Row).Distinct()], columns = [.. cells.Select(c => c.Column).Distinct()];
        double Mean(string row, string column) => cells.Where(cell => cell.Row == row && cell.Column == column)
            .Select(cell => cell.Value!.Value).DefaultIfEmpty(double.NaN).Average();

        var means = rows.Select(r => columns.Select(c => Mean(r, c)).ToArray()).ToArray();
        var isShare = metric.Contains('@', StringComparison.Ordinal);
        return HeatMap(rows, columns, means, isShare, isShare ? "0.00" : "G4", title, "{z:.4g}", rowHeight: 32);
    }

    /// <summary>Loss against size at several amounts of compute, with the parabola of each and its lowest point.</summary>
    /// <param name="profiles">The profiles, by compute.</param>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static GenericChart IsoFlops(IReadOnlyList<IsoFlopProfile> profiles)
    {
        RequireSome(profiles, "profile");
        var traces = new List<Trace>();
        foreach (var (at, profile) in profiles.Index())
        {
            var (color, name) = (PlotStyle.Color(at), $"{PlotStyle.Label(profile.Flops)} FLOP");
            var (least, greatest) = (profile.Points[0].Parameters, profile.Points[^1].Parameters);
            double[] x = [.. Enumerable.Range(0, 61).Select(k => least * Math.Pow(greatest / least, k / 60.0))];
            traces.Add(Line(name, x, [.. x.Select(profile.LossOf)], color, width: 1.5, inLegend: true));
            traces.Add(Markers(name, profile.Points.Select(p => p.Parameters), profile.Points.Select(p => p.Loss), color, 7));
            if (profile.IsInside)
            {
                traces.Add(Markers(name, [profile.Parameters], [profile.Loss], PlotStyle.Ink, 9));
            }
        }

        var losses = profiles.SelectMany(p => p.Points).Select(p => p.Loss).ToArray();
        var margin = (losses.Max() - losses.Min()) * 0.08;
        return PlotStyle.Chart(
            traces,
            PlotStyle.LogAxis("Parameters", profiles.SelectMany(p => p.Points).Select(p => p.Parameters)),
            PlotStyle.Axis("Loss (nats a token)", ("range", new[] { losses.Min() - margin, losses.Max() + margin })),
            PlotStyle.Height,
            SideLegend);
    }

    /// <summary>Loss against compute: a point a run, and for each series the frontier of what no run undercuts with less compute.</summary>
    /// <param name="series">Runs by name: compute in FLOP and loss in nats a token.</param>
    /// <exception cref="ArgumentException">There is no run.</exception>
    public static GenericChart LossAgainstCompute(IReadOnlyList<(string Name, IReadOnlyList<(double Flops, double Loss)> Runs)> series)
    {
        RequireSome(series, "series");
        var runs = series.SelectMany(s => s.Runs).ToArray();
        RequireSome(runs, "run");
        var traces = new List<Trace>();
        foreach (var (at, (name, points)) in series.Index())
        {
            traces.Add(Markers(
                name, points.Select(p => p.Flops), points.Select(p => p.Loss), PlotStyle.Translucent(PlotStyle.Color(at), 0.45), 6));
            var frontier = Frontier(points);
            traces.Add(
                Line(
                    $"{name}, frontier", [.. frontier.Select(p => p.Flops)], [.. frontier.Select(p => p.Loss)],
                    PlotStyle.Color(at), inLegend: true));
        }

        return PlotStyle.Chart(
            traces, PlotStyle.LogAxis("Training compute (FLOP)", runs.Select(r => r.Flops)), PlotStyle.LogAxis(
                "Loss (nats a token)", runs.Select(r => r.Loss)),
            PlotStyle.Height, SideLegend);
    }

    /// <summary>The best size against compute: the lowest points of profiles, and the power law through each series.</summary>
    /// <param name="series">Profiles by name.</param>
    /// <exception cref="ArgumentException">No profile has its lowest point among its sizes.</exception>
    public static GenericChart OptimalSizes(IReadOnlyList<(string Name, IReadOnlyList<IsoFlopProfile> Profiles)> series)
    {
        RequireSome(series, "series");
        var inside = series.Select(s => (s.Name, Profiles: s.Profiles.Where(p => p.IsInside).ToArray())).ToArray();
        RequireSome([.. inside.SelectMany(s => s.Profiles)], "profile with its lowest point among its sizes");
        var traces = new List<Trace>();
        foreach (var (at, (name, profiles)) in inside.Index())
        {
            traces.Add(Markers(name, profiles.Select(p => p.Flops), profiles.Select(p => p.Parameters), PlotStyle.Color(at), 8));
            if (profiles.Length > 1)
            {
                var law = PowerLaw.Of([.. profiles.Select(p => (p.Flops, p.Parameters))]);
                double[] ends = [profiles.Min(p => p.Flops), profiles.Max(p => p.Flops)];
                traces.Add(Line(
                    string.Create(CultureInfo.InvariantCulture, $"{name}: N* ~ C<sup>{law.Exponent:0.00}</sup>"), ends,
                    [.. ends.Select(law.Of)], PlotStyle.Color(at), inLegend: true));
            }
        }

        var all = inside.SelectMany(s => s.Profiles).ToArray();
        return PlotStyle.Chart(
            traces, PlotStyle.LogAxis("Training compute (FLOP)", all.Select(p => p.Flops)), PlotStyle.LogAxis(
                "Best size (parameters)", all.Select(p => p.Parameters)),
            PlotStyle.Height, SideLegend);
    }

    /// <summary>The legend beside the data, where many variants would push a plot down.</summary>
    /// <summary>A heat map with the number in each cell.</summary>
    /// <param name="rows">What is down, from above.</param>
    /// <param name="columns">What is across.</param>
    /// <param name="cells">A number for each; NaN leaves a cell empty.</param>
    /// <param name="isShare">Whether colours go from 0 to 1.</param>
    /// <param name="format">How numbers are written.</param>
    /// <param name="title">What the colour means, with its unit.</param>
    /// <param name="hover">How plotly writes them under the mouse, behind a per cent sign.</param>
    /// <param name="rowHeight">In pixels.</param>
    /// <param name="across">What the columns are.</param>
    private static GenericChart HeatMap(
        string[] rows, string[] columns, double[][] cells, bool isShare, string format, string title, string hover, int rowHeight,
        string across = "")
    {
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", columns),
            ("y", rows),
            ("z", cells.Select(row => PlotStyle.Gaps(row)).ToArray()),
            ("zmin", isShare ? 0 : null),
            ("zmax", isShare ? 1 : null),
            ("text",
                cells.Select(row =>
                    row.Select(v => double.IsFinite(v) ? Unsigned(v).ToString(format, CultureInfo.InvariantCulture) : "")
                        .ToArray()).ToArray()),
            ("texttemplate", "%{text}"),
            ("textfont", PlotStyle.Obj(("size", 11))),
            ("colorscale", PlotStyle.ColorScale),
            ("colorbar", PlotStyle.ColorBar(title)),
            ("hovertemplate", "%{y}<br>%{x}: %" + hover + "<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis(across, ("type", "category"), ("showgrid", false), ("ticks", "")),
            PlotStyle.Axis("", ("type", "category"), ("autorange", "reversed"), ("showgrid", false), ("ticks", "")),
            Math.Max(240, 130 + rowHeight * rows.Length));

        // What is rounded to nothing has no sign.
        double Unsigned(double v) => isShare && Math.Abs(v) < 0.005 ? 0 : v;
    }

    private static (string Name, object? Value) SideLegend => (
        "legend",
        PlotStyle.Obj(("orientation", "v"), ("x", 1.02), ("xanchor", "left"), ("y", 1), ("yanchor", "top"), ("font", PlotStyle.Font(12))));

    private static Trace Markers(string name, IEnumerable<double> x, IEnumerable<double> y, string color, int size) => PlotStyle.Trace(
        "scatter",
        ("name", name),
        ("mode", "markers"),
        ("x", PlotStyle.Gaps(x)),
        ("y", PlotStyle.Gaps(y)),
        ("showlegend", false),
        ("marker", PlotStyle.Obj(("color", color), ("size", size))));

    /// <summary>
    /// The runs that no other undercuts with as little compute, by compute: of a budget, which whole updates meet nearly, one.
    /// </summary>
    private static List<(double Flops, double Loss)> Frontier(IReadOnlyList<(double Flops, double Loss)> runs)
    {
        const double oneBudget = 1.05;
        var frontier = new List<(double Flops, double Loss)>();
        foreach (var run in runs.OrderBy(r => r.Flops).ThenBy(r => r.Loss))
        {
            if (frontier.Count > 0 && run.Loss >= frontier[^1].Loss)
            {
                continue;
            }

            if (frontier.Count > 0 && run.Flops < oneBudget * frontier[^1].Flops)
            {
                frontier.RemoveAt(frontier.Count - 1);
            }

            frontier.Add(run);
        }

        return frontier;
    }

    /// <summary>The mean, the least and the greatest over runs at each place that all that reach it have.</summary>
    private static List<(double X, double Mean, double Low, double High)> Mean(StudyRow[] rows, Func<StudyPoint, double?> value) =>
    [
        .. rows.SelectMany(row => row.Curve).Where(point => value(point) is { } v && double.IsFinite(v)).GroupBy(point => point.Tokens)
            .OrderBy(group => group.Key)
            .Select(group =>
                ((double)group.Key, group.Average(p => value(p)!.Value), group.Min(p => value(p)!.Value), group.Max(p => value(p)!.Value))),
    ];
}
