using System.CommandLine;
using System.Globalization;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Notebooks;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm notebook</c>: runs notebooks without a server, makes pages of them, and serves Jupyter.</summary>
internal static class NotebookCommand
{
    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "notebook",
        "Runs C# and F# notebooks without a server, makes pages of them that open offline, and is a kernel for Jupyter.",
        "xlstm notebook run notebooks/01-train-a-small-xlstm.ipynb -p steps=200 --html page.html",
        "xlstm notebook export notebooks/01-train-a-small-xlstm.ipynb --html page.html",
        "xlstm notebook new my-question.ipynb",
        "xlstm notebook install")
    {
        Run(),
        Export(),
        New(),
        From(),
        Stop(),
        JupyterCommands.Install(),
        JupyterCommands.Kernel(),
        Worker(),
    };

    private static ExampleCommand Run()
    {
        var notebooks = new Argument<FileInfo[]>("NOTEBOOK")
        {
            Description = "The .ipynb files, which run one after the other.",
            Arity = ArgumentArity.OneOrMore,
        };
        var output = new Option<string?>("--output", "-o")
        {
            Description = "Where the executed notebook goes; of several, the folder for them. Default: NOTEBOOK itself.",
            HelpName = "FILE",
        };
        var parameters = new Option<string[]>("--parameter", "-p")
        {
            Description = "A value for the cell tagged 'parameters'; may be given several times. Of several notebooks, "
                + "those take it that declare it.",
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
        var file = new Option<FileInfo?>("--parameters-file", "-f")
        {
            Description = "Values for parameters in a .json or .yaml file; -p comes after it.",
            HelpName = "FILE",
        };
        var html = new Option<string?>("--html")
        {
            Description = "Also write a page that opens offline; of several notebooks, the folder for theirs.",
            HelpName = "PAGE",
        };
        var timeout = NumberOption.Real(new Option<double?>("--timeout")
        {
            Description = "Give up after so many seconds; processes that cells started end too.",
            HelpName = "SECONDS",
        }, NumberRange.Seconds);
        var cellTimeout = NumberOption.Real(new Option<double?>("--cell-timeout")
        {
            Description = "Give up after a cell has taken so many seconds.",
            HelpName = "SECONDS",
        }, NumberRange.Seconds);
        var keep = NumberOption.Real(new Option<double?>("--keep")
        {
            Description = "When a cell fails, leave a process with the state of the cells before it for so many minutes: "
                + "--from goes on there.",
            HelpName = "MINUTES",
        }, NumberRange.Minutes);
        var from = NumberOption.Whole(
            new Option<int?>("--from")
            {
                Description = "Go on from this code cell, in the state that a run with --keep has left.",
                HelpName = "CELL",
            }, 1);
        var json = new Option<bool>("--json") { Description = "Print one JSON document; of several notebooks, one a line." };
        var command = new ExampleCommand(
            "run",
            "Runs every cell of C#, F# and mixed notebooks and writes each notebook with its outputs after each cell. "
            + "What cells print is passed on as it comes. If a notebook fails, those after it do not run.",
            "xlstm notebook run notebooks/01-train-a-small-xlstm.ipynb",
            "xlstm notebook run 01.ipynb -o done.ipynb -p steps=200 -p seed=3 --html done.html --cell-timeout 600",
            "xlstm notebook run notebooks/*.ipynb -o done/ -f small.yaml --html pages/",
            "xlstm notebook run 01.ipynb --keep 30",
            "xlstm notebook run 01.ipynb --from 5 --keep 30")
        {
            notebooks,
            output,
            parameters,
            file,
            html,
            timeout,
            cellTimeout,
            keep,
            from,
            json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var paths = parsed.GetValue(notebooks)!.Select(notebook => notebook.FullName).ToArray();
            var values = Values(parsed.GetValue(file), parsed.GetValue(parameters) ?? []);
            var taken = Taken(paths, values);
            var begin = parsed.GetValue(from) ?? 1;
            if (begin < 1 || (begin > 1 && paths.Length > 1))
            {
                throw new UsageException($"--from {begin}: expected the number of a code cell, from 1, of one notebook.");
            }

            foreach (var path in paths)
            {
                var request = new NotebookRequest(
                    path,
                    Target(parsed.GetValue(output), path, paths.Length, ".ipynb") ?? path,
                    [.. values.Where(v => paths.Length == 1 || taken[path].Contains(v.Key)).Select(
                        v => new NotebookParameter(v.Key, v.Value))],
                    parsed.GetValue(timeout),
                    parsed.GetValue(cellTimeout))
                {
                    From = begin,
                    KeepMinutes = parsed.GetValue(keep),
                };
                var page = Target(parsed.GetValue(html), path, paths.Length, ".html");
                var result = await RunAsync(terminal, parsed, request, cancellationToken);
                if (page is not null)
                {
                    // A failed run has a page too: it shows the error under its cell.
                    NotebookHtml.Export(Notebook.Load(result.OutputPath), page, Path.GetDirectoryName(path));
                }

                Report(terminal, result, page, parsed.GetValue(json), isLine: paths.Length > 1);
                if (result.Outcome != NotebookOutcome.Succeeded)
                {
                    return ExitCode.Failure;
                }
            }

            return ExitCode.Success;
        });
        return command;
    }

    private static async Task<NotebookRunResult> RunAsync(
        Terminal terminal, ParseResult parsed, NotebookRequest request, CancellationToken cancellationToken)
    {
        NotebookRunResult? result = null;
        double? kept = null;
        if (request.From == 1)
        {
            await KeptNotebooks.EndAsync(request.Notebook);
        }

        await terminal.TrackAsync(Path.GetFileName(request.Notebook), async tracker =>
        {
            var start = OwnProgram.Start(parsed, "notebook", NotebookProcess.WorkerName);
            using var display = new NotebookDisplay(tracker);
            display.Start();
            var process = new NotebookProcess(request, start, display.Show, display.Line);
            result = request.From > 1 ? await process.GoOnAsync(cancellationToken) : await process.RunAsync(cancellationToken);
            kept = process.KeptMinutes;
        });
        if (kept is not null)
        {
            terminal.Note(string.Create(
                CultureInfo.InvariantCulture,
                $"The state of the cells is kept for {kept} minutes: mend the cell and go on by --from, "
                + $"or end it by 'xlstm notebook stop'."));
        }

        return result!;
    }

    /// <summary>
    /// Where a notebook's result goes: the file that is named, or for several notebooks a file of their name in the folder.
    /// </summary>
    private static string? Target(string? named, string notebook, int count, string ending)
    {
        if (named is null)
        {
            return null;
        }

        if (count == 1 && !Directory.Exists(named) && !Path.EndsInDirectorySeparator(named))
        {
            return Path.GetFullPath(named);
        }

        if (File.Exists(named))
        {
            throw new UsageException($"{named} is a file, and there are {count} notebooks: name a folder.");
        }

        Directory.CreateDirectory(named);
        return Path.GetFullPath(Path.Combine(named, Path.ChangeExtension(Path.GetFileName(notebook), ending)));
    }

    /// <summary>The parameters that each of several notebooks declares; one that none declares is a mistake.</summary>
    private static Dictionary<string, IReadOnlyCollection<string>> Taken(string[] paths, Dictionary<string, string?> values)
    {
        if (paths.Length == 1 || values.Count == 0)
        {
            return paths.Distinct().ToDictionary(path => path, _ => (IReadOnlyCollection<string>)[]);
        }

        var taken = paths.Distinct().ToDictionary(path => path, path => NotebookParameters.Names(Notebook.Load(path)));
        var known = taken.Values.SelectMany(names => names).Distinct().ToArray();
        return values.Keys.FirstOrDefault(name => !known.Contains(name)) is { } unknown
            ? throw new UsageException(
                $"None of the notebooks declares a parameter '{unknown}'; "
                + $"they declare {string.Join(", ", known)}.{NearestName.Hint(unknown, known)}")
            : taken;
    }

    private static ExampleCommand Export()
    {
        var notebook = new Argument<FileInfo>("NOTEBOOK") { Description = "The .ipynb file." };
        var html = new Option<string>("--html") { Description = "The page to write.", HelpName = "PAGE", Required = true };
        var command = new ExampleCommand(
            "export", "Makes a page that opens offline of a notebook as it is.", "xlstm notebook export done.ipynb --html done.html")
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

    private static ExampleCommand New()
    {
        var notebook = new Argument<FileInfo>("NOTEBOOK") { Description = "The .ipynb file to write; there must be none yet." };
        var fsharp = new Option<bool>("--fsharp") { Description = "Cells are F# where they do not say." };
        var command = new ExampleCommand(
            "new",
            "Writes a fresh notebook: a title, a first cell that brings the library, and a cell of parameters.",
            "xlstm notebook new my-question.ipynb")
        {
            notebook,
            fsharp,
        };
        command.SetAction(parsed =>
        {
            var path = parsed.GetValue(notebook)!.FullName;
            Save(
                parsed,
                NotebookSource.Create(Path.GetFileNameWithoutExtension(path), parsed.GetValue(fsharp), Path.GetDirectoryName(path)!), path);
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand From()
    {
        var file = new Argument<FileInfo>("FILE") { Description = $"The file: {string.Join(", ", NotebookSource.Endings)}." };
        var output = new Option<string?>("--output", "-o")
        {
            Description = "The .ipynb file to write; there must be none yet. Default: FILE with that ending.",
            HelpName = "NOTEBOOK",
        };
        var command = new ExampleCommand(
            "from",
            "Makes a notebook of a document, a program or a .dib notebook. Code of a document that a cell can hold becomes cells; "
            + "a program is cut at lines that begin with '// %%', or else after its usings.",
            "xlstm notebook from README.md -o readme.ipynb",
            "xlstm notebook from program.cs")
        {
            file,
            output,
        };
        command.SetAction(parsed =>
        {
            var from = parsed.GetValue(file)!.FullName;
            var path = Path.GetFullPath(parsed.GetValue(output) ?? Path.ChangeExtension(from, ".ipynb"));
            Save(parsed, NotebookSource.Convert(from, Path.GetDirectoryName(path)!), path);
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Stop()
    {
        var notebook = new Argument<FileInfo>("NOTEBOOK") { Description = "The .ipynb file." };
        var command = new ExampleCommand(
            "stop", "Ends the process that a run with --keep has left with the state of the cells.", "xlstm notebook stop 01.ipynb")
        {
            notebook,
        };
        command.SetAction(async (parsed, _) =>
        {
            var path = parsed.GetValue(notebook)!.FullName;
            var was = await KeptNotebooks.EndAsync(path);
            new Terminal(parsed).Note(was ? $"The process with the state of {path} ends." : $"No process has kept the state of {path}.");
            return ExitCode.Success;
        });
        return command;
    }

    private static void Save(ParseResult parsed, Notebook notebook, string path)
    {
        if (Path.GetExtension(path) != ".ipynb")
        {
            throw new UsageException($"{path} is to be a notebook: give it the ending .ipynb.");
        }

        if (Path.Exists(path))
        {
            throw new UsageException($"{path} is there already, and is left as it is: name another file, or delete it.");
        }

        notebook.Save(path);
        new Terminal(parsed).Line(path);
    }

    private static Command Worker()
    {
        var command = new Command(NotebookProcess.WorkerName, "Runs a notebook in this process; 'run' calls it.") { Hidden = true };
        command.SetAction((_, cancellationToken) => NotebookProcess.WorkAsync(cancellationToken));
        return command;
    }

    private static Dictionary<string, string?> Values(FileInfo? file, string[] parameters)
    {
        var values = file is null ? [] : new Dictionary<string, string?>(ParameterFile.Read(file.FullName));
        foreach (var parameter in parameters)
        {
            var split = parameter.IndexOf('=', StringComparison.Ordinal);
            values[parameter[..split]] = parameter[(split + 1)..];
        }

        return values;
    }

    private static void Report(Terminal terminal, NotebookRunResult result, string? page, bool json, bool isLine)
    {
        if (json)
        {
            var document = new
            {
                result.Outcome,
                Notebook = result.OutputPath,
                Page = page,
                result.CodeCells,
                result.Executed,
                Seconds = result.Elapsed.TotalSeconds,
                Error = result.FirstError,
            };
            if (isLine)
            {
                terminal.WriteJsonLine(document);
            }
            else
            {
                terminal.WriteJson(document);
            }
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

        terminal.Note(
            $"{result.Executed} of {result.CodeCells} cells in {Readable.Duration(result.Elapsed.TotalSeconds)}: {result.Outcome switch
            {
                NotebookOutcome.Succeeded => "all ran.",
                NotebookOutcome.TimedOut => "the time was up.",
                NotebookOutcome.Failed => "a cell failed, those after it did not run.",
                _ => throw UnknownValue.Of(result.Outcome),
            }}");
    }
}
