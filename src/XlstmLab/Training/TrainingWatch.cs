namespace XlstmLab.Training;

/// <summary>
/// Lets a program watch the trainings of code that it runs and that does not know of it: a notebook's runner tells how far a cell is.
/// </summary>
public static class TrainingWatch
{
    private static readonly AsyncLocal<Action<TrainingMetrics, TrainingConfig>?> Watcher = new();

    /// <summary>
    /// Told the metrics of every update of trainings that the calling code and what it awaits or starts begin from now on, and their recipe; null for nobody.
    /// It is called by the training, which waits for it.
    /// </summary>
    public static Action<TrainingMetrics, TrainingConfig>? Current
    {
        get => Watcher.Value;
        set => Watcher.Value = value;
    }

    /// <summary>A progress that tells the watcher too.</summary>
    internal static IProgress<TrainingMetrics>? And(IProgress<TrainingMetrics>? progress, TrainingConfig recipe) =>
        Current is not { } watcher ? progress : new ImmediateProgress<TrainingMetrics>(metrics =>
        {
            watcher(metrics, recipe);
            progress?.Report(metrics);
        });
}
