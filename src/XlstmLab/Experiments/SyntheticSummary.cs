using XlstmLab.Evaluation;
using XlstmLab.Training;

namespace XlstmLab.Experiments;

/// <summary>What one seed of a synthetic experiment came to.</summary>
/// <param name="Seed">The seed of weights, rows and order.</param>
/// <param name="SolvedAtStep">
/// The update at which the asked-for accuracy was reached and training stopped; null if it was not asked for or reached.
/// </param>
/// <param name="Step">The updates done.</param>
/// <param name="Tokens">The tokens read in training.</param>
/// <param name="Seconds">The seconds of training, with validations.</param>
/// <param name="Loss">The loss of the last update, in nats per answer token.</param>
/// <param name="Parameters">The number of parameters.</param>
/// <param name="Scores">The test, a score for each range of lengths.</param>
public sealed record SyntheticRun(
    int Seed, int? SolvedAtStep, int Step, long Tokens, double Seconds, double Loss, long Parameters, IReadOnlyList<SyntheticScore> Scores);

/// <summary>A validation during training, for one range of lengths: a row of <c>curve.csv</c>.</summary>
/// <param name="Seed">The seed of the run.</param>
/// <param name="Step">The update.</param>
/// <param name="Tokens">The tokens read in training.</param>
/// <param name="Seconds">The seconds of training, with validations.</param>
/// <param name="Loss">The loss of the update, in nats per answer token.</param>
/// <param name="Lengths">The lengths of the validated rows.</param>
/// <param name="Accuracy">The share of correct answer tokens.</param>
/// <param name="ScaledAccuracy">The same with chance at 0.</param>
/// <param name="ValidationLoss">Nats per answer token.</param>
public sealed record SyntheticCurvePoint(
    int Seed, int Step, long Tokens, double Seconds, double Loss, string Lengths, double Accuracy, double ScaledAccuracy,
    double ValidationLoss);

/// <summary>A test of one seed at one range of lengths: a row of <c>accuracy.csv</c>.</summary>
/// <param name="Seed">The seed of the run.</param>
/// <param name="MinimumLength">The least length of a row in tokens.</param>
/// <param name="MaximumLength">The greatest.</param>
/// <param name="Rows">The number of rows.</param>
/// <param name="Accuracy">The share of correct answer tokens.</param>
/// <param name="ScaledAccuracy">The same with chance at 0.</param>
/// <param name="RowAccuracy">The share of rows that are correct as a whole.</param>
/// <param name="Loss">Nats per answer token.</param>
public sealed record SyntheticAccuracy(
    int Seed, int MinimumLength, int MaximumLength, int Rows, double Accuracy, double ScaledAccuracy, double RowAccuracy, double Loss);

/// <summary>What a synthetic experiment came to.</summary>
/// <param name="Task">The task's name.</param>
/// <param name="Runs">A run a seed.</param>
/// <param name="Curve">The validations of all runs.</param>
public sealed record SyntheticSummary(string Task, IReadOnlyList<SyntheticRun> Runs, IReadOnlyList<SyntheticCurvePoint> Curve)
{
    /// <summary>The tests of all runs, a row for each range of lengths.</summary>
    public IReadOnlyList<SyntheticAccuracy> AccuracyByLength() =>
    [
        .. Runs.SelectMany(run => run.Scores.Select(s => new SyntheticAccuracy(
            run.Seed, s.MinimumLength, s.MaximumLength, s.Rows, s.Accuracy, s.ScaledAccuracy, s.RowAccuracy, s.Loss))),
    ];
}

/// <summary>How far a synthetic experiment has come.</summary>
/// <param name="Seed">The seed that is trained.</param>
/// <param name="SeedIndex">Its index among the seeds, from 0.</param>
/// <param name="Metrics">The latest update.</param>
/// <param name="Scores">The validation after it; null if there was none.</param>
public sealed record SyntheticProgress(int Seed, int SeedIndex, TrainingMetrics Metrics, IReadOnlyList<SyntheticScore>? Scores);
