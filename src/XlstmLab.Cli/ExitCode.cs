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
}

/// <summary>Options that do not go together; the message says which.</summary>
internal sealed class UsageException(string message) : Exception(message);
