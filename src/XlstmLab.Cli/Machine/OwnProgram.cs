using System.CommandLine;
using System.Diagnostics;
using System.Text;

namespace XlstmLab.Cli.Machine;

/// <summary>Starts this program again, for work that wants a process of its own.</summary>
internal static class OwnProgram
{
    /// <summary>The <c>dotnet</c> that runs this program; null if it brings its own runtime.</summary>
    public static string? Dotnet
    {
        get
        {
            var runtime = Path.GetDirectoryName(typeof(object).Assembly.Location)!;
            var host = Path.GetFullPath(Path.Combine(runtime, "..", "..", "..", OperatingSystem.IsWindows() ? "dotnet.exe" : "dotnet"));
            return File.Exists(host) ? host : null;
        }
    }

    /// <summary>What starts this program from any folder and with any environment, for others to keep.</summary>
    public static IReadOnlyList<string> Words =>
        Dotnet is { } host && typeof(OwnProgram).Assembly.Location is { Length: > 0 } library ? [host, library]
            : [Environment.ProcessPath!];

    /// <summary>
    /// How a command of this program is started: with its output and errors redirected, in UTF-8, and with the plugins of this one.
    /// </summary>
    /// <param name="parsed">The command line of this one.</param>
    /// <param name="arguments">The command line after the program's name.</param>
    public static ProcessStartInfo Start(ParseResult parsed, params IEnumerable<string> arguments)
    {
        var library = typeof(OwnProgram).Assembly.Location;
        var program = Environment.ProcessPath!;

        // The program of a test or of 'dotnet xlstm.dll' is another one.
        var isOwn = Path.GetFileNameWithoutExtension(program) == "xlstm" || library.Length == 0;
        var start = new ProcessStartInfo(isOwn ? program : "dotnet")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8,
            StandardErrorEncoding = Encoding.UTF8,
        };
        foreach (var argument in (isOwn ? arguments : arguments.Prepend(library)).Concat(Plugins(parsed)))
        {
            start.ArgumentList.Add(argument);
        }

        return start;
    }

    /// <summary>The options that bring the plugins of a command line to another one.</summary>
    public static string[] Plugins(ParseResult parsed) =>
        [.. Program.PluginsOf(parsed).SelectMany(plugin => new[] { Program.PluginOption, plugin.FullName })];
}
