using System.Globalization;
using Microsoft.FSharp.Collections;
using Plotly.NET;
using Plotly.NET.LayoutObjects;
using DynObj = DynamicObj.DynamicObj;

namespace XlstmLab.Visualization;

/// <summary>How every plot of the laboratory looks: set here, and only here.</summary>
/// <remarks>Traces and layouts are written in plotly.js' own attribute names, so its reference describes them.</remarks>
public static class PlotStyle
{
    /// <summary>The width of a plot, in pixels.</summary>
    public const int Width = 760;

    /// <summary>The height of a plot, in pixels.</summary>
    public const int Height = 420;

    /// <summary>The colour scale of heat maps: even in lightness, also to the colour-blind.</summary>
    public const string ColorScale = "Viridis";

    /// <summary>The colour scale of heat maps of signed values, white at 0: blue below, red above.</summary>
    internal static readonly object[] SignedColorScale =
    [
        new object[] { 0, "#2166AC" },
        new object[] { 0.25, "#92C5DE" },
        new object[] { 0.5, "#F7F7F7" },
        new object[] { 0.75, "#F4A582" },
        new object[] { 1, "#B2182B" },
    ];

    /// <summary>The colour of what a plot is not about.</summary>
    public const string Muted = "#9AA5B1";

    /// <summary>The labels of a logarithmic axis over less than half a power of ten.</summary>
    private static readonly double[] Near =
        [1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3, 3.2, 3.4, 3.6, 3.8, 4, 4.5, 5, 5.5, 6, 7, 8, 9];

    internal const string Ink = "#222B36";
    private const string FontFamily = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";
    private const string GridColor = "#E3E7EC";
    private const string LineColor = "#6B7785";

    /// <summary>The colours of lines and bars (Okabe and Ito 2008), told apart by the colour-blind too; the palest two come last.</summary>
    public static IReadOnlyList<string> Palette { get; } =
        ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442"];

    /// <summary>The colour of the line or bar of that index; after the last colour they start again.</summary>
    public static string Color(int index) => Palette[index % Palette.Count];

    /// <summary>The plot with a title above its legend, for a figure that stands by itself, as a file does.</summary>
    /// <param name="chart">A plot of <see cref="Plots"/>.</param>
    /// <param name="title">The title.</param>
    /// <returns>The same chart.</returns>
    public static GenericChart Titled(this GenericChart chart, string title)
    {
        ArgumentNullException.ThrowIfNull(chart);
        ArgumentException.ThrowIfNullOrWhiteSpace(title);
        const int line = 40;
        var layout = GenericChart.getLayout(chart);
        var before = layout.TryGetTypedPropertyValue<int>("height");
        var height = (Microsoft.FSharp.Core.FSharpOption<int>.get_IsSome(before) ? before.Value : Height) + line;
        return GenericChart.setLayout(
            With(
                layout,
                ("title", Obj(
                    ("text", title), ("font", Font(16)), ("x", 0), ("xref", "paper"), ("xanchor", "left"), ("y", 1), ("yref", "container"),
                    ("yanchor", "top"),
                    ("pad", Obj(("t", 14))))),
                ("margin", Margin(24 + line)),
                ("height", height),

                // A legend of several lines grows downward, away from the title.
                ("legend", Obj(
                    ("orientation", "h"), ("x", 0), ("xanchor", "left"), ("y", 1 - 34.0 / height), ("yref", "container"),
                    ("yanchor", "top"), ("font", Font(12))))),
            chart);
    }

    internal static string Dash(int index) =>
        ((index / Palette.Count) % 4) switch { 0 => "solid", 1 => "dash", 2 => "dot", _ => "dashdot" };

    internal static string Translucent(string color, double opacity) => string.Create(
        CultureInfo.InvariantCulture,
        $"rgba({Convert.ToInt32(color[1..3], 16)},{Convert.ToInt32(color[3..5], 16)},{Convert.ToInt32(color[5..7], 16)},{opacity})");

    /// <summary>An object of plotly.js.</summary>
    internal static DynObj Obj(params ReadOnlySpan<(string Name, object? Value)> attributes) => With(new DynObj(), attributes);

    internal static Trace Trace(string type, params ReadOnlySpan<(string Name, object? Value)> attributes) =>
        With(new Trace(type), attributes);

    internal static LinearAxis Axis(string title, params ReadOnlySpan<(string Name, object? Value)> attributes)
    {
        var axis = With(
            new LinearAxis(),
            ("title", Obj(("text", title), ("font", Font(14)), ("standoff", 10))),
            ("tickfont", Font(12)),
            ("showline", true),
            ("linecolor", LineColor),
            ("linewidth", 1),
            ("ticks", "outside"),
            ("ticklen", 4),
            ("tickcolor", LineColor),
            ("gridcolor", GridColor),
            ("zeroline", false),
            ("automargin", true),
            ("exponentformat", "SI"));
        return With(axis, attributes);
    }

