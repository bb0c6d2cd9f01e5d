using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace XlstmLab.Notebooks;

/// <summary>Parses notebook files and checks everything that the rest of this library relies on.</summary>
/// <remarks>Outputs, which a run replaces, may be as strange as Jupyter and VS Code let them be; what a run needs may not.</remarks>
internal static partial class NotebookReader
{
    /// <summary>nbformat's cell types, in the order of <see cref="CellKind"/>.</summary>
    public static readonly string[] CellTypes = ["code", "markdown", "raw"];

    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false };

    public static JsonObject Read(ReadOnlySpan<byte> utf8, string name)
    {
        try
        {
            string text = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(utf8).TrimStart('\uFEFF');
            if (JsonNode.Parse(text, documentOptions: Strict) is not JsonObject root)
            {
                throw Damaged(name, "the file holds no JSON object");
            }

            Materialize(root, mends: false);
            Check(root, name);
            return root;
        }
        catch (DecoderFallbackException e)
        {
            throw new NotebookException($"{name} is not a notebook: it is not UTF-8 text (byte {e.Index}).", e);
        }
        catch (JsonException e)
        {
            throw new NotebookException($"{name} is not a notebook: it is not valid JSON. {e.Message}", e);
        }
        catch (InvalidOperationException e)
        {
            throw new NotebookException($"{name} is not a notebook: a string in it is not valid Unicode. {e.Message}", e);
        }
    }

    /// <summary>
    /// Reads every string now: JSON nodes decode late, and a broken surrogate must not surface in the middle of a run. In outputs and
    /// metadata, on which no run depends, half a pair that a program cut becomes U+FFFD.
    /// </summary>
    private static JsonNode? Materialize(JsonNode? node, bool mends)
    {
        switch (node)
        {
            case JsonObject json:
                foreach (string key in json.Select(entry => entry.Key).ToList())
                {
                    if (Materialize(json[key], mends || key is "outputs" or "metadata") is var read && !ReferenceEquals(read, json[key]))
                    {
                        json[key] = read;
                    }
                }

                return json;
            case JsonArray array:
                for (int i = 0; i < array.Count; i++)
                {
                    if (Materialize(array[i], mends) is var read && !ReferenceEquals(read, array[i]))
                    {
                        array[i] = read;
                    }
                }

                return array;
            case JsonValue value when value.GetValueKind() == JsonValueKind.String:
                try
                {
                    _ = value.GetValue<string>();
                    return value;
                }
                catch (InvalidOperationException) when (mends)
                {
                    string raw = value.GetValue<JsonElement>().GetRawText();
                    return Materialize(JsonNode.Parse(LoneSurrogate().Replace(raw, "${before}\\ufffd")), mends: false);
                }

            default:
                return node;
        }
    }

    private static void Check(JsonObject root, string name)
    {
        if (!IsInteger(root["nbformat"], out int major))
        {
            throw Damaged(name, "it has no whole number 'nbformat'");
        }

        if (major != 4)
        {
            throw new NotebookException(
                $"{name} has notebook format {major}; format 4 is supported. Open it in Jupyter and save it, which upgrades the file.");
        }

        if (!IsInteger(root["nbformat_minor"], out int minor))
        {
            throw Damaged(name, "it has no whole number 'nbformat_minor'");
        }

        root["metadata"] ??= new JsonObject();
        if (root["metadata"] is not JsonObject)
        {
            throw Damaged(name, "'metadata' is not an object");
        }

        if (root["cells"] is not JsonArray cells)
        {
            throw Damaged(name, "it has no list 'cells'");
        }

        HashSet<string> ids = [];
        for (int i = 0; i < cells.Count; i++)
        {
            CheckCell(cells[i], i, ids, name);
        }

        root["nbformat_minor"] = Math.Max(minor, 5);
    }

    private static void CheckCell(JsonNode? node, int index, HashSet<string> ids, string name)
    {
        string where = $"cell {index + 1}";
        if (node is not JsonObject cell)
        {
            throw Damaged(name, $"{where} is not an object");
        }

        if (!MultilineText.IsString(cell["cell_type"]) || !CellTypes.Contains(cell["cell_type"]!.GetValue<string>()))
        {
            throw Damaged(name, $"{where} has cell_type {Show(cell["cell_type"])}, not one of {string.Join(", ", CellTypes)}");
        }

        if (!MultilineText.IsValid(cell["source"]))
        {
            throw Damaged(name, $"the source of {where} is neither a string nor a list of strings");
        }

        cell["metadata"] ??= new JsonObject();
        if (cell["metadata"] is not JsonObject)
        {
            throw Damaged(name, $"the metadata of {where} is not an object");
        }

        // Files before format 4.5 have no identifiers.
        cell["id"] ??= $"cell-{index + 1}";
        if (!MultilineText.IsString(cell["id"]) || !IsId(cell["id"]!.GetValue<string>()))
        {
            throw Damaged(name, $"the id of {where} is {Show(cell["id"])}, not 1 to 64 letters, digits, '-' and '_'");
        }

        // Copied cells keep their id in some programs; the later one gets an id of its own, as Jupyter gives it.
        string id = cell["id"]!.GetValue<string>();
        for (int copy = 2; !ids.Add(cell["id"]!.GetValue<string>()); copy++)
        {
            cell["id"] = $"{id[..Math.Min(id.Length, 54)]}-{copy}";
        }

        if (cell["attachments"] is not (null or JsonObject))
        {
            throw Damaged(name, $"the attachments of {where} are not an object");
        }

        if (cell["cell_type"]!.GetValue<string>() == "code")
        {
            CheckCode(cell, where, name);
        }
    }

    private static void CheckCode(JsonObject cell, string where, string name)
    {
        if (!IsInteger(cell["execution_count"], out _))
        {
            cell["execution_count"] = null;
        }

        cell["outputs"] ??= new JsonArray();
        if (cell["outputs"] is not JsonArray outputs)
        {
            throw Damaged(name, $"the outputs of {where} are not a list");
        }

        for (int i = 0; i < outputs.Count; i++)
        {
            if (outputs[i] is not JsonObject { Count: > 1 })
            {
                throw Damaged(name, $"output {i + 1} of {where} is no object that holds anything");
            }
        }
    }

    /// <summary>Whether data of this type is any JSON value, not text.</summary>
    public static bool IsJson(string mimeType) => mimeType == "application/json" || mimeType.EndsWith("+json", StringComparison.Ordinal);

    private static bool IsId(string id) => id.Length is >= 1 and <= 64 && id.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_');

    private static bool IsInteger(JsonNode? node, out int value)
    {
        value = 0;
        return node is JsonValue number && number.GetValueKind() == JsonValueKind.Number && number.TryGetValue(out value);
    }

    private static string Show(JsonNode? node)
    {
        string text = node?.ToJsonString() ?? "nothing";
        return text.Length <= 40 ? text : text[..40] + "...";
    }

    private static NotebookException Damaged(string name, string what) => new($"{name} is not a valid notebook: {what}.");

    [GeneratedRegex(
        @"(?<before>(?<!\\)(?:\\\\)*)"
        + @"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})")]
    private static partial Regex LoneSurrogate();
}
