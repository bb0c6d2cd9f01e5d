using System.Globalization;
using System.Reflection;
using Deedle;
using Microsoft.Data.Analysis;
using XlstmLab.Analysis;

namespace XlstmLab.Notebooks;

/// <summary>Takes the head of each kind of table.</summary>
internal static class Tables
{
    /// <summary>How many rows are shown.</summary>
    public const int RowsShown = 25;

    private const int NamesShown = 12;

    private static readonly MethodInfo OfSeriesMethod =
        typeof(Tables).GetMethod(nameof(OfTypedSeries), BindingFlags.Static | BindingFlags.NonPublic)!;

    /// <summary>One line: kind, size, and the columns' names and types.</summary>
    public static string Describe(MetricsTable table, string kind)
    {
        var columns = table.Columns.Where(column => !column.IsKey).ToList();
        string names = string.Join(", ", columns.Take(NamesShown).Select(
            column => column.Name.Length > 0 ? $"{column.Name} ({Name(column.Type)})" : Name(column.Type)));
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{kind}, {table.TotalRows} x {columns.Count}: {names}{(columns.Count > NamesShown ? ", ..." : "")}");
    }

    public static MetricsTable Of(MetricsTable table) =>
        MetricsTable.Head(table.RowCount, [.. table.Columns.Select(column => column with { Values = [.. column.Values.Take(RowsShown)] })]);

    public static MetricsTable Of(DataFrame frame)
    {
        int shown = (int)Math.Min(RowsShown, frame.Rows.Count);
        return MetricsTable.Head(frame.Rows.Count, [.. frame.Columns.Select(column =>
            new TableColumn(column.Name, column.DataType, [.. Enumerable.Range(0, shown).Select(row => column[row])]))]);
    }

    public static MetricsTable Of(IFrame frame) => frame.Apply(new HeadOfFrame());

    /// <param name="series">A <c>Series&lt;K, V&gt;</c> or what derives from one, such as a frame's row.</param>
    public static MetricsTable OfSeries(object series)
    {
        var type = series.GetType();
        while (!type.IsGenericType || type.GetGenericTypeDefinition() != typeof(Series<,>))
        {
            type = type.BaseType ?? throw new ArgumentException($"{series.GetType()} is not a series.", nameof(series));
        }

        return (MetricsTable)OfSeriesMethod.MakeGenericMethod(type.GetGenericArguments()).Invoke(null, [series])!;
    }

    private static MetricsTable OfTypedSeries<TKey, TValue>(Series<TKey, TValue> series) =>
        MetricsTable.Head(series.KeyCount, [Keys(series.Keys), new TableColumn("", typeof(TValue), Head(series.Vector))]);

    private static TableColumn Keys<TKey>(IEnumerable<TKey> keys) =>
        new("", typeof(TKey), [.. keys.Take(RowsShown).Select(key => (object?)key)]) { IsKey = true };

    private static object?[] Head(IVector vector) =>
        [.. vector.ObjectSequence.Take(RowsShown).Select(value => value.HasValue ? value.Value : null)];

    private static string Name(Type type) => (Nullable.GetUnderlyingType(type) ?? type).Name;

    private sealed class HeadOfFrame : IFrameOperation<MetricsTable>
    {
        public MetricsTable Invoke<TRow, TColumn>(Frame<TRow, TColumn> frame)
        {
            var types = frame.ColumnTypes.ToList();
            return MetricsTable.Head(frame.RowCount, [Keys(frame.RowKeys), .. frame.ColumnKeys.Select((name, i) =>
                new TableColumn(name?.ToString() ?? "", types[i], Head(frame.Columns.GetAt(i).Vector)))]);
        }
    }
}
