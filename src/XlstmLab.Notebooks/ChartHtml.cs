using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Plotly.NET;

namespace XlstmLab.Notebooks;

/// <summary>Renders charts as small HTML fragments; the first of a notebook brings plotly.js along, so that a saved notebook draws offline.</summary>
internal static partial class ChartHtml
{
    /// <summary>Surrounds the drawing library in an output, so that an exported page can hold it once.</summary>
    private const string LibraryStart = "<script data-xlstm=\"plotly\">";

    private const string LibraryEnd = "</script><!-- plotly -->";
    private const string ChartClass = "xlstm-chart";

    private static readonly Lazy<string> PlotlyJs = new(ReadPlotlyJs);
    private static readonly Lazy<JsonObject> PlainLayout = new(() => Figure(Plotly.NET.CSharp.Chart.Point<int, int, string>([0], [0]))["layout"]!.AsObject());

    private static bool _processHasLibrary;
    private static int _count;

    public static ChartStyle Style { get; set; } = ChartStyle.Default;

    /// <summary>Outside of this library's engine a process stands for a notebook.</summary>
    public static void ForgetProcess() => _processHasLibrary = false;

    public static string Describe(GenericChart chart)
    {
        var traces = Figure(chart)["data"]!.AsArray();
        string kinds = string.Join(", ", traces.Take(8).Select(trace => (string?)trace!["name"] ?? (string?)trace["type"] ?? "trace"));
        return $"chart, {traces.Count} {(traces.Count == 1 ? "trace" : "traces")}: {kinds}{(traces.Count > 8 ? ", ..." : "")}";
    }

    public static string Render(GenericChart chart) => Library() + Fragment(Styled(chart));

    /// <summary>The part of a page that draws a figure with the page's library.</summary>
    /// <param name="figure">What plotly takes: data, layout, config.</param>
    public static string Fragment(JsonObject figure)
    {
        string json = figure.ToJsonString();
        string height = (figure["layout"] as JsonObject)?["height"] is JsonValue value && value.GetValueKind() == JsonValueKind.Number
            ? value.ToJsonString() : Style.Height.ToString(CultureInfo.InvariantCulture);

        // The same chart may be shown twice, and outputs of several runs may meet on a page.
        string seed = $"{Interlocked.Increment(ref _count)} {json}";
        string id = "chart-" + Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(seed)))[..12];
        return $$$"""
            <div id="{{{id}}}" class="{{{ChartClass}}}" style="height:{{{height}}}px"></div>
            <script>(function(){var f={{{json}}},n=0;
            function draw(){var e=document.getElementById("{{{id}}}");
            if(window.Plotly&&e){window.Plotly.newPlot(e,f.data,f.layout,f.config);return true;}
            if(++n>100){if(e)e.textContent="The chart needs the output of the notebook's first chart: run the notebook from its start.";return true;}}
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

    private static string Library()
    {
        bool there = CellContext.Current is { } cell ? cell.Engine.HasChartLibrary : _processHasLibrary;
        if (there)
        {
            return "";
        }

        if (CellContext.Current is { } context)
        {
            context.Engine.HasChartLibrary = true;
        }
        else
        {
            _processHasLibrary = true;
        }

        return LibraryScript() + "\n";
    }

    private static JsonObject Figure(GenericChart chart) => JsonNode.Parse(GenericChart.toFigureJson(chart))!.AsObject();

    /// <summary>Replaces Plotly.NET's defaults (a fixed 600 by 600 pixels, a grey template) by the style; what the chart sets differs from them.</summary>
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

    private static bool IsPlain(JsonObject layout, string key) => layout[key] is null || JsonNode.DeepEquals(layout[key], PlainLayout.Value[key]);

    private static bool HasTitle(JsonObject layout) => layout["title"] is JsonObject title ? title["text"] is not null : layout["title"] is not null;

    private static string ReadPlotlyJs()
    {
        var assembly = typeof(GenericChart).Assembly;
        string name = Array.Find(assembly.GetManifestResourceNames(), name => name.Contains("plotly-", StringComparison.Ordinal) && name.EndsWith(".min.js", StringComparison.Ordinal))
            ?? throw new NotebookException($"{assembly.GetName()} does not contain plotly.js: charts cannot be drawn offline.");
        using StreamReader reader = new(assembly.GetManifestResourceStream(name)!, Encoding.UTF8);
        return reader.ReadToEnd().Replace("\r\n", "\n", StringComparison.Ordinal);
    }

    [GeneratedRegex("<script data-xlstm=\"plotly\">.*?</script><!-- plotly -->\n?", RegexOptions.Singleline)]
    private static partial Regex EmbeddedLibrary();
}
