using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Analysis;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

/// <summary>The folder of an experiment: <c>experiment.json</c>, and a folder a seed with <c>result.json</c> when it is done.</summary>
internal static class SeedFolders
{
    private const string ExperimentName = "experiment.json";
    private const string ResultName = "result.json";

    /// <summary>The folder of a seed.</summary>
    public static string Of(string folder, int seed) => Path.Combine(folder, string.Create(CultureInfo.InvariantCulture, $"seed-{seed}"));

    /// <summary>Notes what the experiment is, or checks that it is the one in the folder.</summary>
    /// <exception cref="InvalidOperationException">Another experiment is in the folder.</exception>
    public static void Claim(string folder, JsonObject description)
    {
        Directory.CreateDirectory(folder);
        var path = Path.Combine(folder, ExperimentName);
        if (File.Exists(path))
        {
            var differences = RunJson.Differences(Parse(path), JsonNode.Parse(description.ToJsonString()));
            if (differences.Length > 0)
            {
                throw new InvalidOperationException(
                    $"The experiment in {folder} is another one:\n{string.Join("\n", differences)}\n"
                    + "Go on with the old settings, or choose another folder.");
            }

            return;
        }

        if (Directory.EnumerateDirectories(folder, "seed-*").FirstOrDefault() is { } orphan)
        {
            throw new InvalidOperationException(
                $"{folder} holds {Path.GetFileName(orphan)} but no {ExperimentName}, which says what was run: "
                + "its results may be those of other settings. Choose another folder.");
        }

        AtomicFile.WriteText(path, description.ToJsonString(RunJson.Indented) + "\n");
    }

    /// <summary>The result of a seed; null if it is not done.</summary>
    public static T? ReadResult<T>(string folder, int seed)
        where T : class => Read<T>(Path.Combine(Of(folder, seed), ResultName));

    /// <summary>Notes the result of a seed: from then on it is done.</summary>
    public static void WriteResult<T>(string folder, int seed, T result) => WriteJson(Path.Combine(Of(folder, seed), ResultName), result);

    /// <summary>A file of JSON; null if there is none.</summary>
    public static T? Read<T>(string path)
        where T : class
    {
        try
        {
            return File.Exists(path) ? StrictJson.Read<T>(File.ReadAllText(path), RunJson.Indented) : null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read: {e.Message}", e);
        }
    }

    /// <summary>Writes a file of JSON.</summary>
    public static void WriteJson<T>(string path, T value) =>
        AtomicFile.WriteText(path, JsonSerializer.Serialize(value, RunJson.Indented) + "\n");

    /// <summary>Writes records as a table.</summary>
    public static void WriteCsv<T>(string path, IReadOnlyList<T> records)
    {
        if (records.Count > 0)
        {
            AtomicFile.WriteText(path, CsvText.Of(MetricsTable.FromAll(records, [])));
        }
    }

    private static JsonNode? Parse(string path)
    {
        try
        {
            return StrictJson.Parse(File.ReadAllText(path));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read as an experiment's description: {e.Message}", e);
        }
    }
}
