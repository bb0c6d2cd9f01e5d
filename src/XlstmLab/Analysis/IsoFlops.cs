using System.Globalization;
using MathNet.Numerics;

namespace XlstmLab.Analysis;

/// <summary>
/// Losses of several sizes that were trained with the same compute, and the parabola in log N through them (Hoffmann et al. 2022, approach
/// 2).
/// </summary>
/// <param name="Flops">The compute C.</param>
/// <param name="Points">The sizes with their tokens and losses, by size.</param>
/// <param name="Curve">The parabola's coefficients over ln N, from the constant up.</param>
/// <param name="Parameters">The size N* at its lowest point; NaN where it opens downward.</param>
/// <param name="Tokens">The tokens D* there, between those of the neighbouring sizes.</param>
/// <param name="Loss">The loss there.</param>
/// <param name="IsInside">Whether N* lies among the sizes that were tried: otherwise it is a guess.</param>
public sealed record IsoFlopProfile(
    double Flops, IReadOnlyList<ScalingPoint> Points, IReadOnlyList<double> Curve, double Parameters, double Tokens, double Loss,
    bool IsInside)
{
    /// <summary>The profile of the losses at one compute.</summary>
    /// <param name="flops">C.</param>
    /// <param name="points">At least three sizes.</param>
    /// <exception cref="ArgumentException">There are fewer.</exception>
    public static IsoFlopProfile Of(double flops, IReadOnlyList<ScalingPoint> points)
    {
        ArgumentNullException.ThrowIfNull(points);
        ScalingPoint[] bySize = [.. points.OrderBy(p => p.Parameters)];
        if (bySize.DistinctBy(p => p.Parameters).Count() < 3)
        {
            throw new ArgumentException(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"A parabola needs at least three sizes; "
                    + $"at {flops:E1} FLOP there are {bySize.DistinctBy(p => p.Parameters).Count()}."), nameof(points));
        }

        // Centred: powers of ln N itself are nearly the same column three times.
        var center = bySize.Average(p => Math.Log(p.Parameters));
        var c = Fit.Polynomial([.. bySize.Select(p => Math.Log(p.Parameters) - center)], [.. bySize.Select(p => p.Loss)], 2);
        double[] curve = [c[0] - c[1] * center + c[2] * center * center, c[1] - 2 * c[2] * center, c[2]];
        var best = c[2] > 0 ? center - c[1] / (2 * c[2]) : double.NaN;
        var tokens = Fit.Polynomial(
            [.. bySize.Select(p => Math.Log(p.Parameters) - center)], [.. bySize.Select(p => Math.Log(p.Tokens))], 1);
        return new(
            flops, bySize, curve, Math.Exp(best), Math.Exp(tokens[0] + tokens[1] * (best - center)), c[0] - c[1] * c[1] / (4 * c[2]),
            best >= Math.Log(bySize[0].Parameters) && best <= Math.Log(bySize[^1].Parameters));
    }

    /// <summary>
    /// The profile that a law of known coefficients would show, of sizes around its best: what the parabola makes of the truth.
    /// </summary>
    /// <param name="law">The law.</param>
    /// <param name="flops">C, at 6 FLOP a parameter and token.</param>
    /// <param name="sizes">How many sizes, at least three, each 1.6 times the one before.</param>
    public static IsoFlopProfile OfLaw(ScalingFit law, double flops, int sizes = 7)
    {
        ArgumentNullException.ThrowIfNull(law);
        var best = law.Optimum(flops).Parameters;
        return Of(flops, [.. Enumerable.Range(0, sizes).Select(k => best * Math.Pow(1.6, k - sizes / 2))
            .Select(n => new ScalingPoint(n, flops / 6 / n, law.Loss(n, flops / 6 / n)))]);
    }

    /// <summary>The parabola's loss of a size.</summary>
    /// <param name="parameters">N.</param>
    public double LossOf(double parameters)
    {
        var x = Math.Log(parameters);
        return Curve[0] + x * (Curve[1] + x * Curve[2]);
    }
}

/// <summary>A power law y = k x^exponent through points, by least squares in logarithms.</summary>
/// <param name="Factor">k.</param>
/// <param name="Exponent">The exponent.</param>
/// <param name="ExponentError">Half the exponent's 95 % interval by Student's t; NaN of fewer than three points.</param>
public sealed record PowerLaw(double Factor, double Exponent, double ExponentError)
{
    /// <summary>The law through points.</summary>
    /// <param name="points">At least two, with numbers above 0.</param>
    public static PowerLaw Of(IReadOnlyList<(double X, double Y)> points)
    {
        ArgumentNullException.ThrowIfNull(points);
        if (points.Count < 2 || points.Any(p => !(p.X > 0 && p.Y > 0)))
        {
            throw new ArgumentException($"Expected at least two points with numbers above 0, got {points.Count}.", nameof(points));
        }

        double[] x = [.. points.Select(p => Math.Log(p.X))], y = [.. points.Select(p => Math.Log(p.Y))];
        var (intercept, slope) = Fit.Line(x, y);
        var (mean, degrees) = (x.Average(), x.Length - 2);
        var residuals = x.Zip(y).Sum(p => Math.Pow(p.Second - intercept - slope * p.First, 2));
        var error = degrees < 1 ? double.NaN
            : Statistics.TQuantile(degrees, 0.95) * Math.Sqrt(residuals / degrees / x.Sum(v => (v - mean) * (v - mean)));
        return new(Math.Exp(intercept), slope, error);
    }

    /// <summary>The law's y of an x.</summary>
    /// <param name="x">Above 0.</param>
    public double Of(double x) => Factor * Math.Pow(x, Exponent);
}
