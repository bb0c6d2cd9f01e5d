using System.Globalization;
using Plotly.NET;
using Plotly.NET.LayoutObjects;
using XlstmLab.Analysis;

namespace XlstmLab.Visualization;

public static partial class Plots
{
    private const int MostTokenLabels = 60;
    private const int LongestTokenLabel = 16;
    private const int MostViolinPoints = 500;

    /// <summary>A heat map of a quantity of one block: tokens across, heads down.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="quantity">What is shown; memory norms are shown as powers of ten.</param>
    /// <param name="layer">The block, from 0.</param>
    /// <param name="tokenTexts">
    /// The text of each token of the sequence, for the axis; null for positions. Beyond 60 tokens, in pop-ups only.
    /// </param>
    /// <param name="sequence">The row of the batch.</param>
    /// <param name="start">The first token shown.</param>
    /// <param name="count">The number of tokens shown; null for all.</param>
    /// <exception cref="ArgumentException">There is no such block, sequence or range, or not a text for each token.</exception>
    public static GenericChart GateHeatMap(
        GateRecording recording,
        GateQuantity quantity,
        int layer,
        IReadOnlyList<string>? tokenTexts = null,
        int sequence = 0,
        int start = 0,
        int? count = null)
    {
        CheckRange(recording.Length, tokenTexts, start, count);
        var shown = count ?? recording.Length - start;
        var heads = recording.Layer(layer).HeadCount;
        var power = IsMagnitude(quantity);
        var z = Enumerable.Range(0, heads)
            .Select(head => PlotStyle.Gaps(
                recording.Values(quantity, layer, head, sequence).Slice(start, shown).ToArray().Select(v => power ? Math.Log10(v) : v)))
            .ToArray();
        var texts = tokenTexts?.Skip(start).Take(shown).Select(Visible).ToArray();
        var bounds = Bounds(quantity);
        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", Enumerable.Range(start, shown).ToArray()),
            ("y", HeadNames(heads)),
            ("z", z),
            ("zmin", bounds?.Least),
            ("zmax", bounds?.Greatest),
            ("colorscale", PlotStyle.ColorScale),
            ("colorbar", PlotStyle.ColorBar(power ? $"log<sub>10</sub> {Lower(QuantityName(quantity))}" : QuantityName(quantity))),
            ("customdata", texts is null ? null : Enumerable.Repeat(texts, heads).ToArray()),
            ("hovertemplate", $"token %{{x}}{(texts is null ? "" : " '%{customdata}'")}<br>%{{y}}<br>%{{z:.4g}}<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            TokenAxis("Token", texts, start),
            PlotStyle.Axis("", ("autorange", "reversed"), ("showgrid", false), ("ticks", "")),
            Math.Max(220, 110 + 34 * heads + 7 * LongestLabel(texts)));
    }

