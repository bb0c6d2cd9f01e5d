using XlstmLab.Cli.Terminals;

namespace XlstmLab.Cli;

/// <summary>What the command tells its caller.</summary>
internal static class ExitCode
{
    /// <summary>All went well.</summary>
    public const int Success = 0;

    /// <summary>Something failed; the message on stderr says what.</summary>
    public const int Failure = 1;

    /// <summary>The command line makes no sense.</summary>
    public const int WrongUsage = 2;

    /// <summary>Ctrl-C or a request to end.</summary>
    public const int Interrupted = 130;

    /// <summary>Success if all numbers of a result are finite; otherwise a failure, which is said.</summary>
    /// <param name="terminal">Told what is not finite.</param>
    /// <param name="what">What the numbers are.</param>
    /// <param name="numbers">The numbers.</param>
    public static int Of(Terminal terminal, string what, IEnumerable<double> numbers)
    {
        if (numbers.All(double.IsFinite))
        {
            return Success;
        }

        terminal.Note($"error: The {what} is not finite: the model's weights are damaged, or its training had diverged.");
        return Failure;
    }
}

/// <summary>Options that do not go together; the message says which.</summary>
internal sealed class UsageException(string message) : Exception(message);
