using System.Globalization;
using Plotly.NET;
using Plotly.NET.LayoutObjects;
using XlstmLab.Evaluation;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>Perplexity against the position in the context: a curve for each model or context policy.</summary>
    /// <param name="series">
    /// Curves over the centres of buckets, as <see cref="PlotSeries.PerplexityByPosition(string, EvaluationResult, long)"/> gives them.
    /// </param>
    /// <param name="trainedLength">The context length of training, marked by a line; null for none.</param>
    /// <param name="logX">Whether positions are on a logarithmic axis.</param>
    /// <param name="logY">Whether perplexities are on a logarithmic axis.</param>
    /// <param name="unit">What a token is, for the axes: <c>token</c>, or <c>byte</c> for a model of bytes.</param>
    /// <exception cref="ArgumentException">
    /// There is no curve, one has not as many positions as values, or a position is not above 0 on a logarithmic axis.
    /// </exception>
    public static GenericChart PerplexityByPosition(
        IReadOnlyList<PlotSeries> series, int? trainedLength = null, bool logX = true, bool logY = false, string unit = "token")
    {
        var traces = Curves(series);
        var (x, y) = (series.SelectMany(s => s.X), series.SelectMany(s => s.Y));
        if (logX && x.Any(position => position <= 0))
        {
            throw new ArgumentException(
                "Expected positions above 0, as a logarithmic axis has no place for others: give the buckets' centres, "
                + "or set logX to false.",
                nameof(series));
        }

        var marks = trainedLength is { } length
            ? new[]
            {
                PlotStyle.Obj(
                    ("type", "line"),
                    ("x0", length),
                    ("x1", length),
                    ("yref", "paper"),
                    ("y0", 0),
                    ("y1", 1),
                    ("line", PlotStyle.Obj(("color", PlotStyle.Muted), ("width", 1.5), ("dash", "dot")))),
            }
            : null;
        var notes = trainedLength is { } at
            ? new[]
            {
                PlotStyle.Obj(
                    ("text", "trained length"),
                    ("x", logX ? Math.Log10(at) : at),
                    ("yref", "paper"),
                    ("y", 1),
                    ("xanchor", "right"),
                    ("yanchor", "top"),
                    ("showarrow", false),
                    ("font", PlotStyle.Font(11))),
            }
            : null;
        return PlotStyle.Chart(
            traces,
            logX ? LengthAxis($"Position in the context ({unit}s)", x) : PlotStyle.Axis($"Position in the context ({unit}s)"),
            LinearOrLog($"Perplexity per {unit}", y, logY),
            PlotStyle.Height,
            ("shapes", marks),
            ("annotations", notes));
    }

    /// <summary>A bar for each model, with its value; those that the plot is about in colour.</summary>
    /// <param name="bars">The bars, from top to bottom. A value that is no finite number leaves an empty place.</param>
    /// <param name="axisTitle">What the values are, with their unit.</param>
    /// <param name="format">The .NET format of the values beside the bars.</param>
    /// <exception cref="ArgumentException">There is no bar, or two have one name.</exception>
    public static GenericChart Comparison(IReadOnlyList<PlotBar> bars, string axisTitle, string format = "0.00")
    {
        RequireSome(bars, "bar");
        if (bars.GroupBy(b => b.Name).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw new ArgumentException($"Expected bars of different names, got '{twice.Key}' twice.", nameof(bars));
        }

        var trace = PlotStyle.Trace(
            "bar",
            ("orientation", "h"),
            ("x", PlotStyle.Gaps(bars.Select(b => b.Value))),
            ("y", bars.Select(b => b.Name).ToArray()),
            ("text", bars.Select(b => double.IsFinite(b.Value) ? b.Value.ToString(format, CultureInfo.InvariantCulture) : "").ToArray()),
            ("textposition", "outside"),
            ("cliponaxis", false),
            ("textfont", PlotStyle.Font(12)),
            ("marker", PlotStyle.Obj(("color", bars.Select(b => b.Highlight ? PlotStyle.Color(0) : PlotStyle.Muted).ToArray()))),
            ("hovertemplate", "%{y}: %{x:.4g}<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis(axisTitle, ("rangemode", "tozero"), ("range", RangeWithLabels(bars))),
            PlotStyle.Axis("", ("type", "category"), ("autorange", "reversed"), ("showgrid", false), ("ticks", "")),
            Math.Max(200, 100 + 34 * bars.Count),
            ("bargap", 0.35));
    }

    /// <summary>Any curves over one pair of axes.</summary>
    /// <param name="series">Named curves.</param>
    /// <param name="xTitle">What they are drawn against, with its unit.</param>
    /// <param name="yTitle">What they show, with its unit.</param>
    /// <param name="logX">Whether the horizontal axis is logarithmic.</param>
    /// <param name="logY">Whether the vertical axis is logarithmic.</param>
    /// <exception cref="ArgumentException">There is no curve, or one has no points or not as many positions as values.</exception>
    public static GenericChart Lines(
        IReadOnlyList<PlotSeries> series, string xTitle, string yTitle, bool logX = false, bool logY = false) => PlotStyle.Chart(
        Curves(series),
        LinearOrLog(xTitle, series.SelectMany(s => s.X), logX),
        LinearOrLog(yTitle, series.SelectMany(s => s.Y), logY));

    /// <summary>Time against length, both logarithmic: a curve for each form of the computation.</summary>
    /// <param name="series">Curves over lengths in tokens; times in seconds.</param>
    /// <param name="slopes">
    /// Growth rates drawn as pale lines for the eye, such as 1 and 2, from the lowest point of the first length.
    /// </param>
    /// <exception cref="ArgumentException">There is no curve, one has not as many lengths as times, or none is above 0.</exception>
    public static GenericChart Scaling(IReadOnlyList<PlotSeries> series, IReadOnlyList<double>? slopes = null)
    {
        var traces = Curves(series);
        var points = series
            .SelectMany(s => s.X.Zip(s.Y, (x, y) => (X: x, Y: y)))
            .Where(p => double.IsFinite(p.X) && double.IsFinite(p.Y) && p.X > 0 && p.Y > 0)
            .ToArray();
        if (points.Length == 0)
        {
            throw new ArgumentException("Expected lengths and times above 0, got none.", nameof(series));
        }

        var (first, last) = (points.Min(p => p.X), points.Max(p => p.X));
        var foot = points.Where(p => p.X == first).Min(p => p.Y) * 0.6;
        foreach (var slope in slopes ?? [])
        {
            var guide = Line(
                $"slope {slope.ToString("0.##", CultureInfo.InvariantCulture)}",
                [first, last],
                [foot, foot * Math.Pow(last / first, slope)],
                PlotStyle.Muted,
                width: 1.5,
                dash: slope == slopes![0] ? "dot" : "dash");
            guide.SetProperty("legendrank", 2000);
            traces.Insert(0, guide);
        }

        return PlotStyle.Chart(
            traces,
            LengthAxis("Sequence length (tokens)", points.Select(p => p.X)),
            PlotStyle.LogAxis("Time (s)", points.Select(p => p.Y)));
    }

    /// <summary>From 0, with room for the numbers beside the bars; null leaves it to plotly.</summary>
    private static double[]? RangeWithLabels(IReadOnlyList<PlotBar> bars)
    {
        var values = bars.Select(b => b.Value).Where(double.IsFinite).ToArray();
        return values.Length > 0 && values.Min() >= 0 && values.Max() > 0 ? [0, values.Max() * 1.1] : null;
    }

    /// <summary>A logarithmic axis with a tick at each measured length, powers of two as a rule, unless they would crowd.</summary>
    private static LinearAxis LengthAxis(string title, IEnumerable<double> lengths)
    {
        var ticks = lengths.Where(l => double.IsFinite(l) && l > 0).Distinct().Order().ToArray();
        var crowded = ticks.Length > 14 || ticks.Zip(ticks.Skip(1)).Any(pair => pair.Second / pair.First < 1.4);
        return crowded
            ? PlotStyle.LogAxis(title, ticks)
            : PlotStyle.Axis(
                title,
                ("type", "log"),
                ("tickmode", "array"),
                ("tickvals", ticks),
                ("ticktext", Array.ConvertAll(ticks, t => t.ToString("0.###", CultureInfo.InvariantCulture))));
    }

    private static LinearAxis LinearOrLog(string title, IEnumerable<double> values, bool log) =>
        log ? PlotStyle.LogAxis(title, values) : PlotStyle.Axis(title);

    private static List<Trace> Curves(IReadOnlyList<PlotSeries> series)
    {
        RequireSome(series, "curve");
        if (series.FirstOrDefault(s => s.X.Count != s.Y.Count) is { } uneven)
        {
            throw new ArgumentException(
                $"Curve '{uneven.Name}' has {uneven.X.Count} positions and {uneven.Y.Count} values; expected as many of each.",
                nameof(series));
        }

        if (series.FirstOrDefault(s => s.X.Count == 0) is { } empty)
        {
            throw new ArgumentException($"Curve '{empty.Name}' has no points.", nameof(series));
        }

        var several = series.Count > 1;
        return
        [
            .. series.Select(
                (s, at) => Line(s.Name, s.X, s.Y, PlotStyle.Color(at), dash: PlotStyle.Dash(at), markers: true, inLegend: several)),
        ];
    }

    private static Trace Line(
        string name,
        IReadOnlyList<double> x,
        IReadOnlyList<double> y,
        string color,
        double width = 2,
        string dash = "solid",
        bool markers = false,
        bool inLegend = true) =>
        PlotStyle.Trace(
            "scatter",
            ("name", name),
            ("mode", markers ? "lines+markers" : "lines"),
            ("x", PlotStyle.Gaps(x)),
            ("y", PlotStyle.Gaps(y)),
            ("showlegend", inLegend),
            ("line", PlotStyle.Obj(("color", color), ("width", width), ("dash", dash))),
            ("marker", markers ? PlotStyle.Obj(("color", color), ("size", 7)) : null));

    private static void RequireSome<T>(IReadOnlyList<T> items, string what)
    {
        ArgumentNullException.ThrowIfNull(items);
        if (items.Count == 0)
        {
            throw new ArgumentException($"Expected at least one {what}, got none.", nameof(items));
        }
    }
}
