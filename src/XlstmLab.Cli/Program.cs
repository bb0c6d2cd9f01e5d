using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using XlstmLab.Cli.Commands;
using XlstmLab.Cli.Terminals;
using XlstmLab.Collectives;
using XlstmLab.Mixers;
using XlstmLab.Native;

namespace XlstmLab.Cli;

/// <summary>The <c>xlstm</c> command.</summary>
/// <remarks>
/// Building and parsing the commands must not touch a method of the library: its first one loads libtorch, which help does not need.
/// </remarks>
internal static partial class Program
{
    /// <summary>The option that brings mixers to every command.</summary>
    internal const string PluginOption = "--plugin";

    private static readonly Option<bool> Verbose = new("--verbose")
    {
        Description = "Show where in the program an error arose.",
        Recursive = true,
    };

    private static readonly Option<FileInfo[]> Plugins = new(PluginOption)
    {
        Description = "A class library (.dll) with mixers of your own, for models that have them. May be given several times.",
        HelpName = "FILE",
        Recursive = true,
    };

    /// <summary>Runs a command line in this process.</summary>
    /// <returns>0 for success, 1 for a failure, 2 for wrong usage, 130 if it was interrupted.</returns>
    public static async Task<int> Main(string[] args)
    {
        // Whatever the user's culture, what is read and written has points in its numbers.
        CultureInfo.DefaultThreadCurrentCulture = CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
        CultureInfo.CurrentCulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
        if (OperatingSystem.IsWindows())
        {
            Console.OutputEncoding = System.Text.Encoding.UTF8;
        }

        // Of what deals with notebooks only cells need libtorch, and their engine loads it beside the compiler; a plugin may do anything.
        AppContext.SetSwitch(
            NativeTorch.LateSwitch, args is ["notebook", ..] && !args.Any(word => word.StartsWith(PluginOption, StringComparison.Ordinal)));

        // Of several ranks, who started them says that they stop.
        using var interrupts = new Interrupts(
            Environment.GetEnvironmentVariable(RankPlace.RankVariable) is null ? Console.Error : TextWriter.Null);
        return await InvokeAsync(args, Console.Out, Console.Error, interrupts.Token);
    }

    /// <summary>
    /// Runs a command line with its results in <paramref name="stdout"/>, and progress and errors in <paramref name="stderr"/>.
    /// </summary>
    internal static async Task<int> InvokeAsync(
        IReadOnlyList<string> args, TextWriter stdout, TextWriter stderr, CancellationToken cancellationToken = default)
    {
        var parsed = CreateRoot().Parse(args);
        var configuration = new InvocationConfiguration
        {
            Output = stdout,
            Error = stderr,
            EnableDefaultExceptionHandler = false,
            ProcessTerminationTimeout = null,
        };
        try
        {
            if (parsed.Action is not ParseErrorAction error)
            {
                foreach (var plugin in PluginsOf(parsed))
                {
                    Load(plugin);
                }

                return await parsed.InvokeAsync(configuration, cancellationToken);
            }

            configuration.Output = stderr;
            error.ShowTypoCorrections = false;
            foreach (var hint in parsed.UnmatchedTokens.Select(token => Hint(parsed.CommandResult, token)).Where(hint => hint.Length > 0))
            {
                await stderr.WriteLineAsync(hint);
            }

            error.ShowHelp = parsed.CommandResult.Command.Subcommands.Any(c => !c.Hidden) && parsed.Tokens.All(t => t.Value[0] != '-');
            await parsed.InvokeAsync(configuration, cancellationToken);
            if (!error.ShowHelp)
            {
                await stderr.WriteLineAsync($"'{PathOf(parsed.CommandResult)} --help' shows what it takes.");
            }

            return ExitCode.WrongUsage;
        }
        catch (UsageException e)
        {
            await stderr.WriteLineAsync($"error: {WithoutParameter(e.Message)}");
            await stderr.WriteLineAsync($"'{PathOf(parsed.CommandResult)} --help' shows what it takes.");
            return ExitCode.WrongUsage;
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            await stderr.WriteLineAsync("Interrupted.");
            return ExitCode.Interrupted;
        }
#pragma warning disable CA1031 // Whatever went wrong is told in one place, in one way.
        catch (Exception e)
        {
            await stderr.WriteLineAsync(parsed.GetValue(Verbose) ? $"error: {e}" : $"error: {Message(e)}");
            return ExitCode.Failure;
        }
#pragma warning restore CA1031
    }

    /// <summary>All commands.</summary>
    internal static RootCommand CreateRoot()
    {
        var root = new RootCommand("A laboratory for recurrent language models: trains, evaluates, measures and shows xLSTMs.")
        {
            DoctorCommand.Create(),
            DataCommand.Create(),
            ModelsCommand.Create(),
            TrainCommand.Create(),
            EvalCommand.Create(),
            ScoreCommand.Create(),
            RulerCommand.Create(),
            GenerateCommand.Create(),
            ChatCommand.Create(),
            ServeCommand.Create(),
            RunsCommand.Create(),
            ExportCommand.Create(),
            VerifyCommand.Create(),
            NotebookCommand.Create(),
            BenchCommand.Create(),
            SyntheticCommand.Create(),
            StudyCommand.Create(),
            Verbose,
            Plugins,
        };
        foreach (var option in root.Options)
        {
            if (option is VersionOption)
            {
                option.Action = new PrintVersion();
            }
            else if (option is HelpOption { Action: HelpAction help })
            {
                option.Action = new HelpWithExamples(help);
            }
        }

        return root;
    }

