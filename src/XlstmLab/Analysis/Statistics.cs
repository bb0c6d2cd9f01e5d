using System.Globalization;
using MathNet.Numerics.Distributions;

namespace XlstmLab.Analysis;

/// <summary>A mean with the interval that holds the true one with a given confidence, by Student's t.</summary>
/// <param name="Mean">The mean; NaN of no values.</param>
/// <param name="Low">The interval's lower end; NaN of fewer than two values.</param>
/// <param name="High">Its upper end.</param>
/// <param name="Deviation">The sample's standard deviation; NaN of fewer than two values.</param>
/// <param name="Count">The number of values.</param>
public sealed record MeanInterval(double Mean, double Low, double High, double Deviation, int Count)
{
    /// <summary>Half the interval's width.</summary>
    public double HalfWidth => (High - Low) / 2;

    /// <summary>The mean of values, each of a run of its own.</summary>
    /// <param name="values">The values.</param>
    /// <param name="confidence">Between 0 and 1.</param>
    public static MeanInterval Of(IReadOnlyCollection<double> values, double confidence = 0.95)
    {
        ArgumentNullException.ThrowIfNull(values);
        Statistics.RequireConfidence(confidence);
        if (values.Count == 0)
        {
            return new(double.NaN, double.NaN, double.NaN, double.NaN, 0);
        }

        var mean = values.Average();
        if (values.Count == 1)
        {
            return new(mean, double.NaN, double.NaN, double.NaN, 1);
        }

        var deviation = Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (values.Count - 1));
        var half = Statistics.TQuantile(values.Count - 1, confidence) * deviation / Math.Sqrt(values.Count);
        return new(mean, mean - half, mean + half, deviation, values.Count);
    }

    /// <inheritdoc/>
    public override string ToString() => Count < 2
        ? Mean.ToString("G5", CultureInfo.InvariantCulture)
        : string.Create(CultureInfo.InvariantCulture, $"{Mean:G5} ± {HalfWidth:G2}");
}

/// <summary>How two variants differ, by pairs of runs that share a seed.</summary>
/// <param name="Name">What is compared.</param>
/// <param name="Mean">The mean difference, the variant less the base.</param>
/// <param name="Low">The lower end of the interval at the corrected confidence; NaN of fewer than two pairs.</param>
/// <param name="High">Its upper end.</param>
/// <param name="PValue">
/// The probability of such a difference or a greater one were there none, uncorrected (paired t test, two-sided).
/// </param>
/// <param name="AdjustedPValue">The same by Holm's correction for all comparisons of the family.</param>
/// <param name="Effect">
/// The mean difference in standard deviations of the differences, corrected for few pairs (Hedges' g of pairs).
/// </param>
/// <param name="Pairs">The number of seeds that both have.</param>
/// <param name="IsDifferent">Whether it counts as a difference: the corrected interval leaves out zero.</param>
public sealed record PairedDifference(
    string Name, double Mean, double Low, double High, double PValue, double AdjustedPValue, double Effect, int Pairs, bool IsDifferent);

/// <summary>Values by seed, of a variant and of what it is compared with.</summary>
/// <param name="Name">What is compared.</param>
/// <param name="Variant">A value for each seed.</param>
/// <param name="Base">Likewise.</param>
public sealed record SeedPair(string Name, IReadOnlyDictionary<int, double> Variant, IReadOnlyDictionary<int, double> Base);

/// <summary>What a handful of seeds can tell.</summary>
public static class Statistics
{
    /// <summary>The differences of a family of comparisons, with Holm's correction over it (Holm 1979).</summary>
    /// <remarks>
    /// Of m comparisons the one with the k-th smallest p-value is judged at a level of alpha / (m - k + 1), and its interval has that
    /// confidence; once one is no difference, none after it is, and their intervals have the confidence of that one. Seeds that only one
    /// side has are left out, and values that are not finite.
    /// </remarks>
    /// <param name="pairs">The comparisons.</param>
    /// <param name="confidence">That of the whole family: the probability that none of the differences that are called so is none.</param>
    /// <returns>In the order of the comparisons.</returns>
    public static IReadOnlyList<PairedDifference> Differences(IReadOnlyList<SeedPair> pairs, double confidence = 0.95)
    {
        ArgumentNullException.ThrowIfNull(pairs);
        RequireConfidence(confidence);
        var differences = pairs.Select(pair => pair.Variant
            .Where(v => pair.Base.TryGetValue(v.Key, out var other) && double.IsFinite(v.Value) && double.IsFinite(other))
            .Select(v => v.Value - pair.Base[v.Key]).ToArray()).ToArray();
        var tested =
            differences.Index().Where(d => d.Item.Length > 1).Select(d => (d.Index, P: PValue(d.Item))).OrderBy(d => d.P).ToArray();
        var results = pairs.Select((pair, k) => Untested(pair.Name, differences[k])).ToArray();
        var (adjusted, holds) = (0.0, true);
        var remaining = tested.Length;
        foreach (var (rank, (index, p)) in tested.Index())
        {
            // Where it stopped, it stays: what comes after has at least as wide a look.
            remaining = holds ? tested.Length - rank : remaining;
            adjusted = Math.Max(adjusted, Math.Min(1, p * (tested.Length - rank)));
            var values = differences[index];
            var interval = MeanInterval.Of(values, 1 - (1 - confidence) / remaining);
            holds &= interval.Low > 0 || interval.High < 0;
            results[index] = new(
                pairs[index].Name, interval.Mean, interval.Low, interval.High, p, adjusted, Effect(interval), values.Length, holds);
        }

        return results;
    }

    /// <summary>How many standard errors an interval of a confidence reaches to each side.</summary>
    internal static double TQuantile(int degrees, double confidence) => StudentT.InvCDF(0, 1, degrees, (1 + confidence) / 2);

    internal static void RequireConfidence(double confidence)
    {
        if (confidence is not (> 0 and < 1))
        {
            throw new ArgumentOutOfRangeException(nameof(confidence), confidence, "A confidence lies between 0 and 1.");
        }
    }

    private static double PValue(double[] values)
    {
        var interval = MeanInterval.Of(values);
        var error = interval.Deviation / Math.Sqrt(values.Length);
        return error == 0 ? (interval.Mean == 0 ? 1 : 0) : 2 * StudentT.CDF(0, 1, values.Length - 1, -Math.Abs(interval.Mean / error));
    }

    private static double Effect(MeanInterval interval)
    {
        // Of few pairs the standard deviation is too small on average: J = 1 - 3 / (4 df - 1), which holds from two degrees on.
        var degrees = interval.Count - 1;
        return interval.Mean == 0 ? 0 : interval.Mean / interval.Deviation * (degrees < 2 ? 1 : 1 - 3.0 / (4 * degrees - 1));
    }

    private static PairedDifference Untested(string name, double[] values) =>
        new(
            name, values.Length == 0 ? double.NaN : values[0], double.NaN, double.NaN, double.NaN, double.NaN,
            double.NaN, values.Length, false);
}
