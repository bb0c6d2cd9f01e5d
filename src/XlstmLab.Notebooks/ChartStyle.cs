using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>The look of charts that do not set their own. Whatever a chart sets itself stays.</summary>
public sealed record ChartStyle
{
    /// <summary>A white page, thin grid, and eight colours that colour-blind readers can tell apart.</summary>
    public static ChartStyle Default { get; } = new();

    /// <summary>CSS font families, the first available of which is used.</summary>
    public string FontFamily { get; init; } = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

    /// <summary>The size of labels in pixels.</summary>
    public int FontSize { get; init; } = 13;

    /// <summary>The height of a chart in pixels; its width is that of the page.</summary>
    public int Height { get; init; } = 420;

    /// <summary>The colours of traces in their order, as CSS colours.</summary>
    public IReadOnlyList<string> Colors { get; init; } =
        ["#0b5fa5", "#d1590f", "#0a8f6c", "#b8518f", "#d99a00", "#4aa3d8", "#6b4fa0", "#5a5f66"];

    /// <summary>The style as a Plotly template, which gives way to everything that a figure sets.</summary>
    /// <param name="hasTitle">Whether room for a title is needed.</param>
    internal JsonObject ToTemplate(bool hasTitle)
    {
        JsonObject Axis() => new()
        {
            ["automargin"] = true,
            ["gridcolor"] = "#e9ebee",
            ["linecolor"] = "#8a9099",
            ["showline"] = true,
            ["tickcolor"] = "#8a9099",
            ["ticklen"] = 4,
            ["ticks"] = "outside",
            ["title"] = new JsonObject { ["font"] = new JsonObject { ["size"] = FontSize + 1 }, ["standoff"] = 10 },
            ["zeroline"] = false,
        };
        static JsonArray Heat() =>
        [
            new JsonObject
            {
                ["colorbar"] = new JsonObject { ["outlinewidth"] = 0, ["thickness"] = 14 },
                ["colorscale"] = "Viridis",
            },
        ];
        return new JsonObject
        {
            ["data"] = new JsonObject
            {
                ["contour"] = Heat(),
                ["heatmap"] = Heat(),
                ["surface"] = Heat(),
                ["scatter"] = new JsonArray(new JsonObject { ["line"] = new JsonObject { ["width"] = 2 } }),
            },
            ["layout"] = new JsonObject
            {
                ["colorway"] = new JsonArray([.. Colors.Select(color => (JsonNode)color)]),
                ["font"] = new JsonObject { ["color"] = "#24292f", ["family"] = FontFamily, ["size"] = FontSize },
                ["hovermode"] = "closest",
                ["legend"] = new JsonObject { ["bgcolor"] = "rgba(255,255,255,0.8)" },
                ["margin"] = new JsonObject { ["b"] = 52, ["l"] = 64, ["r"] = 24, ["t"] = hasTitle ? 52 : 20 },
                ["paper_bgcolor"] = "#ffffff",
                ["plot_bgcolor"] = "#ffffff",
                ["title"] = new JsonObject
                {
                    ["font"] = new JsonObject { ["size"] = FontSize + 3 },
                    ["x"] = 0,
                    ["xanchor"] = "left",
                    ["xref"] = "paper",
                },
                ["xaxis"] = Axis(),
                ["yaxis"] = Axis(),
            },
        };
    }
}
