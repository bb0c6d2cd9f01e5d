using System.Text;
using System.Text.Json;
using XlstmLab.Analysis;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

/// <summary>The table of a study's runs, <c>runs.jsonl</c>: a line a run, only ever appended to; the last line of an id counts.</summary>
/// <remarks>
/// A process that is killed as it writes leaves a last line without its end. It is no row, and whoever appends next cuts it off.
/// </remarks>
public static class StudyTable
{
    /// <summary>The name of the file in a study's folder.</summary>
    public const string FileName = "runs.jsonl";

    /// <summary>The rows of a table, in the order in which their ids appeared.</summary>
    /// <param name="path">The file, or the folder of a study; none there is an empty table.</param>
    /// <param name="damaged">Told what is wrong with each damaged line, which is then left out; null for an exception instead.</param>
    /// <exception cref="InvalidDataException">A line is no row.</exception>
    public static IReadOnlyList<StudyRow> Read(string path, ICollection<string>? damaged = null)
    {
        path = File(path);
        var rows = new List<StudyRow>();
        if (!System.IO.File.Exists(path))
        {
            return rows;
        }

        var text = System.IO.File.ReadAllText(path);
        var whole = text.LastIndexOf('\n') + 1;
        if (whole < text.Length)
        {
            damaged?.Add($"{path}: the last line was not written to its end");
        }

        foreach (var (at, line) in text[..whole].Split('\n').Index().Where(l => !string.IsNullOrWhiteSpace(l.Item)))
        {
            try
            {
                rows.Add(StrictJson.Read<StudyRow>(line, RunJson.Line));
            }
            catch (JsonException e)
            {
                var what = $"{path}, line {at + 1}: expected a run of a study. {e.Message}";
                if (damaged is null)
                {
                    throw new InvalidDataException($"{what} Delete the line: its run is done again.", e);
                }

                damaged.Add(what);
            }
        }

        return Latest(rows);
    }

    /// <summary>
    /// The rows of several tables: of each id that of the first table that has it, unless that one failed and a later table has another.
    /// </summary>
    /// <param name="paths">Files or folders.</param>
    /// <param name="damaged">As in <see cref="Read"/>.</param>
    /// <exception cref="InvalidDataException">A line is no row.</exception>
    public static IReadOnlyList<StudyRow> ReadAll(IEnumerable<string> paths, ICollection<string>? damaged = null)
    {
        ArgumentNullException.ThrowIfNull(paths);
        var known = new Dictionary<string, StudyRow>();
        foreach (var row in paths.SelectMany(path => Read(path, damaged)))
        {
            if (IsNews(row, known))
            {
                known[row.Id] = row;
            }
        }

        return [.. known.Values];
    }

    /// <summary>Adds a row, on the disk before this returns.</summary>
    /// <param name="path">The file, or the folder of a study.</param>
    /// <param name="row">The row.</param>
    /// <exception cref="IOException">It cannot be written.</exception>
    public static void Append(string path, StudyRow row)
    {
        ArgumentNullException.ThrowIfNull(row);
        path = File(path);
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        using var stream = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read);
        stream.SetLength(EndOfLines(stream));
        stream.Seek(0, SeekOrigin.End);
        stream.Write(Encoding.UTF8.GetBytes(JsonSerializer.Serialize(row, RunJson.Line) + "\n"));
        stream.Flush(flushToDisk: true);
    }

    /// <summary>Adds the rows of other tables that this one lacks, or has only as failures that came before.</summary>
    /// <param name="path">The file, or the folder of a study.</param>
    /// <param name="others">Files or folders.</param>
    /// <returns>How many rows were added.</returns>
    /// <exception cref="FileNotFoundException">One of the others has no table.</exception>
    /// <exception cref="InvalidDataException">A line is no row.</exception>
    public static int Merge(string path, IEnumerable<string> others)
    {
        ArgumentNullException.ThrowIfNull(others);
        var known = Read(path).ToDictionary(row => row.Id);
        var added = 0;
        foreach (var other in others.Select(File))
        {
            foreach (var row in System.IO.File.Exists(other) ? Read(other) : throw new FileNotFoundException(
                $"There is no table of runs at {other}."))
            {
                if (IsNews(row, known))
                {
                    Append(path, row);
                    known[row.Id] = row;
                    added++;
                }
            }
        }

        return added;
    }

    /// <summary>Rows as columns, a row a run: differences, losses and all other numbers, without curves and lists.</summary>
    /// <param name="rows">The rows.</param>
    public static MetricsTable ToTable(this IEnumerable<StudyRow> rows)
    {
        var all = rows as IReadOnlyList<StudyRow> ?? [.. rows];
        var axes = all.SelectMany(row => row.Differences.Keys).Distinct().ToArray();
        var plain = MetricsTable.From(all).Columns;
        var lengths = all.SelectMany(row => row.Scores.Select(s => s.Lengths)).Distinct().ToArray();
        return MetricsTable.Of(
        [
            .. plain.Take(1).Select(c => c with { IsKey = true }),
            .. axes.Select(
                axis => new TableColumn($"axis.{axis}", typeof(string), [.. all.Select(row => row.Differences.GetValueOrDefault(axis))])),
            .. plain.Skip(1),
            .. lengths.Select(range => new TableColumn(
                $"scaled@{range}", typeof(double), [.. all.Select(
                    row => (object?)row.Scores.FirstOrDefault(s => s.Lengths == range)?.Scaled)])),
        ]);
    }

    /// <summary>Whether a row tells of a run what is not known: anything, or what came after its failure.</summary>
    private static bool IsNews(StudyRow row, Dictionary<string, StudyRow> known) =>
        !known.TryGetValue(row.Id, out var before) || (!before.IsDone && (row.IsDone || row.EndedAt > before.EndedAt));

    /// <summary>Of each id the last row, in the order of the first.</summary>
    private static IReadOnlyList<StudyRow> Latest(List<StudyRow> rows) => [.. rows.GroupBy(row => row.Id).Select(group => group.Last())];

    private static string File(string path) => Directory.Exists(path) || !Path.HasExtension(path) ? Path.Combine(path, FileName) : path;

    /// <summary>The length up to the end of the last whole line.</summary>
    private static long EndOfLines(FileStream stream)
    {
        for (var at = stream.Length; at > 0; at--)
        {
            stream.Seek(at - 1, SeekOrigin.Begin);
            if (stream.ReadByte() == '\n')
            {
                return at;
            }
        }

        return 0;
    }
}
