using System.Globalization;
using XlstmLab.Analysis;

namespace XlstmLab.Experiments;

/// <summary>A variant's runs in one number, and how it differs from the base.</summary>
/// <param name="Variant">Its label.</param>
/// <param name="Differences">Its label on each axis.</param>
/// <param name="Value">The mean over its seeds, with a 95 % interval.</param>
/// <param name="Diverged">How many of its runs diverged; they are not in the mean.</param>
/// <param name="Difference">The paired difference from the base; null for the base itself, and where there is none.</param>
/// <param name="BaseVariant">What it is compared with.</param>
public sealed record ComparedVariant(
    string Variant, IReadOnlyDictionary<string, string> Differences, MeanInterval Value, int Diverged, PairedDifference? Difference,
    string BaseVariant);

/// <summary>Whether a published claim is true of our numbers.</summary>
public enum ClaimVerdict
{
    /// <summary>The corrected interval says what the claim does.</summary>
    Holds,

    /// <summary>It says the opposite.</summary>
    DoesNotHold,

    /// <summary>It says neither at this scale.</summary>
    NotDecided,

    /// <summary>
    /// Not all runs are there that it and the claims it is corrected with are about: a look before the end decides nothing.
    /// </summary>
    NotRun,
}

/// <summary>A claim with our numbers beside the published ones.</summary>
/// <param name="Claim">The claim.</param>
/// <param name="Better">Our value of the variant that is said to be better.</param>
/// <param name="Worse">Our value of the other.</param>
/// <param name="Difference">By how much the better is better, seed by seed; positive is what the claim says.</param>
/// <param name="Verdict">What that says.</param>
public sealed record JudgedClaim(
    StudyClaim Claim, MeanInterval Better, MeanInterval Worse, PairedDifference Difference, ClaimVerdict Verdict)
{
    /// <summary>The published order of the two, and ours: <c>&lt;</c> where the first value is the smaller.</summary>
    public string Orders => $"{Order(Claim.PublishedBetter, Claim.PublishedWorse)} / {Order(Better.Mean, Worse.Mean)}";

    private static string Order(double? first, double? second) =>
        first is not { } a || second is not { } b || double.IsNaN(a + b) ? "?" : a < b ? "<" : a > b ? ">" : "=";
}

/// <summary>
/// The variants of a study in one measure: means over seeds, and differences from the base that are corrected for their number.
/// </summary>
/// <param name="Metric">The measure.</param>
/// <param name="Variants">The variants, in the order of the study.</param>
public sealed record StudyComparison(string Metric, IReadOnlyList<ComparedVariant> Variants)
{
    /// <summary>
    /// Compares all variants with the study's base or, along an axis, with the base's place on it, the other axes being equal.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    /// <param name="metric">A name that <see cref="StudyRow.Measure"/> knows.</param>
    /// <param name="axis">The axis; null for all against one.</param>
    /// <exception cref="ArgumentException">There is no such measure or axis.</exception>
    public static StudyComparison Of(StudyResult result, string metric = "test_loss", string? axis = null)
    {
        ArgumentNullException.ThrowIfNull(result);
        StudyRow.RequireMeasure(metric);
        var study = result.Study;
        if (axis is not null && study.Axes.All(a => a.Name != axis))
        {
            throw new ArgumentException(
                $"The study {study.Name} has no axis '{axis}'.{NearestName.Hint(axis, study.Axes.Select(a => a.Name))} Axes: "
                + $"{string.Join(", ", study.Axes.Select(a => a.Name))}.", nameof(axis));
        }

        var runs = study.Expand().DistinctBy(run => run.Variant).ToArray();
        var baseRun = runs.First(run => run.Variant == study.BaseVariant);
        var bases = runs.Select(run => axis is null ? baseRun : runs.First(other => study.Axes.All(
            a => other.Differences[a.Name] == (a.Name == axis ? baseRun : run).Differences[a.Name]))).ToArray();
        var values = runs.ToDictionary(run => run.Variant, run => BySeed(result, run.Variant, metric));
        var compared = runs.Zip(bases).Where(pair => pair.First != pair.Second).ToArray();
        var differences = Statistics.Differences(
            [.. compared.Select(pair => new SeedPair(pair.First.Variant, values[pair.First.Variant], values[pair.Second.Variant]))])
            .ToDictionary(d => d.Name);
        return new(metric, [.. runs.Zip(bases).Select(pair => new ComparedVariant(
            pair.First.Variant,
            pair.First.Differences,
            MeanInterval.Of([.. values[pair.First.Variant].Values]),
            result.Rows.Count(row => row.Variant == pair.First.Variant && row.Status == StudyStatus.Diverged),
            differences.GetValueOrDefault(pair.First.Variant),
            pair.Second.Variant))]);
    }

