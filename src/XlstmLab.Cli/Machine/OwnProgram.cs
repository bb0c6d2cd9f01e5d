using System.CommandLine;
using System.Diagnostics;
using System.Text;

namespace XlstmLab.Cli.Machine;

/// <summary>Starts this program again, for work that wants a process of its own.</summary>
internal static class OwnProgram
{
    /// <summary>How a command of this program is started: with its output and errors redirected, in UTF-8, and with the plugins of this one.</summary>
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
        var plugins = Program.PluginsOf(parsed).SelectMany(plugin => new[] { Program.PluginOption, plugin.FullName });
        foreach (var argument in (isOwn ? arguments : arguments.Prepend(library)).Concat(plugins))
        {
            start.ArgumentList.Add(argument);
        }

        return start;
    }
}
