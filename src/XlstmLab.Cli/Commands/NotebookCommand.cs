using System.CommandLine;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Notebooks;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm notebook</c>: runs notebooks without a server, and makes pages of them.</summary>
internal static class NotebookCommand
{
    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "notebook",
        "Runs C# notebooks without a server, and makes pages of them that open offline.",
        "xlstm notebook run notebooks/01-train-a-small-xlstm.ipynb -p steps=200 --html page.html",
        "xlstm notebook export notebooks/01-train-a-small-xlstm.ipynb --html page.html")
    {
        Run(),
        Export(),
        Worker(),
    };

    private static Argument<FileInfo> NotebookArgument() => new("NOTEBOOK") { Description = "The .ipynb file." };

    private static ExampleCommand Run()
    {
        var notebook = NotebookArgument();
        var output = new Option<string?>("--output", "-o") { Description = "Where the executed notebook goes. Default: NOTEBOOK itself.", HelpName = "FILE" };
        var parameters = new Option<string[]>("--parameter", "-p")
        {
            Description = "A value for the cell tagged 'parameters'; may be given several times.",
            HelpName = "NAME=VALUE",
            Arity = ArgumentArity.OneOrMore,
        };
        parameters.Validators.Add(result =>
        {
            foreach (var token in result.Tokens.Where(t => t.Value.IndexOf('=', StringComparison.Ordinal) < 1))
            {
                result.AddError($"'{token.Value}' is no parameter; expected NAME=VALUE.");
            }
        });
        var html = new Option<string?>("--html") { Description = "Also write a page that opens offline.", HelpName = "PAGE" };
        var timeout = NumberOption.Real(new Option<double?>("--timeout")
        {
            Description = "Give up after so many seconds; processes that cells started end too.",
            HelpName = "SECONDS",
        }, NumberRange.Seconds);
        var json = new Option<bool>("--json") { Description = "Print one JSON document." };
        var command = new ExampleCommand(
            "run",
            "Runs every cell of a C# notebook and writes the notebook with its outputs after each of them. "
            + "What cells print is passed on as it comes.",
            "xlstm notebook run notebooks/01-train-a-small-xlstm.ipynb",
            "xlstm notebook run 01.ipynb -o done.ipynb -p steps=200 -p seed=3 --html done.html --timeout 600")
        {
            notebook,
            output,
            parameters,
            html,
            timeout,
            json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var path = parsed.GetValue(notebook)!.FullName;
            var page = parsed.GetValue(html) is { } name ? Path.GetFullPath(name) : null;
            var request = new NotebookRequest(
                path,
                Path.GetFullPath(parsed.GetValue(output) ?? path),
                Values(parsed.GetValue(parameters) ?? []),
                parsed.GetValue(timeout));
            NotebookRunResult? result = null;
            await terminal.TrackAsync(Path.GetFileName(path), async tracker =>
            {
                var start = OwnProgram.Start(parsed, "notebook", NotebookProcess.WorkerName);
                using var display = new NotebookDisplay(tracker);
                display.Start();
                result = await new NotebookProcess(request, start, display.Show, display.Line).RunAsync(cancellationToken);
            });
            if (page is not null)
            {
                // A failed run has a page too: it shows the error under its cell.
                NotebookHtml.Export(Notebook.Load(result!.OutputPath), page, Path.GetDirectoryName(path));
            }

            Report(terminal, result!, page, parsed.GetValue(json));
            return result!.Outcome == NotebookOutcome.Succeeded ? ExitCode.Success : ExitCode.Failure;
        });
        return command;
    }

    private static ExampleCommand Export()
    {
        var notebook = NotebookArgument();
        var html = new Option<string>("--html") { Description = "The page to write.", HelpName = "PAGE", Required = true };
        var command = new ExampleCommand("export", "Makes a page that opens offline of a notebook as it is.", "xlstm notebook export done.ipynb --html done.html")
        {
            notebook,
            html,
        };
        command.SetAction(parsed =>
        {
            var path = parsed.GetValue(notebook)!.FullName;
            var page = Path.GetFullPath(parsed.GetValue(html)!);
            NotebookHtml.Export(Notebook.Load(path), page, Path.GetDirectoryName(path));
            new Terminal(parsed).Line(page);
            return ExitCode.Success;
        });
        return command;
    }

    private static Command Worker()
    {
        var command = new Command(NotebookProcess.WorkerName, "Runs a notebook in this process; 'run' calls it.") { Hidden = true };
        command.SetAction((_, cancellationToken) => NotebookProcess.WorkAsync(cancellationToken));
        return command;
    }

    private static Dictionary<string, string> Values(string[] parameters)
    {
        var values = new Dictionary<string, string>();
        foreach (var parameter in parameters)
        {
            var split = parameter.IndexOf('=', StringComparison.Ordinal);
            values[parameter[..split]] = parameter[(split + 1)..];
        }

        return values;
    }

    private static void Report(Terminal terminal, NotebookRunResult result, string? page, bool json)
    {
        if (json)
        {
            terminal.WriteJson(new { result.Outcome, Notebook = result.OutputPath, Page = page, result.CodeCells, result.Executed, Seconds = result.Elapsed.TotalSeconds, Error = result.FirstError });
        }
        else
        {
            terminal.Line(result.OutputPath);
            if (page is not null)
            {
                terminal.Line(page);
            }
        }

        if (result.FirstError is { } error)
        {
            terminal.Note($"error: {NotebookDisplay.Short(error.ToString())}");
        }

        terminal.Note($"{result.Executed} of {result.CodeCells} cells in {Readable.Duration(result.Elapsed.TotalSeconds)}: {result.Outcome switch
        {
            NotebookOutcome.Succeeded => "all ran.",
            NotebookOutcome.TimedOut => "the time was up.",
            NotebookOutcome.Failed => "a cell failed, those after it did not run.",
            _ => throw UnknownValue.Of(result.Outcome),
        }}");
    }
}