    /// <summary>
    /// The study's claims with our numbers: Holm's correction runs over the claims of one measure, which are judged when all their runs are
    /// there.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    public static IReadOnlyList<JudgedClaim> Judge(StudyResult result)
    {
        ArgumentNullException.ThrowIfNull(result);
        var judged = new List<JudgedClaim>();
        var done = result.Rows.Where(row => row.IsDone).Select(row => (row.Variant, row.Seed)).ToHashSet();
        foreach (var group in result.Study.Claims.GroupBy(claim => claim.Metric))
        {
            var (claims, sign) = (group.ToArray(), StudyRow.IsMoreBetter(group.Key) ? -1 : 1);
            var isWhole = claims.SelectMany(claim => new[] { claim.Better, claim.Worse }).All(
                variant => result.Study.Seeds.All(seed => done.Contains((variant, seed))));
            var pairs = claims.Select((claim, k) => new SeedPair(
                k.ToString(CultureInfo.InvariantCulture), Signed(claim.Worse), Signed(claim.Better))).ToArray();
            judged.AddRange(claims.Zip(Statistics.Differences(pairs)).Select(pair => new JudgedClaim(
                pair.First, Value(pair.First.Better), Value(pair.First.Worse),
                pair.Second with { Name = $"{pair.First.Better} against {pair.First.Worse}" },
                isWhole ? Verdict(pair.First, pair.Second) : ClaimVerdict.NotRun)));

            Dictionary<int, double> Signed(string variant) =>
                BySeed(result, variant, group.Key).ToDictionary(v => v.Key, v => sign * v.Value);
            MeanInterval Value(string variant) => MeanInterval.Of([.. BySeed(result, variant, group.Key).Values]);
        }

        return [.. result.Study.Claims.Select(claim => judged.First(j => ReferenceEquals(j.Claim, claim)))];
    }

    /// <summary>A row a variant: the mean with its interval, and the difference with its corrected interval.</summary>
    public MetricsTable ToTable() => ResultTables.Of(Variants.Select(v => new
    {
        v.Variant,
        Mean = v.Value.Mean,
        PlusMinus = v.Value.HalfWidth,
        Seeds = v.Value.Count,
        v.Diverged,
        Difference = v.Difference?.Mean,
        Low = v.Difference?.Low,
        High = v.Difference?.High,
        P = v.Difference?.AdjustedPValue,
        Effect = v.Difference?.Effect,
        Called = v.Difference is null ? "base" : v.Difference.IsDifferent ? (v.Difference.Mean < 0 ? "lower" : "higher")
            : "no difference shown",
    }));

    /// <summary>A row a claim: the published values, ours, the order of both, and the verdict.</summary>
    /// <param name="claims">The claims.</param>
    public static MetricsTable ToTable(IReadOnlyList<JudgedClaim> claims) => MetricsTable.From(claims.Select(c => new
    {
        Claim = c.Claim.Text,
        c.Claim.Source,
        Published = Published(c.Claim),
        c.Claim.Metric,
        c.Claim.Better,
        OursBetter = Ours(c.Better),
        c.Claim.Worse,
        OursWorse = Ours(c.Worse),
        Orders = c.Orders,
        Gain = c.Difference.Mean,
        Low = c.Difference.Low,
        High = c.Difference.High,
        P = c.Difference.AdjustedPValue,
        Seeds = c.Difference.Pairs,
        Verdict = Words(c.Verdict),
    }));

    /// <summary>A verdict in words.</summary>
    /// <param name="verdict">The verdict.</param>
    public static string Words(ClaimVerdict verdict) => verdict switch
    {
        ClaimVerdict.Holds => "holds",
        ClaimVerdict.DoesNotHold => "does not hold",
        ClaimVerdict.NotDecided => "not decided at this scale",
        ClaimVerdict.NotRun => "not run yet",
        _ => throw UnknownValue.Of(verdict),
    };

    private static ClaimVerdict Verdict(StudyClaim claim, PairedDifference difference)
    {
        if (double.IsNaN(difference.Low))
        {
            return ClaimVerdict.NotDecided;
        }

        if (claim.Within is { } within)
        {
            return difference.Low > -within && difference.High < within ? ClaimVerdict.Holds
                : difference.Low > within || difference.High < -within ? ClaimVerdict.DoesNotHold
                : ClaimVerdict.NotDecided;
        }

        return !difference.IsDifferent ? ClaimVerdict.NotDecided : difference.Mean > 0 ? ClaimVerdict.Holds : ClaimVerdict.DoesNotHold;
    }

    /// <summary>Our value in words: nothing where there is no run.</summary>
    internal static string Ours(MeanInterval value) => value.Count == 0 ? "no run" : value.ToString();

    internal static string Published(StudyClaim claim) => claim.PublishedBetter is null && claim.PublishedWorse is null
        ? "order only"
        : string.Create(
            CultureInfo.InvariantCulture,
            $"{claim.PublishedBetter:0.####} against {claim.PublishedWorse:0.####}{(claim.PublishedUnit is { } unit ? $" ({unit})" : "")}");

    private static Dictionary<int, double> BySeed(StudyResult result, string variant, string metric) => result.Rows
        .Where(row => row.Variant == variant)
        .Select(row => (row.Seed, Value: row.Measure(metric)))
        .Where(row => row.Value is not null)
        .ToDictionary(row => row.Seed, row => row.Value!.Value);
}
