using XlstmLab.Models;
using XlstmLab.Text;

namespace XlstmLab.Training;

/// <summary>The validation of a training: its loss over the same batches each time, with and without the average of the weights.</summary>
/// <param name="state">Model and average.</param>
/// <param name="config">How much is read at once.</param>
/// <param name="batches">The batches; may be empty.</param>
/// <param name="loss">The loss.</param>
/// <param name="inNats">Whether the loss is a cross-entropy in nats, which has a perplexity.</param>
/// <param name="textBytes">The bytes of the text that the targets spell; null where that is not known.</param>
/// <param name="graphs">Computes losses as graphs where it can.</param>
/// <param name="ranks">Who shares it: each measures a part.</param>
internal sealed class TrainingValidation<TBatch>(
    TrainingState<TBatch> state, TrainingConfig config, IReadOnlyList<TBatch> batches, BatchLoss<TBatch> loss, bool inNats, long? textBytes,
    TrainingGraphs<TBatch> graphs, TrainingRanks ranks)
    where TBatch : IBatch<TBatch>
{
    private readonly long _targets = batches.Sum(batch => (long)batch.TargetCount);

    public bool IsEmpty => batches.Count == 0;

    /// <summary>Whether losses are in nats a token.</summary>
    public bool InNats => inNats;

    /// <summary>Adds what it measures to an update's metrics.</summary>
    public TrainingMetrics Measure(TrainingMetrics metrics)
    {
        using var mode = EvaluationMode.Of(state.Model);
        using var modeOfLoss = state.LossModule is { } module ? EvaluationMode.Of(module) : default(EvaluationMode.Scope?);
        var sum = Sum();
        return metrics with
        {
            ValidationLoss = sum / _targets,
            ValidationPerplexity = inNats ? Math.Exp(sum / _targets) : null,
            ValidationBitsPerByte = inNats ? sum / Math.Log(2) / textBytes : null,
            ValidationTokens = _targets,
            EmaValidationLoss = SumOfAverage() / _targets,
        };
    }

    private double? SumOfAverage()
    {
        if (state.Average is not { } average)
        {
            return null;
        }

        average.Swap();
        try
        {
            return Sum();
        }
        finally
        {
            average.Swap();
        }
    }

    private double Sum() =>
        ranks.Sum(graphs.Sum(Parts().Where((_, index) => index % ranks.World == ranks.Rank), part => loss(state.Model, part, 1))); // (b, S)

    private IEnumerable<TBatch> Parts()
    {
        foreach (var batch in batches)
        {
            for (var row = 0; row < batch.Rows;)
            {
                var part = batch.Slice(row, Math.Min(config.MicroBatchSize ?? config.BatchSize / ranks.World, batch.Rows - row));
                yield return part;
                row += part.Rows;
            }
        }
    }
}