    /// <summary>
    /// The heads' half-lives, <see cref="GateSummary.HalfLife"/>: blocks down, heads across, the number of tokens in each cell. Where less
    /// than half of what was written halved within the text, only that is known.
    /// </summary>
    /// <param name="recording">The recording.</param>
    public static GenericChart ForgetHalfLife(GateRecording recording)
    {
        var summaries = recording.Summarize();
        var layers = recording.Layers.Select(l => l.Layer).ToArray();
        var heads = recording.Layers.Max(l => l.HeadCount);
        var cells = layers
            .Select(layer => Enumerable.Range(0, heads)
                .Select(head => summaries.FirstOrDefault(s => s.Layer == layer && s.Head == head)?.HalfLife ?? double.NaN)
                .ToArray())
            .ToArray();
        var finite = cells.SelectMany(row => row).Where(double.IsFinite).Select(Math.Log10).ToArray();
        var (least, greatest) = finite.Length > 0 ? (finite.Min(), finite.Max()) : (0, 1);
        var ticks = Enumerable.Range((int)Math.Floor(least), (int)Math.Ceiling(greatest) - (int)Math.Floor(least) + 1)
            .SelectMany(e => new[] { 1.0, 2, 5 }.Select(f => f * Math.Pow(10, e)))
            .Where(t => Math.Log10(t) >= least - 1e-9 && Math.Log10(t) <= greatest + 1e-9)
            .ToArray();
        var bar = PlotStyle.ColorBar("Half-life (tokens)");
        if (ticks.Length > 1)
        {
            bar.SetProperty("tickvals", ticks.Select(Math.Log10).ToArray());
            bar.SetProperty("ticktext", Array.ConvertAll(ticks, PlotStyle.Label));
        }

        var trace = PlotStyle.Trace(
            "heatmap",
            ("x", Enumerable.Range(0, heads).Select(h => h.ToString(CultureInfo.InvariantCulture)).ToArray()),
            ("y", layers.Select(l => l.ToString(CultureInfo.InvariantCulture)).ToArray()),
            ("z", cells.Select(row => PlotStyle.Gaps(row.Select(Math.Log10))).ToArray()),
            ("text", cells.Select(row => row.Select(tokens => HalfLifeText(tokens, recording.Length)).ToArray()).ToArray()),
            ("texttemplate", "%{text}"),
            ("textfont", PlotStyle.Obj(("size", 13))),
            ("xgap", 2),
            ("ygap", 2),
            ("colorscale", PlotStyle.ColorScale),
            ("colorbar", bar),
            ("hovertemplate", "block %{y}, head %{x}<br>%{text} tokens<extra></extra>"));
        return PlotStyle.Chart(
            [trace],
            PlotStyle.Axis("Head", ("type", "category"), ("showgrid", false), ("ticks", "")),
            PlotStyle.Axis("Block", ("type", "category"), ("showgrid", false), ("ticks", ""), ("autorange", "reversed")),
            Math.Max(260, 120 + 38 * layers.Length));
    }

    /// <summary>The distribution of a quantity over all tokens: a violin for each head, grouped by block.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="quantity">What is shown; memory norms are shown as powers of ten.</param>
    public static GenericChart GateViolins(GateRecording recording, GateQuantity quantity)
    {
        var power = IsMagnitude(quantity);
        var heads = recording.Layers.Max(l => l.HeadCount);
        var traces = Enumerable.Range(0, heads).Select(head =>
        {
            var (x, y) = (new List<string>(), new List<double>());
            foreach (var layer in recording.Layers.Where(l => head < l.HeadCount))
            {
                var values = Enumerable.Range(0, recording.SequenceCount)
                    .SelectMany(sequence => recording.Values(quantity, layer.Layer, head, sequence).ToArray())
                    .Select(value => power ? Math.Log10(value) : value);
                var sample = Thinned([.. values.Where(double.IsFinite).Order()]);
                x.AddRange(Enumerable.Repeat(layer.Layer.ToString(CultureInfo.InvariantCulture), sample.Length));
                y.AddRange(sample);
            }

            return PlotStyle.Trace(
                "violin",
                ("name", $"head {head}"),
                ("x", x),
                ("y", PlotStyle.Gaps(y)),
                ("scalemode", "width"),
                ("spanmode", "hard"),
                ("points", false),
                ("box", PlotStyle.Obj(("visible", true), ("width", 0.25))),
                ("line", PlotStyle.Obj(("color", PlotStyle.Color(head)), ("width", 1.2))),
                ("fillcolor", PlotStyle.Translucent(PlotStyle.Color(head), 0.35)));
        });
        var name = power ? $"log<sub>10</sub> {Lower(QuantityName(quantity))}" : QuantityName(quantity);
        return PlotStyle.Chart(
            [.. traces],
            PlotStyle.Axis("Block", ("type", "category"), ("showgrid", false)),
            PlotStyle.Axis(name),
            PlotStyle.Height,
            ("violinmode", "group"),
            ("violingap", 0.15),
            ("violingroupgap", 0.1));
    }

