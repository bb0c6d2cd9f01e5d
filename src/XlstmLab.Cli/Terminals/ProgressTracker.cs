using System.Diagnostics;
using System.Globalization;
using Spectre.Console;

namespace XlstmLab.Cli.Terminals;

/// <summary>Told how far some work is; shows it with the time that is left.</summary>
internal sealed class ProgressTracker(string title, Terminal terminal, ProgressTask? bar)
{
    private static readonly TimeSpan Pause = TimeSpan.FromSeconds(10);

    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private TimeSpan _lastLine;
    private double? _first;

    /// <summary>Shows the state of the work.</summary>
    /// <param name="share">The share that is done, from 0 to 1.</param>
    /// <param name="status">What else there is to say, such as a rate.</param>
    /// <param name="estimates">Whether the share says how much time is left.</param>
    public void Report(double share, string status = "", bool estimates = true)
    {
        // What an earlier run did took none of this run's time.
        _first ??= share;
        var elapsed = _watch.Elapsed;
        var left = estimates && share > _first ? elapsed.TotalSeconds * (1 - share) / (share - _first.Value) : double.NaN;
        var text = (status.Length > 0 ? $"{title}: {status}" : title) + (double.IsFinite(left) ? $", {Readable.Duration(left)} left" : "");
        if (bar is not null)
        {
            bar.Description = Markup.Escape(text);
            bar.Value = 100 * share;
        }
        else if (elapsed - _lastLine >= Pause)
        {
            _lastLine = elapsed;
            terminal.Note(string.Create(CultureInfo.InvariantCulture, $"{100 * share,3:0} % {text}"));
        }
    }

    /// <summary>A line that stays, above the bar.</summary>
    public void Line(string text) => terminal.Note(text);
}
