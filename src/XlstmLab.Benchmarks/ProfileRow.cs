using System.Globalization;

namespace XlstmLab.Benchmarks;

/// <summary>A line of a profile.</summary>
/// <param name="Work">Whose step.</param>
/// <param name="Kernel">The kernel, several of them, or what is no kernel.</param>
/// <param name="Launches">How often it runs in a step.</param>
/// <param name="Milliseconds">How long it takes of a step.</param>
/// <param name="Share">The same in percent of the step.</param>
public sealed record ProfileRow(string Work, string Kernel, double? Launches, double Milliseconds, double Share)
{
    /// <summary>
    /// A step's lines: each kernel that takes at least 0.5 % of it, the rest together, and the time in which nothing ran.
    /// </summary>
    public static IEnumerable<ProfileRow> Of(Measurement row)
    {
        if (row.Profile is not { } profile)
        {
            return [];
        }

        const double least = 0.005;
        var step = profile.StepSeconds;
        ProfileRow Line(string kernel, double? launches, double seconds) =>
            new(Comparison.Describe(row.Work), kernel, launches, 1e3 * seconds, 100 * seconds / step);
        var small = profile.Kernels.Where(k => k.Seconds < least * step).ToArray();
        return
        [
            .. profile.Kernels.Except(small).Select(k => Line(k.Name, k.Launches, k.Seconds)),
            Line(
                string.Create(CultureInfo.InvariantCulture, $"{small.Length} others of less than {100 * least} %"),
                small.Sum(k => k.Launches), small.Sum(k => k.Seconds)),
            Line("(nothing ran)", null, Math.Max(0, step - profile.BusySeconds)),
            Line("whole step", profile.Kernels.Sum(k => k.Launches), step),
        ];
    }
}
