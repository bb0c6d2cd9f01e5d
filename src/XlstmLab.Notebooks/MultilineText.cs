using System.Text.Json;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>The format's "multiline string": one string, or a list of lines that keep their line ends.</summary>
internal static class MultilineText
{
    public static bool IsValid(JsonNode? node) =>
        IsString(node) || (node is JsonArray lines && lines.All(IsString));

    public static bool IsString(JsonNode? node) => node?.GetValueKind() == JsonValueKind.String;

    /// <summary>The text of a multiline string; empty for an absent one. What is no string is shown as JSON, null as nothing.</summary>
    public static string Join(JsonNode? node) => node switch
    {
        null => "",
        JsonArray lines => string.Concat(lines.Select(Join)),
        _ when IsString(node) => node.GetValue<string>(),
        _ => node.ToJsonString(),
    };

    public static JsonArray Split(string text)
    {
        JsonArray lines = [];
        for (int start = 0; start < text.Length;)
        {
            int end = text.IndexOf('\n', start);
            end = end < 0 ? text.Length : end + 1;
            lines.Add((JsonNode)text[start..end]);
            start = end;
        }

        return lines;
    }
}
