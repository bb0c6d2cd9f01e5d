using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization.Metadata;
using TorchSharp;

namespace XlstmLab;

/// <summary>
/// Reads JSON into records and ignores nothing: an unknown name, a name twice, a null or a value of another kind is refused.
/// </summary>
/// <remarks>Every fault is a <see cref="JsonException"/> whose message says the place in the document; callers add the file.</remarks>
internal static class StrictJson
{
    private const int LongestShown = 60;

    /// <summary>Reads a document.</summary>
    /// <param name="json">The text.</param>
    /// <param name="options">How names are spelt, and whether comments and trailing commas are allowed.</param>
    /// <exception cref="JsonException">The text is no JSON, or not that of such a record.</exception>
    public static T Read<T>(string json, JsonSerializerOptions options) => Read<T>(Parse(json, options), options);

    /// <summary>Reads a node of a document from <see cref="Parse"/>.</summary>
    /// <param name="node">The node; null is JSON's null.</param>
    /// <param name="options">How names are spelt.</param>
    /// <param name="place">The node's place in its document; empty for the whole.</param>
    /// <exception cref="JsonException">The node is not one of such a record.</exception>
    public static T Read<T>(JsonNode? node, JsonSerializerOptions options, string place = "") => (T)Read(node, typeof(T), options, place)!;

    /// <inheritdoc cref="Read{T}(JsonNode?, JsonSerializerOptions, string)"/>
    public static object? Read(JsonNode? node, Type type, JsonSerializerOptions options, string place = "")
    {
        options.MakeReadOnly(populateMissingResolver: true);
        try
        {
            Check(node, options.GetTypeInfo(type), place);
            return node.Deserialize(type, options);
        }
        catch (InvalidOperationException e)
        {
            // Halves of surrogate pairs, escaped in a text, get this from System.Text.Json.
            throw new JsonException($"a text is no Unicode: {e.Message}", e);
        }
    }

    /// <summary>A document in which no object has a name twice.</summary>
    /// <exception cref="JsonException">The text is no JSON, or has a name twice.</exception>
    public static JsonNode? Parse(string json, JsonSerializerOptions? options = null)
    {
        try
        {
            return JsonNode.Parse(json, null, new JsonDocumentOptions
            {
                AllowDuplicateProperties = false,
                AllowTrailingCommas = options?.AllowTrailingCommas ?? false,
                CommentHandling = options?.ReadCommentHandling ?? JsonCommentHandling.Disallow,
            });
        }
        catch (JsonException e) when (NameGivenTwice(json, options) is { } twice)
        {
            throw new JsonException($"'{twice}' is given twice.", e);
        }
        catch (JsonException e)
        {
            var told = e.Message.Split(" LineNumber:")[0].Split(" Path:")[0].TrimEnd();
            throw new JsonException(
                $"no valid JSON: {told}{(e.LineNumber is { } line ? FormattableString.Invariant($" (line {line + 1})") : "")}", e);
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException)
        {
            throw new JsonException($"a text is no Unicode: {e.Message}", e);
        }
    }

