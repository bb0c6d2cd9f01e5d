using XlstmLab.Analysis;
using XlstmLab.Evaluation;

namespace XlstmLab.Visualization;

/// <summary>A named curve.</summary>
/// <param name="Name">Its name in the legend.</param>
/// <param name="X">Where its points lie.</param>
/// <param name="Y">Their values; what is no finite number is a gap.</param>
public sealed record PlotSeries(string Name, IReadOnlyList<double> X, IReadOnlyList<double> Y)
{
    /// <summary>Perplexity per token against position, each bucket at its centre; one without end has none and is left out.</summary>
    /// <param name="name">The curve's name in the legend.</param>
    /// <param name="result">The evaluation.</param>
    /// <param name="minimumTokens">Buckets with fewer predictions are left out: their perplexity is that of a few words.</param>
    public static PlotSeries PerplexityByPosition(string name, EvaluationResult result, long minimumTokens = 1)
    {
        ArgumentNullException.ThrowIfNull(result);
        var shown = result.Buckets.Where(b => b.Center is not null && b.Tokens >= minimumTokens).ToArray();
        return new(name, [.. shown.Select(b => b.Center!.Value)], [.. shown.Select(b => b.Perplexity)]);
    }

    /// <summary>Perplexity per token against position, each range at its centre.</summary>
    /// <param name="name">The curve's name in the legend.</param>
    /// <param name="result">The measurement.</param>
    public static PlotSeries PerplexityByPosition(string name, ExtrapolationResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        return new(name, [.. result.Ranges.Select(r => r.Center)], [.. result.Ranges.Select(r => r.Perplexity)]);
    }
}

/// <summary>A bar of a comparison.</summary>
/// <param name="Name">Its name beside the axis.</param>
/// <param name="Value">Its length.</param>
/// <param name="Highlight">Whether the plot is about it.</param>
public sealed record PlotBar(string Name, double Value, bool Highlight = false);

/// <summary>What learning curves are drawn against.</summary>
public enum CurveAxis
{
    /// <summary>Updates.</summary>
    Steps,

    /// <summary>Training tokens.</summary>
    Tokens,

    /// <summary>Training compute in FLOPs: tokens by <see cref="PlotRun.FlopsPerToken"/>.</summary>
    Flops,
}

/// <summary>What learning curves show.</summary>
public enum CurveMetric
{
    /// <summary>The mean cross-entropy of a token, in nats.</summary>
    Loss,

    /// <summary>The cross-entropy in bits, over the bytes of the text.</summary>
    BitsPerByte,
}

/// <summary>A training run, as plots need it.</summary>
/// <param name="Name">Its name in the legend.</param>
/// <param name="Metrics">
/// Rows with <c>step</c> and what else a plot shows: <c>tokens, loss, validation_loss, learning_rate, gradient_norm</c>.
/// </param>
public sealed record PlotRun(string Name, MetricsTable Metrics)
{
    /// <summary>The FLOPs of training on one token, forward and backward; needed to plot against compute.</summary>
    public double? FlopsPerToken { get; init; }

    /// <summary>
    /// The mean number of bytes that a token spells, for the training loss in bits per byte. 1 for a byte model; null for that of the
    /// validation text, which metrics with both <c>validation_loss</c> and <c>validation_bits_per_byte</c> tell.
    /// </summary>
    public double? BytesPerToken { get; init; }

    /// <summary>The run in a folder, with the folder's name unless another is given.</summary>
    /// <exception cref="FileNotFoundException">The folder holds no metrics.jsonl.</exception>
    public static PlotRun Read(string folder, string? name = null) =>
        new(name ?? Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder))), MetricsTable.Read(folder));
}
