using System.Collections;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Parquet.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>Reads datasets from local files, JSONL or Parquet, in the schemas they are published in.</summary>
public static class TaskFiles
{
    /// <summary>All rows of a file, of the files that match a pattern, or of a folder with all folders below it.</summary>
    /// <param name="path">
    /// A .jsonl or .parquet file; a folder, of which all such files are read in ordinal order of their paths; or either with a file name
    /// that holds <c>*</c>, such as <c>mmlu/test-*.parquet</c>, which is looked for in its folder and all folders below.
    /// </param>
    /// <param name="cancellationToken">Stops between files.</param>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">A file is damaged, or neither JSONL nor Parquet; the message names file and row.</exception>
    public static async Task<IReadOnlyList<TaskRow>> ReadAsync(string path, CancellationToken cancellationToken = default)
    {
        var rows = new List<TaskRow>();
        foreach (var file in Files(path))
        {
            cancellationToken.ThrowIfCancellationRequested();
            rows.AddRange(IsParquet(file) ? await ReadParquetAsync(file, cancellationToken).ConfigureAwait(false) : ReadJsonLines(file));
        }

        return rows.Count > 0 ? rows : throw new InvalidDataException($"'{path}' holds no rows.");
    }

    private static List<string> Files(string path)
    {
        if (File.Exists(path))
        {
            return IsParquet(path) || IsJsonLines(path)
                ? [path]
                : throw new InvalidDataException($"'{path}' is neither a .jsonl nor a .parquet file; those are what tasks are read from.");
        }

        var name = Path.GetFileName(path);
        var (folder, pattern) = name.Contains('*', StringComparison.Ordinal) ? (Path.GetDirectoryName(path), name) : (path, "*");
        folder = string.IsNullOrEmpty(folder) ? "." : folder;
        var files = Directory.Exists(folder)
            ? Directory.EnumerateFiles(folder, pattern, SearchOption.AllDirectories).Where(f => IsParquet(f) || IsJsonLines(f))
                .Order(StringComparer.Ordinal).ToList()
            : [];
        return files.Count > 0
            ? files
            : throw new FileNotFoundException(
                $"There is no .jsonl or .parquet file '{path}', nor a folder of that name that holds one.", path);
    }

    private static bool IsParquet(string path) => Path.GetExtension(path).Equals(".parquet", StringComparison.OrdinalIgnoreCase);

    private static bool IsJsonLines(string path) =>
        Path.GetExtension(path).Equals(".jsonl", StringComparison.OrdinalIgnoreCase)
        || Path.GetExtension(path).Equals(".ndjson", StringComparison.OrdinalIgnoreCase);

    private static List<TaskRow> ReadJsonLines(string file)
    {
        var rows = new List<TaskRow>();
        foreach (var (index, line) in File.ReadLines(file).Index())
        {
            if (string.IsNullOrWhiteSpace(line))
            {
                continue;
            }

            try
            {
                var json = Encoding.UTF8.GetBytes(line);
                using var parsed = JsonLine.Parse(json, TaskRow.Half);
                rows.Add(parsed.RootElement.ValueKind == JsonValueKind.Object
                    ? new(file, index + 1, (JsonObject)ToNode(parsed.RootElement)!)
                    : throw new InvalidDataException(
                        $"'{file}', row {index + 1}: expected a JSON object, got {(line.Length <= 80 ? line : line[..80] + "...")}."));
            }
            catch (JsonException e)
            {
                throw new InvalidDataException($"'{file}', row {index + 1}: expected a JSON object on one line; {e.Message}", e);
            }
        }

        return rows;
    }

    private static async Task<List<TaskRow>> ReadParquetAsync(string file, CancellationToken cancellationToken)
    {
        try
        {
            await using var stream = File.OpenRead(file);
            var result =
                await ParquetSerializer.DeserializeUntypedAsync(stream, cancellationToken: cancellationToken).ConfigureAwait(false);
            return [.. result.Data.Select((row, index) => new TaskRow(file, index + 1, ToObject(row)))];
        }
        catch (Exception e) when (e is not (OperationCanceledException or FileNotFoundException or UnauthorizedAccessException))
        {
            throw new InvalidDataException($"'{file}' cannot be read as Parquet: {e.Message}", e);
        }
    }

    /// <summary>An element as a node that outlives its document.</summary>
    private static JsonNode? ToNode(JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                var fields = new JsonObject();
                foreach (var field in element.EnumerateObject())
                {
                    if (!fields.TryAdd(field.Name, ToNode(field.Value)))
                    {
                        throw new JsonException($"'{field.Name}' is given twice.");
                    }
                }

                return fields;
            case JsonValueKind.Array:
                return new JsonArray([.. element.EnumerateArray().Select(ToNode)]);
            case JsonValueKind.Null:
                return null;
            default:
                return JsonValue.Create(element.Clone());
        }
    }

    private static JsonObject ToObject(IDictionary<string, object> row) => new(
        row.Select(e => KeyValuePair.Create(e.Key, ToNode(e.Value))));

    private static JsonNode? ToNode(object? value) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        ReadOnlyMemory<char> text => JsonValue.Create(text.ToString()),
        bool flag => JsonValue.Create(flag),
        IDictionary<string, object> fields => ToObject(fields),
        IEnumerable items => new JsonArray([.. items.Cast<object?>().Select(ToNode)]),
        IConvertible number when number.GetTypeCode() is >= TypeCode.SByte and <= TypeCode.UInt64 => JsonValue.Create(number.ToInt64(null)),
        IConvertible number when number.GetTypeCode() is TypeCode.Single or TypeCode.Double => JsonValue.Create(number.ToDouble(null)),
        _ => JsonValue.Create(value.ToString()),
    };
}
