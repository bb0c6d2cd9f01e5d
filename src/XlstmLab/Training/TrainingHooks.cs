namespace XlstmLab.Training;

/// <summary>What a training calls on its way. Each may ask it to stop (<see cref="TrainingMoment.Stop"/>).</summary>
/// <remarks>
/// They run on the training's thread: model, weights and the run's files may be read, and what they throw ends the run. Whatever they
/// compute counts as time of training.
/// </remarks>
public sealed record TrainingHooks
{
    /// <summary>
    /// Called every <see cref="TrainingConfig.ValidateEvery"/> updates and after the last one, when the trainer has validated on its own
    /// batches, if it has any: the weights are those of this update, on a GPU too.
    /// </summary>
    public Action<TrainingMoment>? AfterValidation { get; init; }

    /// <summary>
    /// Called after every update and its validation. On a GPU the next update is under way by then, except where this one was validated or
    /// is saved: it will be finished before a stop.
    /// </summary>
    public Action<TrainingMoment>? AfterStep { get; init; }

    /// <summary>Called before a checkpoint is written.</summary>
    public Action<TrainingMoment>? BeforeCheckpoint { get; init; }

    /// <summary>Called when a checkpoint is complete, with its folder.</summary>
    public Action<TrainingMoment>? AfterCheckpoint { get; init; }
}

/// <summary>Where a training stands as it calls one of its hooks.</summary>
/// <param name="metrics">The metrics of the latest update.</param>
/// <param name="checkpoint">The folder of the checkpoint that was just written; null elsewhere.</param>
public sealed class TrainingMoment(TrainingMetrics metrics, string? checkpoint = null)
{
    /// <summary>The metrics of the latest update.</summary>
    public TrainingMetrics Metrics { get; } = metrics;

    /// <summary>The folder of the checkpoint that was just written; null where none was.</summary>
    public string? Checkpoint { get; } = checkpoint;

    /// <summary>Whether the training is to stop.</summary>
    public bool IsStopped { get; private set; }

    /// <summary>
    /// Asks the training to stop: it finishes what is under way, writes a checkpoint if it has a folder, and returns as
    /// <see cref="TrainingStatus.Stopped"/>; called again, it goes on.
    /// </summary>
    public void Stop() => IsStopped = true;
}
