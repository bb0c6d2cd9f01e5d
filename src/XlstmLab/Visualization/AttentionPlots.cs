using Plotly.NET;
using XlstmLab.Analysis;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    /// <summary>The share of weights that the colours tell apart; those above it, a few, have the last colour.</summary>
    private const double ColouredShare = 0.995;

    /// <summary>How one head reads: a row for each token that reads, a column for each token read.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="layer">The block, from 0.</param>
    /// <param name="head">The head, from 0.</param>
    /// <param name="tokenTexts">
    /// The text of each token of the sequence, for the axes; null for positions. Beyond 60 tokens not shown.
    /// </param>
    /// <param name="sequence">The row of the batch.</param>
    /// <param name="start">The first token shown.</param>
    /// <param name="count">The number of tokens shown; null for all.</param>
    /// <exception cref="ArgumentException">There is no such block, head, sequence or range, or not a text for each token.</exception>
    public static GenericChart AttentionMap(
        AttentionRecording recording,
        int layer,
        int head,
        IReadOnlyList<string>? tokenTexts = null,
        int sequence = 0,
        int start = 0,
        int? count = null)
    {
        CheckRange(recording.Length, tokenTexts, start, count);
        var shown = count ?? recording.Length - start;
        var weights = Enumerable.Range(start, shown)
            .Select(query => recording.Row(layer, head, query, sequence).Slice(start, shown).ToArray().Index()
                .Select(w => w.Index <= query - start ? (double)w.Item : double.NaN)
                .ToArray())
            .ToArray();
        var present = weights.SelectMany(row => row).Where(double.IsFinite).ToArray();
        var magnitudes = present.Select(Math.Abs).Where(w => w > 0).Order().DefaultIfEmpty(1).ToArray();
        var strongest = magnitudes[(int)((magnitudes.Length - 1) * ColouredShare)];
        var signed = present.Any(w => w < 0);
        var texts = tokenTexts?.Skip(start).Take(shown).Select(Visible).ToArray();
        var positions = Enumerable.Range(start, shown).ToArray();
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", positions),
            ("y", positions),
            ("z", weights.Select(row => PlotStyle.Gaps(row)).ToArray()),
            ("zmin", signed ? -strongest : 0),
            ("zmax", strongest),
            ("colorscale", signed ? PlotStyle.SignedColorScale : PlotStyle.ColorScale),
            ("colorbar", PlotStyle.ColorBar("Weight", "top")),
            ("hovertemplate", "token %{y} reads %{x}: %{z:.3g}<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            TokenAxis("Token read", texts, start),
            TokenAxis("Reading token", texts, start, ("autorange", "reversed"), ("tickangle", 0), ("tickfont", PlotStyle.Font(10))),
            Math.Max(PlotStyle.Width - 120, LongestLabel(texts) > 0 ? 120 + 12 * shown : 0));
    }

    private static void CheckRange(int length, IReadOnlyList<string>? tokenTexts, int start, int? count)
    {
        if (tokenTexts is not null && tokenTexts.Count != length)
        {
            throw new ArgumentException($"Expected a text for each of {length} tokens, got {tokenTexts.Count}.", nameof(tokenTexts));
        }

        var shown = count ?? length - start;
        if (start < 0 || shown < 1 || start + shown > length)
        {
            throw new ArgumentOutOfRangeException(nameof(start), $"Expected tokens within 0 to {length - 1}, got {shown} from {start}.");
        }
    }
}
