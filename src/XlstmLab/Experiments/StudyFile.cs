using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Tasks;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

public sealed partial record Study
{
    /// <summary>The name of a study's file in its folder.</summary>
    public const string FileName = "study.json";

    /// <summary>Reads a study from its file; its folder is the file's, and its name the folder's.</summary>
    /// <remarks>
    /// Names are those of the properties in snake case. An axis is either a list of the values of the setting of its name, or an object of
    /// labels with a list of settings each: <c>"axes": { "igate_bias_init": [0, -10], "block": { "old": ["block_style=pre_up"], "new": [] }
    /// }</c>.
    /// </remarks>
    /// <param name="path">The file, or the folder that has it as <c>study.json</c>.</param>
    /// <exception cref="FileNotFoundException">There is none.</exception>
    /// <exception cref="InvalidDataException">It is no study; the message says the place.</exception>
    public static Study ReadFile(string path)
    {
        var file = Path.GetFullPath(Directory.Exists(path) ? Path.Combine(path, FileName) : path);
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"There is no study at {file}; expected a JSON file, or a folder with {FileName}.");
        }

        try
        {
            var content = StrictJson.Read<Content>(File.ReadAllText(file), RunJson.ByHand);
            var folder = Path.GetDirectoryName(file)!;
            return new()
            {
                Name = Path.GetFileName(file) == FileName ? Path.GetFileName(folder) : Path.GetFileNameWithoutExtension(file),
                Folder = Path.GetFileName(file) == FileName ? folder : Path.Combine(folder, Path.GetFileNameWithoutExtension(file)),
                Question = content.Question,
                Claims = content.Claims,
                Base = content.Base,
                ModelName = content.Model ?? Runs.LabDefaults.Preset,
                Shape = content.Shape,
                Data = content.Data ?? Runs.LabDefaults.Data,
                Task = content.Task,
                Settings = content.Set,
                Axes = [.. content.Axes.Select(pair => Axis(pair.Key, pair.Value))],
                Seeds = content.Seeds,
                Tokens = content.Tokens,
                LeastUpdates = content.LeastUpdates,
                MostUpdates = content.MostUpdates,
                SideBySide = content.SideBySide,
                Measure = Measured(content),
            };
        }
        catch (Exception e) when (e is JsonException or FormatException)
        {
            throw new InvalidDataException($"{file} cannot be read as a study: {e.Message}", e);
        }
    }

    private static StudySettings Measured(Content content) => new()
    {
        TestTokens = content.TestTokens is { } tokens ? (tokens == 0 ? null : tokens) : new StudySettings().TestTokens,
        ExtrapolateTo = content.ExtrapolateTo,
        TrainLengths = content.TrainLengths is { } trained ? LengthRange.Parse(trained) : null,
        ValidationLengths = content.ValidationLengths is { } validated ? LengthRange.Parse(validated) : null,
        TestLengths = [.. content.TestLengths.Select(LengthRange.Parse)],
        TestRows = content.TestRows,
        ValidationRows = content.ValidationRows,
        Samples = content.Samples,
        Until = content.Until,
    };

    private static StudyAxis Axis(string name, JsonNode? values) => values switch
    {
        JsonArray list => new(name, [.. list.Select(value => StudyAxis.OfSetting(name, Scalar(name, value)))]),
        JsonObject labels => new(name, [.. labels.Select(pair => new StudyValue(
            pair.Key,
            pair.Value is JsonArray settings ? [.. settings.Select(s => Scalar($"{name}.{pair.Key}", s))]
                : throw Wrong($"{name}.{pair.Key}")))]),
        _ => throw Wrong(name),
    };

    private static string Scalar(string place, JsonNode? value) => value switch
    {
        null => "null",
        JsonValue scalar => scalar.GetValueKind() == JsonValueKind.String ? scalar.GetValue<string>() : scalar.ToJsonString(),
        _ => throw Wrong(place),
    };

    private static JsonException Wrong(string place) =>
        new($"axes.{place}: expected a list of values, or an object of labels with a list of settings such as \"num_heads=8\" each");

    /// <summary>What a file says.</summary>
    private sealed record Content
    {
        public string Question { get; init; } = "";

        public IReadOnlyList<StudyClaim> Claims { get; init; } = [];

        public string? Base { get; init; }

        public string? Model { get; init; }

        public StudyShape? Shape { get; init; }

        public string? Data { get; init; }

        public string? Task { get; init; }

        public IReadOnlyList<string> Set { get; init; } = [];

        public IReadOnlyDictionary<string, JsonNode?> Axes { get; init; } = new Dictionary<string, JsonNode?>();

        public IReadOnlyList<int> Seeds { get; init; } = [1, 2, 3];

        public long? Tokens { get; init; }

        public int? LeastUpdates { get; init; }

        public int? MostUpdates { get; init; }

        public int? SideBySide { get; init; }

        public long? TestTokens { get; init; }

        public int? ExtrapolateTo { get; init; }

        public string? TrainLengths { get; init; }

        public string? ValidationLengths { get; init; }

        public IReadOnlyList<string> TestLengths { get; init; } = [];

        public int? TestRows { get; init; }

        public int? ValidationRows { get; init; }

        public int? Samples { get; init; }

        public double? Until { get; init; }
    }
}
