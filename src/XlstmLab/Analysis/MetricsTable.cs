using System.Globalization;
using System.Reflection;
using System.Text.Json;

namespace XlstmLab.Analysis;

/// <summary>A named column: values of one type, null where there is none.</summary>
/// <param name="Name">The name.</param>
/// <param name="Type">int, long, float, double, bool, string or DateTime.</param>
/// <param name="Values">A value a row.</param>
public sealed record TableColumn(string Name, Type Type, IReadOnlyList<object?> Values)
{
    /// <summary>The unit that the values count in; null for none.</summary>
    public string? Unit { get; init; }

    /// <summary>Whether it names the rows.</summary>
    public bool IsKey { get; init; }
}

/// <summary>Rows of measurements as columns by name, the form that plots, DataFrames and Deedle frames are made from.</summary>
/// <remarks>A column lacks the values that a row did not have.</remarks>
public sealed class MetricsTable
{
    private readonly Dictionary<string, TableColumn> _byName;

    private MetricsTable(int rowCount, IReadOnlyList<TableColumn> columns)
    {
        RowCount = rowCount;
        TotalRows = rowCount;
        Columns = columns;
        _byName = columns.DistinctBy(c => c.Name).ToDictionary(c => c.Name);
    }

    /// <summary>The number of rows.</summary>
    public int RowCount { get; }

    /// <summary>The number of rows of the table that these are the first of.</summary>
    internal long TotalRows { get; private init; }

    /// <summary>The columns in the order they first appeared.</summary>
    public IReadOnlyList<TableColumn> Columns { get; }

    /// <summary>A table of columns.</summary>
    /// <exception cref="ArgumentException">They differ in length, or two have one name.</exception>
    public static MetricsTable Of(params IReadOnlyList<TableColumn> columns)
    {
        ArgumentNullException.ThrowIfNull(columns);
        var rows = columns.Count == 0 ? 0 : columns[0].Values.Count;
        if (columns.FirstOrDefault(c => c.Values.Count != rows) is { } other)
        {
            throw new ArgumentException(
                $"Expected columns of {rows} values, as '{columns[0].Name}' has; '{other.Name}' has {other.Values.Count}.");
        }

        if (columns.GroupBy(c => c.Name).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw new ArgumentException($"There are {twice.Count()} columns named '{twice.Key}'.");
        }

        return new(rows, columns);
    }

    /// <summary>The first rows of a table; columns may have one name.</summary>
    internal static MetricsTable Head(long totalRows, IReadOnlyList<TableColumn> columns) =>
        new(columns.Count == 0 ? 0 : columns[0].Values.Count, columns) { TotalRows = totalRows };

    /// <summary>Whether there is a column of that name.</summary>
    public bool Has(string name) => _byName.ContainsKey(name);

    /// <summary>A column's numbers, NaN where a row has none.</summary>
    /// <exception cref="ArgumentException">There is no such column, or it holds no numbers.</exception>
    public double[] Numbers(string name)
    {
        if (!_byName.TryGetValue(name, out var column))
        {
            throw new ArgumentException(
                $"There is no column '{name}'.{NearestName.Hint(name, Columns.Select(c => c.Name))} Columns: "
                + $"{string.Join(", ", Columns.Select(c => c.Name))}.", nameof(name));
        }

        return column.Type == typeof(string) || column.Type == typeof(DateTime)
            ? throw new ArgumentException($"Column '{name}' holds no numbers but {column.Type.Name}.", nameof(name))
            : [.. column.Values.Select(v => v is null ? double.NaN : Convert.ToDouble(v, CultureInfo.InvariantCulture))];
    }

    /// <summary>Reads a training run's <c>metrics.jsonl</c>: a row a line, a column a key; an object's keys are joined by dots.</summary>
    /// <param name="run">The run's folder, or the file itself.</param>
    /// <param name="damaged">Told what is wrong with each damaged line, which is then left out; null for an exception instead.</param>
    /// <returns>Rows by step. Of two lines with one step, the later counts. Lists are left out: see <see cref="ReadNested"/>.</returns>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">A line is no JSON object, or a key changes its type.</exception>
    public static MetricsTable Read(string run, ICollection<string>? damaged = null) =>
        FromRows(BySteps(ReadLines(run, damaged, (row, _) => [row])), run);

