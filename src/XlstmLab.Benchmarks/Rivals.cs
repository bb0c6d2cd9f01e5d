using System.Text.Json;

namespace XlstmLab.Benchmarks;

/// <summary>What others' implementations took on an H100, as the files <c>results/h100/*.rivals.jsonl</c> have it.</summary>
internal static class Rivals
{
    /// <summary>The device that all of it was measured on.</summary>
    public const string Device = "H100";

    /// <summary>
    /// All measurements: what a script of ours wrote, and after it what only notes of earlier ones have; a source begins with its file.
    /// </summary>
    public static IReadOnlyList<Measurement> Measured { get; } = ReadAll();

    /// <summary>Those of one work, in the order they are listed.</summary>
    public static IEnumerable<Measurement> Of(Workload work) => Measured.Where(r => r.Work == work);

    /// <summary>The measurements in what a script wrote, each with its versions, machine and date as its source.</summary>
    /// <param name="lines">A line about the run (<see cref="RivalRun"/>), then the script's own.</param>
    public static IEnumerable<Measurement> Read(IEnumerable<string> lines)
    {
        RivalRun? run = null;
        foreach (var line in lines)
        {
            if (run is null)
            {
                run = JsonSerializer.Deserialize<RivalRun>(line, ResultJson.Options)!;
            }
            else if (RivalScript.Read(line, run.Works) is { Remark: null } row)
            {
                yield return row with
                {
                    Source = string.Join(", ", new[] { row.Source, run.Machine, run.Date, run.Remark }.OfType<string>()),
                };
            }
        }
    }

    private static Measurement[] ReadAll()
    {
        var assembly = typeof(Rivals).Assembly;
        var rows = new List<Measurement>();
        foreach (var name in assembly.GetManifestResourceNames().Where(n => n.EndsWith(".rivals.jsonl", StringComparison.Ordinal))
            .OrderBy(IsEarlier))
        {
            using var reader = new StreamReader(assembly.GetManifestResourceStream(name)!);
            var text = reader.ReadToEnd();
            var lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
            rows.AddRange(Read(lines).Where(row => !rows.Any(row.Replaces)).Select(
                row => row with { Source = $"older, results/h100/{name}: {row.Source}" }));
        }

        return [.. rows];
    }

    private static bool IsEarlier(string resource) => resource.Contains("earlier", StringComparison.Ordinal);
}

/// <summary>The first line of a file of rivals' measurements: what was run, where and when.</summary>
/// <param name="Command">The command that ran the script.</param>
/// <param name="Date">When.</param>
/// <param name="Machine">On what.</param>
/// <param name="Remark">What else there is to say of all of it; null for nothing.</param>
/// <param name="Works">The works that the script's lines number.</param>
internal sealed record RivalRun(string Command, string Date, string Machine, string? Remark, IReadOnlyList<Workload> Works);
