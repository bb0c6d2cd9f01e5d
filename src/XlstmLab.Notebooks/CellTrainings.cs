using System.Diagnostics;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Notebooks;

/// <summary>
/// Watches the trainings of a cell: shows them in one panel that is redrawn, tells in a line how far they are, and stops them when the cell is interrupted.
/// </summary>
/// <param name="outputs">Where they are shown.</param>
/// <param name="interruption">The cell's interruption.</param>
internal sealed class CellTrainings(CellOutputs outputs, CancellationToken interruption) : ITrainingWatcher
{
    /// <summary>How long an update and its checkpoint may take after an interruption.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>Between two drawings.</summary>
    private static readonly TimeSpan Pause = TimeSpan.FromSeconds(1);

    private readonly Lock _gate = new();
    private readonly TrainingPanel _panel = new();
    private readonly Stopwatch _sinceDrawn = new();
    private ShownValue? _shown;
    private int _running;

    public CancellationToken Stop => interruption;

    /// <summary>Whether a training goes on: once the cell is interrupted, not for long.</summary>
    public bool AreEnding => Volatile.Read(ref _running) > 0;

    public IWatchedTraining Begin(TrainingConfig recipe, Device device)
    {
        Interlocked.Increment(ref _running);
        lock (_gate)
        {
            return new Watched(this, _panel.Add(recipe, device));
        }
    }

    /// <summary>Waits until the interrupted trainings have ended, for as long as that may take.</summary>
    public async Task EndAsync()
    {
        var watch = Stopwatch.StartNew();
        while (AreEnding && watch.Elapsed < Patience)
        {
            await Task.Delay(50, CancellationToken.None).ConfigureAwait(false);
        }
    }

    private void Show(bool now)
    {
        if (_shown is not null && !now && _sinceDrawn.Elapsed < Pause)
        {
            return;
        }

        if (_shown is null)
        {
            _shown = new ShownValue(outputs, outputs.Display(MimeBundle.Of(_panel)));
        }
        else
        {
            _shown.Update(_panel);
        }

        _sinceDrawn.Restart();
    }

    private sealed class Watched(CellTrainings cell, TrainingCurve curve) : IWatchedTraining
    {
        private bool _isOver;

        public void Report(TrainingMetrics value)
        {
            lock (cell._gate)
            {
                curve.Take(value);
                cell.Show(now: value.IsValidated && cell._sinceDrawn.Elapsed > Pause / 4);
            }

            cell.Status(curve);
        }

        public void Dispose()
        {
            lock (cell._gate)
            {
                if (_isOver)
                {
                    return;
                }

                _isOver = true;
                curve.IsOver = true;
                if (curve.Last is not null)
                {
                    cell.Show(now: true);
                }
            }

            Interlocked.Decrement(ref cell._running);
        }
    }

    private void Status(TrainingCurve curve) => outputs.Status($"{curve.Line()}, {curve.TimeLeft()} of training left");
}
