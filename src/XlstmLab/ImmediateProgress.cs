namespace XlstmLab;

/// <summary>Hands each report to an action at once, on the thread that reports: in order, unlike <see cref="Progress{T}"/>.</summary>
/// <param name="action">Called with each report.</param>
public sealed class ImmediateProgress<T>(Action<T> action) : IProgress<T>
{
    /// <inheritdoc/>
    public void Report(T value) => action(value);
}
