using XlstmLab.Tasks;

namespace XlstmLab.Evaluation;

/// <summary>How well a model answers rows of a synthetic task.</summary>
/// <param name="Task">The task's name.</param>
/// <param name="MinimumLength">The least length of a row in tokens.</param>
/// <param name="MaximumLength">The greatest.</param>
/// <param name="Rows">The number of rows.</param>
/// <param name="Answers">The number of answer tokens.</param>
/// <param name="Correct">The number of those that the model finds most probable.</param>
/// <param name="CorrectRows">The number of rows all of whose answers are correct.</param>
/// <param name="Loss">Nats per answer token.</param>
/// <param name="Chance">The accuracy of guessing.</param>
public sealed record SyntheticScore(
    string Task, int MinimumLength, int MaximumLength, int Rows, long Answers, long Correct, long CorrectRows, double Loss, double Chance)
{
    /// <summary>The share of the answer tokens that are correct.</summary>
    public double Accuracy => (double)Correct / Answers;

    /// <summary>(accuracy - chance) / (1 - chance): 0 for guessing, 1 for all correct (xLSTM, figure 4).</summary>
    public double ScaledAccuracy => (Accuracy - Chance) / (1 - Chance);

    /// <summary>The share of the rows that are correct as a whole.</summary>
    public double RowAccuracy => (double)CorrectRows / Rows;

    /// <summary>The lengths of the rows.</summary>
    public LengthRange Lengths() => new(MinimumLength, MaximumLength);
}

/// <summary>How far an evaluation has come.</summary>
/// <param name="Rows">Rows answered.</param>
/// <param name="TotalRows">All rows.</param>
public readonly record struct SyntheticEvaluationProgress(long Rows, long TotalRows);
