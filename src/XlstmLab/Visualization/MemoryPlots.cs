using System.Globalization;
using Plotly.NET;
using XlstmLab.Analysis;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>The least lifetime that a logarithmic axis has a place for, in tokens.</summary>
    private const double ShortestLifetime = 0.01;

    /// <summary>
    /// How long heads remember: for each head the median lifetime of its traces, a bar over half and a line over 90 % of them.
    /// </summary>
    /// <param name="lifetimes">
    /// The heads, as <see cref="TraceLifetimes.HeadLifetimes"/> gives them. What is infinite ends at the plot's border.
    /// </param>
    /// <exception cref="ArgumentException">There is no head.</exception>
    public static GenericChart Lifetimes(IReadOnlyList<HeadLifetime> lifetimes)
    {
        RequireSome(lifetimes, "head");
        var finite = lifetimes.SelectMany(l => new[] { l.Quantile05, l.Quantile25, l.Median, l.Quantile75, l.Quantile95 })
            .Where(double.IsFinite)
            .Select(Shown)
            .DefaultIfEmpty(1)
            .ToArray();
        var (least, greatest) = (finite.Min() / 1.3, finite.Max() * 1.3);
        var traces = new List<Trace>();
        foreach (var (at, block) in lifetimes.GroupBy(l => l.Layer).Index())
        {
            var color = PlotStyle.Color(at);
            traces.Add(Span(block, color, 1.5, l => l.Quantile05, l => l.Quantile95));
            traces.Add(Span(block, PlotStyle.Translucent(color, 0.5), 8, l => l.Quantile25, l => l.Quantile75));
            traces.Add(PlotStyle.Trace(
                "scatter",
                ("name", $"block {block.Key}"),
                ("mode", "markers"),
                ("x", PlotStyle.Gaps(block.Select(l => Shown(l.Median)))),
                ("y", block.Select(HeadName).ToArray()),
                ("marker", PlotStyle.Obj(("color", color), ("size", 9))),
                ("hovertemplate", "%{y}: %{x:.3g} tokens<extra></extra>")));
        }

        var share = lifetimes[0].Share;
        var axis = PlotStyle.LogAxis(
            $"{LifetimeName(share)} (tokens): median, 50 % and 90 % of traces", finite.Append(least).Append(greatest));
        axis.SetProperty("range", new[] { Math.Log10(least), Math.Log10(greatest) });
        return PlotStyle.Chart(
            traces,
            axis,
            PlotStyle.Axis(
                "",
                ("type", "category"),
                ("categoryorder", "array"),
                ("categoryarray", lifetimes.Select(HeadName).ToArray()),
                ("autorange", "reversed"),
                ("ticks", ""),
                ("ticksuffix", " ")),
            Math.Max(220, 110 + 24 * lifetimes.Count));

        Trace Span(
            IEnumerable<HeadLifetime> heads, string color, double width, Func<HeadLifetime, double> from, Func<HeadLifetime, double> to)
        {
            var (x, y) = (new List<double>(), new List<string>());
            foreach (var head in heads)
            {
                x.AddRange([Math.Min(Shown(from(head)), greatest), Math.Min(Shown(to(head)), greatest), double.NaN]);
                y.AddRange(Enumerable.Repeat(HeadName(head), 3));
            }

            return PlotStyle.Trace(
                "scatter",
                ("mode", "lines"),
                ("x", PlotStyle.Gaps(x)),
                ("y", y),
                ("showlegend", false),
                ("hoverinfo", "skip"),
                ("line", PlotStyle.Obj(("color", color), ("width", width))));
        }

        static double Shown(double tokens) => Math.Max(tokens, ShortestLifetime);
        static string HeadName(HeadLifetime head) => HeadOfBlock(head.Layer, head.Head);
    }

    /// <summary>
    /// What heads could read against what they do: the median lifetime of traces across, the mean age of what is read upwards.
    /// </summary>
    /// <param name="lifetimes">The heads' lifetimes; a head whose median is infinite is left out.</param>
    /// <param name="ranges">The same heads' reading ranges.</param>
    /// <exception cref="ArgumentException">No head has both.</exception>
    public static GenericChart ReadingAge(IReadOnlyList<HeadLifetime> lifetimes, IReadOnlyList<ReadingRange> ranges)
    {
        var heads = lifetimes
            .Join(ranges, l => (l.Layer, l.Head), r => (r.Layer, r.Head), (l, r) => (l.Layer, l.Head, X: l.Median, Y: r.MeanAge))
            .Where(h => double.IsFinite(h.X) && h.X > 0 && h.Y > 0)
            .ToArray();
        RequireSome(heads, "head with both a lifetime and a reading range");
        var all = heads.SelectMany(h => new[] { h.X, h.Y }).ToArray();
        double[] ends = [all.Min() / 1.3, all.Max() * 1.3];
        var traces = heads.GroupBy(h => h.Layer).Index().Select(block => PlotStyle.Trace(
            "scatter",
            ("name", $"block {block.Item.Key}"),
            ("mode", "markers+text"),
            ("x", PlotStyle.Gaps(block.Item.Select(h => h.X))),
            ("y", PlotStyle.Gaps(block.Item.Select(h => h.Y))),
            ("text", block.Item.Select(h => h.Head.ToString(CultureInfo.InvariantCulture)).ToArray()),
            ("textposition", "middle right"),
            ("textfont", PlotStyle.Font(11)),
            ("cliponaxis", false),
            ("marker", PlotStyle.Obj(("color", PlotStyle.Color(block.Index)), ("size", 9))),
            ("hovertemplate", "head %{text}: remembers %{x:.3g}, reads %{y:.3g} tokens back<extra></extra>")));
        var share = lifetimes[0].Share;
        var remembered = $"{LifetimeName(share)} (tokens)";
        return PlotStyle.Chart(
            [Line("as old as remembered", ends, ends, PlotStyle.Muted, width: 1.5, dash: "dot"), .. traces],
            PlotStyle.LogAxis(remembered, heads.Select(h => h.X)),
            PlotStyle.LogAxis("Mean age of what is read (tokens)", heads.Select(h => h.Y)));
    }

    /// <summary>How full the memories of one block are: effective rank above, with its bound, and norm below, over the tokens.</summary>
    /// <param name="ranks">The measurements, as <see cref="StateRanks"/> gives them.</param>
    /// <param name="layer">The block.</param>
    /// <param name="sequence">The row of the batch.</param>
    /// <param name="stable">Whether the stable rank is shown instead.</param>
    /// <exception cref="ArgumentException">There is no measurement of that block and sequence.</exception>
    public static GenericChart StateRank(IReadOnlyList<StateRank> ranks, int layer, int sequence = 0, bool stable = false)
    {
        var shown = ranks.Where(r => r.Layer == layer && r.Sequence == sequence).ToArray();
        RequireSome(shown, $"measurement of block {layer}, sequence {sequence}");
        var traces = new List<Trace>();
        foreach (var head in shown.GroupBy(r => r.Head))
        {
            var x = head.Select(r => (double)r.Token).ToArray();
            var color = PlotStyle.Color(head.Key);
            traces.Add(Line($"head {head.Key}", x, [.. head.Select(r => stable ? r.StableRank : r.EffectiveRank)], color, width: 1.6));
            traces.Add(Lower(Line($"head {head.Key}", x, [.. head.Select(r => r.Norm)], color, width: 1.6, inLegend: false)));
        }

        double[] ends = [shown.Min(r => r.Token), shown.Max(r => r.Token)];
        traces.Add(Line("full rank", ends, [shown[0].FullRank, shown[0].FullRank], PlotStyle.Muted, width: 1.5, dash: "dot"));
        return TwoPanels(
            traces,
            PlotStyle.Axis("Token position"),
            PlotStyle.Axis(stable ? "Stable rank" : "Effective rank", ("rangemode", "tozero")),
            LinearOrLog("Norm e<sup>m</sup>|C|", shown.Select(r => r.Norm), log: true));
    }

    /// <summary>
    /// What a needle leaves in one block: the relative distance of the memories above, the change of the input gates below.
    /// </summary>
    /// <param name="response">The response.</param>
    /// <param name="layer">The block.</param>
    /// <param name="tokens">The tokens after the needle that are shown; null for all.</param>
    /// <exception cref="ArgumentException">There is nothing of that block.</exception>
    public static GenericChart NeedleResponse(NeedleResponse response, int layer, int? tokens = null)
    {
        var shown = response.Effects.Where(e => e.Layer == layer && e.Age <= (tokens ?? int.MaxValue)).ToArray();
        RequireSome(shown, $"effect in block {layer}");
        var traces = new List<Trace>();
        foreach (var head in shown.GroupBy(e => e.Head))
        {
            var x = head.Select(e => (double)e.Age).ToArray();
            var color = PlotStyle.Color(head.Key);
            traces.Add(Line($"head {head.Key}", x, [.. head.Select(e => e.RelativeDistance)], color, width: 1.6));
            traces.Add(Lower(Line($"head {head.Key}", x, [.. head.Select(e => e.InputChange)], color, width: 1.3, inLegend: false)));
        }

        return TwoPanels(
            traces,
            PlotStyle.Axis("Tokens read since the needle"),
            LinearOrLog("Distance / norm", shown.Select(e => e.RelativeDistance), log: true),
            PlotStyle.Axis("Δ log input gate (nats)"));
    }

    /// <summary>What a trace's lifetime until a share is left is called.</summary>
    private static string LifetimeName(double share) => share switch
    {
        TraceLifetimes.Half => "Half-life",
        TraceLifetimes.OneOverE => "Effective memory length",
        _ => $"Lifetime until {share.ToString("0.###", CultureInfo.InvariantCulture)} is left",
    };

    private static string HeadOfBlock(int block, int head) => $"block {block}, head {head}";
}
