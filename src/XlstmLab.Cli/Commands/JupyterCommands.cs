using System.CommandLine;
using XlstmLab.Cli.Machine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Notebooks.Jupyter;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm notebook install</c> and <c>xlstm notebook kernel</c>: C# and F# in Jupyter.</summary>
internal static class JupyterCommands
{
    /// <summary>Tells Jupyter of the kernels.</summary>
    public static Command Install()
    {
        var prefix = new Option<string?>("--prefix")
        {
            Description = "Install for all users of an installation, such as /usr/local or a Python environment.",
            HelpName = "DIR",
        };
        var path = new Option<string?>("--path")
        {
            Description = "The folder of kernels itself. Default: that of this user.",
            HelpName = "DIR",
        };
        var names = new Option<bool>("--dotnet-names")
        {
            Description = "Also under .net-csharp and .net-fsharp, the names that notebooks of .NET Interactive ask for, "
                + "unless they are taken.",
        };
        var tool = new Option<string?>("--official-tool")
        {
            Description = "Install kernels that run the .NET Interactive tool with this program's libraries instead. "
                + "FILE is the tool's Microsoft.DotNet.Interactive.App.dll. Default: the newest of NuGet's and dotnet's folders.",
            HelpName = "FILE",
            Arity = ArgumentArity.ZeroOrOne,
        };
        var command = new ExampleCommand(
            "install",
            "Installs kernels for C# and F# into Jupyter: into nbconvert, the console, Notebook, JupyterLab and VS Code. "
            + "They run this program where it is now.",
            "xlstm notebook install",
            "xlstm notebook install --prefix ~/venv",
            "xlstm notebook install --dotnet-names")
        {
            prefix,
            path,
            names,
            tool,
        };
        command.Validators.Add(result =>
        {
            if (result.GetResult(prefix) is not null && result.GetResult(path) is not null)
            {
                result.AddError("--prefix and --path both name the folder: give one of them.");
            }

            if (result.GetResult(tool) is not null && result.GetResult(names) is { Implicit: false })
            {
                result.AddError("--dotnet-names is for the kernels of this program, not for those of --official-tool.");
            }
        });
        command.SetAction(parsed =>
        {
            var folder = Path.GetFullPath(
                parsed.GetValue(path)
                ?? (parsed.GetValue(prefix) is { } installation ? KernelSpecs.PrefixFolder(installation) : KernelSpecs.UserFolder()));
            var installed = parsed.GetResult(tool) is null
                ? KernelSpecs.Install(folder, OwnProgram.Words, parsed.GetValue(names), OwnProgram.Plugins(parsed))
                : KernelSpecs.InstallForTool(
                    folder, OwnProgram.Dotnet ?? "dotnet", Path.GetFullPath(parsed.GetValue(tool) ?? ToolLibraries.Find()));
            var terminal = new Terminal(parsed);
            foreach (var kernel in installed)
            {
                terminal.Line(kernel);
            }

            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>Serves Jupyter.</summary>
    public static Command Kernel()
    {
        var connection = new Argument<FileInfo>("CONNECTION_FILE")
        {
            Description = "The file in which Jupyter says where to listen and how messages are signed.",
        };
        var language = new Option<string>("--language")
        {
            Description = "The language of cells that name none.",
            DefaultValueFactory = _ => "csharp",
        }.AcceptOnlyFromAmong("csharp", "fsharp");
        var command = new ExampleCommand(
            "kernel",
            "Serves Jupyter, which starts it once it is installed. It listens on this machine alone and takes signed messages only.",
            "xlstm notebook kernel connection.json --language fsharp")
        {
            connection,
            language,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            using (var kernel = new JupyterKernel(parsed.GetValue(connection)!.FullName, parsed.GetValue(language)!))
            {
                Interrupts.Instead = kernel.Interrupt;
                await kernel.RunAsync(cancellationToken);
            }

            // What a cell left running must not keep the kernel.
            Environment.Exit(ExitCode.Success);
        });
        return command;
    }
}
