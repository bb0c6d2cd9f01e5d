using System.Text.Json;

namespace XlstmLab.Text;

/// <summary>A document that has been read and not parsed: a JSON line or a text.</summary>
/// <param name="File">The file it is of.</param>
/// <param name="Line">Its line or row, from 1.</param>
/// <param name="Json">The JSON line, where <paramref name="Text"/> is null.</param>
/// <param name="Text">The text.</param>
/// <param name="FileBytes">How many bytes of the file had been read with it, for progress.</param>
internal readonly record struct RawDocument(DocumentFile File, long Line, ReadOnlyMemory<byte> Json, string? Text, long FileBytes)
{
    /// <summary>The bytes it takes, about.</summary>
    public long Size => Text?.Length ?? Json.Length;

    /// <summary>Whether it is a row without a text.</summary>
    public bool IsNull => Text is null && Json.IsEmpty;

    /// <summary>
    /// The document, with the fields beside its text if they are to be kept; null for one without a text that is to be skipped.
    /// </summary>
    /// <exception cref="InvalidDataException">The line is not as expected; the message says where and what to do.</exception>
    public Document? ParseOrSkip(string textField, bool keepFields)
    {
        if (IsNull)
        {
            return null;
        }

        var isWholeFile = Text is not null && File.Path.EndsWith(".txt", StringComparison.OrdinalIgnoreCase);
        var name = isWholeFile ? File.Name : FormattableString.Invariant($"{File.Name}:{Line}");
        return Text is not null ? new(name, Text) : ParseJson(
            Json, File.Path, Line, File.HasNames ? null : name, textField, keepFields, File.SkipNull);
    }

    /// <summary>The document, which has a text.</summary>
    /// <exception cref="InvalidDataException">
    /// The line is not as expected, or has no text; the message says where and what to do.
    /// </exception>
    public Document Parse(string textField, bool keepFields) => ParseOrSkip(textField, keepFields)
        ?? throw new InvalidDataException(FormattableString.Invariant($"'{File.Path}', line {Line}: there is no text in '{textField}'."));

    /// <summary>Parses a JSON line.</summary>
    /// <param name="json">The line.</param>
    /// <param name="path">What messages call its file.</param>
    /// <param name="line">Its number.</param>
    /// <param name="name">The document's name; null takes the field "name".</param>
    /// <param name="textField">The field of the text; dots lead into nested ones.</param>
    /// <param name="keepFields">Whether the other fields are kept.</param>
    /// <param name="skipNull">Whether a text that is null or not there is no error.</param>
    /// <returns>The document; null for one without a text that is to be skipped.</returns>
    /// <exception cref="InvalidDataException">The line is not as expected; the message says where and what to do.</exception>
    public static Document? ParseJson(
        ReadOnlyMemory<byte> json, string path, long line, string? name, string textField, bool keepFields, bool skipNull = false)
    {
        try
        {
            using var parsed = JsonLine.Parse(json);
            var root = parsed.RootElement;
            if (skipNull && IsMissing(root, textField))
            {
                return null;
            }

            // Beside the text a half of a surrogate pair does no harm; in it, it is an error, as bytes are that are not UTF-8.
            if (JsonLine.MayHaveHalves(json))
            {
                using var other = JsonLine.Parse(json, "\\u0000");
                if (Field(other.RootElement, textField) != Field(root, textField))
                {
                    throw new JsonException($"The field '{textField}' has half of a surrogate pair, which is no Unicode text.");
                }
            }

            var document = new Document(name ?? Field(root, "name"), Field(root, textField));
            if (!keepFields)
            {
                return document;
            }

            var fields = new Dictionary<string, string>();
            foreach (var field in root.EnumerateObject().Where(f => f.Name != textField && f.Name != "name"))
            {
                fields[field.Name] = field.Value.ToString();
            }

            return document with { Fields = fields };
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException(
                $"'{path}', line {line}: expected a JSON object with the text field '{textField}': {e.Message} Mend or remove the line, "
                + "name another text field, or leave out lines without a text by --skip-null.", e);
        }
    }

    /// <summary>Whether an object has no such field, or has it as null.</summary>
    private static bool IsMissing(JsonElement element, string name)
    {
        if (element.ValueKind != JsonValueKind.Object)
        {
            return element.ValueKind == JsonValueKind.Null;
        }

        return element.TryGetProperty(name, out var value) ? value.ValueKind == JsonValueKind.Null
            : name.IndexOf('.', StringComparison.Ordinal) is not (> 0 and var dot) || !element.TryGetProperty(name[..dot], out var inner)
            || IsMissing(inner, name[(dot + 1)..]);
    }

    private static string Field(JsonElement element, string name)
    {
        if (element.ValueKind != JsonValueKind.Object)
        {
            throw new JsonException($"It is no object but a {element.ValueKind}.");
        }

        if (!element.TryGetProperty(name, out var value))
        {
            return name.IndexOf('.', StringComparison.Ordinal) is > 0 and var dot && element.TryGetProperty(name[..dot], out var inner)
                ? Field(inner, name[(dot + 1)..])
                : throw new JsonException(
                    $"There is no field '{name}'; there are: {string.Join(", ", element.EnumerateObject().Select(f => f.Name))}.");
        }

        return value.ValueKind == JsonValueKind.String ? value.GetString()! : throw new JsonException(
            $"The field '{name}' is no string but a {value.ValueKind}.");
    }
}
