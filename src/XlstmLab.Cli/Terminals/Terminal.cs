using System.CommandLine;
using System.Text.Json;
using Spectre.Console;
using XlstmLab.Exports;

namespace XlstmLab.Cli.Terminals;

/// <summary>What a command says: results on stdout, all else on stderr; colours and bars only where a person looks.</summary>
internal sealed class Terminal
{
    private readonly IAnsiConsole _results;
    private readonly IAnsiConsole _notes;

    /// <summary>The terminal of a command line's invocation.</summary>
    public Terminal(ParseResult parsed)
    {
        Out = parsed.InvocationConfiguration.Output;
        Error = parsed.InvocationConfiguration.Error;
        var dumb = Environment.GetEnvironmentVariable("TERM") == "dumb";
        IsInteractive = ReferenceEquals(Error, Console.Error) && !Console.IsErrorRedirected && !dumb;
        _results = Open(Out, ReferenceEquals(Out, Console.Out) && !Console.IsOutputRedirected && !dumb);
        _notes = Open(Error, IsInteractive);
    }

    /// <summary>Where results go.</summary>
    public TextWriter Out { get; }

    /// <summary>Where progress and errors go.</summary>
    public TextWriter Error { get; }

    /// <summary>Whether progress is shown as a bar.</summary>
    public bool IsInteractive { get; }

    /// <summary>A line that is no result.</summary>
    public void Note(string text) => _notes.WriteLine(text);

    /// <summary>A line of the result.</summary>
    public void Line(string text = "") => _results.WriteLine(text);

    /// <summary>One JSON document as the result.</summary>
    public void WriteJson<T>(T value) => Out.WriteLine(JsonSerializer.Serialize(value, ResultJson.Options));

    /// <summary>A JSON document as a line of the result.</summary>
    public void WriteJsonLine<T>(T value) => Out.WriteLine(JsonSerializer.Serialize(value, ResultJson.Line));

    /// <summary>A table as the result; redirected, it is one of Markdown.</summary>
    /// <param name="columns">Headings; one that begins with '>' has its column aligned to the right.</param>
    /// <param name="rows">As many cells each as there are columns.</param>
    public void WriteTable(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        if (!_results.Profile.Capabilities.Interactive)
        {
            Out.Write(MarkdownTable.Text(columns, rows));
            return;
        }

        var table = new Table { Border = TableBorder.Rounded };
        foreach (var column in columns)
        {
            table.AddColumn(new TableColumn(Markup.Escape(column.TrimStart('>')))
            {
                Alignment = column.StartsWith('>') ? Justify.Right : Justify.Left,
            });
        }

        foreach (var row in rows)
        {
            table.AddRow(row.Select(cell => new Spectre.Console.Text(cell)));
        }

        _results.Write(table);
    }

    /// <summary>Names and values, one pair a line, as the result.</summary>
    public void WritePairs(IEnumerable<(string Name, string Value)> pairs)
    {
        var all = pairs.ToArray();
        var width = all.Max(p => p.Name.Length) + 2;
        foreach (var (name, value) in all)
        {
            var lines = value.Split('\n');
            Line(name.PadRight(width) + lines[0]);
            foreach (var line in lines.Skip(1))
            {
                Line(new string(' ', width) + line);
            }
        }
    }

    /// <summary>Does work under a progress bar or, where nobody looks at one, under a line every ten seconds.</summary>
    public async Task TrackAsync(string title, Func<ProgressTracker, Task> work)
    {
        if (!IsInteractive)
        {
            await work(new(title, this, null));
            return;
        }

        await _notes.Progress()
            .AutoClear(true)
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn())
            .StartAsync(context => work(new(title, this, context.AddTask(Markup.Escape(title)))));
    }

    /// <summary>A path as a shell takes it in a command line that is recommended.</summary>
    public static string Quoted(string path) => path.Any(char.IsWhiteSpace) ? $"\"{path}\"" : path;

    private static IAnsiConsole Open(TextWriter writer, bool interactive)
    {
        var colours = interactive && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"));
        var console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(writer),
            Ansi = interactive ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = colours ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
            Interactive = interactive ? InteractionSupport.Yes : InteractionSupport.No,
        });
        if (!interactive)
        {
            // A file has no width: nothing is wrapped.
            console.Profile.Width = 4096;
        }

        return console;
    }
}
