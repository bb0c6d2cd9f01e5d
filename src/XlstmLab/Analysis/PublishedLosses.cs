using System.Globalization;

namespace XlstmLab.Analysis;

/// <summary>Losses that others published, in a file with the columns model, parameters, tokens and loss.</summary>
public static class PublishedLosses
{
    /// <summary>
    /// The law that the scaling-law paper fits to its token/parameter runs of xLSTM (Beck et al. 2025, arXiv 2510.02228).
    /// </summary>
    public static ScalingFit Xlstm { get; } = new(1.120, 1.11e7, 3.30e7, 0.7275, 0.671, 0.239, double.NaN);

    /// <summary>The same of its Transformers.</summary>
    public static ScalingFit Transformer { get; } = new(1.012, 1.61e5, 6.33e5, 0.527, 0.508, 0.293, double.NaN);

    /// <summary>The losses of a model.</summary>
    /// <param name="csv">The file, such as <c>results/published/scaling-laws.csv</c>; lines that begin with # are left out.</param>
    /// <param name="model">The model's name in the first column.</param>
    /// <exception cref="InvalidDataException">A line is not four cells with numbers.</exception>
    public static IReadOnlyList<ScalingPoint> Read(string csv, string model)
    {
        string[][] lines =
            [.. File.ReadLines(csv).Where(line => line.Length > 0 && line[0] != '#').Skip(1).Select(line => line.Split(','))];
        return [.. lines.Where(cells => cells[0] == model).Select(cells => cells.Length == 4
            ? new ScalingPoint(Number(cells[1]), Number(cells[2]), Number(cells[3]))
            : throw new InvalidDataException($"{csv}: expected model, parameters, tokens and loss, got '{string.Join(',', cells)}'."))];

        double Number(string text) => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var number)
            ? number
            : throw new InvalidDataException($"{csv}: expected a number, got '{text}'.");
    }

    /// <summary>Our fit to losses beside a published one: coefficients, the mean relative error on the losses, and predictions.</summary>
    /// <param name="points">The losses.</param>
    /// <param name="fit">Our fit to them.</param>
    /// <param name="published">The published one.</param>
    public static MetricsTable Compare(IReadOnlyList<ScalingPoint> points, ScalingFit fit, ScalingFit published)
    {
        ArgumentNullException.ThrowIfNull(points);
        ArgumentNullException.ThrowIfNull(fit);
        ArgumentNullException.ThrowIfNull(published);
        (string Quantity, Func<ScalingFit, double> Of)[] quantities =
        [
            ("E", law => law.E), ("alpha", law => law.Alpha), ("beta", law => law.Beta), ("gamma", law => law.Gamma),
            ("exponent of the best size", law => law.SizeExponent),
            ("loss of 7 G parameters after 2 T tokens", law => law.Loss(7e9, 2e12)),
            ("loss of 30 G parameters after 2 T tokens", law => law.Loss(30e9, 2e12)),
            ("mean relative error, %", law => 100 * points.Average(p => Math.Abs(law.Loss(p.Parameters, p.Tokens) / p.Loss - 1))),
        ];
        return MetricsTable.From(quantities.Select(q => new { q.Quantity, Published = q.Of(published), Ours = Math.Round(q.Of(fit), 4) }));
    }
}
