using Microsoft.Extensions.Logging;

namespace XlstmLab.Cli.Terminals;

/// <summary>Shows what the library warns of, above the bar.</summary>
internal sealed class WarningLines(Action<string> tell) : ILogger
{
    /// <inheritdoc/>
    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    /// <inheritdoc/>
    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Warning;

    /// <inheritdoc/>
    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (IsEnabled(logLevel))
        {
            tell(formatter(state, exception));
        }
    }
}