    /// <summary>The distribution of a gate's pre-activations as a monitor counted it: a curve for each head of one block.</summary>
    /// <param name="monitor">The monitor.</param>
    /// <param name="gate"><c>igate_preact</c> or <c>fgate_preact</c>.</param>
    /// <param name="layer">The block.</param>
    /// <exception cref="ArgumentException">The monitor saw nothing of that gate and block.</exception>
    public static GenericChart GateHistogram(GateMonitor monitor, string gate, int layer)
    {
        var heads = monitor.Distributions().Where(d => d.Gate == gate && d.Layer == layer && d.Count > 0).ToArray();
        if (heads.Length == 0)
        {
            throw new ArgumentException($"The monitor has seen nothing of {gate} in block {layer}. Is it the model's Observer?");
        }

        var traces = heads.Select(d =>
        {
            var bins = monitor.Histogram(gate, layer, d.Head);
            return PlotStyle.Trace(
                "scatter",
                ("name", $"head {d.Head}"),
                ("mode", "lines"),
                ("x", bins.Select(b => b.Center).ToArray()),
                ("y", bins.Select(b => 100.0 * b.Count / d.Count).ToArray()),
                ("line", PlotStyle.Obj(("color", PlotStyle.Color(d.Head)), ("width", 1.5), ("shape", "hvh"))),
                ("fill", "tozeroy"),
                ("fillcolor", PlotStyle.Translucent(PlotStyle.Color(d.Head), 0.2)));
        });
        var (least, greatest) = (heads.Min(d => d.Minimum) - 1, heads.Max(d => d.Maximum) + 1);
        return PlotStyle.Chart(
            [.. traces],
            PlotStyle.Axis(
                gate == "igate_preact" ? "Input gate pre-activation" : "Forget gate pre-activation", ("range", new[] { least, greatest })),
            PlotStyle.Axis(
                $"Share of tokens (% per {GateMonitor.BinWidth.ToString(CultureInfo.InvariantCulture)})", ("rangemode", "tozero")));
    }

    /// <summary>The norm of the memory, exp(m) |C|, over the tokens: a curve for each head of one block.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="layer">The block.</param>
    /// <param name="sequence">The row of the batch.</param>
    /// <param name="stabilized">Whether |C| is shown instead, without its scale.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such block or sequence.</exception>
    public static GenericChart MemoryNorm(GateRecording recording, int layer, int sequence = 0, bool stabilized = false)
    {
        var quantity = stabilized ? GateQuantity.StabilizedMemoryNorm : GateQuantity.MemoryNorm;
        var x = Enumerable.Range(0, recording.Length).Select(t => (double)t).ToArray();
        var curves = Enumerable.Range(0, recording.Layer(layer).HeadCount)
            .Select(head => Array.ConvertAll(recording.Values(quantity, layer, head, sequence).ToArray(), v => (double)v))
            .ToArray();
        return PlotStyle.Chart(
            [.. curves.Select((y, head) => Line($"head {head}", x, y, PlotStyle.Color(head), width: 1.6, dash: PlotStyle.Dash(head)))],
            PlotStyle.Axis("Token position"),
            LinearOrLog(stabilized ? "Stabilised memory norm |C|" : "Memory norm e<sup>m</sup>|C|", curves.SelectMany(c => c), log: true));
    }

