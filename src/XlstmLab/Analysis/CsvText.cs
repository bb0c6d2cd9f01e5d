using System.Globalization;
using System.Text;

namespace XlstmLab.Analysis;

/// <summary>Tables as CSV (RFC 4180, with line feeds).</summary>
internal static class CsvText
{
    /// <summary>A line of names, and a line a row.</summary>
    public static string Of(MetricsTable table)
    {
        var text = new StringBuilder();
        text.AppendJoin(',', table.Columns.Select(c => Field(c.Name))).Append('\n');
        for (var row = 0; row < table.RowCount; row++)
        {
            text.AppendJoin(',', table.Columns.Select(c => Field(c.Values[row]))).Append('\n');
        }

        return text.ToString();
    }

    /// <summary>A value as a field, in quotes where it has to be; empty for null.</summary>
    public static string Field(object? value)
    {
        var shown = Shown(value);
        return shown.AsSpan().IndexOfAny(",\"\r\n") < 0 ? shown : $"\"{shown.Replace("\"", "\"\"", StringComparison.Ordinal)}\"";
    }

    /// <summary>A value as text: numbers in full, in the invariant culture.</summary>
    public static string Shown(object? value) => value switch
    {
        null => "",
        bool flag => flag ? "true" : "false",
        DateTime time => time.ToString("O", CultureInfo.InvariantCulture),
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString() ?? "",
    };
}
