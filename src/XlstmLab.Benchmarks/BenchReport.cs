using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using XlstmLab.Analysis;
using XlstmLab.Exports;
using XlstmLab.Native;

namespace XlstmLab.Benchmarks;

/// <summary>A column of a benchmark's table.</summary>
/// <param name="Name">Its heading, which names the unit.</param>
/// <param name="Value">A row's value: text, a number, or null where there is none.</param>
/// <param name="Digits">Digits after the point.</param>
public sealed record BenchColumn<T>(string Name, Func<T, object?> Value, int Digits = 0)
{
    /// <summary>The value for reading.</summary>
    public string Shown(T row) => Value(row) switch
    {
        null => "",
        double number => number.ToString("N" + Digits, CultureInfo.InvariantCulture),
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        var other => other.ToString() ?? "",
    };

    /// <summary>The value as a field of a CSV file.</summary>
    public string Field(T row) => CsvText.Field(Value(row));
}

/// <summary>What a benchmark measured, where, and how it is written.</summary>
/// <param name="Title">What was measured.</param>
/// <param name="Command">The command line that measures it again.</param>
/// <param name="Method">How it was measured.</param>
/// <param name="Columns">The table's columns.</param>
/// <param name="Rows">The table's rows.</param>
/// <param name="Findings">What follows from them.</param>
public sealed record BenchReport<T>(
    string Title, string Command, string Method, IReadOnlyList<BenchColumn<T>> Columns, IReadOnlyList<T> Rows,
    IReadOnlyList<string> Findings)
{
    private readonly string _date = DateTime.UtcNow.ToString("yyyy-MM-dd HH:mm 'UTC'", CultureInfo.InvariantCulture);
    private readonly string _commit = Repository.Commit() ?? "unknown";
    private readonly string _host =
        $"{Processor.Current}, {Readable.Size(SystemMemory.Total)} of memory, {RuntimeInformation.OSDescription}, "
        + $"{RuntimeInformation.FrameworkDescription}, "
        + $"libtorch {NativeTorch.Version}{(MklPath.IsChosen ? ", MKL with all that the processor has" : "")}{Load()}";

    /// <summary>The GPU, its driver, and whether kernels and graphs serve; null where the CPU computes.</summary>
    public string? Gpu { get; init; }

    /// <summary>What it was measured on.</summary>
    public string Machine => Gpu is null ? _host : $"{Gpu}; {_host}";

    /// <summary>All of it as one JSON document.</summary>
    public string Json() => JsonSerializer.Serialize(
        new { Title, Command, Date = _date, Commit = _commit, Machine, Method, Rows, Findings }, ResultJson.Options);

    /// <summary>What a rival's script wrote, under a line that says where and when.</summary>
    public IEnumerable<string> RivalLines(IReadOnlyList<Workload> works, IEnumerable<string> raw) =>
        raw.Prepend(JsonSerializer.Serialize(new RivalRun(Command, _date, Gpu ?? _host, null, works), ResultJson.Line));

    /// <summary>How busy the machine is with this and everything else: other programs' work slows what is measured.</summary>
    private static string Load()
    {
        const string load = "/proc/loadavg";
        return File.Exists(load) ? $", load {File.ReadAllText(load).Split(' ')[0]} at the end" : "";
    }

    /// <summary>A CSV file under lines that say what, where and how.</summary>
    public string Csv()
    {
        var text = new StringBuilder();
        foreach (var line in Header())
        {
            text.Append("# ").Append(line).Append('\n');
        }

        text.AppendJoin(',', Columns.Select(c => c.Name)).Append('\n');
        foreach (var row in Rows)
        {
            text.AppendJoin(',', Columns.Select(c => c.Field(row))).Append('\n');
        }

        return text.ToString();
    }

    /// <summary>A Markdown file.</summary>
    public string Markdown()
    {
        var text = new StringBuilder($"# {Title}\n\n");
        foreach (var line in Header().Skip(1))
        {
            text.Append("- ").Append(line).Append('\n');
        }

        text.Append('\n').Append(MarkdownTable.Text(Headings(), ShownRows())).Append('\n');
        foreach (var finding in Findings)
        {
            text.Append("- ").Append(finding).Append('\n');
        }

        return text.ToString();
    }

    /// <summary>The columns to read: one without a value says nothing. Files for programs have all.</summary>
    private IEnumerable<BenchColumn<T>> ShownColumns() => Columns.Where(c => Rows.Count == 0 || Rows.Any(row => c.Value(row) is not null));

    /// <summary>The headings of <see cref="ShownRows"/>; one that begins with '>' has its column aligned to the right.</summary>
    public IReadOnlyList<string> Headings() => [.. ShownColumns().Select(
        c => Rows.Any(row => c.Value(row) is string) ? c.Name : ">" + c.Name)];

    /// <summary>The rows to read, a cell for each heading.</summary>
    public IEnumerable<IReadOnlyList<string>> ShownRows() => Rows.Select(row => ShownColumns().Select(c => c.Shown(row)).ToArray());

    private string[] Header() =>
        [Title, $"Command: {Command}", $"Commit: {_commit}", $"Device: {Machine}", $"Date: {_date}", $"Method: {Method}"];
}
