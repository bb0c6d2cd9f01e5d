using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Unicode;

namespace XlstmLab.Serving;

/// <summary>
/// The fields of a JSON object of a request: each is of the type that is asked for, or refused by name; so is one that nobody asked for.
/// </summary>
internal sealed class RequestFields
{
    private const int LongestShown = 60;

    private readonly Dictionary<string, JsonElement> _fields;
    private readonly HashSet<string> _asked = new(StringComparer.Ordinal);
    private readonly string _place;

    private RequestFields(JsonElement json, string place)
    {
        _place = place;
        if (json.ValueKind != JsonValueKind.Object)
        {
            throw place.Length == 0
                ? ApiError.Invalid($"Expected the body to be a JSON object, got {Shown(json)}.")
                : Wrong(place.TrimEnd('.'), "an object", json);
        }

        _fields = json.EnumerateObject().ToDictionary(p => p.Name, p => p.Value, StringComparer.Ordinal);
    }

    /// <summary>Reads a body.</summary>
    /// <exception cref="ApiError">It is no JSON object.</exception>
    public static RequestFields Parse(ReadOnlyMemory<byte> utf8)
    {
        if (!Utf8.IsValid(utf8.Span))
        {
            throw ApiError.Invalid("The body is no valid UTF-8, which JSON is written in.");
        }

        try
        {
            using var document = JsonDocument.Parse(utf8, new() { MaxDepth = 64, AllowDuplicateProperties = false });
            return new(document.RootElement.Clone(), "");
        }
        catch (JsonException e)
        {
            throw ApiError.Invalid($"The body is no valid JSON: {e.Message}");
        }
        catch (InvalidOperationException)
        {
            throw ApiError.Invalid("A field's name is no Unicode: half of a surrogate pair stands alone.");
        }
    }

    /// <summary>The names of all fields.</summary>
    public IEnumerable<string> Names => _fields.Keys;

    /// <summary>Refuses what has not been asked for, as OpenAI does.</summary>
    public void RequireNoOthers()
    {
        if (_fields.Keys.FirstOrDefault(name => !_asked.Contains(name)) is { } unknown)
        {
            var place = _place + Shown(unknown);
            throw ApiError.Invalid(place, $"Unrecognized request argument supplied: {place}", "unknown_parameter");
        }
    }

    /// <summary>The value of a field; null where it is absent or null.</summary>
    public JsonElement? Find(string name)
    {
        _asked.Add(name);
        return _fields.TryGetValue(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;
    }

    /// <summary>Fields that are of no consequence.</summary>
    public void Ignore(params ReadOnlySpan<string> names)
    {
        foreach (var name in names)
        {
            _asked.Add(name);
        }
    }

    /// <summary>A field that cannot be done as asked, unless it asks for what happens anyway.</summary>
    public void Refuse(string name, Func<JsonElement, bool> isHarmless, string why)
    {
        if (Find(name) is { } value && !isHarmless(value))
        {
            throw ApiError.Invalid(_place + name, $"'{_place}{name}': {why}; got {Shown(value)}.", "unsupported_parameter");
        }
    }

    /// <summary>A field that has to be there.</summary>
    public JsonElement Need(string name) =>
        Find(name) ?? throw ApiError.Invalid(_place + name, $"'{_place}{name}' is missing.", "missing_required_parameter");

    /// <summary>A text.</summary>
    public string? Text(string name) => Find(name) is { } value ? Text(value, _place + name) : null;

    /// <summary>True or false.</summary>
    public bool? Flag(string name) => Find(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } value => throw Wrong(_place + name, "true or false", value),
    };

    /// <summary>A finite number of a range.</summary>
    public double? Number(string name, double least, double most)
    {
        if (Find(name) is not { } value)
        {
            return null;
        }

        var number = value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var x) && x >= least && x <= most ? x : double.NaN;
        return double.IsNaN(number)
            ? throw Wrong(_place + name, string.Create(CultureInfo.InvariantCulture, $"a number from {least} to {most}"), value)
            : number;
    }

    /// <summary>A whole number of a range.</summary>
    public long? Whole(string name, long least, long most)
    {
        if (Find(name) is not { } value)
        {
            return null;
        }

        return value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out var number) && number >= least && number <= most
            ? number
            : throw Wrong(_place + name, string.Create(CultureInfo.InvariantCulture, $"a whole number from {least} to {most}"), value);
    }

    /// <summary>An object inside.</summary>
    public RequestFields? Object(string name) => Find(name) is { } value ? new(value, $"{_place}{name}.") : null;

    /// <summary>An object that is an element of a list.</summary>
    public static RequestFields Element(JsonElement value, string place) => new(value, place + ".");

    /// <summary>A text that is Unicode.</summary>
    public static string Text(JsonElement value, string place)
    {
        if (value.ValueKind != JsonValueKind.String)
        {
            throw Wrong(place, "a text", value);
        }

        try
        {
            return value.GetString()!;
        }
        catch (InvalidOperationException)
        {
            throw ApiError.Invalid(place, $"'{place}' is no Unicode: half of a surrogate pair stands alone.");
        }
    }

    /// <summary>Whether a value is a text, and this one.</summary>
    public static bool Is(JsonElement value, string text)
    {
        try
        {
            return value.ValueKind == JsonValueKind.String && value.ValueEquals(text);
        }
        catch (InvalidOperationException)
        {
            // Half of a surrogate pair stands alone.
            return false;
        }
    }

    /// <summary>The error of a value of the wrong kind.</summary>
    public static ApiError Wrong(string place, string expected, JsonElement value) =>
        ApiError.Invalid(place, $"Invalid type or value for '{place}': expected {expected}, got {Shown(value)}.", "invalid_type");

    private static string Shown(JsonElement value) => Shown(value.GetRawText());

    /// <summary>The beginning of a text that a client sent.</summary>
    public static string Shown(string text)
    {
        var shown = new StringBuilder();
        foreach (var rune in text.EnumerateRunes())
        {
            if (shown.Length >= LongestShown)
            {
                return shown.Append("...").ToString();
            }

            shown.Append(rune);
        }

        return shown.ToString();
    }
}
