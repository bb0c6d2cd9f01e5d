using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using TorchSharp;

namespace XlstmLab.Training;

/// <summary>How a run's files spell their JSON: snake case, words for enums, and NaN and Infinity as words, since they do occur.</summary>
internal static class RunJson
{
    /// <summary>One object on one line.</summary>
    public static JsonSerializerOptions Line { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Converters = { new ScalarTypeConverter(), new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false) },
    };

    /// <summary>For reading by people; what is off is written as null.</summary>
    public static JsonSerializerOptions Indented { get; } =
        new(Line) { WriteIndented = true, DefaultIgnoreCondition = JsonIgnoreCondition.Never };

    /// <summary>For what people write: comments are skipped.</summary>
    public static JsonSerializerOptions ByHand { get; } = new(Line)
    {
        ReadCommentHandling = JsonCommentHandling.Skip,
        AllowTrailingCommas = true,
    };

    /// <summary>Every leaf of a document, as path and text.</summary>
    public static SortedDictionary<string, string> Leaves(JsonNode? node)
    {
        var leaves = new SortedDictionary<string, string>(StringComparer.Ordinal);
        Collect(node, "");
        return leaves;

        void Collect(JsonNode? at, string path)
        {
            switch (at)
            {
                case JsonObject o:
                    foreach (var (name, value) in o)
                    {
                        Collect(value, path.Length == 0 ? name : $"{path}.{name}");
                    }

                    break;
                case JsonArray a when a.Count > 0:
                    for (var i = 0; i < a.Count; i++)
                    {
                        Collect(a[i], $"{path}[{i}]");
                    }

                    break;
                default:
                    leaves[path] = at?.ToJsonString() ?? "null";
                    break;
            }
        }
    }

    /// <summary>Where two documents differ, a line for each leaf.</summary>
    /// <param name="earlier">The one before.</param>
    /// <param name="later">The one now.</param>
    /// <param name="isHarmless">Leaves that may differ; null for none.</param>
    public static string[] Differences(JsonNode? earlier, JsonNode? later, Func<string, bool>? isHarmless = null)
    {
        var (before, now) = (Leaves(earlier), Leaves(later));
        return
        [
            .. before.Keys.Union(now.Keys)
                .Where(key => isHarmless?.Invoke(key) != true && before.GetValueOrDefault(key) != now.GetValueOrDefault(key))
                .Select(key => $"  {key}: {before.GetValueOrDefault(key, "absent")} before, {now.GetValueOrDefault(key, "absent")} now"),
        ];
    }

    private sealed class ScalarTypeConverter : JsonConverter<torch.ScalarType>
    {
        public override torch.ScalarType Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
            Enum.TryParse<torch.ScalarType>(reader.GetString(), ignoreCase: true, out var type)
                ? type
                : throw new JsonException($"'{reader.GetString()}' is no type of tensor elements; expected float32 or bfloat16.");

        public override void Write(Utf8JsonWriter writer, torch.ScalarType value, JsonSerializerOptions options) =>
#pragma warning disable CA1308 // Element types are written in lower case everywhere but in C#.
            writer.WriteStringValue(value.ToString().ToLowerInvariant());
#pragma warning restore CA1308
    }
}
