using System.Globalization;
using Plotly.NET;
using XlstmLab.Analysis;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>
    /// What gates open for: the excess of each class of tokens in each head, red where the gate opens wider than for the others.
    /// </summary>
    /// <param name="selectivities">The selectivities.</param>
    /// <param name="quantity">The quantity they were computed for, for the title.</param>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static GenericChart Selectivity(IReadOnlyList<GateSelectivity> selectivities, GateQuantity quantity = GateQuantity.LogInputGate)
    {
        RequireSome(selectivities, "selectivity");
        var classes = selectivities.Select(s => s.Class).Distinct().ToArray();
        var heads = selectivities.Select(s => (s.Layer, s.Head)).Distinct().ToArray();
        var excess = selectivities.ToDictionary(s => (s.Layer, s.Head, s.Class), s => s.Excess);
        var cells = heads
            .Select(h => classes.Select(c => excess.GetValueOrDefault((h.Layer, h.Head, c), double.NaN)).ToArray())
            .ToArray();
        var strongest = cells.SelectMany(row => row).Where(double.IsFinite).Select(Math.Abs).DefaultIfEmpty(1).Max();
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", Array.ConvertAll(classes, Words)),
            ("y", Array.ConvertAll(heads, h => HeadOfBlock(h.Layer, h.Head))),
            ("z", cells.Select(row => PlotStyle.Gaps(row)).ToArray()),
            ("text", cells.Select(row => row.Select(Signed).ToArray()).ToArray()),
            ("texttemplate", "%{text}"),
            ("textfont", PlotStyle.Obj(("size", 11))),
            ("zmin", -strongest),
            ("zmax", strongest),
            ("colorscale", PlotStyle.SignedColorScale),
            ("colorbar", PlotStyle.ColorBar($"Excess over other tokens{Unit(quantity)}")),
            ("hovertemplate", "%{y}, %{x}: %{z:.3g}<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis($"{QuantityName(quantity)} by class of token", ("type", "category"), ("showgrid", false)),
            PlotStyle.Axis("", ("type", "category"), ("autorange", "reversed"), ("showgrid", false), ("ticks", ""), ("ticksuffix", " ")),
            Math.Max(240, 110 + 24 * heads.Length));

        string Signed(double value) => double.IsFinite(value)
            ? value.ToString(strongest < 1 ? "+0.00;−0.00;0.00" : "+0.0;−0.0;0.0", CultureInfo.InvariantCulture)
            : "";
    }

    /// <summary>The channels of an activation, block by block: each channel's root mean square over that of all channels.</summary>
    /// <param name="report">The report.</param>
    public static GenericChart OutlierChannels(OutlierReport report)
    {
        var blocks = report.Channels.GroupBy(c => c.Layer).ToArray();
        var width = blocks.Max(b => b.Count());
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", Enumerable.Range(0, width).ToArray()),
            ("y", blocks.Select(b => $"block {b.Key}").ToArray()),
            ("z", blocks.Select(b => PlotStyle.Gaps(b.Select(c => c.RelativeRms))).ToArray()),
            ("zmin", 0),
            ("zmax", report.Channels.Max(c => c.RelativeRms)),
            ("colorscale", PlotStyle.ColorScale),
            ("colorbar", PlotStyle.ColorBar("RMS / RMS of all")),
            ("hovertemplate", "%{y}, channel %{x}: %{z:.3g}<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis("Channel", ("showgrid", false)),
            PlotStyle.Axis("", ("type", "category"), ("autorange", "reversed"), ("showgrid", false), ("ticks", ""), ("ticksuffix", " ")),
            Math.Max(240, 120 + 30 * blocks.Length));
    }

    /// <summary>
    /// How heavy the tails of an activation are, block by block: greatest magnitude over root mean square above, kurtosis below.
    /// </summary>
    /// <param name="report">The report. The dotted line is the kurtosis of normally distributed values, 3.</param>
    public static GenericChart OutliersByBlock(OutlierReport report)
    {
        var x = report.Blocks.Select(b => (double)b.Layer).ToArray();
        return TwoPanels(
            [
                Line("max/RMS", x, [.. report.Blocks.Select(b => b.MaxOverRms)], PlotStyle.Color(0), markers: true, inLegend: false),
                Lower(Line("kurtosis", x, [.. report.Blocks.Select(b => b.Kurtosis)], PlotStyle.Color(1), markers: true, inLegend: false)),
                Lower(Line("normal distribution", [x[0], x[^1]], [3, 3], PlotStyle.Muted, width: 1.5, dash: "dot", inLegend: false)),
            ],
            PlotStyle.Axis("Block", ("tickmode", "array"), ("tickvals", x)),
            PlotStyle.Axis("Maximum / RMS", ("rangemode", "tozero")),
            PlotStyle.Axis("Kurtosis", ("rangemode", "tozero")));
    }

    /// <summary>The unit of a quantity's differences, in brackets; empty where it is a plain number.</summary>
    private static string Unit(GateQuantity quantity) =>
        QuantityName(quantity) is var name && name.EndsWith("(nats)", StringComparison.Ordinal) ? " (nats)" : "";

    /// <summary>The name of an enum's member as words: SentenceEnd is "sentence end".</summary>
    private static string Words(string name) =>
        string.Concat(name.Select((c, at) => char.IsUpper(c) && (at == 0 || char.IsLower(name[at - 1]))
            ? $"{(at > 0 ? " " : "")}{char.ToLowerInvariant(c)}"
            : $"{c}"));
}
