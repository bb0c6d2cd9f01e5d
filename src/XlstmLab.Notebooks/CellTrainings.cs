using System.Diagnostics;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Notebooks;

/// <summary>
/// Watches the trainings of a cell: shows them in one panel that is redrawn, tells in a line how far they are, and stops them when the cell
/// is interrupted.
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
    private readonly Redrawn _shown = new(outputs);
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

    public IWatchedGroup BeginGroup(string name, int total, int done)
    {
        Interlocked.Increment(ref _running);
        return new WatchedStudy(this, new StudyPanel(name, total, done), new Redrawn(outputs));
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

    /// <summary>A panel in a cell, which is drawn again as what it shows goes on.</summary>
    private sealed class Redrawn(CellOutputs outputs)
    {
        private readonly Stopwatch _sinceDrawn = new();
        private ShownValue? _shown;

        /// <summary>Draws it, unless that was done just now.</summary>
        /// <param name="panel">What it shows.</param>
        /// <param name="isNews">Whether there is more to see than another update: then it is drawn sooner.</param>
        /// <param name="isLast">Whether it is drawn for the last time, and so in any case.</param>
        public void Show(object panel, bool isNews, bool isLast = false)
        {
            if (_shown is not null && !isLast && _sinceDrawn.Elapsed < (isNews ? Pause / 4 : Pause))
            {
                return;
            }

            if (_shown is null)
            {
                _shown = new ShownValue(outputs, outputs.Display(MimeBundle.Of(panel)));
            }
            else
            {
                _shown.Update(panel);
            }

            _sinceDrawn.Restart();
        }
    }

    private sealed class Watched(CellTrainings cell, TrainingCurve curve) : IWatchedTraining
    {
        private bool _isOver;

        public void Report(TrainingMetrics value)
        {
            lock (cell._gate)
            {
                curve.Take(value);
                cell._shown.Show(cell._panel, value.IsValidated);
            }

            cell.Tell($"{curve.Line()}, {curve.TimeLeft()} of training left");
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
                    cell._shown.Show(cell._panel, isNews: true, isLast: true);
                }
            }

            Interlocked.Decrement(ref cell._running);
        }
    }

    /// <summary>A study of the cell, with a panel of its own.</summary>
    private sealed class WatchedStudy(CellTrainings cell, StudyPanel panel, Redrawn shown) : IWatchedGroup
    {
        public IWatchedTraining Begin(string name, TrainingConfig recipe, Device device)
        {
            lock (cell._gate)
            {
                return new WatchedRun(this, panel.Add(name, recipe, device));
            }
        }

        public void End(bool hasFailed)
        {
            lock (cell._gate)
            {
                panel.End(hasFailed);
                Show(isNews: true);
            }
        }

        public void Dispose()
        {
            lock (cell._gate)
            {
                if (panel.IsOver)
                {
                    return;
                }

                panel.Finish();
                Show(isNews: true, isLast: true);
            }

            Interlocked.Decrement(ref cell._running);
        }

        private void Show(bool isNews, bool isLast = false)
        {
            // Of runs that were all done before there is no curve.
            if (panel.HasCurves)
            {
                shown.Show(panel, isNews, isLast);
            }
        }

        private void Take(TrainingCurve curve, TrainingMetrics metrics)
        {
            string line;
            lock (cell._gate)
            {
                panel.Take(curve, metrics);
                Show(metrics.IsValidated);
                line = panel.Line();
            }

            cell.Tell(line);
        }

        private void Close(TrainingCurve curve)
        {
            lock (cell._gate)
            {
                curve.IsOver = true;
            }
        }

        private sealed class WatchedRun(WatchedStudy study, TrainingCurve curve) : IWatchedTraining
        {
            public void Report(TrainingMetrics value) => study.Take(curve, value);

            public void Dispose() => study.Close(curve);
        }
    }

    private void Tell(string line) => outputs.Status(line);
}
