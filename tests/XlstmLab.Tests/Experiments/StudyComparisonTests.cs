using XlstmLab.Experiments;
using Xunit;

namespace XlstmLab.Tests.Experiments;

public sealed class StudyComparisonTests
{
    private static readonly string[] Names = ["a", "b", "c"];

    /// <summary>b is lower than a by 0.1 to a thousandth, and c like a.</summary>
    [Fact]
    public void Judge_Claims_SaysWhatTheIntervalsSay()
    {
        var verdicts = StudyComparison.Judge(Result(
            Claim("b", "a"), Claim("a", "b"), Claim("a", "c"), Claim("a", "c") with { Within = 0.01 },
            Claim("a", "b") with { Within = 0.01 }, Claim("a", "c") with { Within = 1e-5 }));
        Assert.Equal(
            [ClaimVerdict.Holds, ClaimVerdict.DoesNotHold, ClaimVerdict.NotDecided, ClaimVerdict.Holds,
                ClaimVerdict.DoesNotHold, ClaimVerdict.NotDecided],
            verdicts.Select(v => v.Verdict));
        Assert.Equal(0.1, verdicts[0].Difference.Mean, 2e-3);
        Assert.Equal("? / <", verdicts[0].Orders);
    }

    [Fact]
    public void Judge_MeasureOfWhichMoreIsBetter_TurnsTheSign()
    {
        var judged =
            StudyComparison.Judge(Result(Claim("a", "b") with { Metric = StudyRow.Speed, PublishedBetter = 3, PublishedWorse = 2 }))
                .Single();
        Assert.Equal((ClaimVerdict.Holds, "> / >"), (judged.Verdict, judged.Orders));
        Assert.True(judged.Difference.Mean > 0);
    }

    [Fact]
    public void Judge_SpeedsOfRunsSideBySide_DecidesNothing()
    {
        var result = Result(Claim("a", "b") with { Metric = StudyRow.Speed });
        var judged = StudyComparison.Judge(result with { Rows = [.. result.Rows.Select(row => row with { SideBySide = 8 })] }).Single();
        Assert.Equal(ClaimVerdict.NotDecided, judged.Verdict);
        var refusal = Assert.Throws<ArgumentException>(() => (result.Study with { SideBySide = null }).Expand());
        Assert.Contains("side_by_side 1", refusal.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Judge_WithoutRuns_DecidesNothing()
    {
        var result = Result(Claim("a", "b"));
        var judged = StudyComparison.Judge(result with { Rows = [] }).Single();
        Assert.Equal(ClaimVerdict.NotRun, judged.Verdict);
        Assert.Equal(9, (result with { Rows = [] }).Missing.Count);

        // Two of three seeds would do for an interval; which seeds those are is chance.
        Assert.Equal(
            ClaimVerdict.NotRun,
            StudyComparison.Judge(result with { Rows = [.. result.Rows.Where(row => row.Seed < 3)] }).Single().Verdict);
        Assert.Equal(
            ClaimVerdict.NotDecided,
            StudyComparison.Judge(result with
            {
                Rows = [.. result.Rows.Select(row => row.Variant == "b" ? row with { Status = StudyStatus.Diverged } : row)],
            }).Single().Verdict);
    }

    /// <summary>Along an axis every variant is compared with that of the same places on the others.</summary>
    [Fact]
    public void Of_AnAxis_ComparesWithTheBasesPlaceOnIt()
    {
        var study = new Study
        {
            Name = "two",
            Axes = [new("beta1", 0.8, 0.9), new("weight_decay", 0, 1)],
            Seeds = [1, 2, 3],
            Base = "beta1=0.9, weight_decay=0",
        };
        var result = new StudyResult(study, [.. study.Expand().Select(run => StudyTableTests.Row(
            run.Id, run.Training.WeightDecay + (run.Training.Beta1 == 0.8 ? 0.5 : 0) + 0.001 * run.Training.Seed, run.Training.Seed,
            run.Variant) with { Differences = run.Differences })]);
        var comparison = StudyComparison.Of(result, axis: "beta1");
        Assert.Equal([null, null], comparison.Variants.Where(v => v.Differences["beta1"] == "beta1=0.9").Select(v => v.Difference));
        Assert.Equal([0.5, 0.5], comparison.Variants.Where(v => v.Differences["beta1"] == "beta1=0.8").Select(
            v => Math.Round(v.Difference!.Mean, 9)));
        Assert.Equal("beta1=0.9, weight_decay=1", comparison.Variants[1].BaseVariant);
        Assert.Equal([0.5, 1.5, 1.0], StudyComparison.Of(result).Variants.Where(v => v.Difference is not null).Select(
            v => Math.Round(v.Difference!.Mean, 9)));
        Assert.Contains(
            "'beta1'", Assert.Throws<ArgumentException>(() => StudyComparison.Of(result, axis: "beta_1")).Message,
            StringComparison.Ordinal);
        Assert.Equal(["base", "base", "higher", "higher"], comparison.ToTable().Columns.Single(c => c.Name == "called").Values.Order());
    }

    private static StudyClaim Claim(string better, string worse) =>
        new() { Text = $"{better} beats {worse}", Source = "nowhere", Better = better, Worse = worse };

    private static StudyResult Result(params StudyClaim[] claims)
    {
        var study = new Study
        {
            Name = "three",
            Axes = [new("kind", [new("a", []), new("b", ["beta1=0.8"]), new("c", ["beta1=0.7"])])],
            Seeds = [1, 2, 3],
            Claims = claims,
            SideBySide = 1,
        };
        return new(study, [.. study.Expand().Select(run =>
        {
            var (kind, seed) = (Array.IndexOf(Names, run.Variant), run.Training.Seed);
            var noise = 0.001 * ((seed * (kind + 2)) % 3 - 1);
            return StudyTableTests.Row(run.Id, (kind == 1 ? 1.9 : 2) + 0.05 * seed + noise, seed, run.Variant) with
            {
                TokensPerSecond = (kind == 1 ? 100 : 200) + seed + kind * seed,
            };
        })]);
    }
}
