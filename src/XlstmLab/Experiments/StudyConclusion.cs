using System.Globalization;
using System.Text;
using XlstmLab.Analysis;
using static System.FormattableString;

namespace XlstmLab.Experiments;

/// <summary>What studies say so far, in words that come of their rows and claims alone: nothing is said of what was not run.</summary>
public static class StudyConclusion
{
    /// <summary>The variants with their sizes and budgets, and how many of their runs there are.</summary>
    /// <param name="result">The study.</param>
    public static MetricsTable ToSettings(this StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var done = result.Rows.Where(row => row.IsDone).GroupBy(row => row.Variant).ToDictionary(
            group => group.Key, group => group.Count());
        return MetricsTable.From(result.Study.Expand().GroupBy(run => run.Variant).Select(variant => new
        {
            Variant = variant.Key,
            Parameters = variant.First().Model.CountParameters(),
            Updates = variant.First().Training.Steps,
            variant.First().Tokens,
            variant.First().Flops,
            Seeds = variant.Count(),
            Done = done.GetValueOrDefault(variant.Key),
        }));
    }

    /// <summary>How many runs there are of how many: <c>all 20 runs</c>, <c>3 of 10 runs</c>, <c>not run yet: 0 of 27 runs</c>.</summary>
    /// <param name="result">The study.</param>
    public static string Progress(this StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var missing = result.Missing.Count;
        var total = result.Study.Seeds.Count * result.Study.Variants.Count;
        return missing == 0 ? Invariant($"all {total:N0} runs") : Invariant(
            $"{(missing == total ? "not run yet: " : "")}{total - missing:N0} of {total:N0} runs");
    }

    /// <summary>
    /// A line about the runs, a line a claim with its verdict and the numbers behind it, and a line that counts the verdicts.
    /// </summary>
    /// <param name="result">The study.</param>
    public static string Conclusion(this StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var text = new StringBuilder();
        var devices = result.Rows.Where(row => row.IsDone).Select(row => row.Device.Split(',')[0]).Distinct().ToArray();
        text.Append(
            Invariant($"{result.Study.Name}: {result.Progress()}{(devices.Length > 0 ? $", on {string.Join(" and ", devices)}" : "")}.\n"));
        foreach (var variant in result.Rows.Where(row => row.Status == StudyStatus.Diverged).GroupBy(row => row.Variant))
        {
            text.Append(
                Invariant($"- {variant.Count()} of {result.Study.Seeds.Count} runs of '{variant.Key}' diverged; they are in no mean.\n"));
        }

        var claims = StudyComparison.Judge(result);
        foreach (var claim in claims)
        {
            text.Append(string.Create(
                CultureInfo.InvariantCulture,
                $"- {StudyComparison.Words(claim.Verdict).ToUpperInvariant()}: "
                + $"{claim.Claim.Text}.{Numbers(claim)}{(claim.Claim.Note is { } note ? $" Note: {note}." : "")}\n"));
        }

        return text.Append(Counts(claims)).ToString();
    }

    /// <summary>How many claims hold, do not, are undecided and are not run: <c>3 claims: 2 hold, 1 is not run yet.</c></summary>
    /// <param name="claims">The claims.</param>
    public static string Counts(IReadOnlyCollection<JudgedClaim> claims)
    {
        ArgumentNullException.ThrowIfNull(claims);
        var counts = Enum.GetValues<ClaimVerdict>().Select(
            verdict => (Verdict: verdict, Count: claims.Count(claim => claim.Verdict == verdict)))
            .Where(v => v.Count > 0).Select(v => Invariant($"{v.Count} {Are(v.Verdict, v.Count)}"));
        return claims.Count == 0 ? "No claims." : Invariant(
            $"{claims.Count} {(claims.Count == 1 ? "claim" : "claims")}: {string.Join(", ", counts)}.");
    }

    private static string Are(ClaimVerdict verdict, int count) => (verdict, count == 1) switch
    {
        (ClaimVerdict.Holds, true) => "holds",
        (ClaimVerdict.Holds, false) => "hold",
        (ClaimVerdict.DoesNotHold, true) => "does not hold",
        (ClaimVerdict.DoesNotHold, false) => "do not hold",
        (ClaimVerdict.NotDecided, true) => "is not decided at this scale",
        (ClaimVerdict.NotDecided, false) => "are not decided at this scale",
        (ClaimVerdict.NotRun, true) => "is not run yet",
        (ClaimVerdict.NotRun, false) => "are not run yet",
        _ => throw UnknownValue.Of(verdict),
    };

    /// <summary>
    /// The numbers behind a verdict; of a claim without all its runs those there are, without an interval that would say more than it
    /// knows.
    /// </summary>
    private static string Numbers(JudgedClaim claim)
    {
        var (metric, difference) = (claim.Claim.Metric, claim.Difference);
        if (claim.Verdict == ClaimVerdict.NotRun)
        {
            return claim.Better.Count + claim.Worse.Count == 0 ? "" : Invariant(
                $" So far {StudyComparison.Ours(claim.Better)} against {StudyComparison.Ours(claim.Worse)} ({metric}).");
        }

        var published = claim.Claim.PublishedBetter is null ? "" : $" Published: {StudyComparison.Published(claim.Claim)}.";
        var gain = double.IsNaN(difference.Low) ? "" : Invariant(
            $"; better by {difference.Mean:G3}, interval {difference.Low:G3} to {difference.High:G3}");
        var alike = claim.Claim.Within is { } within ? Invariant($", alike within {within:G3}") : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $" Ours {StudyComparison.Ours(claim.Better)} against {StudyComparison.Ours(claim.Worse)} ({metric}, "
            + $"{difference.Pairs} seeds){gain}{alike}.{published}");
    }
}
