using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

/// <summary>A run that a study comes to: one variant with one seed, with everything that it is made of.</summary>
/// <param name="Id">Readable, with a hash of the full configuration; it is the run's folder too.</param>
/// <param name="Variant">The labels on all axes.</param>
/// <param name="Differences">The label on each axis.</param>
/// <param name="Model">The architecture.</param>
/// <param name="Training">The training, with its seed.</param>
/// <param name="Data">The text; empty for a synthetic task.</param>
/// <param name="Task">The synthetic task; null for text.</param>
public sealed record StudyRun(
    string Id, string Variant, IReadOnlyDictionary<string, string> Differences, LanguageModelConfig Model, TrainingConfig Training,
    string Data,
    SyntheticTask? Task)
{
    /// <summary>The tokens that it reads in training.</summary>
    public long Tokens => Training.BatchRamp.Count == 0
        ? (long)Training.Steps * Training.BatchSize * Training.ContextLength
        : Enumerable.Range(1, Training.Steps).Sum(step => (long)Training.BatchSizeAt(step) * Training.ContextLength);

    /// <summary>The operations of its training by the model's formulas, forward and twice as much backward.</summary>
    public double Flops => FlopsPerToken * Tokens;

    /// <summary>The same of one token.</summary>
    public double FlopsPerToken => 3 * Model.ForwardFlopsPerToken(Training.ContextLength);
}
