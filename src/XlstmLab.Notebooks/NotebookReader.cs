using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>Parses notebook files and checks everything that the rest of this library relies on.</summary>
internal static class NotebookReader
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

            Materialize(root);
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

    /// <summary>Reads every string now: JSON nodes decode late, and a broken surrogate must not surface in the middle of a run.</summary>
    private static void Materialize(JsonNode? node)
    {
        switch (node)
        {
            case JsonObject json:
                foreach (var (_, value) in json)
                {
                    Materialize(value);
                }

                break;
            case JsonArray array:
                foreach (var value in array)
                {
                    Materialize(value);
                }

                break;
            case JsonValue value when value.GetValueKind() == JsonValueKind.String:
                _ = value.GetValue<string>();
                break;
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

        if (!ids.Add(cell["id"]!.GetValue<string>()))
        {
            throw Damaged(name, $"{where} has the id {Show(cell["id"])} of an earlier cell");
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
        if (cell["execution_count"] is { } count && !IsInteger(count, out _))
        {
            throw Damaged(name, $"the execution_count of {where} is {Show(count)}, neither null nor a whole number");
        }

        cell.TryAdd("execution_count", null);
        cell["outputs"] ??= new JsonArray();
        if (cell["outputs"] is not JsonArray outputs)
        {
            throw Damaged(name, $"the outputs of {where} are not a list");
        }

        for (int i = 0; i < outputs.Count; i++)
        {
            if (outputs[i] is not JsonObject output || !IsOutput(output))
            {
                throw Damaged(name, $"output {i + 1} of {where} is none of stream, display_data, execute_result and error with their fields");
            }
        }
    }

    private static bool IsOutput(JsonObject output)
    {
        if (!MultilineText.IsString(output["output_type"]))
        {
            return false;
        }

        return output["output_type"]!.GetValue<string>() switch
        {
            "stream" => MultilineText.IsString(output["name"]) && MultilineText.IsValid(output["text"]),
            "display_data" or "execute_result" => output["data"] is JsonObject data && data.All(IsMimeData),
            "error" => MultilineText.IsString(output["ename"]) && MultilineText.IsString(output["evalue"])
                && output["traceback"] is JsonArray lines && lines.All(MultilineText.IsString),
            _ => false,
        };
    }

    private static bool IsMimeData(KeyValuePair<string, JsonNode?> entry) => IsJson(entry.Key) || MultilineText.IsValid(entry.Value);

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
}
