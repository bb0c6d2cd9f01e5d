using Deedle;
using Microsoft.Data.Analysis;

namespace XlstmLab.Analysis;

/// <summary>Records, recordings and metrics as Microsoft.Data.Analysis DataFrames and as Deedle frames and series.</summary>
/// <remarks>
/// A column for every public property. Whole numbers become int or long, enums strings, DateTimeOffset a UTC DateTime. Null is a missing
/// value in both; NaN is a number in a DataFrame and missing in Deedle.
/// </remarks>
public static class FrameExtensions
{
    /// <summary>A DataFrame of records.</summary>
    /// <param name="records">The records, a row each.</param>
    /// <param name="leaveOut">The names of properties to leave out.</param>
    /// <exception cref="ArgumentException">A property is no number, string, bool, enum or DateTime.</exception>
    public static DataFrame ToDataFrame<T>(this IEnumerable<T> records, params string[] leaveOut) =>
        MetricsTable.FromAll(records, leaveOut).ToDataFrame();

    /// <summary>A Deedle frame of records, with rows keyed from 0.</summary>
    /// <param name="records">The records, a row each.</param>
    /// <param name="leaveOut">The names of properties to leave out.</param>
    /// <exception cref="ArgumentException">A property is no number, string, bool, enum or DateTime.</exception>
    public static Frame<int, string> ToFrame<T>(this IEnumerable<T> records, params string[] leaveOut) =>
        ToFrame(MetricsTable.FromAll(records, leaveOut), row => row);

    /// <summary>A DataFrame in long format: a row a block, head and token.</summary>
    public static DataFrame ToDataFrame(this GateRecording recording) => recording.Rows().ToDataFrame();

    /// <summary>A Deedle frame in long format: a row a block, head and token.</summary>
    public static Frame<int, string> ToFrame(this GateRecording recording) => recording.Rows().ToFrame();

    /// <summary>A DataFrame in long format: a row a block, head, reading token and token read, without weights of 0.</summary>
    public static DataFrame ToDataFrame(this AttentionRecording recording) => recording.Rows().ToDataFrame();

    /// <summary>A Deedle frame in long format: a row a block, head, reading token and token read, without weights of 0.</summary>
    public static Frame<int, string> ToFrame(this AttentionRecording recording) => recording.Rows().ToFrame();

    /// <summary>The table as a DataFrame.</summary>
    public static DataFrame ToDataFrame(this MetricsTable table) => new(table.Columns.Select(DataColumn));

    /// <summary>The table as a Deedle frame, its rows keyed by step where every row has one, otherwise from 0.</summary>
    public static Frame<int, string> ToFrame(this MetricsTable table)
    {
        if (!table.Has("step"))
        {
            return ToFrame(table, row => row);
        }

        var steps = table.Numbers("step");
        return steps.Distinct().Count() == steps.Length && steps.All(double.IsFinite)
            ? ToFrame(table, row => (int)steps[row])
            : ToFrame(table, row => row);
    }

    /// <summary>A metric against the step, without the rows that lack it.</summary>
    /// <param name="table">Metrics with a column <c>step</c>.</param>
    /// <param name="column">The metric's column.</param>
    /// <exception cref="ArgumentException">There is no such column, or no steps.</exception>
    public static Series<int, double> ToSeries(this MetricsTable table, string column) =>
        Series(table.Numbers("step").Zip(table.Numbers(column), (step, value) => ((int)step, (double?)value)));

    /// <summary>A metric of records against a key, without the records that lack it.</summary>
    /// <param name="records">The records.</param>
    /// <param name="step">The key, each but once.</param>
    /// <param name="value">The metric; null and NaN are missing.</param>
    public static Series<int, double> ToSeries<T>(this IEnumerable<T> records, Func<T, int> step, Func<T, double?> value) =>
        Series(records.Select(r => (step(r), value(r))));

    private static Series<int, double> Series(IEnumerable<(int Step, double? Value)> points) =>
        new(points.Where(p => p.Value is { } v && !double.IsNaN(v)).Select(p => KeyValuePair.Create(p.Step, p.Value!.Value)));

    private static Frame<int, string> ToFrame(MetricsTable table, Func<int, int> key)
    {
        var columns = table.Columns.Select(c => (ISeries<int>)(
            c.Type == typeof(int) ? Present<int>(c)
            : c.Type == typeof(long) ? Present<long>(c)
            : c.Type == typeof(float) ? Present<float>(c)
            : c.Type == typeof(double) ? Present<double>(c)
            : c.Type == typeof(bool) ? Present<bool>(c)
            : c.Type == typeof(DateTime) ? Present<DateTime>(c)
            : Present<string>(c)));
        return new(table.Columns.Select(c => c.Name), columns);

        Series<int, TValue> Present<TValue>(TableColumn column) =>
            new(column.Values.Index().Where(v => v.Item is not null).Select(v => KeyValuePair.Create(key(v.Index), (TValue)v.Item!)));
    }

    private static DataFrameColumn DataColumn(TableColumn column)
    {
        return column.Type == typeof(int) ? new Int32DataFrameColumn(column.Name, Nullable<int>())
            : column.Type == typeof(long) ? new Int64DataFrameColumn(column.Name, Nullable<long>())
            : column.Type == typeof(float) ? new SingleDataFrameColumn(column.Name, Nullable<float>())
            : column.Type == typeof(double) ? new DoubleDataFrameColumn(column.Name, Nullable<double>())
            : column.Type == typeof(bool) ? new BooleanDataFrameColumn(column.Name, Nullable<bool>())
            : column.Type == typeof(DateTime) ? new DateTimeDataFrameColumn(column.Name, Nullable<DateTime>())
            : new StringDataFrameColumn(column.Name, column.Values.Cast<string?>());

        IEnumerable<TValue?> Nullable<TValue>()
            where TValue : struct => column.Values.Select(v => (TValue?)v);
    }
}
