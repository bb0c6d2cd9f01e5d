using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>Training batches of <see cref="NearestNeighborSearch"/>: its rows in epochs, each in another order.</summary>
/// <param name="task">The task.</param>
/// <param name="seed">The seed of rows and order.</param>
public sealed class NearestNeighborSource(NearestNeighborSearch task, int seed) : BatchSource<VectorBatch>
{
    private readonly RowOrder _order = new(task.SampleCount, seed);

    /// <inheritdoc/>
    public override int ContextLength => task.TrainingLength;

    /// <inheritdoc/>
    public override long Seed => seed;

    /// <inheritdoc/>
    public override string Fingerprint { get; } =
        FormattableString.Invariant($"{NearestNeighborSearch.Name}-{task.TrainingLength}-{task.SampleCount}");

    /// <inheritdoc/>
    public override long? TokenCount => (long)task.SampleCount * task.TrainingLength;

    /// <inheritdoc/>
    public override BatchPosition Position => new(_order.Epoch, _order.Row, Seed, ContextLength, Fingerprint);

    /// <inheritdoc/>
    public override VectorBatch Next(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        var indices = new int[rows];
        for (var r = 0; r < rows; r++)
        {
            indices[r] = (int)_order.Next();
        }

        return NearestNeighborSearch.Rows(SyntheticSplit.Train, seed, indices, task.TrainingLength);
    }

    /// <inheritdoc/>
    public override void Resume(BatchPosition position) => _order.Resume(position, Position);
}
