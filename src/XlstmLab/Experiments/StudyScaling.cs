using System.Globalization;
using XlstmLab.Analysis;

namespace XlstmLab.Experiments;

/// <summary>What a study whose axis <c>flops</c> is a budget says about the best size.</summary>
public static class StudyScaling
{
    /// <summary>
    /// The IsoFLOP profiles of one place on a study's first axis, such as an architecture: mean validation losses over seeds.
    /// </summary>
    /// <param name="result">What the study came to.</param>
    /// <param name="place">The label on the first axis.</param>
    /// <param name="leastUpdates">Runs of fewer updates are left out: they are all warm-up.</param>
    /// <returns>A profile for each compute that at least three sizes have runs of, by compute.</returns>
    /// <exception cref="ArgumentException">The study has no axis <c>flops</c>.</exception>
    public static IReadOnlyList<IsoFlopProfile> IsoFlops(this StudyResult result, string place, int leastUpdates = 100)
    {
        ArgumentNullException.ThrowIfNull(result);
        if (result.Study.Axes.All(axis => axis.Name != "flops"))
        {
            throw new ArgumentException(
                $"The study {result.Study.Name} has no axis 'flops'. Axes: "
                + $"{string.Join(", ", result.Study.Axes.Select(axis => axis.Name))}.", nameof(result));
        }

        var first = result.Study.Axes[0].Name;
        return
        [
            .. result.Rows
                .Where(row => row.Differences[first] == place && row.Status == StudyStatus.Completed
                    && row.Steps >= leastUpdates && row.ValidationLoss is not null)
                .GroupBy(row => row.Differences["flops"]).Where(group => group.DistinctBy(row => row.Parameters).Count() >= 3)
                .Select(group => IsoFlopProfile.Of(
                    double.Parse(group.Key.Split('=')[^1], CultureInfo.InvariantCulture),
                    [.. group.GroupBy(row => row.Variant).Select(variant => new ScalingPoint(
                        variant.First().Parameters, variant.First().Tokens, variant.Average(row => row.ValidationLoss!.Value)))]))
                .OrderBy(profile => profile.Flops),
        ];
    }
}
