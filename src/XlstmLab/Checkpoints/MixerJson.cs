using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;
using XlstmLab.Models;

namespace XlstmLab.Checkpoints;

/// <summary>
/// A pattern of mixers as <c>mixers</c> of a <c>config.json</c>: a text, an object with a <c>kind</c>, or a list of both.
/// </summary>
internal static class MixerJson
{
    private const string Name = "mixers";

    /// <summary>As all fields, without what a record computes.</summary>
    private static readonly JsonSerializerOptions Fields = new(ModelConfigJson.Fields) { IgnoreReadOnlyProperties = true };

    /// <summary>Takes the pattern out of a document; null if it has none.</summary>
    /// <exception cref="ConfigException">It is no pattern, or has a mixer that is not known.</exception>
    /// <exception cref="JsonException">A mixer has a field that its record does not have, or a wrong value.</exception>
    public static MixerPattern? Take(JsonObject given)
    {
        if (given[Name] is not { } node)
        {
            given.Remove(Name);
            return null;
        }

        if (given["slstm_at"] is not null)
        {
            throw new ConfigException(
                $"{Name} and slstm_at are given; expected one of them: both say what mixes the tokens of each block.");
        }

        given.Remove(Name);
        return Of(node);
    }

    /// <summary>The pattern of a node.</summary>
    /// <exception cref="ConfigException">It is no pattern, or has a mixer that is not known.</exception>
    /// <exception cref="JsonException">A mixer has a field that its record does not have, or a wrong value.</exception>
    public static MixerPattern Of(JsonNode? node) =>
        node switch
        {
            JsonArray { Count: > 0 } list => MixerPattern.Create(
                [.. list.Select((entry, at) => One(entry, FormattableString.Invariant($"{Name}[{at}]")))]),
            JsonValue value when value.TryGetValue<string>(out var text) => MixerPattern.Parse(text),
            _ => One(node, Name),
        };

    /// <summary>A pattern's JSON; names alone where mixers are as their records are made.</summary>
    public static JsonNode Write(MixerPattern pattern) => pattern.Count == 1 ? One(pattern[0]) : new JsonArray([.. pattern.Select(One)]);

    private static MixerConfig One(JsonNode? node, string place)
    {
        if (node is JsonValue value && value.TryGetValue<string>(out var name))
        {
            return name;
        }

        if (node is not JsonObject given || given["kind"] is not JsonValue kind || !kind.TryGetValue<string>(out var named))
        {
            throw new ConfigException(
                $"{place} is {node?.ToJsonString() ?? "null"}; expected a mixer's name, or an object with its kind and properties.");
        }

        var fields = given.DeepClone().AsObject();
        fields.Remove("kind");
        return (MixerConfig)StrictJson.Read(fields, MixerKinds.TypeOf(named), Fields, place)!;
    }

    private static JsonNode One(MixerConfig mixer)
    {
        if (mixer is OwnMixer)
        {
            return mixer.Kind;
        }

        var fields = JsonSerializer.SerializeToNode(mixer, mixer.GetType(), Fields)!.AsObject();
        if (mixer.GetType().GetConstructor(Type.EmptyTypes) is not null && mixer.Kind is not ("mlstm" or "slstm"))
        {
            var made = JsonSerializer.SerializeToNode(Activator.CreateInstance(mixer.GetType()), mixer.GetType(), Fields)!.AsObject();
            foreach (var field in made.Where(pair => JsonNode.DeepEquals(pair.Value, fields[pair.Key])).Select(pair => pair.Key).ToList())
            {
                fields.Remove(field);
            }
        }

        if (fields.Count == 0)
        {
            return mixer.Kind;
        }

        fields.Insert(0, "kind", mixer.Kind);
        return fields;
    }
}

/// <summary>A pattern where it is a value of its own, as <c>--set mixers=...</c> has it.</summary>
internal sealed class MixerPatternConverter : JsonConverter<MixerPattern>
{
    public override bool HandleNull => true;

    public override MixerPattern Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        MixerJson.Of(JsonNode.Parse(ref reader));

    public override void Write(Utf8JsonWriter writer, MixerPattern value, JsonSerializerOptions options) =>
        MixerJson.Write(value).WriteTo(writer, options);
}
