using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Microsoft.DotNet.Interactive.Formatting;
using Plotly.NET;

namespace XlstmLab.Notebooks;

/// <summary>Renders charts: as figures and pictures for the cells of this library, as HTML for pages and for other engines.</summary>
internal static partial class ChartHtml
{
    /// <summary>Surrounds the drawing library in an output, so that an exported page can hold it once.</summary>
    private const string LibraryStart = "<script data-xlstm=\"plotly\">";

    private const string LibraryEnd = "</script><!-- plotly -->";
    private const string ChartClass = "xlstm-chart";

    /// <summary>A figure as plotly takes it.</summary>
    public const string FigureType = "application/vnd.plotly.v1+json";

    /// <summary>A picture.</summary>
    public const string PictureType = "image/svg+xml";

    private static readonly Lazy<string> PlotlyJs = new(ReadPlotlyJs);
    private static readonly Lazy<JsonObject> PlainLayout = new(
        () => Figure(Plotly.NET.CSharp.Chart.Point<int, int, string>([0], [0]))["layout"]!.AsObject());

    private static bool _processHasLibrary;
    private static int _count;

    public static ChartStyle Style { get; set; } = ChartStyle.Default;

    /// <summary>In another engine a process stands for a notebook.</summary>
    public static void ForgetProcess() => _processHasLibrary = false;

    public static string Describe(GenericChart chart) => Describe(Figure(chart));

    private static string Describe(JsonObject figure)
    {
        var traces = figure["data"]!.AsArray();
        string kinds = string.Join(", ", traces.Take(8).Select(trace => (string?)trace!["name"] ?? (string?)trace["type"] ?? "trace"));
        return $"chart, {traces.Count} {(traces.Count == 1 ? "trace" : "traces")}: {kinds}{(traces.Count > 8 ? ", ..." : "")}";
    }

    /// <summary>
    /// HTML for the engine of others, which knows no figures: a picture, which becomes a figure in a page that has plotly. What only plotly
    /// can draw brings plotly along.
    /// </summary>
    public static string Render(GenericChart chart)
    {
        var figure = Rounded(Styled(chart))!.AsObject();
        string picture = Svg(figure);
        return (picture.Length > 0 ? "" : Library()) + Fragment(figure, picture);
    }

    /// <summary>The figure as plotly takes it.</summary>
    public static string Json(GenericChart chart) => Rounded(Styled(chart))!.ToJsonString();

    /// <summary>The figure as a picture; empty if it can only be drawn by plotly.</summary>
    public static string Svg(GenericChart chart) => Svg(Styled(chart));

    /// <summary>All that a cell shows of a chart: the figure, a picture if it can be drawn here, and a line.</summary>
    public static IReadOnlyList<FormattedValue> Formats(GenericChart chart) => Formats(Json(chart));

    /// <summary>The same of a figure. The library takes a tenth of a second to write one: it does so once.</summary>
    public static IReadOnlyList<FormattedValue> Formats(string json)
    {
        var figure = JsonNode.Parse(json)!.AsObject();
        return [new(FigureType, json), new(PictureType, Svg(figure)), new("text/plain", Describe(figure))];
    }

    private static string Svg(JsonObject figure)
    {
        try
        {
            return ChartSvg.Draw(figure) ?? "";
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException or FormatException
            or OverflowException or IndexOutOfRangeException)
        {
            // A figure may hold anything: what plotly makes sense of must not fail the cell.
            return "";
        }
    }

