using System.Globalization;
using System.Text.Json;
using Parquet;
using Parquet.Schema;
using XlstmLab.Analysis;

namespace XlstmLab.Exports;

/// <summary>Tables as files: CSV, Parquet, NumPy's <c>.npz</c> and safetensors.</summary>
public static class TableFiles
{
    private const int RowsOfGroup = 1 << 20;

    /// <summary>Writes a table in the format that the file's ending names. The file is whole or absent.</summary>
    /// <remarks>
    /// A missing value is an empty field of a CSV and a null of a Parquet file; arrays have NaN for a missing number, and an empty text. A
    /// safetensors file holds numbers only: columns of texts become JSON in its metadata, under their names.
    /// </remarks>
    /// <param name="table">The table.</param>
    /// <param name="path">A file that ends in .csv, .parquet, .npz or .safetensors; replaced if it is there.</param>
    /// <exception cref="ArgumentException">It ends otherwise.</exception>
    /// <exception cref="IOException">It cannot be written.</exception>
    public static void Save(this MetricsTable table, string path)
    {
        ArgumentNullException.ThrowIfNull(table);
        switch (ExportFormats.Of(path))
        {
            case ExportFormat.Csv:
                AtomicFile.WriteText(path, Csv(table));
                break;
            case ExportFormat.Parquet:
                AtomicFile.Write(path, stream => WriteParquetAsync(stream, table).GetAwaiter().GetResult());
                break;
            case ExportFormat.Numpy:
                NumpyFile.Write(path, table.Columns.Select(Array));
                break;
            case ExportFormat.Safetensors:
                var columns = table.Columns.Select(Array).ToLookup(a => a.Values is string[]);
                ArrayFiles.WriteSafetensors(
                    path,
                    columns[false],
                    columns[true].Select(text => KeyValuePair.Create(text.Name, JsonSerializer.Serialize((string[])text.Values))));
                break;
            default:
                throw UnknownValue.Of(ExportFormats.Of(path));
        }
    }

    /// <summary>Writes records, a row each, with the names that <see cref="MetricsTable.From"/> gives their properties.</summary>
    /// <inheritdoc cref="Save(MetricsTable, string)"/>
    public static void SaveTable<T>(this IEnumerable<T> records, string path)
        where T : class => MetricsTable.From(records).Save(path);

    /// <summary>A table as CSV (RFC 4180, with line feeds): numbers in full, in the invariant culture.</summary>
    public static string Csv(MetricsTable table)
    {
        ArgumentNullException.ThrowIfNull(table);
        return CsvText.Of(table);
    }

    /// <summary>A column as an array; numbers that are missing make it one of doubles.</summary>
    private static NamedArray Array(TableColumn column)
    {
        var hasAll = column.Values.All(v => v is not null);
        var isText = column.Type == typeof(string) || column.Type == typeof(DateTime) || (column.Type == typeof(bool) && !hasAll);
        Array values = isText ? column.Values.Select(CsvText.Shown).ToArray()
            : column.Type == typeof(bool) ? column.Values.Cast<bool>().ToArray()
            : column.Type == typeof(int) && hasAll ? column.Values.Cast<int>().ToArray()
            : column.Type == typeof(long) && hasAll ? column.Values.Cast<long>().ToArray()
            : column.Type == typeof(float) ? column.Values.Select(v => (float?)v ?? float.NaN).ToArray()
            : column.Values.Select(v => v is null ? double.NaN : Convert.ToDouble(v, CultureInfo.InvariantCulture)).ToArray();
        return new(column.Name, values, values.Length);
    }

    private static async Task WriteParquetAsync(Stream stream, MetricsTable table)
    {
        var fields = table.Columns
            .Select(c => new DataField(c.Name, c.Type, isNullable: c.Type == typeof(string) || c.Values.Contains(null))).ToArray();
        var writer = await ParquetWriter.CreateAsync(new ParquetSchema(fields), stream).ConfigureAwait(false);
        await using (writer.ConfigureAwait(false))
        {
            for (var start = 0; start < table.RowCount || start == 0; start += RowsOfGroup)
            {
                using var group = writer.CreateRowGroup();
                for (var at = 0; at < fields.Length; at++)
                {
                    var values = table.Columns[at].Values.Skip(start).Take(RowsOfGroup);
                    await WriteAsync(group, fields[at], table.Columns[at].Type, values).ConfigureAwait(false);
                }
            }
        }
    }

    private static Task WriteAsync(ParquetRowGroupWriter group, DataField field, Type type, IEnumerable<object?> values)
    {
        return type == typeof(string) ? group.WriteAsync(field, (IReadOnlyCollection<string>)[.. values.Select(v => (string?)v!)])
            : type == typeof(int) ? Values<int>()
            : type == typeof(long) ? Values<long>()
            : type == typeof(float) ? Values<float>()
            : type == typeof(double) ? Values<double>()
            : type == typeof(bool) ? Values<bool>()
            : type == typeof(DateTime) ? Values<DateTime>()
            : throw new ArgumentException($"The column '{field.Name}' is of {type.Name}, which no file holds.");

        Task Values<TValue>()
            where TValue : struct => field.IsNullable
                ? group.WriteAsync<TValue>(field, new ReadOnlyMemory<TValue?>([.. values.Select(v => (TValue?)v)]))
                : group.WriteAsync<TValue>(field, new ReadOnlyMemory<TValue>([.. values.Select(v => (TValue)v!)]));
    }
}

/// <summary>The formats of files.</summary>
internal enum ExportFormat
{
    /// <summary>Text, a line a row.</summary>
    Csv,

    /// <summary>Apache Parquet.</summary>
    Parquet,

    /// <summary>NumPy's ZIP of arrays.</summary>
    Numpy,

    /// <summary>Hugging Face's file of tensors.</summary>
    Safetensors,
}

/// <summary>Formats by the ending of a file's name.</summary>
internal static class ExportFormats
{
    private static readonly Dictionary<string, ExportFormat> Endings = new(StringComparer.OrdinalIgnoreCase)
    {
        [".csv"] = ExportFormat.Csv,
        [".parquet"] = ExportFormat.Parquet,
        [".npz"] = ExportFormat.Numpy,
        [".safetensors"] = ExportFormat.Safetensors,
    };

    /// <summary>The format that a file's ending names.</summary>
    /// <exception cref="ArgumentException">It names none.</exception>
    public static ExportFormat Of(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        return Endings.TryGetValue(Path.GetExtension(path), out var format)
            ? format
            : throw new ArgumentException(
                $"'{path}' ends in '{Path.GetExtension(path)}'; expected {string.Join(", ", Endings.Keys)}.", nameof(path));
    }
}
