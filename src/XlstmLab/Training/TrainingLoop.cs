using System.Diagnostics;
using Microsoft.Extensions.Logging;
using XlstmLab.Text;

namespace XlstmLab.Training;

/// <summary>Makes the updates of one call of a trainer, and records, validates, tells and saves as they come.</summary>
/// <param name="config">The configuration.</param>
/// <param name="state">What is trained, where it stands.</param>
/// <param name="step">Makes an update.</param>
/// <param name="validation">Validates.</param>
/// <param name="run">The run's folder; null for none.</param>
/// <param name="log">Where remarks go.</param>
/// <param name="hooks">What is called on the way.</param>
/// <param name="progress">Told the metrics of every update.</param>
/// <param name="fileWritten">Told each file of a checkpoint as it is written.</param>
/// <param name="ranks">Who trains: all ranks do the same, and the first writes.</param>
/// <param name="saves">Whether there are checkpoints, of this rank or another.</param>
internal sealed class TrainingLoop<TBatch>(
    TrainingConfig config, TrainingState<TBatch> state, TrainingStep<TBatch> step, TrainingValidation<TBatch> validation, RunFolder? run,
    TrainingLog log, TrainingHooks hooks, IProgress<TrainingMetrics>? progress, Action<string>? fileWritten, TrainingRanks ranks,
    bool saves)
    where TBatch : IBatch<TBatch>
{
    private readonly TrainingPosition _position = state.Position;
    private readonly double _secondsBefore = state.Position.Seconds;
    private readonly Stopwatch _watch = new();

    /// <summary>When the update before was done, or what came after it.</summary>
    private TimeSpan _finished;

    /// <summary>The update that a GPU has yet to do.</summary>
    private StartedUpdate? _running;

    private TrainingMetrics? _last;
    private TrainingMetrics? _lastValidated;
    private string? _checkpoint;
    private int _savedStep = state.Position.Step;

    /// <summary>The first of the latest updates in a row whose numbers are not finite.</summary>
    private int? _brokenSince;

    private bool _isStopped;

    /// <summary>Trains to the last step, or until cancelled or stopped.</summary>
    public TrainingResult Run(CancellationToken cancellationToken)
    {
        ReadEarlier();
        _watch.Start();
        while (NextStep <= config.Steps && !ranks.AnyStops(
            _isStopped || cancellationToken.IsCancellationRequested, state.Reduction?.Plan ?? 0))
        {
            if (!step.IsLate)
            {
                _finished = _watch.Elapsed;
            }

            var update = step.Begin(NextStep);
            FinishRunning();
            _running = update;
            if (!step.IsLate || update.Measures || Validates(update.Step) || Saves(update.Step))
            {
                FinishRunning();
            }
        }

        FinishRunning();
        var status = _position.Step == config.Steps ? TrainingStatus.Completed : TrainingStatus.Stopped;
        SaveAtTheEnd(status);
        log.Write(
            LogLevel.Information,
            $"{status} after step {_position.Step} of {config.Steps}, {_position.Tokens:N0} tokens and {_position.Seconds:F0} s.");
        return new(status, _position.Step, _position.Tokens, _position.Seconds, _last, _lastValidated, _checkpoint);
    }

    private int NextStep => _position.Step + (_running is null ? 1 : 2);

    private bool Validates(int number) =>
        (!validation.IsEmpty || hooks.AfterValidation is not null) && (number % config.ValidateEvery == 0 || number == config.Steps);

    private bool Saves(int number) => saves && number % config.CheckpointEvery == 0;

    private void ReadEarlier()
    {
        if (run is not null)
        {
            var earlier = RunFolder.ReadMetrics(run.Folder);
            _last = earlier.Count > 0 ? earlier[^1] : null;
            _lastValidated = earlier.LastOrDefault(m => m.IsValidated);
            _checkpoint = RunFolder.LatestCheckpoint(run.Folder);
        }
    }

    private void FinishRunning()
    {
        if (_running is { } update)
        {
            _running = null;
            Finish(update);
        }
    }

    /// <summary>All that follows an update.</summary>
    private void Finish(StartedUpdate update)
    {
        var (loss, norm, skipped) = update.Result();
        var spike = _position.Spike(loss, norm, config.Spikes);
        _position.Advance(update.Rows * (long)config.ContextLength, loss, norm, skipped is not null, config.Spikes?.Window);
        var metrics = Metrics(update, loss, norm, skipped);
        var remark = skipped ?? spike;
        if (remark is not null)
        {
            log.Write(
                LogLevel.Warning, $"Step {update.Step}: {remark}; the update was {(skipped is null ? "made" : "left out")}.");
        }

        metrics = Validated(metrics);
        _position.Seconds = _secondsBefore + _watch.Elapsed.TotalSeconds;
        metrics = metrics with { Seconds = _position.Seconds };
        Record(metrics, isSpecial: update.Measures || remark is not null);
        Tell(metrics);
        if (_position.BadSteps >= config.MaxBadSteps)
        {
            throw Diverged(
                $"{_position.BadSteps} updates in a row could not be made, the last, of step {update.Step}, because {skipped}");
        }

        SaveIfDue(update.Step);
    }

    private TrainingMetrics Metrics(StartedUpdate update, double loss, double norm, string? skipped)
    {
        var seconds = (_watch.Elapsed - _finished).TotalSeconds;
        _finished = _watch.Elapsed;
        return new()
        {
            Step = update.Step,
            Tokens = _position.Tokens,
            Loss = loss,
            LearningRate = update.Rate,
            GradientNorm = norm,
            ClippedShare = _position.ClippedShare(config.GradientClip),
            BatchSize = update.Rows,
            TokensPerSecond = update.Rows * (long)config.ContextLength / seconds,
            Seconds = 0,
            Skipped = skipped,
            ParameterNorm = update.Measures ? state.ParameterNorm() : null,
            Gates = update.Gates,
            Parameters = update.Parameters,
        };
    }

    private TrainingMetrics Validated(TrainingMetrics metrics)
    {
        if (validation.IsEmpty || !Validates(metrics.Step))
        {
            return metrics;
        }

        metrics = validation.Measure(metrics);
        var unit = validation.InNats ? " nats a token" : "";
        log.Write(LogLevel.Information, $"Step {metrics.Step}: loss {metrics.Loss:F4}, validation {metrics.ValidationLoss:F4}{unit}.");
        _finished = _watch.Elapsed;
        return metrics;
    }

    private void Record(TrainingMetrics metrics, bool isSpecial)
    {
        if (metrics.Step % config.LogEvery == 0 || metrics.Step == config.Steps || metrics.IsValidated || isSpecial)
        {
            run?.Append(metrics, config.TensorBoard);
        }

        var isFinite = double.IsFinite(metrics.Loss + metrics.GradientNorm) && double.IsFinite(metrics.ValidationLoss ?? 0);
        _brokenSince = isFinite ? null : _brokenSince ?? metrics.Step;
        _last = metrics;
        _lastValidated = metrics.IsValidated ? metrics : _lastValidated;
    }

    private void Tell(TrainingMetrics metrics)
    {
        progress?.Report(metrics);
        if (Validates(metrics.Step) && hooks.AfterValidation is { } afterValidation)
        {
            Call(afterValidation, metrics);
            _finished = _watch.Elapsed;
        }

        Call(hooks.AfterStep, metrics);
    }

    private void Call(Action<TrainingMoment>? hook, TrainingMetrics metrics, string? checkpoint = null)
    {
        if (hook is not null)
        {
            var moment = new TrainingMoment(metrics, checkpoint);
            hook(moment);
            _isStopped |= moment.IsStopped;
        }
    }

    private void SaveIfDue(int number)
    {
        if (!Saves(number))
        {
            return;
        }

        if (_brokenSince is not null)
        {
            // What led here may be in the weights already: older checkpoints must not go for it.
            log.Write(
                LogLevel.Warning,
                $"Step {number}: no checkpoint: loss, gradients or validation are not finite since step {_brokenSince}.");
            return;
        }

        Save();
        _finished = _watch.Elapsed;
    }

    private void SaveAtTheEnd(TrainingStatus status)
    {
        if (_brokenSince is { } first && status == TrainingStatus.Completed)
        {
            throw Diverged(
                $"Loss, gradients or validation are not finite since step {first}, "
                + $"and were not when the run ended at step {_position.Step}");
        }

        if (_position.Step == _savedStep || _brokenSince is not null)
        {
            return;
        }

        if (saves)
        {
            Save();
        }
        else if (status == TrainingStatus.Completed)
        {
            RequireFiniteWeights();
        }
    }

    /// <summary>Writes a checkpoint; of weights that are not finite there is none.</summary>
    private void Save()
    {
        RequireFiniteWeights();
        Call(hooks.BeforeCheckpoint, _last!);
        run?.FlushMetrics();
        (_checkpoint, _savedStep) = (state.Save(run, config.KeepCheckpoints, fileWritten), _position.Step);
        if (_checkpoint is not null)
        {
            log.Write(LogLevel.Information, $"Step {_position.Step}: wrote {_checkpoint}.");
        }

        ranks.Meet();
        Call(hooks.AfterCheckpoint, _last!, _checkpoint);
    }

    private void RequireFiniteWeights()
    {
        if (state.BrokenWeights() is { } fault)
        {
            throw Diverged(fault);
        }
    }

    private TrainingDivergedException Diverged(string what)
    {
        var kept = !saves ? "The run has no folder"
            : !ranks.Writes ? "Rank 0 knows the last checkpoint" : _checkpoint is null ? "No checkpoint was saved"
            : $"The last checkpoint is {_checkpoint}, from before";
        return new($"{what}. {kept}. Start over with a lower learning rate, a longer warm-up or a smaller clipping norm.");
    }
}
