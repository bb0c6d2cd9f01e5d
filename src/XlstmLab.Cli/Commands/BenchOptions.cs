using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using XlstmLab.Benchmarks;
using XlstmLab.Cli.Terminals;
using XlstmLab.Native;

namespace XlstmLab.Cli.Commands;

/// <summary>
/// The options that benchmarks share: threads and files, how long to measure, and for those that a GPU can do, the device and the rivals.
/// </summary>
internal sealed class BenchOptions
{
    private readonly Option<string?> _threads = new("--threads")
    {
        Description = "Thread counts, separated by commas. Default: the physical cores.",
        HelpName = "LIST",
    };
    private readonly Option<bool> _json = new("--json") { Description = "Print one JSON document." };
    private readonly Option<string?> _csv = new("--csv") { Description = "Also write a CSV file.", HelpName = "FILE" };
    private readonly Option<string?> _markdown = new("--markdown") { Description = "Also write a Markdown file.", HelpName = "FILE" };
    private readonly Option<string?> _output = new("--output")
    {
        Description = "Also write both into a folder, under the command's name.",
        HelpName = "DIR",
    };
    private readonly Option<string> _device = ComputeOptions.Device();
    private readonly Option<double?> _seconds = NumberOption.Real(new Option<double?>("--seconds")
    {
        Description = "Begin no row after this many seconds. Default: 90 on a GPU, no end on the CPU.",
        HelpName = "SECONDS",
    }, NumberRange.Seconds);

    private readonly Option<string?> _rival = new("--rival")
    {
        Description = "Have a Python script measure others in the same run; the program has one of its own. "
            + $"{RivalScript.PythonVariable} names another Python.",
        HelpName = "FILE",
        Arity = ArgumentArity.ZeroOrOne,
    };

    private readonly Option<double> _rivalSeconds = NumberOption.Real(new Option<double>("--rival-seconds")
    {
        Description = "How long the script may take.",
        HelpName = "SECONDS",
        DefaultValueFactory = _ => 300,
    }, NumberRange.Seconds);

    private readonly Option<double?> _minSeconds;
    private readonly Option<int> _repetitions;
    private readonly double _usualMinSeconds;
    private readonly double _usualMinSecondsOnGpu;

    /// <summary>Options with these defaults.</summary>
    /// <param name="minSeconds">Seconds to measure each row for.</param>
    /// <param name="repetitions">Repetitions of each row.</param>
    /// <param name="minSecondsOnGpu">The seconds on a GPU; null for as many.</param>
    public BenchOptions(double minSeconds, int repetitions, double? minSecondsOnGpu = null)
    {
        (_usualMinSeconds, _usualMinSecondsOnGpu) = (minSeconds, minSecondsOnGpu ?? minSeconds);
        var onGpu = minSecondsOnGpu is null ? "" : string.Create(CultureInfo.InvariantCulture, $", on a GPU {minSecondsOnGpu}");
        _minSeconds = NumberOption.Real(new Option<double?>("--min-time")
        {
            Description = string.Create(
                CultureInfo.InvariantCulture, $"Seconds to measure each row for, at least. Default: {minSeconds}{onGpu}."),
            HelpName = "SECONDS",
        }, NumberRange.NotNegative);
        _repetitions = NumberOption.Whole(new Option<int>("--repetitions")
        {
            Description = "Repetitions of each row, at least.",
            HelpName = "N",
            DefaultValueFactory = _ => repetitions,
        }, 1);
        _threads.Validators.Add(result => CheckNumbers(result, "--threads", result.GetValueOrDefault<string?>()));
    }

    /// <summary>The options of what is only measured.</summary>
    public IEnumerable<Option> Outputs => [_device, _threads, .. Files];

    /// <summary>The options that say where the results go.</summary>
    public IEnumerable<Option> Files => [_json, _csv, _markdown, _output];

    /// <summary>The options of what is measured on any device, as often as a protocol says.</summary>
    public IEnumerable<Option> Measured => [.. Outputs, _seconds];

    /// <summary>The options of what is compared.</summary>
    public IEnumerable<Option> All => [.. Outputs, _minSeconds, _repetitions, _seconds, _rival, _rivalSeconds];

    /// <summary>The device that was asked for.</summary>
    public string Device(ParseResult parsed) => parsed.GetValue(_device)!;

    /// <summary>Whether a GPU was asked for.</summary>
    public bool IsOnGpu(ParseResult parsed) => Device(parsed) != "cpu";

