using System.Globalization;
using System.Text.Json;

namespace XlstmLab.Notebooks;

/// <summary>Reads values for a notebook's parameters from a file: a JSON object, or YAML of one <c>name: value</c> a line.</summary>
public static class ParameterFile
{
    /// <summary>Reads a file.</summary>
    /// <param name="path">A file that ends in .json, .yaml or .yml.</param>
    /// <returns>The values by name, as text; null where the file says so.</returns>
    /// <exception cref="NotebookException">The file cannot be read, or holds something else than single values by name.</exception>
    public static IReadOnlyDictionary<string, string?> Read(string path)
    {
        string text;
        try
        {
            text = File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException($"The parameter file {path} cannot be read: {e.Message}", e);
        }

        return Path.GetExtension(path).ToUpperInvariant() switch
        {
            ".JSON" => Json(text, path),
            ".YAML" or ".YML" => Yaml(text, path),
            _ => throw new NotebookException($"The parameter file {path} ends in none of .json, .yaml and .yml."),
        };
    }

    private static Dictionary<string, string?> Json(string text, string path)
    {
        try
        {
            using var json = JsonDocument.Parse(
                text, new JsonDocumentOptions { AllowDuplicateProperties = false, CommentHandling = JsonCommentHandling.Skip });
            return json.RootElement.ValueKind != JsonValueKind.Object
                ? throw new NotebookException($"{path} holds no JSON object: expected {{\"name\": value, ...}}.")
                : json.RootElement.EnumerateObject().ToDictionary(entry => entry.Name, entry => entry.Value.ValueKind switch
                {
                    JsonValueKind.Null => null,
                    JsonValueKind.String => entry.Value.GetString(),
                    JsonValueKind.Object or JsonValueKind.Array => throw Nested(path, entry.Name),
                    _ => entry.Value.GetRawText(),
                });
        }
        catch (JsonException e)
        {
            throw new NotebookException($"{path} is not valid JSON: {e.Message}", e);
        }
    }

    private static Dictionary<string, string?> Yaml(string text, string path)
    {
        Dictionary<string, string?> values = [];
        foreach (var (index, whole) in text.ReplaceLineEndings("\n").Split('\n').Index())
        {
            string line = WithoutComment(whole).TrimEnd();
            if (line.Trim().Length == 0 || line is "---" or "...")
            {
                continue;
            }

            int colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon < 1 || char.IsWhiteSpace(line[0]) || (colon + 1 < line.Length && line[colon + 1] != ' '))
            {
                throw new NotebookException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"{path}, line {index + 1}: expected 'name: value', got '{line.Trim()}'. Lists and nested values are no parameters."));
            }

            string name = line[..colon].Trim(), value = line[(colon + 1)..].Trim();
            if (value.Length == 0 || value[0] is '[' or '{' or '|' or '>' or '&' or '*' or '!')
            {
                throw Nested(path, name);
            }

            if (!values.TryAdd(name, Scalar(value)))
            {
                throw new NotebookException($"{path} names '{name}' twice.");
            }
        }

        return values;
    }

    private static string? Scalar(string value) => value switch
    {
        ['"', .. var inner, '"'] => JsonSerializer.Deserialize<string>($"\"{inner}\""),
        ['\'', .. var inner, '\''] => inner.Replace("''", "'", StringComparison.Ordinal),
        "null" or "Null" or "NULL" or "~" => null,
        _ => value,
    };

    /// <summary>A comment begins with a hash sign after a blank, outside of quotes.</summary>
    private static string WithoutComment(string line)
    {
        char quote = '\0';
        for (int i = 0; i < line.Length; i++)
        {
            if (quote != '\0')
            {
                quote = line[i] == quote ? '\0' : quote;
            }
            else if (line[i] is '"' or '\'' && i > 0 && (line[i - 1] == ' ' || line[i - 1] == line[i]))
            {
                quote = line[i];
            }
            else if (line[i] == '#' && (i == 0 || char.IsWhiteSpace(line[i - 1])))
            {
                return line[..i];
            }
        }

        return line;
    }

    private static NotebookException Nested(string path, string name) =>
        new($"{path}: the value of '{name}' is no number, bool or text; a parameter takes one of these.");
}