    /// <summary>
    /// Reads a list in the lines of a run's <c>metrics.jsonl</c>, such as <c>gates</c>: a row an element, with the line's step.
    /// </summary>
    /// <param name="run">The run's folder, or the file itself.</param>
    /// <param name="key">The list's key.</param>
    /// <param name="damaged">As in <see cref="Read"/>.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">A line is no JSON object, or the key holds something other than objects.</exception>
    public static MetricsTable ReadNested(string run, string key, ICollection<string>? damaged = null) =>
        FromRows(
            ReadLines(run, damaged, (row, line) => line.TryGetProperty(key, out var list)
                ? [.. list.EnumerateArray().Select(element => Flatten(element, row.Where(cell => cell.Key == "step")))]
                : []),
            run);

    /// <summary>The public properties of records: a row a record, with names in snake case as in <c>metrics.jsonl</c>.</summary>
    /// <remarks>Properties that are no number, string, bool, enum or DateTime are left out.</remarks>
    public static MetricsTable From<T>(IEnumerable<T> records)
    {
        var properties = ReadableProperties<T>().Where(p => ColumnType(p.PropertyType) is not null);
        return FromRecords(records, properties, JsonNamingPolicy.SnakeCaseLower.ConvertName);
    }

    /// <summary>The public properties of records by their own names.</summary>
    /// <exception cref="ArgumentException">A property has a type that no column can hold, and is not among those left out.</exception>
    internal static MetricsTable FromAll<T>(IEnumerable<T> records, IReadOnlyCollection<string> leaveOut)
    {
        var properties = ReadableProperties<T>();
        if (leaveOut.FirstOrDefault(name => properties.All(p => p.Name != name)) is { } unknown)
        {
            throw new ArgumentException(
                $"{typeof(T).Name} has no property '{unknown}' to leave out. Properties: "
                + $"{string.Join(", ", properties.Select(p => p.Name))}.");
        }

        properties = [.. properties.Where(p => !leaveOut.Contains(p.Name))];
        if (properties.FirstOrDefault(p => ColumnType(p.PropertyType) is null) is { } bad)
        {
            throw new ArgumentException(
                $"{typeof(T).Name}.{bad.Name} is a {bad.PropertyType.Name}, but a column holds numbers, strings, bools, "
                + $"enums or DateTimes. Leave it out by its name, \"{bad.Name}\", or project the records with Select first.");
        }

        return properties.Length > 0
            ? FromRecords(records, properties, name => name)
            : throw new ArgumentException(
                $"{typeof(T).Name} has no public property to make a column of. Project the values with Select first.");
    }

    private static MetricsTable FromRecords<T>(IEnumerable<T> records, IEnumerable<PropertyInfo> properties, Func<string, string> rename)
    {
        ArgumentNullException.ThrowIfNull(records);
        var rows = records as IReadOnlyList<T> ?? [.. records];
        if (rows.Any(row => row is null))
        {
            throw new ArgumentException($"Expected records of {typeof(T).Name}, got null among them.", nameof(records));
        }

        return new(
            rows.Count,
            [.. properties.Select(
                p => new TableColumn(rename(p.Name), ColumnType(p.PropertyType)!, [.. rows.Select(r => Cell(p.GetValue(r)))]))]);
    }

    private static PropertyInfo[] ReadableProperties<T>() =>
        [.. typeof(T).GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(
            p => p.CanRead && p.GetIndexParameters().Length == 0)];

    /// <summary>The type of the column for values of a type; null if there is none.</summary>
    private static Type? ColumnType(Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        return type.IsEnum ? typeof(string)
            : type == typeof(DateTimeOffset) ? typeof(DateTime)
            : type == typeof(decimal) || type == typeof(Half) ? typeof(double)
            : Type.GetTypeCode(type) switch
            {
                TypeCode.Boolean => typeof(bool),
                TypeCode.String or TypeCode.Char => typeof(string),
                TypeCode.DateTime => typeof(DateTime),
                TypeCode.Single => typeof(float),
                TypeCode.Double => typeof(double),
                TypeCode.SByte or TypeCode.Byte or TypeCode.Int16 or TypeCode.UInt16 or TypeCode.Int32 => typeof(int),
                TypeCode.UInt32 or TypeCode.Int64 or TypeCode.UInt64 => typeof(long),
                _ => null,
            };
    }