    /// <summary>The part of a page that draws a figure with the page's library.</summary>
    /// <param name="figure">What plotly takes: data, layout, config.</param>
    /// <param name="picture">What is shown where there is no such library; empty for a word about it.</param>
    public static string Fragment(JsonObject figure, string picture = "")
    {
        string json = figure.ToJsonString();
        string height = (figure["layout"] as JsonObject)?["height"] is JsonValue value && value.GetValueKind() == JsonValueKind.Number
            ? value.ToJsonString() : Style.Height.ToString(CultureInfo.InvariantCulture);

        // The same chart may be shown twice, and outputs of several runs may meet on a page.
        string seed = $"{Interlocked.Increment(ref _count)} {json}";
        string id = "chart-" + Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(seed)))[..12];
        string otherwise = picture.Length > 0 ? ""
            : "if(e)e.textContent=\"The chart needs the output of the notebook's first chart: run the notebook from its start.\";";
        return $$$"""
            <div id="{{{id}}}" class="{{{ChartClass}}}" style="min-height:{{{height}}}px">{{{picture}}}</div>
            <script>(function(){var f={{{json}}},n=0;
            function draw(){var e=document.getElementById("{{{id}}}");
            if(window.Plotly&&e){e.textContent="";e.style.height="{{{height}}}px";window.Plotly.newPlot(e,f.data,f.layout,f.config);return true;}
            if(++n>100){{{{otherwise}}}return true;}}
            if(!draw()){var t=setInterval(function(){if(draw())clearInterval(t);},100);}
            })();</script>
            """;
    }

    /// <summary>Whether an output draws a chart.</summary>
    public static bool IsChart(string html) => html.Contains($"class=\"{ChartClass}\"", StringComparison.Ordinal);

    /// <summary>An output without the drawing library.</summary>
    public static string WithoutLibrary(string html) => EmbeddedLibrary().Replace(html, "");

    /// <summary>The drawing library as one script element. A page's module loader must not see it: it has to become a global.</summary>
    public static string LibraryScript() =>
        $"{LibraryStart}(function(){{var define,module,exports;{PlotlyJs.Value}\n}}).call(window);{LibraryEnd}";

    /// <summary>
    /// The library, once, for the engine of others. The cells of this library never have it, since their figures are drawn by the page that
    /// shows them.
    /// </summary>
    private static string Library()
    {
        if (CellContext.Current is not null || _processHasLibrary)
        {
            return "";
        }

        _processHasLibrary = true;
        return LibraryScript() + "\n";
    }

    /// <summary>The figure in as many digits as a picture can show: a notebook holds thousands of them.</summary>
    private static JsonNode? Rounded(JsonNode? node)
    {
        switch (node)
        {
            case JsonObject json:
                return new JsonObject(json.Select(entry => KeyValuePair.Create(entry.Key, Rounded(entry.Value))));
            case JsonArray array:
                return new JsonArray([.. array.Select(Rounded)]);
            case JsonValue value when value.GetValueKind() == JsonValueKind.Number && value.TryGetValue(out double number):
                return double.Parse(number.ToString("G6", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) is var rounded
                    && rounded == Math.Floor(rounded) && Math.Abs(rounded) < 1e9
                    ? JsonValue.Create((long)rounded) : JsonValue.Create(rounded);
            default:
                return node?.DeepClone();
        }
    }

    private static JsonObject Figure(GenericChart chart) => JsonNode.Parse(GenericChart.toFigureJson(chart))!.AsObject();

    /// <summary>
    /// Replaces Plotly.NET's defaults (a fixed 600 by 600 pixels, a grey template) by the style; what the chart sets differs from them.
    /// </summary>
    internal static JsonObject Styled(GenericChart chart)
    {
        var figure = Figure(chart);
        if (figure["layout"] is not JsonObject layout)
        {
            figure["layout"] = layout = [];
        }

        if (IsPlain(layout, "template"))
        {
            layout["template"] = Style.ToTemplate(HasTitle(layout));
        }

        if (IsPlain(layout, "width"))
        {
            layout.Remove("width");
            layout.TryAdd("autosize", true);
        }

        if (IsPlain(layout, "height"))
        {
            layout["height"] = Style.Height;
        }

        if (figure["config"] is not JsonObject config)
        {
            figure["config"] = config = [];
        }

        config.TryAdd("responsive", true);
        config.TryAdd("displaylogo", false);
        config.TryAdd("displayModeBar", false);
        return figure;
    }

    private static bool IsPlain(JsonObject layout, string key) =>
        layout[key] is null || JsonNode.DeepEquals(layout[key], PlainLayout.Value[key]);

    private static bool HasTitle(JsonObject layout) =>
        layout["title"] is JsonObject title ? title["text"] is not null : layout["title"] is not null;

    private static string ReadPlotlyJs()
    {
        var assembly = typeof(GenericChart).Assembly;
        string name = Array.Find(
            assembly.GetManifestResourceNames(),
            name => name.Contains("plotly-", StringComparison.Ordinal) && name.EndsWith(".min.js", StringComparison.Ordinal))
            ?? throw new NotebookException($"{assembly.GetName()} does not contain plotly.js: charts cannot be drawn offline.");
        using StreamReader reader = new(assembly.GetManifestResourceStream(name)!, Encoding.UTF8);
        return reader.ReadToEnd().Replace("\r\n", "\n", StringComparison.Ordinal);
    }

    [GeneratedRegex("<script data-xlstm=\"plotly\">.*?</script><!-- plotly -->\n?", RegexOptions.Singleline)]
    private static partial Regex EmbeddedLibrary();
}
