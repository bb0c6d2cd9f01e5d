using System.Globalization;
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
            bool isBesideHtml = mimeType == Plain && wanted.Contains(Html);
            int limit = isBesideHtml ? PlainTextLimit : mimeType == Plain ? CellOutputs.StreamLimit : CellOutputs.DisplayLimit;
            string text = Text(value, mimeType, limit, out long leftOut).Replace("\r\n", "\n", StringComparison.Ordinal);
            if (leftOut > 0 && !isBesideHtml)
            {
                // Half of a page, a picture or a document is none: only plain text can be cut.
                string whole = string.Create(CultureInfo.InvariantCulture, $"... a value of {text.Length + leftOut:N0} characters is left out");
                data[mimeType == Html ? Html : Plain] = MultilineText.Split(
                    mimeType == Plain ? string.Create(CultureInfo.InvariantCulture, $"{text}\n... {leftOut:N0} more characters are left out")
                    : mimeType == Html ? $"<p>{whole}</p>" : whole);
                continue;
            }

            data[mimeType] = NotebookReader.IsJson(mimeType) ? ParseJson(text) : MultilineText.Split(leftOut > 0 ? text + " ..." : text);
        }

        return data;
    }

    /// <summary>The value's text, as far as there is room for it.</summary>
    private static string Text(object value, string mimeType, int limit, out long leftOut)
    {
        using LimitedWriter writer = new(limit);
        if (value is string text && mimeType == Plain)
        {
            writer.Write(text);
        }
        else
        {
            value.FormatTo(new FormatContext(writer), mimeType);
        }

        leftOut = writer.LeftOut;
        return writer.ToString();
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
