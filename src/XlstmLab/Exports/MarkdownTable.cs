using System.Text;

namespace XlstmLab.Exports;

/// <summary>Tables in Markdown, padded so that they read well as they are.</summary>
internal static class MarkdownTable
{
    /// <summary>A table's lines.</summary>
    /// <param name="columns">Headings; one that begins with '>' has its column aligned to the right.</param>
    /// <param name="rows">As many cells each as there are columns.</param>
    public static string Text(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        var cells = rows.Select(row => row.Select(cell => cell.Replace("|", "\\|", StringComparison.Ordinal)).ToArray()).ToArray();
        var widths =
            columns.Select((column, c) => Math.Max(3, cells.Select(row => row[c].Length).Append(column.TrimStart('>').Length).Max()))
                .ToArray();
        var text = new StringBuilder();
        AppendRow(columns.Select(column => column.TrimStart('>')));
        AppendRow(
            columns.Select((column, c) => column.StartsWith('>') ? new string('-', widths[c] - 1) + ":" : new string('-', widths[c])));
        foreach (var row in cells)
        {
            AppendRow(row);
        }

        return text.ToString();

        void AppendRow(IEnumerable<string> row) => text
            .Append("| ")
            .AppendJoin(" | ", row.Select((cell, c) => columns[c].StartsWith('>') ? cell.PadLeft(widths[c]) : cell.PadRight(widths[c])))
            .Append(" |\n");
    }
}
