using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Spectre.Console;

namespace XlstmLab.Cli.Terminals;

/// <summary>What a command says: results on stdout, all else on stderr; colours and bars only where a person looks.</summary>
internal sealed class Terminal
{
    /// <summary>How results are spelt for programs.</summary>
    public static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        DictionaryKeyPolicy = JsonNamingPolicy.SnakeCaseLower,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false) },
        WriteIndented = true,
    };

    /// <summary>The same for files with a document a line.</summary>
    public static readonly JsonSerializerOptions JsonLine = new(Json) { WriteIndented = false };

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
    public void WriteJson<T>(T value) => Out.WriteLine(JsonSerializer.Serialize(value, Json));

    /// <summary>A table as the result; redirected, it is one of Markdown.</summary>
    /// <param name="columns">Headings; one that begins with '>' has its column aligned to the right.</param>
    /// <param name="rows">As many cells each as there are columns.</param>
    public void WriteTable(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        if (!_results.Profile.Capabilities.Interactive)
        {
            Out.Write(MarkdownTable(columns, rows));
            return;
        }

        var table = new Table { Border = TableBorder.Rounded };
        foreach (var column in columns)
        {
            table.AddColumn(new TableColumn(Markup.Escape(column.TrimStart('>'))) { Alignment = column.StartsWith('>') ? Justify.Right : Justify.Left });
        }

        foreach (var row in rows)
        {
            table.AddRow(row.Select(cell => new Spectre.Console.Text(cell)));
        }

        _results.Write(table);
    }

    /// <summary>A table in Markdown, padded so that it reads well as it is.</summary>
    /// <inheritdoc cref="WriteTable"/>
    public static string MarkdownTable(IReadOnlyList<string> columns, IEnumerable<IReadOnlyList<string>> rows)
    {
        var cells = rows.Select(row => row.Select(cell => cell.Replace("|", "\\|", StringComparison.Ordinal)).ToArray()).ToArray();
        var widths = columns.Select((column, c) => Math.Max(3, cells.Select(row => row[c].Length).Append(column.TrimStart('>').Length).Max())).ToArray();
        var text = new StringBuilder();
        AppendRow(columns.Select(column => column.TrimStart('>')));
        AppendRow(columns.Select((column, c) => column.StartsWith('>') ? new string('-', widths[c] - 1) + ":" : new string('-', widths[c])));
        foreach (var row in cells)
        {
            AppendRow(row);
        }

        return text.ToString();

        void AppendRow(IEnumerable<string> row) => text
            .Append("| ")
            .AppendJoin(" | ", row.Select((cell, c) => columns[c].StartsWith('>') ? cell.PadLeft(widths[c]) : cell.PadRight(widths[c])))
            .Append(" |\n");
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

    /// <summary>Seconds as 4.2 s, 3:05 or 2:04:10.</summary>
    public static string Duration(double seconds) =>
        !double.IsFinite(seconds) ? "?"
        : seconds < 60 ? string.Create(CultureInfo.InvariantCulture, $"{seconds:0.0} s")
        : seconds < 3600 ? string.Create(CultureInfo.InvariantCulture, $"{(int)seconds / 60}:{(int)seconds % 60:00}")
        : string.Create(CultureInfo.InvariantCulture, $"{(long)seconds / 3600}:{(long)seconds / 60 % 60:00}:{(long)seconds % 60:00}");

    /// <summary>Bytes as 3.4 GiB.</summary>
    public static string Size(double bytes)
    {
        string[] units = ["B", "KiB", "MiB", "GiB", "TiB"];
        var unit = bytes < 1 ? 0 : (int)Math.Min(units.Length - 1, Math.Log(bytes, 1024));
        return string.Create(CultureInfo.InvariantCulture, $"{bytes / Math.Pow(1024, unit):0.#} {units[unit]}");
    }

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
