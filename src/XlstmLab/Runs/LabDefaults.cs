using XlstmLab.Evaluation;
using XlstmLab.Inference;
using XlstmLab.Text;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>What holds where a notebook or a command line names nothing else: the same for both.</summary>
public static class LabDefaults
{
    /// <summary>The preset of a model.</summary>
    public const string Preset = "bytes-1m";

    /// <summary>The dataset.</summary>
    public const string Data = Datasets.Default;

    /// <summary>The updates of a run.</summary>
    public const int Steps = 2000;

    /// <summary>Sequences an update.</summary>
    public const int BatchSize = 8;

    /// <summary>Tokens a sequence.</summary>
    public const int ContextLength = 256;

    /// <summary>The peak learning rate.</summary>
    public const double LearningRate = 3e-3;

    /// <summary>Updates between validations.</summary>
    public const int ValidateEvery = 250;

    /// <summary>Tokens that a validation predicts at least.</summary>
    public const int ValidationTokens = 65_536;

    /// <summary>Tokens of an evaluation's window, or read at a time.</summary>
    public const int EvaluationContext = 512;

    /// <summary>Windows or documents that an evaluation reads side by side.</summary>
    public const int EvaluationBatch = 8;

    /// <summary>Tokens that are generated at most.</summary>
    public const int GeneratedTokens = 256;

    /// <summary>What logits are divided by before a token is drawn.</summary>
    public const double Temperature = 0.8;

    /// <summary>
    /// The recipe of a small model's training: a warm-up of a twentieth of the steps, then a cosine to a tenth of the peak rate.
    /// </summary>
    /// <param name="steps">The updates of the run.</param>
    public static TrainingConfig Training(int steps = Steps) => new()
    {
        Steps = steps,
        BatchSize = BatchSize,
        ContextLength = ContextLength,
        PeakLearningRate = LearningRate,
        ValidateEvery = ValidateEvery,
        ValidationTokens = ValidationTokens,
        Schedule = new() { WarmupSteps = steps / 20 },
    };

    /// <summary>How a text is evaluated: each document is read once, with the state carried on.</summary>
    /// <param name="contextLength">Tokens of a window, or read at a time; sliding windows go on by half of it.</param>
    public static EvaluationOptions Evaluation(int contextLength = EvaluationContext) => new()
    {
        Policy = ContextPolicy.Carried,
        ContextLength = contextLength,
        Stride = Math.Max(1, contextLength / 2),
        BatchSize = EvaluationBatch,
    };

    /// <summary>How text is generated.</summary>
    public static GenerationOptions Generation { get; } = new() { MaxNewTokens = GeneratedTokens, Temperature = Temperature };
}