    /// <summary>An axis with a label at each power of ten, and at numbers between them where the range is short.</summary>
    internal static LinearAxis LogAxis(string title, IEnumerable<double> values)
    {
        var shown = values.Where(v => double.IsFinite(v) && v > 0).ToArray();
        var axis = Axis(title, ("type", "log"));
        if (shown.Length == 0)
        {
            return axis;
        }

        var (least, greatest) = (shown.Min(), shown.Max());
        double[] factors = (greatest / least) switch { <= 2.5 => Near, <= 10 => [1, 1.5, 2, 3, 4, 5, 7], <= 100 => [1, 2, 5], _ => [1] };
        var ticks = Enumerable.Range((int)Math.Floor(Math.Log10(least)) - 1, (int)(Math.Log10(greatest) - Math.Log10(least)) + 4)
            .SelectMany(exponent => factors.Select(f => f * Math.Pow(10, exponent)))
            .ToArray();
        var inside = ticks.Where(t => t >= least * 0.9 && t <= greatest * 1.1).ToArray();
        return inside.Length < 2 ? axis : With(
            axis, ("tickmode", "array"), ("tickvals", ticks), ("ticktext", Array.ConvertAll(ticks, Label)));
    }

    /// <summary>A number as an axis writes it: 2M, 50k, 0.2, 10^-5.</summary>
    internal static string Label(double value) => value switch
    {
        0 => "0",
        >= 1e12 or (< 1e-3 and > 0) => Power(value),
        >= 1e9 => Short(value / 1e9) + "G",
        >= 1e6 => Short(value / 1e6) + "M",
        >= 1e3 => Short(value / 1e3) + "k",
        _ => Short(value),
    };

    internal static DynObj Font(int size) => Obj(("family", FontFamily), ("size", size), ("color", Ink));

    internal static DynObj ColorBar(string title, string side = "right") => Obj(
        ("title", Obj(("text", title), ("side", side), ("font", Font(13)))),
        ("tickfont", Font(12)),
        ("thickness", 14),
        ("outlinewidth", 0),
        ("exponentformat", "SI"));

    /// <summary>A chart of traces and axes in the common style: white, the legend above the data.</summary>
    internal static GenericChart Chart(
        IReadOnlyList<Trace> traces, LinearAxis x, LinearAxis y, int height = Height,
        params ReadOnlySpan<(string Name, object? Value)> layout)
    {
        var style = With(
            new Layout(),
            ("width", Width),
            ("height", height),
            ("font", Font(12)),
            ("paper_bgcolor", "white"),
            ("plot_bgcolor", "white"),
            ("colorway", Palette),
            ("margin", Margin(24)),
            ("hoverlabel", Obj(("font", Font(12)))),
            ("legend", Obj(("orientation", "h"), ("x", 0), ("xanchor", "left"), ("y", 1.02), ("yanchor", "bottom"), ("font", Font(12)))),

            // Labels are short; who points at a place reads the step or the count in full.
            ("xaxis", With(x, ("hoverformat", ",~f"))),
            ("yaxis", y));
        var chart = GenericChart.ofTraceObjects(false, ListModule.OfSeq(traces));

        // Two buttons, download and reset, leave the legend its line; zooming needs none.
        string[] removed = ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"];
        var config = With(new Config(), ("displaylogo", false), ("responsive", false), ("modeBarButtonsToRemove", removed));
        return GenericChart.setConfig(config, GenericChart.setLayout(With(style, layout), chart));
    }

    /// <summary>Numbers for a trace: what is no finite number becomes a gap. Seven digits, since pages hold them as text.</summary>
    internal static double?[] Gaps(IEnumerable<double> values) => [.. values.Select(v => double.IsFinite(v) ? Rounded(v) : (double?)null)];

    private static DynObj Margin(int top) => Obj(("l", 70), ("r", 24), ("t", top), ("b", 56));

    private static T With<T>(T target, params ReadOnlySpan<(string Name, object? Value)> attributes)
        where T : DynObj
    {
        foreach (var (name, value) in attributes)
        {
            if (value is not null)
            {
                target.SetProperty(name, value);
            }
        }

        return target;
    }

    private static double Rounded(double value) =>
        double.Parse(value.ToString("G7", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);

    private static string Short(double value) => value.ToString("0.###", CultureInfo.InvariantCulture);

    private static string Power(double value)
    {
        var exponent = (int)Math.Floor(Math.Log10(value) + 1e-9);
        var factor = value / Math.Pow(10, exponent);
        var shown = exponent.ToString(CultureInfo.InvariantCulture).Replace('-', '−');
        return $"{(Math.Abs(factor - 1) < 1e-6 ? "" : Short(factor) + "×")}10<sup>{shown}</sup>";
    }
}