    /// <summary>
    /// The first name that an object of a text has twice; null if there is none, or none before the text ceases to be JSON.
    /// </summary>
    private static string? NameGivenTwice(string json, JsonSerializerOptions? options)
    {
        var reader = new Utf8JsonReader(Encoding.UTF8.GetBytes(json), new JsonReaderOptions
        {
            AllowTrailingCommas = options?.AllowTrailingCommas ?? false,
            CommentHandling = options?.ReadCommentHandling ?? JsonCommentHandling.Disallow,
        });
        var objects = new Stack<HashSet<string>>();
        try
        {
            while (reader.Read())
            {
                switch (reader.TokenType)
                {
                    case JsonTokenType.StartObject:
                        objects.Push(new(StringComparer.Ordinal));
                        break;
                    case JsonTokenType.EndObject:
                        objects.Pop();
                        break;
                    case JsonTokenType.PropertyName when reader.GetString()! is var name && !objects.Peek().Add(name):
                        return name;
                }
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            return null;
        }

        return null;
    }

    private static void Check(JsonNode? node, JsonTypeInfo type, string place)
    {
        var isNullable = Nullable.GetUnderlyingType(type.Type) is not null;
        if (node is null)
        {
            if (!isNullable)
            {
                throw Wrong(node, type, place);
            }

            return;
        }

        switch (type.Kind)
        {
            case JsonTypeInfoKind.Object when node is JsonObject fields:
                CheckFields(fields, type, place);
                break;
            case JsonTypeInfoKind.Enumerable when node is JsonArray items:
                var element = type.Options.GetTypeInfo(type.ElementType!);
                for (var i = 0; i < items.Count; i++)
                {
                    Check(items[i], element, FormattableString.Invariant($"{place}[{i}]"));
                }

                break;
            case JsonTypeInfoKind.Dictionary when node is JsonObject entries:
                CheckEntries(entries, type, place);
                break;
            case JsonTypeInfoKind.None:
                CheckValue(node, type, place);
                break;
            default:
                throw Wrong(node, type, place);
        }
    }

    private static void CheckFields(JsonObject fields, JsonTypeInfo type, string place)
    {
        var known = type.Properties.Where(p => p.Get is not null || p.Set is not null).ToDictionary(p => p.Name, StringComparer.Ordinal);
        foreach (var (name, value) in fields)
        {
            var inside = Inside(place, name);
            if (!known.TryGetValue(name, out var property))
            {
                throw new JsonException($"there is no '{inside}'.{NearestName.Hint(name, known.Keys)}{Known(known.Keys)}");
            }

            if (value is null && property.IsSetNullable && !property.PropertyType.IsValueType)
            {
                continue;
            }

            Check(value, type.Options.GetTypeInfo(property.PropertyType), inside);
        }

        foreach (var (name, property) in known)
        {
            var isNeeded = property.IsRequired
                || property.AssociatedParameter is { HasDefaultValue: false, IsMemberInitializer: false, IsNullable: false };
            if (isNeeded && !fields.ContainsKey(name) && !CanBeLeftOut(property))
            {
                throw new JsonException($"'{Inside(place, name)}' is missing; expected {Expected(property.PropertyType)}.");
            }
        }
    }

    /// <summary>What is written only where it is not null may be absent.</summary>
    private static bool CanBeLeftOut(JsonPropertyInfo property) =>
        !property.IsRequired && Nullable.GetUnderlyingType(property.PropertyType) is not null;

    private static void CheckEntries(JsonObject entries, JsonTypeInfo type, string place)
    {
        var (key, value) = (type.KeyType!, type.Options.GetTypeInfo(type.ElementType!));
        foreach (var (name, entry) in entries)
        {
            if (key.IsEnum && !Words(key).Contains(name))
            {
                throw new JsonException($"there is no '{Inside(place, name)}'.{NearestName.Hint(name, Words(key))}{Known(Words(key))}");
            }

            Check(entry, value, Inside(place, name));
        }
    }

    private static void CheckValue(JsonNode node, JsonTypeInfo type, string place)
    {
        try
        {
            node.Deserialize(type);
        }
        catch (Exception e) when (e is JsonException or FormatException or NotSupportedException)
        {
            throw Wrong(node, type, place, e);
        }
    }

    private static JsonException Wrong(JsonNode? node, JsonTypeInfo type, string place, Exception? inner = null)
    {
        var of = Nullable.GetUnderlyingType(type.Type) ?? type.Type;
        var text = node is null ? "null" : node.ToJsonString();
        var shown = text.Length <= LongestShown ? text : text[..LongestShown] + "...";
        var hint = of.IsEnum && node?.GetValueKind() == JsonValueKind.String ? NearestName.Hint(node.GetValue<string>(), Words(of)) : "";
        return new(
            $"{(place.Length == 0 ? "the document" : place)} has a value of the wrong kind; expected {Expected(type.Type)}. "
            + $"It is {shown}.{hint}", inner);
    }

    private static string Expected(Type type)
    {
        var of = Nullable.GetUnderlyingType(type) ?? type;
        var what = of == typeof(int) ? "a whole number of 32 bits"
            : of == typeof(long) ? "a whole number of 64 bits"
            : of == typeof(double) || of == typeof(float) ? "a number"
            : of == typeof(bool) ? "true or false"
            : of == typeof(string) ? "a text"
            : of == typeof(byte[]) ? "bytes in base 64"
            : of == typeof(DateTimeOffset) ? "a time such as 2026-01-31T12:00:00+00:00"
            : of == typeof(torch.ScalarType) ? "float32 or bfloat16"
            : of.IsEnum ? $"one of {string.Join(", ", Words(of))}"
            : ElementOf(of) is { } element ? element == typeof(int) ? "a list of whole numbers" : "a list"
            : "an object";
        return of == type ? what : what + " or null";
    }

    private static Type? ElementOf(Type type) => type.IsArray ? type.GetElementType()
        : type.IsGenericType && type.GetGenericArguments() is [var only] ? only
        : type.GetInterfaces()
            .FirstOrDefault(i => i.IsGenericType && i.GetGenericTypeDefinition() == typeof(IEnumerable<>))?.GetGenericArguments()[0];

    private static string[] Words(Type @enum) => [.. Enum.GetNames(@enum).Select(JsonNamingPolicy.SnakeCaseLower.ConvertName)];

    private static string Known(ICollection<string> names) => names.Count is > 0 and <= 24 ? $" Known are {string.Join(", ", names)}." : "";

    private static string Inside(string place, string name) => place.Length == 0 ? name : $"{place}.{name}";
}
