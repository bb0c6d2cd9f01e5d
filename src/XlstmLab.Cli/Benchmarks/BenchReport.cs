using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Exports;
using XlstmLab.Native;

namespace XlstmLab.Cli.Benchmarks;

/// <summary>A column of a benchmark's table.</summary>
/// <param name="Name">Its heading, which names the unit.</param>
/// <param name="Value">A row's value: text, a number, or null where there is none.</param>
/// <param name="Digits">Digits after the point.</param>
internal sealed record BenchColumn<T>(string Name, Func<T, object?> Value, int Digits = 0)
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
    public string Field(T row) => TableFiles.Quoted(
        Value(row) is IFormattable number ? number.ToString(null, CultureInfo.InvariantCulture) : Value(row)?.ToString() ?? "");
}

/// <summary>What a benchmark measured, where, and how it is written.</summary>
/// <param name="Title">What was measured.</param>
/// <param name="Command">The command line that measures it again.</param>
/// <param name="Method">How it was measured.</param>
/// <param name="Columns">The table's columns.</param>
/// <param name="Rows">The table's rows.</param>
/// <param name="Findings">What follows from them.</param>
internal sealed record BenchReport<T>(
    string Title, string Command, string Method, IReadOnlyList<BenchColumn<T>> Columns, IReadOnlyList<T> Rows, IReadOnlyList<string> Findings)
{
    private readonly string _date = DateTime.UtcNow.ToString("yyyy-MM-dd HH:mm 'UTC'", CultureInfo.InvariantCulture);
    private readonly string _commit = Repository.Commit() ?? "unknown";
    private readonly string _host =
        $"{Processor.Current}, {Terminal.Size(SystemMemory.Total)} of memory, {RuntimeInformation.OSDescription}, {RuntimeInformation.FrameworkDescription}, libtorch {NativeTorch.Version}{Load()}";

    /// <summary>The GPU, its driver, and whether kernels and graphs serve; null where the CPU computes.</summary>
    public string? Gpu { get; init; }

    private string Machine => Gpu is null ? _host : $"{Gpu}; {_host}";

    /// <summary>Writes the result to the terminal, and to the files that were asked for.</summary>
    public void Write(Terminal terminal, bool json, IEnumerable<string?> csv, IEnumerable<string?> markdown)
    {
        if (json)
        {
            terminal.WriteJson(new { Title, Command, Date = _date, Commit = _commit, Machine, Method, Rows, Findings });
        }
        else
        {
            terminal.Line(Title);
            terminal.Line(Machine);
            terminal.Line();
            terminal.WriteTable(Headings(), ShownRows());
            terminal.Line();
            foreach (var finding in Findings)
            {
                terminal.Line(finding);
            }

            terminal.Note(Method);
        }

        foreach (var file in csv.OfType<string>())
        {
            AtomicFile.WriteText(file, Csv());
        }

        foreach (var file in markdown.OfType<string>())
        {
            AtomicFile.WriteText(file, Markdown());
        }
    }

    /// <summary>What a rival's script wrote, under a line that says where and when.</summary>
    public IEnumerable<string> RivalLines(IReadOnlyList<Workload> works, IEnumerable<string> raw) =>
        raw.Prepend(JsonSerializer.Serialize(new RivalRun(Command, _date, Gpu ?? _host, null, works), Terminal.JsonLine));

    /// <summary>How busy the machine is with this and everything else: other programs' work slows what is measured.</summary>
    private static string Load()
    {
        const string load = "/proc/loadavg";
        return File.Exists(load) ? $", load {File.ReadAllText(load).Split(' ')[0]} at the end" : "";
    }

    private string Csv()
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

    private string Markdown()
    {
        var text = new StringBuilder($"# {Title}\n\n");
        foreach (var line in Header().Skip(1))
        {
            text.Append("- ").Append(line).Append('\n');
        }

        text.Append('\n').Append(Terminal.MarkdownTable(Headings(), ShownRows())).Append('\n');
        foreach (var finding in Findings)
        {
            text.Append("- ").Append(finding).Append('\n');
        }

        return text.ToString();
    }

    /// <summary>The columns to read: one without a value says nothing. Files for programs have all.</summary>
    private IEnumerable<BenchColumn<T>> ShownColumns() => Columns.Where(c => Rows.Count == 0 || Rows.Any(row => c.Value(row) is not null));

    private string[] Headings() => [.. ShownColumns().Select(c => Rows.Any(row => c.Value(row) is string) ? c.Name : ">" + c.Name)];

    private IEnumerable<string[]> ShownRows() => Rows.Select(row => ShownColumns().Select(c => c.Shown(row)).ToArray());

    private string[] Header() => [Title, $"Command: {Command}", $"Commit: {_commit}", $"Device: {Machine}", $"Date: {_date}", $"Method: {Method}"];
}
