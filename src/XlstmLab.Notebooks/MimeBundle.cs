using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Html;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;
using Plotly.NET;

namespace XlstmLab.Notebooks;

/// <summary>Formats a value as the file's <c>data</c> object: MIME type to text.</summary>
internal static class MimeBundle
{
    /// <summary>Plain text beside HTML is for terminals and diffs: more than this is cut.</summary>
    private const int PlainTextLimit = 2000;

    /// <summary>What the note of a cut takes: a text that has one is not cut again.</summary>
    private const int NoteRoom = 200;

    private const string Html = "text/html";
    private const string Plain = "text/plain";

    public static JsonObject Of(object? value, params string[] mimeTypes) => ToJson(Format(value, mimeTypes));

    /// <summary>What an event of the engine shows, within the limits, and as plain text too.</summary>
    public static JsonObject Of(DisplayEvent shown)
    {
        if (shown.Value is GenericChart && shown.FormattedValues.FirstOrDefault() is { MimeType: ChartHtml.FigureType, Value: { } figure })
        {
            return ToJson(ChartHtml.Formats(figure).Select(format => Fit(format.MimeType, format.Value, hasHtml: false)));
        }

        if (shown is ReturnValueProduced && (shown.Value is null || IsScalar(shown.Value.GetType())))
        {
            return Of(shown.Value);
        }

        bool hasHtml = shown.FormattedValues.Any(format => format.MimeType == Html);
        List<FormattedValue> formats = [.. shown.FormattedValues.Select(format => Fit(format.MimeType, format.Value ?? "", hasHtml))];
        if (shown.Value is not (null or IHtmlContent or string) && formats.TrueForAll(format => format.MimeType != Plain))
        {
            formats.Add(Format(shown.Value, Plain, PlainTextLimit, isBesideHtml: true));
        }

        return ToJson(formats);
    }

    /// <summary>The forms of a value, within the limits.</summary>
    /// <param name="value">Any value.</param>
    /// <param name="mimeTypes">The forms wanted; by default those of the value's type, and plain text.</param>
    public static IReadOnlyList<FormattedValue> Format(object? value, params string[] mimeTypes)
    {
        if (value is null)
        {
            return [new FormattedValue(Plain, "<null>")];
        }

        if (value is GenericChart chart && mimeTypes.Length == 0)
        {
            return [.. ChartHtml.Formats(chart).Select(format => Fit(format.MimeType, format.Value, hasHtml: false))];
        }

        string[] wanted = mimeTypes.Length > 0 ? mimeTypes
            : IsScalar(value.GetType()) ? [Plain]
            : [.. Formatter.GetPreferredMimeTypesFor(value.GetType()), Plain];
        return [.. wanted.Distinct().Select(mimeType =>
        {
            bool isBesideHtml = mimeType == Plain && wanted.Contains(Html);
            return Format(value, mimeType, Limit(mimeType, isBesideHtml), isBesideHtml);
        })];
    }

    private static JsonObject ToJson(IEnumerable<FormattedValue> formats)
    {
        JsonObject data = [];
        foreach (var format in formats.Where(format => format.Value.Length > 0 || format.MimeType != ChartHtml.PictureType))
        {
            data[format.MimeType] = NotebookReader.IsJson(format.MimeType) ? ParseJson(format.Value) : MultilineText.Split(format.Value);
        }

        return data;
    }

    private static FormattedValue Format(object value, string mimeType, int limit, bool isBesideHtml)
    {
        string text = Text(value, mimeType, limit, out long leftOut);
        return Cut(mimeType, text, leftOut, isBesideHtml);
    }

    private static FormattedValue Fit(string mimeType, string text, bool hasHtml)
    {
        bool isBesideHtml = mimeType == Plain && hasHtml;
        int limit = Limit(mimeType, isBesideHtml);
        return text.Length <= limit + NoteRoom ? Cut(mimeType, text, 0, isBesideHtml) : Cut(
            mimeType, text[..limit], text.Length - limit, isBesideHtml);
    }

    private static FormattedValue Cut(string mimeType, string text, long leftOut, bool isBesideHtml)
    {
        text = text.Replace("\r\n", "\n", StringComparison.Ordinal);
        if (leftOut == 0)
        {
            return new FormattedValue(mimeType, text);
        }

        if (isBesideHtml)
        {
            return new FormattedValue(mimeType, text + " ...");
        }

        // Half of a page, a picture or a document is none: only plain text can be cut.
        string whole = string.Create(CultureInfo.InvariantCulture, $"... a value of {text.Length + leftOut:N0} characters is left out");
        return mimeType switch
        {
            Plain => new FormattedValue(
                Plain, string.Create(CultureInfo.InvariantCulture, $"{text}\n... {leftOut:N0} more characters are left out")),
            Html => new FormattedValue(Html, $"<p>{whole}</p>"),
            _ => new FormattedValue(Plain, whole),
        };
    }

    private static int Limit(string mimeType, bool isBesideHtml) =>
        isBesideHtml ? PlainTextLimit : mimeType == Plain ? CellOutputs.StreamLimit : CellOutputs.DisplayLimit;

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
