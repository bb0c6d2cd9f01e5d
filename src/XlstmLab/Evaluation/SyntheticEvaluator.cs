using System.Runtime.InteropServices;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Evaluation;

/// <summary>Measures how often a model answers synthetic tasks correctly, by length.</summary>
public static class SyntheticEvaluator
{
    /// <summary>Answers rows of each range of lengths.</summary>
    /// <remarks>
    /// Rows of like length are read side by side, and no further than their last answer; logits are computed where answers are due. The
    /// model is put into evaluation mode, and back.
    /// </remarks>
    /// <param name="model">The model.</param>
    /// <param name="task">The task.</param>
    /// <param name="lengths">The ranges of lengths, each with rows of its own.</param>
    /// <param name="rows">The number of rows of each range.</param>
    /// <param name="batchSize">The number of rows read side by side. It does not change results but for rounding.</param>
    /// <param name="split">Which rows.</param>
    /// <param name="seed">Another seed gives other rows.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <returns>A score for each range.</returns>
    /// <exception cref="ArgumentException">The task has no rows of such lengths, or more tokens than the model.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static IReadOnlyList<SyntheticScore> Evaluate(
        LanguageModel model,
        SyntheticTask task,
        IReadOnlyList<LengthRange> lengths,
        int rows = 1024,
        int batchSize = 64,
        SyntheticSplit split = SyntheticSplit.Test,
        long seed = 0,
        IProgress<SyntheticEvaluationProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(batchSize, 1);
        if (task.VocabularySize > model.VocabularySize)
        {
            throw new ArgumentException(
                $"{task.Name} has {task.VocabularySize} tokens and the model {model.VocabularySize}: build the model for the task.",
                nameof(model));
        }

        foreach (var range in lengths)
        {
            task.Validate(range);
        }

        using (EvaluationMode.Of(model))
        {
            var scores = new List<SyntheticScore>();
            foreach (var range in lengths)
            {
                var done = (long)scores.Count * rows;
                var reached = new ImmediateProgress<int>(r => progress?.Report(new(done + r, (long)lengths.Count * rows)));
                scores.Add(Score(model, task, task.Rows(split, seed, 0, rows, range), range, batchSize, reached, cancellationToken));
            }

            return scores;
        }
    }

    private static SyntheticScore Score(
        LanguageModel model, SyntheticTask task, TokenBatch all, LengthRange range, int batchSize, ImmediateProgress<int> progress,
        CancellationToken cancellationToken)
    {
        var device = model.WeightsDevice;
        var order = new int[all.Rows];
        var ends = new int[all.Rows];
        for (var r = 0; r < all.Rows; r++)
        {
            (order[r], ends[r]) = (r, all.Targets.AsSpan(r * all.Length, all.Length).LastIndexOfAnyExcept(TokenBatch.Ignored) + 1);
        }

        Array.Sort(ends, order);
        var (answers, correct, correctRows, nats) = (0L, 0L, 0L, 0.0);
        for (var first = 0; first < order.Length; first += batchSize)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var count = Math.Min(batchSize, order.Length - first);
            var width = ends[first + count - 1];
            var inputs = new int[count * width];
            var positions = new List<long>();
            var targets = new List<long>();
            for (var r = 0; r < count; r++)
            {
                var row = order[first + r] * all.Length;
                all.Inputs.AsSpan(row, width).CopyTo(inputs.AsSpan(r * width));
                for (var t = 0; t < width; t++)
                {
                    if (all.Targets[row + t] != TokenBatch.Ignored)
                    {
                        positions.Add((long)r * width + t);
                        targets.Add(all.Targets[row + t]);
                    }
                }
            }

            using var scope = NewDisposeScope();
            using var gradient = no_grad();
            var logits = model.Forward(
                tensor(inputs, [count, width], int64, device), positions: tensor(positions.ToArray(), device: device)).Logits; // (N, V)
            var wanted = tensor(targets.ToArray(), device: device);
            nats += nn.functional.cross_entropy(logits, wanted, reduction: nn.Reduction.Sum).to(ScalarType.Float64).item<double>();
            var given = logits.argmax(1).cpu();
            var found = MemoryMarshal.Cast<byte, long>(given.bytes);
            for (var k = 0; k < found.Length;)
            {
                var row = positions[k] / width;
                var isCorrect = true;
                for (; k < found.Length && positions[k] / width == row; k++)
                {
                    answers++;
                    correct += found[k] == targets[k] ? 1 : 0;
                    isCorrect &= found[k] == targets[k];
                }

                correctRows += isCorrect ? 1 : 0;
            }

            progress.Report(first + count);
        }

        return new(task.Name, range.Minimum, range.Maximum, all.Rows, answers, correct, correctRows, nats / answers, task.Chance);
    }
}