    /// <summary>Seconds to measure each row for.</summary>
    public double MinSeconds(ParseResult parsed) =>
        parsed.GetValue(_minSeconds) ?? (IsOnGpu(parsed) ? _usualMinSecondsOnGpu : _usualMinSeconds);

    /// <summary>Repetitions of each row.</summary>
    public int Repetitions(ParseResult parsed) => parsed.GetValue(_repetitions);

    /// <summary>The seconds after which no row is begun; null for no end.</summary>
    public double? Seconds(ParseResult parsed) => parsed.GetValue(_seconds) ?? (IsOnGpu(parsed) ? 90 : null);

    /// <summary>The script that measures rivals; null for none.</summary>
    public RivalScript? Rival(ParseResult parsed) => parsed.GetResult(_rival) is null
        ? null
        : new(parsed.GetValue(_rival) ?? RivalScript.Own, parsed.GetValue(_rivalSeconds), MinSeconds(parsed));

    /// <summary>The thread counts that were asked for.</summary>
    public int[] ThreadCounts(ParseResult parsed) =>
        parsed.GetValue(_threads) is { } list ? Numbers(list) : [Processor.Current.PhysicalCores];

    /// <summary>Writes the report wherever it was asked for, and beside it what a rival's script wrote.</summary>
    public void Write<T>(BenchReport<T> report, Terminal terminal, ParseResult parsed, IEnumerable<string>? rivals = null)
    {
        Show(report, terminal, parsed.GetValue(_json));
        WriteFiles(report, parsed);
        if (rivals is not null && Beside(parsed, ".rivals.jsonl") is { } raw)
        {
            AtomicFile.WriteText(raw, string.Concat(rivals.Select(line => line + '\n')));
        }
    }

    /// <summary>Writes the report into the files that were asked for: also what is measured so far, so that no end takes it.</summary>
    public void WriteFiles<T>(BenchReport<T> report, ParseResult parsed) =>
        WriteFiles(report, parsed, [parsed.GetValue(_csv)], [parsed.GetValue(_markdown)], "");

    /// <summary>Writes what belongs to a report: into the folder under another name, and for reading where that is not JSON.</summary>
    public void WriteMore<T>(BenchReport<T> report, Terminal terminal, ParseResult parsed, string suffix)
    {
        if (!parsed.GetValue(_json))
        {
            terminal.Line();
            Show(report, terminal, json: false);
        }

        WriteFiles(report, parsed, [], [], suffix);
    }

    private void WriteFiles<T>(
        BenchReport<T> report, ParseResult parsed, IEnumerable<string?> csv, IEnumerable<string?> markdown, string suffix)
    {
        foreach (var file in csv.Append(Beside(parsed, suffix + ".csv")).OfType<string>())
        {
            AtomicFile.WriteText(file, report.Csv());
        }

        foreach (var file in markdown.Append(Beside(parsed, suffix + ".md")).OfType<string>())
        {
            AtomicFile.WriteText(file, report.Markdown());
        }
    }

    /// <summary>A file in the folder that was asked for; null without one.</summary>
    private string? Beside(ParseResult parsed, string ending)
    {
        if (parsed.GetValue(_output) is not { } folder)
        {
            return null;
        }

        Directory.CreateDirectory(folder);
        return Path.Combine(folder, parsed.CommandResult.Command.Name + ending);
    }

    private static void Show<T>(BenchReport<T> report, Terminal terminal, bool json)
    {
        if (json)
        {
            terminal.Out.WriteLine(report.Json());
            return;
        }

        terminal.Line(report.Title);
        terminal.Line(report.Machine);
        terminal.Line();
        terminal.WriteTable(report.Headings(), report.ShownRows());
        terminal.Line();
        foreach (var finding in report.Findings)
        {
            terminal.Line(finding);
        }

        terminal.Note(report.Method);
    }

    /// <summary>An option with numbers separated by commas.</summary>
    public static Option<string?> List(string name, string description)
    {
        var option = new Option<string?>(name) { Description = description, HelpName = "LIST" };
        option.Validators.Add(result => CheckNumbers(result, name, result.GetValueOrDefault<string?>()));
        return option;
    }

    /// <summary>The numbers of such an option.</summary>
    public static int[] Numbers(string list) => [.. list.Split(',').Select(n => int.Parse(n, CultureInfo.InvariantCulture))];

    private static void CheckNumbers(OptionResult result, string name, string? list)
    {
        if (list is not null && !list.Split(',').All(
            n => int.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= 1))
        {
            result.AddError($"{name} is '{list}'; expected numbers of at least 1, separated by commas.");
        }
    }
}
