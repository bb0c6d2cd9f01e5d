using System.Text.Json.Serialization;

namespace XlstmLab.Training;

/// <summary>The pre-activations of one gate of one block, over all tokens and heads of an update.</summary>
/// <param name="Block">The block, from 0.</param>
/// <param name="Name">The gate, such as <c>igate_preact</c>.</param>
/// <param name="Minimum">The least value.</param>
/// <param name="Mean">The mean.</param>
/// <param name="Maximum">The greatest value.</param>
public sealed record GateStatistics(int Block, string Name, double Minimum, double Mean, double Maximum);

/// <summary>One update of the parameters of one module. Norms are Euclidean, over all of the module's elements.</summary>
/// <param name="Group">The module's name in the state dict, such as <c>backbone.blocks.0.mlstm_layer.q</c>.</param>
/// <param name="Count">The number of elements.</param>
/// <param name="GradientNorm">The norm of the gradient before clipping.</param>
/// <param name="WeightNorm">The norm of the weights before the update.</param>
/// <param name="UpdateNorm">The norm of the change of the weights, weight decay included; 0 if the update was left out.</param>
public sealed record ParameterStatistics(string Group, long Count, double GradientNorm, double WeightNorm, double UpdateNorm);

/// <summary>What one update measured: a line of <c>metrics.jsonl</c>.</summary>
public sealed record TrainingMetrics
{
    /// <summary>The update, from 1.</summary>
    public required int Step { get; init; }

    /// <summary>Tokens predicted since the start of the run, this update's included.</summary>
    public required long Tokens { get; init; }

    /// <summary>The mean of the loss over all targets of the update: of a language model the cross-entropy, in nats.</summary>
    public required double Loss { get; init; }

    /// <summary>The learning rate.</summary>
    public required double LearningRate { get; init; }

    /// <summary>The global norm of the gradient before clipping.</summary>
    public required double GradientNorm { get; init; }

    /// <summary>The share of the latest updates, as many as the spike rule looks back on, whose gradient was clipped.</summary>
    public required double ClippedShare { get; init; }

    /// <summary>The sequences of the update.</summary>
    public required int BatchSize { get; init; }

    /// <summary>Predicted tokens a second of this update, without validation and checkpoints.</summary>
    public required double TokensPerSecond { get; init; }

    /// <summary>Seconds of training since the start of the run, without the time it was stopped.</summary>
    public required double Seconds { get; init; }

    /// <summary>Why the update was left out; null if it was made.</summary>
    public string? Skipped { get; init; }

    /// <summary>The mean loss over the validation's targets, in nats for a language model, each sequence from an empty state.</summary>
    public double? ValidationLoss { get; init; }

    /// <summary>exp of the validation loss; null where that is no cross-entropy.</summary>
    public double? ValidationPerplexity { get; init; }

    /// <summary>The validation loss in bits, over the bytes of text that the targets spell; null without a tokenizer or text.</summary>
    public double? ValidationBitsPerByte { get; init; }

    /// <summary>The targets of the validation.</summary>
    public long? ValidationTokens { get; init; }

    /// <summary>The validation loss of the averaged weights.</summary>
    public double? EmaValidationLoss { get; init; }

    /// <summary>The global norm of the parameters after the update.</summary>
    public double? ParameterNorm { get; init; }

    /// <summary>The gates' pre-activations during the update.</summary>
    public IReadOnlyList<GateStatistics>? Gates { get; init; }

    /// <summary>Gradient, weights and update of each module.</summary>
    public IReadOnlyList<ParameterStatistics>? Parameters { get; init; }

    /// <summary>Whether this update was validated.</summary>
    [JsonIgnore]
    public bool IsValidated => ValidationLoss is not null;
}

/// <summary>How a run came to its end.</summary>
public enum TrainingStatus
{
    /// <summary>It goes on, or was killed.</summary>
    Running,

    /// <summary>All its steps are done.</summary>
    Completed,

    /// <summary>It was cancelled, or stopped by a hook, after a step, with a checkpoint to go on from.</summary>
    Stopped,

    /// <summary>An error ended it.</summary>
    Failed,
}

/// <summary>What a run came to.</summary>
/// <param name="Status">Completed or stopped.</param>
/// <param name="Step">The updates done, since the start of the run.</param>
/// <param name="Tokens">The tokens predicted, since the start of the run.</param>
/// <param name="Seconds">The seconds of training, since the start of the run.</param>
/// <param name="Last">The latest metrics; null if no step was done.</param>
/// <param name="Validation">The latest metrics with a validation; null if there was none.</param>
/// <param name="Checkpoint">The folder of the latest checkpoint; null if no step was done.</param>
public sealed record TrainingResult(
    TrainingStatus Status,
    int Step,
    long Tokens,
    double Seconds,
    TrainingMetrics? Last,
    TrainingMetrics? Validation,
    string? Checkpoint);

/// <summary>A run was given up because too many updates in a row could not be made; the message says which and why.</summary>
public sealed class TrainingDivergedException(string message) : Exception(message);
