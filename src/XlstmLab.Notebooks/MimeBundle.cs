using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.DotNet.Interactive.Formatting;

namespace XlstmLab.Notebooks;

/// <summary>Formats a value as the file's <c>data</c> object: MIME type to text.</summary>
internal static class MimeBundle
{
    /// <summary>Plain text beside HTML is for terminals and diffs: more than this is cut.</summary>
    private const int PlainTextLimit = 2000;

    private const string Html = "text/html";
    private const string Plain = "text/plain";

    public static JsonObject Of(object? value, params string[] mimeTypes)
    {
        if (value is null)
        {
            return new JsonObject { [Plain] = MultilineText.Split("<null>") };
        }

        string[] wanted = mimeTypes.Length > 0 ? mimeTypes
            : IsScalar(value.GetType()) ? [Plain]
            : [.. Formatter.GetPreferredMimeTypesFor(value.GetType()), Plain];
        JsonObject data = [];
        foreach (string mimeType in wanted.Distinct())
        {
            string text = value.ToDisplayString(mimeType).Replace("\r\n", "\n", StringComparison.Ordinal);
            if (mimeType == Plain && wanted.Contains(Html) && text.Length > PlainTextLimit)
            {
                text = text[..PlainTextLimit] + " ...";
            }

            data[mimeType] = NotebookReader.IsJson(mimeType) ? ParseJson(text) : MultilineText.Split(text);
        }

        return data;
    }

    private static JsonNode? ParseJson(string text)
    {
        try
        {
            return JsonNode.Parse(text);
        }
        catch (JsonException)
        {
            return text;
        }
    }

    /// <summary>A box around a number says no more than the number.</summary>
    private static bool IsScalar(Type type) =>
        type.IsPrimitive || type.IsEnum || type == typeof(string) || type == typeof(decimal) || type == typeof(DateTime)
        || type == typeof(DateTimeOffset) || type == typeof(TimeSpan) || type == typeof(Guid);
}
