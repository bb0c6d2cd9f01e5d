using Plotly.NET;

namespace XlstmLab.Notebooks;

/// <summary>Charts as pictures that are drawn here, without a browser: the same that notebooks hold beside a figure.</summary>
public static class ChartPictures
{
    /// <summary>The chart as SVG; null if only plotly can draw it.</summary>
    /// <param name="chart">The chart: lines, markers, bars, heat maps or violins.</param>
    public static string? ToSvg(this GenericChart chart)
    {
        ArgumentNullException.ThrowIfNull(chart);
        return ChartHtml.Svg(chart) is { Length: > 0 } svg ? svg : null;
    }
}
