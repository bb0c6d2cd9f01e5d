using System.Globalization;
using System.Reflection;
using Deedle;
using Microsoft.Data.Analysis;

namespace XlstmLab.Notebooks;

/// <summary>A column as it is shown.</summary>
/// <param name="Name">The heading; a row key's column has none.</param>
/// <param name="Type">The name of the values' type.</param>
/// <param name="Values">The values of the rows shown; null where one is missing.</param>
/// <param name="IsKey">Whether it names the rows.</param>
internal sealed record TableColumn(string Name, string Type, IReadOnlyList<object?> Values, bool IsKey = false);

/// <summary>The head of a table.</summary>
/// <param name="RowCount">How many rows there are, of which the columns hold the first few.</param>
/// <param name="Columns">The columns, keys first.</param>
internal sealed record Table(long RowCount, IReadOnlyList<TableColumn> Columns)
{
    private const int NamesShown = 12;

    /// <summary>One line: kind, size, and the columns' names and types.</summary>
    public string Describe(string kind)
    {
        var columns = Columns.Where(column => !column.IsKey).ToList();
        string names = string.Join(", ", columns.Take(NamesShown).Select(column => column.Name.Length > 0 ? $"{column.Name} ({column.Type})" : column.Type));
        return string.Create(CultureInfo.InvariantCulture, $"{kind}, {RowCount} x {columns.Count}: {names}{(columns.Count > NamesShown ? ", ..." : "")}");
    }
}

/// <summary>Takes the head of each kind of table.</summary>
internal static class Tables
{
    /// <summary>How many rows are shown.</summary>
    public const int RowsShown = 25;

    private static readonly MethodInfo OfSeriesMethod = typeof(Tables).GetMethod(nameof(OfTypedSeries), BindingFlags.Static | BindingFlags.NonPublic)!;

    public static Table Of(DataFrame frame)
    {
        int shown = (int)Math.Min(RowsShown, frame.Rows.Count);
        return new Table(frame.Rows.Count, [.. frame.Columns.Select(column =>
            new TableColumn(column.Name, Name(column.DataType), [.. Enumerable.Range(0, shown).Select(row => column[row])]))]);
    }

    public static Table Of(IFrame frame) => frame.Apply(new HeadOfFrame());

    /// <param name="series">A <c>Series&lt;K, V&gt;</c> or what derives from one, such as a frame's row.</param>
    public static Table OfSeries(object series)
    {
        var type = series.GetType();
        while (!type.IsGenericType || type.GetGenericTypeDefinition() != typeof(Series<,>))
        {
            type = type.BaseType ?? throw new ArgumentException($"{series.GetType()} is not a series.", nameof(series));
        }

        return (Table)OfSeriesMethod.MakeGenericMethod(type.GetGenericArguments()).Invoke(null, [series])!;
    }

    private static Table OfTypedSeries<TKey, TValue>(Series<TKey, TValue> series) =>
        new(series.KeyCount, [Keys(series.Keys), new TableColumn("", Name(typeof(TValue)), Head(series.Vector))]);

    private static TableColumn Keys<TKey>(IEnumerable<TKey> keys) =>
        new("", Name(typeof(TKey)), [.. keys.Take(RowsShown).Select(key => (object?)key)], IsKey: true);

    private static object?[] Head(IVector vector) =>
        [.. vector.ObjectSequence.Take(RowsShown).Select(value => value.HasValue ? value.Value : null)];

    private static string Name(Type type) => (Nullable.GetUnderlyingType(type) ?? type).Name;

    private sealed class HeadOfFrame : IFrameOperation<Table>
    {
        public Table Invoke<TRow, TColumn>(Frame<TRow, TColumn> frame)
        {
            var types = frame.ColumnTypes.ToList();
            return new Table(frame.RowCount, [Keys(frame.RowKeys), .. frame.ColumnKeys.Select((name, i) =>
                new TableColumn(name?.ToString() ?? "", Name(types[i]), Head(frame.Columns.GetAt(i).Vector)))]);
        }
    }
}
