using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// Lets a program watch and stop the trainings of code that it runs and that does not know of it: a notebook shows how far a training of a
/// cell is, and an interruption of the cell ends it with a checkpoint.
/// </summary>
public static class TrainingWatch
{
    private static readonly AsyncLocal<ITrainingWatcher?> Watcher = new();

    /// <summary>
    /// Who watches the trainings that the calling code and what it awaits or starts begin from now on; null for nobody.
    /// </summary>
    public static ITrainingWatcher? Current
    {
        get => Watcher.Value;
        set => Watcher.Value = value;
    }

    /// <summary>A progress that tells a watched training too.</summary>
    internal static IProgress<TrainingMetrics>? And(IProgress<TrainingMetrics>? progress, IWatchedTraining? watched) =>
        watched is null ? progress : new ImmediateProgress<TrainingMetrics>(metrics =>
        {
            watched.Report(metrics);
            progress?.Report(metrics);
        });
}

/// <summary>Watches trainings. Several may go on at once.</summary>
public interface ITrainingWatcher
{
    /// <summary>Set when trainings are to end after the running update, with a checkpoint.</summary>
    CancellationToken Stop { get; }

    /// <summary>A training begins, or goes on.</summary>
    /// <param name="recipe">Its settings.</param>
    /// <param name="device">Where it computes.</param>
    /// <returns>
    /// What is told the metrics of every update, by the training, which waits for it, and is disposed when the training has ended.
    /// </returns>
    IWatchedTraining Begin(TrainingConfig recipe, Device device);

    /// <summary>Trainings that belong together begin, or go on.</summary>
    /// <param name="name">What they are together.</param>
    /// <param name="total">How many there are.</param>
    /// <param name="done">How many of them have ended before.</param>
    /// <returns>What is told of them, and is disposed when no more of them runs; null to be told of each by <see cref="Begin"/>.</returns>
    IWatchedGroup? BeginGroup(string name, int total, int done) => null;
}

/// <summary>Trainings that are watched together. Several may go on at once.</summary>
public interface IWatchedGroup : IDisposable
{
    /// <summary>A training of them begins, or goes on.</summary>
    /// <param name="name">Which.</param>
    /// <param name="recipe">Its settings.</param>
    /// <param name="device">Where it computes.</param>
    IWatchedTraining Begin(string name, TrainingConfig recipe, Device device);

    /// <summary>One of them has come to its end, with all that belongs to it.</summary>
    /// <param name="hasFailed">Whether by a failure.</param>
    void End(bool hasFailed);
}

/// <summary>A training that is watched.</summary>
public interface IWatchedTraining : IProgress<TrainingMetrics>, IDisposable;