    /// <summary>What a plot calls a quantity.</summary>
    internal static string QuantityName(GateQuantity quantity) => quantity switch
    {
        GateQuantity.InputPreactivation => "Input gate pre-activation",
        GateQuantity.ForgetPreactivation => "Forget gate pre-activation",
        GateQuantity.InputGate => "Input gate",
        GateQuantity.ForgetGate => "Forget gate",
        GateQuantity.LogInputGate => "Logarithm of the input gate (nats)",
        GateQuantity.LogForgetGate => "Logarithm of the forget gate (nats)",
        GateQuantity.Stabilizer => "Stabiliser m",
        GateQuantity.NormalizerProduct => "Normaliser product n·q",
        GateQuantity.Denominator => "Denominator",
        GateQuantity.MemoryNorm => "Memory norm",
        GateQuantity.StabilizedMemoryNorm => "Stabilised memory norm",
        GateQuantity.OutputGate => "Output gate (mean)",
        GateQuantity.OutputNorm => "Output norm |h|",
        _ => throw UnknownValue.Of(quantity),
    };

    /// <summary>Quantities that spread over powers of ten.</summary>
    private static bool IsMagnitude(GateQuantity quantity) =>
        quantity is GateQuantity.MemoryNorm or GateQuantity.StabilizedMemoryNorm or GateQuantity.OutputNorm or GateQuantity.Denominator
            or GateQuantity.InputGate;

    /// <summary>Gates that cannot leave 0 to 1 and are compared best on all of it.</summary>
    private static (double Least, double Greatest)? Bounds(GateQuantity quantity) =>
        quantity is GateQuantity.ForgetGate or GateQuantity.OutputGate ? (0, 1) : null;

    /// <summary>An axis with the tokens' texts where they are few enough, otherwise with positions.</summary>
    private static LinearAxis TokenAxis(
        string title, string[]? texts, int start, params ReadOnlySpan<(string Name, object? Value)> attributes)
    {
        var labelled = texts is { Length: <= MostTokenLabels };
        return PlotStyle.Axis(
            labelled ? title : $"{title} position",
            [
                ("showgrid", false),
                ("tickmode", labelled ? "array" : null),
                ("tickvals", labelled ? Enumerable.Range(start, texts!.Length).ToArray() : null),
                ("ticktext", labelled ? texts : null),
                ("tickangle", labelled ? (LongestLabel(texts) > 1 ? -90 : 0) : null),
                .. attributes,
            ]);
    }

    /// <summary>The characters of the longest label that <see cref="TokenAxis"/> writes.</summary>
    private static int LongestLabel(string[]? texts) => texts is { Length: > 0 and <= MostTokenLabels } ? texts.Max(t => t.Length) : 0;

    private static string HalfLifeText(double tokens, int length) => tokens switch
    {
        double.PositiveInfinity => string.Create(CultureInfo.InvariantCulture, $"not in {length}"),
        double.NaN => "",
        < 10 => tokens.ToString("0.0", CultureInfo.InvariantCulture),
        < 10000 => tokens.ToString("0", CultureInfo.InvariantCulture),
        < 1e6 => (tokens / 1e3).ToString("0", CultureInfo.InvariantCulture) + "k",
        _ => "> 1M",
    };

    /// <summary>Sorted values, or evenly spaced ones among them with both ends: a violin has the same shape with fewer.</summary>
    private static double[] Thinned(double[] sorted) =>
        sorted.Length <= MostViolinPoints
            ? sorted
            : [.. Enumerable.Range(0, MostViolinPoints).Select(i => sorted[(int)((long)i * (sorted.Length - 1) / (MostViolinPoints - 1))])];

    private static string[] HeadNames(int heads) => [.. Enumerable.Range(0, heads).Select(h => $"head {h}")];

    private static string Lower(string name) => char.ToLowerInvariant(name[0]) + name[1..];

    /// <summary>A token's text with its blanks shown, cut short, and with nothing that plotly.js reads as markup.</summary>
    private static string Visible(string text)
    {
        var shown = text.Replace("\r", "␍").Replace("\n", "⏎").Replace("\t", "⇥").Replace(' ', '␣');
        shown = shown.Length > LongestTokenLabel ? shown[..(LongestTokenLabel - 1)] + "…" : shown.Length == 0 ? "∅" : shown;
        return shown.Replace("&", "&amp;").Replace("<", "&lt;").Replace(">", "&gt;");
    }
}
