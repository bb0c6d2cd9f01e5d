using System.Globalization;
using System.Net;
using System.Text;
using XlstmLab.Analysis;

namespace XlstmLab.Notebooks;

/// <summary>Renders the head of a table as HTML that needs nothing else.</summary>
internal static class TableHtml
{
    // Colours are left to the page, so that the table suits dark notebooks too.
    private const string Style =
        "<style>.xlstm-table{border-collapse:collapse!important;font:13px/1.45 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;"
        + "font-variant-numeric:tabular-nums;margin:4px 0;border:0}"
        + ".xlstm-table th,.xlstm-table td{padding:3px 14px 3px 4px;border:0;border-bottom:1px solid "
        + "rgba(128,128,128,.22);text-align:left;white-space:nowrap;background:none}.xlstm-table thead th{border-bottom:1.5px solid "
        + "rgba(128,128,128,.6);font-weight:600;vertical-align:bottom}.xlstm-table tbody th{font-weight:400;opacity:.65}"
        + ".xlstm-table .n{text-align:right}.xlstm-table .m{opacity:.4}"
        + ".xlstm-note{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;opacity:.65;margin:2px 0 8px}</style>";

    private const int TextShown = 120;

    /// <summary>From here on thousands are set apart: years and small counts are not.</summary>
    private const int Grouped = 10_000;

    public static string Render(MetricsTable table)
    {
        StringBuilder html = new(Style);
        html.Append("<div style=\"overflow-x:auto\"><table class=\"xlstm-table\">");
        if (table.Columns.Any(column => column.Name.Length > 0))
        {
            html.Append("<thead><tr>");
            foreach (var column in table.Columns)
            {
                html.Append(IsNumeric(column) ? "<th class=\"n\">" : "<th>")
                    .Append(WebUtility.HtmlEncode(column.Unit is null ? column.Name : $"{column.Name} ({column.Unit})")).Append("</th>");
            }

            html.Append("</tr></thead>");
        }

        html.Append("\n<tbody>\n");
        var cells = table.Columns.Select(Format).ToList();
        int shown = table.RowCount;
        for (int row = 0; row < shown; row++)
        {
            html.Append("<tr>");
            for (int i = 0; i < cells.Count; i++)
            {
                string tag = table.Columns[i].IsKey ? "th" : "td";
                string kind = (IsNumeric(table.Columns[i]), table.Columns[i].Values[row] is null) switch
                {
                    (true, true) => " class=\"n m\"",
                    (true, false) => " class=\"n\"",
                    (false, true) => " class=\"m\"",
                    _ => "",
                };
                html.Append('<').Append(tag).Append(kind).Append('>').Append(WebUtility.HtmlEncode(cells[i][row]))
                    .Append("</").Append(tag).Append('>');
            }

            html.Append("</tr>\n");
        }

        html.Append("</tbody></table></div>");
        int columns = table.Columns.Count(column => !column.IsKey);
        string note = shown < table.TotalRows
            ? string.Create(CultureInfo.InvariantCulture, $"first {shown} of {table.TotalRows} rows, {columns} columns")
            : table.TotalRows == 0 ? "no rows" : "";
        return note.Length == 0 ? html.ToString() : html.Append($"\n<div class=\"xlstm-note\">{note}</div>").ToString();
    }

    private static bool IsNumeric(TableColumn column) =>
        column.Values.Any(value => value is not null) && column.Values.All(value => value is null || IsNumber(value));

    private static bool IsNumber(object value) =>
        value is sbyte or byte or short or ushort or int or uint or long or ulong or float or double or decimal or Half;

    /// <summary>The texts of a column: its numbers share their decimals, so that magnitudes can be compared by eye.</summary>
    private static string[] Format(TableColumn column)
    {
        double[] reals = [.. column.Values.Where(IsReal).Select(
            value => Convert.ToDouble(value is Half half ? (double)half : value, CultureInfo.InvariantCulture))
            .Where(double.IsFinite)];
        int decimals = Decimals(reals);
        return [.. column.Values.Select(value => value switch
        {
            null => "\u2013",
            Half half => Real((double)half, decimals),
            float or double => Real(Convert.ToDouble(value, CultureInfo.InvariantCulture), decimals),
            string text => text.Length <= TextShown ? text : text[..TextShown] + "...",
            int or long when !column.IsKey && Math.Abs(Convert.ToDouble(value, CultureInfo.InvariantCulture)) >= Grouped =>
                ((IFormattable)value).ToString("N0", CultureInfo.InvariantCulture),
            IFormattable formattable => formattable.ToString(
                value is DateTime ? "yyyy-MM-dd HH:mm:ss" : null, CultureInfo.InvariantCulture),
            _ => value.ToString() ?? "",
        })];
    }

    private static bool IsReal(object? value) => value is float or double or Half;

    /// <summary>As many decimals as the values need, but no more than five significant digits of the largest.</summary>
    private static int Decimals(double[] values)
    {
        double largest = values.Length == 0 ? 0 : values.Max(Math.Abs);
        int most = largest == 0 ? 0 : Math.Clamp(4 - (int)Math.Floor(Math.Log10(largest)), 0, 8);
        int needed = 0;
        while (needed < most && values.Any(value => Math.Abs(value - Math.Round(value, needed)) > Math.Abs(value) * 1e-6))
        {
            needed++;
        }

        return needed;
    }

    private static string Real(double value, int decimals)
    {
        bool vanishes = value != 0 && Math.Abs(value) < 0.5 * Math.Pow(10, -decimals);
        return vanishes || Math.Abs(value) >= 1e9
            ? value.ToString("0.###e+0", CultureInfo.InvariantCulture)
            : value.ToString(
                (Math.Abs(value) >= Grouped ? "N" : "F") + decimals.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
    }
}
