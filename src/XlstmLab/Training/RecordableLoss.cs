using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// A loss that can become part of a recorded graph, because all that it reads of a batch can be kept in memory that stays.
/// </summary>
/// <typeparam name="TBatch">The kind of batch.</typeparam>
internal interface IRecordableLoss<TBatch>
{
    /// <summary>Why the loss of a batch cannot be recorded; null where it can.</summary>
    string? Obstacle(LanguageModel model, TBatch batch);

    /// <summary>What batches of one graph have in common; equal for those that it serves.</summary>
    object Shape(LanguageModel model, TBatch batch);

    /// <summary>Memory for batches of a shape.</summary>
    /// <param name="model">The model.</param>
    /// <param name="batch">One of them, which is written there.</param>
    /// <param name="divisor">What the loss is divided by, which each batch that is written may change; null for a sum.</param>
    IKeptBatch<TBatch> Keep(LanguageModel model, TBatch batch, long? divisor);
}

/// <summary>A batch in memory that stays.</summary>
/// <typeparam name="TBatch">The kind of batch.</typeparam>
internal interface IKeptBatch<TBatch> : IDisposable
{
    /// <summary>Puts a batch of the same shape in the place of the one before.</summary>
    /// <param name="batch">The batch.</param>
    /// <param name="divisor">What the loss is divided by, if it is.</param>
    void Write(TBatch batch, long divisor);

    /// <summary>The loss of some of its rows: [] in the caller's dispose scope.</summary>
    Tensor Loss(LanguageModel model, int first, int rows);
}
