using System.CommandLine;
using XlstmLab.Cli.Terminals;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Cli;

/// <summary>The options of commands that read files of text: what is done about rows without one, and about very long lines.</summary>
internal sealed class ReadingOptions
{
    private readonly Option<bool> _skipNull = new("--skip-null")
    {
        Description = "Leave out and count rows whose text is null or missing. Default: an error.",
    };

    private readonly Option<int?> _maxLine = NumberOption.Whole(new Option<int?>("--max-line-mib")
    {
        Description = "MiB that a line may have, unpacked; at most 1024. Default: 128.",
        HelpName = "N",
    }, 1);

    /// <summary>Gives the options to a command.</summary>
    public void AddTo(Command command)
    {
        command.Options.Add(_skipNull);
        command.Options.Add(_maxLine);
    }

    /// <summary>How a corpus is to be read.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="textField">The field or column of the text.</param>
    /// <param name="run">What a run was trained on; its rows without a text are left out as they were then.</param>
    public CorpusOptions Read(ParseResult parsed, string textField, RunText? run = null)
    {
        var options = new CorpusOptions { TextField = textField, SkipNull = parsed.GetValue(_skipNull) || run is { SkipNull: true } };
        return (parsed.GetValue(_maxLine) ?? run?.MaxLineMib) is { } mib ? options with { MaxLineBytes = (long)mib << 20 } : options;
    }

    /// <summary>Says what was left out, if anything was.</summary>
    public static void Note(Terminal terminal, long skipped)
    {
        if (skipped > 0)
        {
            terminal.Note(FormattableString.Invariant($"{skipped:N0} rows without a text were left out (--skip-null)."));
        }
    }
}