    /// <summary>The class libraries that a command line names.</summary>
    internal static FileInfo[] PluginsOf(ParseResult parsed) => parsed.GetValue(Plugins) ?? [];

    /// <summary>Makes the mixers of a class library known.</summary>
    private static void Load(FileInfo plugin)
    {
        try
        {
            _ = MixerConfig.KnowAll(Assembly.LoadFrom(plugin.FullName));
        }
        catch (Exception e) when (e is IOException or BadImageFormatException or ArgumentException or TypeLoadException)
        {
            throw new UsageException(
                $"--plugin {plugin}: {(e is FileNotFoundException && !plugin.Exists ? "there is no such file" : e.Message.TrimEnd('.'))}.");
        }
    }

    /// <summary>What went wrong without the native stack, and what helps where memory was too small.</summary>
    internal static string Message(Exception error)
    {
        var cause = error;
        while (cause is TypeInitializationException or TargetInvocationException or AggregateException && cause.InnerException is { } inner)
        {
            cause = inner;
        }

        var native = cause.Message.IndexOf("\nException raised from", StringComparison.Ordinal);
        var message = WithoutParameter(native < 0 ? cause.Message : cause.Message[..native]).TrimEnd();
        if (cause is UnauthorizedAccessException && Quoted().Match(message) is { Success: true } path
            && Directory.Exists(path.Groups[1].Value))
        {
            return $"'{path.Groups[1].Value}' is a folder; a file was expected.";
        }

        if (cause is NullReferenceException or IndexOutOfRangeException or InvalidCastException
            or KeyNotFoundException or OverflowException)
        {
            return $"The program failed where it should have said what is wrong ({cause.GetType().Name}: {message.TrimEnd('.')}). "
                + "--verbose shows where.";
        }

        var isMemory = cause is OutOfMemoryException
            || (cause is ExternalException && (message.Contains("out of memory", StringComparison.OrdinalIgnoreCase)
                || message.Contains("can't allocate memory", StringComparison.OrdinalIgnoreCase)));
        if (!isMemory)
        {
            return message;
        }

        // libtorch goes on about its allocator's settings; what it wanted and what there is are told first.
        var told = message[(message.IndexOf("DefaultCPUAllocator:", StringComparison.Ordinal) is > 0 and var start ? start : 0)..]
            .Split(". ").TakeWhile(
                s => !s.Contains("PYTORCH", StringComparison.Ordinal) && !s.StartsWith("Of the allocated", StringComparison.Ordinal));
        return $"{string.Join(". ", told).TrimEnd('.')}. Less memory is needed by a smaller --micro-batch-size (the update stays the "
            + "same), a smaller --batch-size, a shorter --context, --compute bf16 or a smaller --preset.";
    }

    /// <summary>A message without the names of a method's parameters, which mean nothing to who gave options.</summary>
    internal static string WithoutParameter(string message) => Parameter().Replace(message, "");

    /// <summary>What was probably meant by a word that is no option and no command.</summary>
    private static string Hint(System.CommandLine.Parsing.CommandResult result, string token)
    {
        var isOption = token.StartsWith('-');
        var known = isOption
            ? Ancestors(result).SelectMany(r => r.Command.Options.Where(o => r == result || o.Recursive))
                .SelectMany(o => o.Aliases.Append(o.Name)).Where(n => n.Length > 2)
            : result.Command.Subcommands.Where(c => !c.Hidden).Select(c => c.Name);
        var name = token.Split('=', ':')[0];
        return NearestName.Of(name, known) is { } nearest
            ? $"There is no {(isOption ? "option" : "command")} '{name}'. Did you mean '{nearest}'?" : "";
    }

    private static IEnumerable<System.CommandLine.Parsing.CommandResult> Ancestors(System.CommandLine.Parsing.CommandResult? result)
    {
        for (; result is not null; result = result.Parent as System.CommandLine.Parsing.CommandResult)
        {
            yield return result;
        }
    }

    [GeneratedRegex(@" \(Parameter '[^']*'\)|\r?\nActual value was [^\n]*")]
    private static partial Regex Parameter();

    [GeneratedRegex("'([^']+)'")]
    private static partial Regex Quoted();

    private static string PathOf(System.CommandLine.Parsing.CommandResult result) =>
        result.Parent is System.CommandLine.Parsing.CommandResult parent ? $"{PathOf(parent)} {result.Command.Name}" : "xlstm";

    private sealed class PrintVersion : SynchronousCommandLineAction
    {
        public override int Invoke(ParseResult parseResult)
        {
            var version = typeof(Program).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion;
            parseResult.InvocationConfiguration.Output.WriteLine($"xlstm {version}");
            return ExitCode.Success;
        }
    }
}
