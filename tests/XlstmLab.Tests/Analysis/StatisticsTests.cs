using XlstmLab.Analysis;
using Xunit;

namespace XlstmLab.Tests.Analysis;

public sealed class StatisticsTests
{
    /// <summary>Against R: t.test(c(2.1, 2.4, 1.9, 2.2, 2.6)).</summary>
    [Fact]
    public void Mean_FiveValues_HasStudentsInterval()
    {
        var interval = MeanInterval.Of([2.1, 2.4, 1.9, 2.2, 2.6]);
        Assert.Equal(2.24, interval.Mean, 1e-12);
        Assert.Equal(0.2701851, interval.Deviation, 1e-6);

        // The quantile of 4 degrees at 0.975 is 2.776445.
        Assert.Equal(2.24 - 2.776445 * 0.2701851 / Math.Sqrt(5), interval.Low, 1e-5);
        Assert.Equal("2.24 ± 0.34", interval.ToString());
    }

    [Fact]
    public void Mean_FewerThanTwoValues_HasNoInterval()
    {
        Assert.True(double.IsNaN(MeanInterval.Of([]).Mean));
        Assert.True(MeanInterval.Of([3]) is { Mean: 3, Low: double.NaN, Count: 1 });
        Assert.Equal("3", MeanInterval.Of([3]).ToString());
        Assert.Throws<ArgumentOutOfRangeException>(() => MeanInterval.Of([1, 2], 1));
    }

    /// <summary>p-values of 0.01, 0.04 and 0.03 become 0.03, 0.06 and 0.06 by Holm's correction, as in R's p.adjust.</summary>
    [Fact]
    public void Differences_Family_IsCorrectedByHolm()
    {
        var differences = Statistics.Differences([WithP("a", 0.01), WithP("b", 0.04), WithP("c", 0.03)]);
        Assert.Equal([0.01, 0.04, 0.03], differences.Select(d => Math.Round(d.PValue, 6)));
        Assert.Equal([0.03, 0.06, 0.06], differences.Select(d => Math.Round(d.AdjustedPValue, 6)));
        Assert.Equal([true, false, false], differences.Select(d => d.IsDifferent));

        // What is called a difference has an interval without zero, and what is none one with it.
        Assert.Equal([true, false, false], differences.Select(d => d.Low > 0 || d.High < 0));
        Assert.Equal([true, false, false], differences.Select(d => d.AdjustedPValue < 0.05));
    }

    [Fact]
    public void Differences_PairsOfSeeds_LeaveOutTheNoiseThatBothShare()
    {
        // Seeds differ by far more than the variants do, which an unpaired comparison could not see.
        var noise = new[] { 1.0, 5, 9, 2 };
        var other = BySeed(noise.Select((x, k) => x + 0.1 + 0.001 * k));
        var difference = Statistics.Differences([new("x", other, BySeed(noise))]).Single();
        Assert.True(difference.IsDifferent);
        Assert.Equal(0.1015, difference.Mean, 1e-9);
        Assert.Equal(4, difference.Pairs);

        // Hedges' correction for 3 degrees of freedom is 1 - 3/11.
        Assert.Equal(0.1015 / 0.001290994 * (1 - 3.0 / 11), difference.Effect, 1e-2);
    }

    [Fact]
    public void Differences_SeedsThatOneSideLacks_AreLeftOut()
    {
        var difference = Statistics.Differences([new("x", BySeed([1, 2, 3]), BySeed([1, double.NaN]))]).Single();
        Assert.Equal((1, false), (difference.Pairs, difference.IsDifferent));
        Assert.Equal(0, difference.Mean);
        Assert.True(double.IsNaN(difference.Low));
    }

    /// <summary>Of families without any difference, at most one in twenty has one called so.</summary>
    [Fact]
    public void Differences_OfNothing_AreSeldomCalled()
    {
        var random = new Random(3);
        const int families = 400;
        var called = Enumerable.Range(0, families).Count(_ => Statistics.Differences(
            [.. Enumerable.Range(0, 5).Select(k => new SeedPair($"{k}", Noise(), Noise()))]).Any(d => d.IsDifferent));

        // Twenty are expected, with a standard deviation of four and a half.
        Assert.InRange(called, 5, 38);

        Dictionary<int, double> Noise() => BySeed(
            Enumerable.Range(0, 4).Select(_ => random.NextDouble() + random.NextDouble() + random.NextDouble()));
    }

    /// <summary>Three pairs whose paired t test has a given p-value.</summary>
    private static SeedPair WithP(string name, double p)
    {
        var t = Statistics.TQuantile(2, 1 - p);

        // Differences m - 1, m, m + 1 have a deviation of 1, so t = m sqrt(3).
        var mean = t / Math.Sqrt(3);
        return new(name, BySeed([mean - 1, mean, mean + 1]), BySeed([0, 0, 0]));
    }

    private static Dictionary<int, double> BySeed(IEnumerable<double> values) => values.Index().ToDictionary(v => v.Index + 1, v => v.Item);
}
