using System.Diagnostics;
using System.Globalization;
using System.Text;
using XlstmLab.Cli.Terminals;
using XlstmLab.Notebooks;

namespace XlstmLab.Cli.Commands;

/// <summary>
/// Shows a running notebook: each line that a cell writes, a line for each cell that ends, and every ten seconds at least where it is.
/// </summary>
internal sealed class NotebookDisplay(ProgressTracker tracker) : IDisposable
{
    private const int LongestHint = 100;
    private const int LongestLine = 1 << 16;
    private const int LongestShown = 2000;

    private readonly Lock _gate = new();
    private readonly Dictionary<string, StringBuilder> _unfinished = [];
    private readonly Stopwatch _watch = new();
    private CellProgress? _cell;
    private string _hint = "";
    private Timer? _timer;

    /// <summary>Begins to tell, even of a cell that says nothing.</summary>
    public void Start() => _timer = new(_ => Tell(), null, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1));

    /// <summary>Shows what happened.</summary>
    public void Show(CellProgress progress)
    {
        lock (_gate)
        {
            switch (progress.Event)
            {
                case CellEvent.Started:
                    (_cell, _hint) = (progress, progress.FirstLine);
                    _watch.Restart();
                    break;
                case CellEvent.Output:
                    Take(progress.Stream!, progress.Text!);
                    break;
                case CellEvent.Status:
                    _hint = progress.Text!;
                    break;
                case CellEvent.Finished:
                    EndLines();
                    _cell = null;
                    tracker.Line($"{Place(progress, progress.Elapsed)}: {progress.FirstLine}");
                    break;
                default:
                    throw new InvalidOperationException($"There is no cell event {progress.Event}.");
            }
        }

        Tell();
    }

    /// <summary>Shows a line that no cell's console wrote.</summary>
    public void Line(string text)
    {
        lock (_gate)
        {
            Pass(text);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _timer?.Dispose();
        lock (_gate)
        {
            _cell = null;
            EndLines();
        }
    }

    /// <summary>A text that a person still looks at; the notebook has all of it.</summary>
    public static string Short(string text) => text.Length <= LongestShown ? text
        : string.Create(
            CultureInfo.InvariantCulture, $"{text.AsSpan(0, LongestShown)}… ({text.Length - LongestShown:N0} more characters)");

    private void Tell()
    {
        lock (_gate)
        {
            if (_cell is { } cell)
            {
                var hint = _hint.Length <= LongestHint ? _hint : $"{_hint.AsSpan(0, LongestHint - 1)}…";

                // By the times of the last run: within a cell too, but never past its end.
                var within = cell.UsualSeconds is > 0 and var usual ? Math.Min(0.99, _watch.Elapsed.TotalSeconds / usual) : 0;
                tracker.Report(
                    cell.Share + cell.Weight * within, $"{Place(cell, _watch.Elapsed)}: {hint}", estimates: cell.UsualSeconds is not null);
            }
        }
    }

    private static string Place(CellProgress cell, TimeSpan elapsed) =>
        $"cell {cell.Index} of {cell.Count}, {Readable.Duration(elapsed.TotalSeconds)}";

    private void Take(string stream, string text)
    {
        if (!_unfinished.TryGetValue(stream, out var line))
        {
            _unfinished[stream] = line = new();
        }

        var parts = text.Split('\n');
        for (var at = 0; at < parts.Length; at++)
        {
            line.Append(parts[at]);
            if (at < parts.Length - 1 || line.Length > LongestLine)
            {
                Pass(line.ToString());
                line.Clear();
            }
        }

        if (line.Length > 0)
        {
            // A bar that is drawn over and over is one line, as long as it is drawn.
            var shown = TerminalText.Plain(line.ToString());
            _hint = shown.Trim() is { Length: > 0 } said ? said : _hint;
            if (line.Length > LongestLine / 2)
            {
                line.Clear().Append(shown);
            }
        }
    }

    private void EndLines()
    {
        foreach (var line in _unfinished.Values.Where(l => l.Length > 0))
        {
            Pass(line.ToString());
            line.Clear();
        }
    }

    private void Pass(string line)
    {
        var shown = TerminalText.Plain(line);
        _hint = shown.Trim() is { Length: > 0 } said ? said : _hint;
        tracker.Line(Short(shown));
    }
}
