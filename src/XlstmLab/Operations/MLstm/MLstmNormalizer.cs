using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The mLSTM's denominator max(|n q|, exp(-m)) + epsilon, and the running maximum m, for every form alike.</summary>
/// <remarks>
/// exp(-m) overflows where all gates are all but closed, and infinity has no gradient. So h is numerator u / (denominator u) with
/// u = exp(min(m, 0)), which leaves every exponent at most 0. Where m is not below 0, u is 1.
/// </remarks>
internal static class MLstmNormalizer
{
    /// <summary>The larger of each pair; among equals it is <paramref name="right"/>, which then has the whole gradient.</summary>
    public static Tensor Larger(Tensor left, Tensor right) => where(left.le(right), right, left);

    /// <summary>
    /// The state of C, n and a wider m. An m that is rounded to the memory's type divides another memory than before, by what it lost.
    /// </summary>
    public static MLstmState Narrowed(Tensor c, Tensor n, Tensor m)
    {
        if (m.dtype == c.dtype)
        {
            return new(c, n, m);
        }

        var narrow = m.to(c.dtype);
        var factor = exp(m - narrow).to(c.dtype);
        return new(c * factor.unsqueeze(3), n * factor, narrow);
    }

    /// <summary>h of numerator [..., DV], n q [...] and m [...].</summary>
    public static Tensor Divide(Tensor numerator, Tensor sum, Tensor m, MLstmOptions options)
    {
        var (unit, denominator, _) = Denominator(sum, m, options.Epsilon);
        denominator = options.NormalizerGradient == NormalizerGradient.Constant ? denominator.detach() : denominator;
        return numerator * unit.unsqueeze(-1) / denominator.unsqueeze(-1);
    }

    /// <summary>u, the denominator times u, and whether |n q| is what it is made of.</summary>
    public static (Tensor Unit, Tensor Denominator, Tensor FromSum) Denominator(Tensor sum, Tensor m, double epsilon)
    {
        var low = m.clamp_max(0);
        var unit = exp(low);
        var (magnitude, floor) = (sum.abs() * unit, exp(low - m));
        return (unit, Larger(magnitude, floor) + unit * epsilon, magnitude.gt(floor));
    }
}