    private static object? Cell(object? value) => value switch
    {
        null => null,
        Enum or char => value.ToString(),
        DateTimeOffset moment => moment.UtcDateTime,
        Half half => (double)half,
        _ => Convert.ChangeType(value, ColumnType(value.GetType())!, CultureInfo.InvariantCulture),
    };

    private static List<Dictionary<string, object>> ReadLines(
        string run, ICollection<string>? damaged,
        Func<Dictionary<string, object>, JsonElement, IEnumerable<Dictionary<string, object>>> rowsOf)
    {
        var path = Directory.Exists(run) ? Path.Combine(run, "metrics.jsonl") : run;
        if (!File.Exists(path))
        {
            throw new FileNotFoundException(
                $"There are no metrics at {path}. Expected the folder of a training run, or its metrics.jsonl.", path);
        }

        using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using var reader = new StreamReader(stream);
        var text = reader.ReadToEnd();

        // A run that goes on may be writing its last line.
        var lines = text[..(text.LastIndexOf('\n') + 1)].Split('\n');
        var rows = new List<Dictionary<string, object>>();
        for (var at = 0; at < lines.Length; at++)
        {
            if (string.IsNullOrWhiteSpace(lines[at]))
            {
                continue;
            }

            try
            {
                using var line = JsonDocument.Parse(lines[at], new JsonDocumentOptions { AllowDuplicateProperties = false });
                rows.AddRange(rowsOf(Flatten(line.RootElement, []), line.RootElement));
            }
            catch (Exception e) when (e is JsonException or InvalidOperationException)
            {
                var what = $"{path}, line {at + 1}: expected a JSON object of metrics. {e.Message}";
                if (damaged is null)
                {
                    throw new InvalidDataException(
                        $"{what} Delete the line, go on with the run, which leaves it out, or read with a list of what is damaged.", e);
                }

                damaged.Add(what);
            }
        }

        return rows;
    }

    private static Dictionary<string, object> Flatten(
        JsonElement element, IEnumerable<KeyValuePair<string, object>> before, string prefix = "")
    {
        var cells = new Dictionary<string, object>(before);
        foreach (var property in element.EnumerateObject())
        {
            var (name, value) = (prefix + property.Name, property.Value);
            switch (value.ValueKind)
            {
                case JsonValueKind.Object:
                    cells = Flatten(value, cells, name + ".");
                    break;
                case JsonValueKind.Number:
                    cells[name] = value.GetDouble();
                    break;
                case JsonValueKind.True or JsonValueKind.False:
                    cells[name] = value.GetBoolean();
                    break;
                case JsonValueKind.String:
                    cells[name] = value.GetString() switch
                    {
                        "NaN" => double.NaN,
                        "Infinity" => double.PositiveInfinity,
                        "-Infinity" => double.NegativeInfinity,
                        var text => text!,
                    };
                    break;
                case JsonValueKind.Null:
                case JsonValueKind.Array:
                case JsonValueKind.Undefined:
                default:
                    break;
            }
        }

        return cells;
    }

    private static List<Dictionary<string, object>> BySteps(List<Dictionary<string, object>> rows) =>
        rows.TrueForAll(row => row.GetValueOrDefault("step") is double)
            ? [.. rows.GroupBy(row => (double)row["step"]).OrderBy(group => group.Key).Select(group => group.Last())]
            : rows;

    private static MetricsTable FromRows(List<Dictionary<string, object>> rows, string source)
    {
        var columns = rows.SelectMany(row => row.Keys).Distinct().Select(name =>
        {
            var values = rows.Select(row => row.GetValueOrDefault(name)).ToArray();
            var types = values.OfType<object>().Select(v => v.GetType()).Distinct().ToArray();
            return types.Length == 1
                ? new TableColumn(name, types[0], values)
                : throw new InvalidDataException($"{source}: '{name}' is now a {types[0].Name} and then a {types[1].Name}.");
        });
        return new(rows.Count, [.. columns]);
    }
}
