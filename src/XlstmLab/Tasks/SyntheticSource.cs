using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>Training batches of a task: rows drawn anew without end, or a number of rows in epochs, each in another order.</summary>
/// <remarks>Rows are drawn when they are asked for; none are kept.</remarks>
public sealed class SyntheticSource : BatchSource
{
    private readonly SyntheticTask _task;
    private readonly int? _samples;
    private readonly RowOrder _order;

    /// <summary>Starts at the first batch.</summary>
    /// <param name="task">The task.</param>
    /// <param name="lengths">The lengths of its rows; null for those that are published.</param>
    /// <param name="seed">The seed of rows and order.</param>
    /// <param name="samples">The number of rows of an epoch; null to draw without end.</param>
    /// <exception cref="ArgumentException">The task has no rows of such lengths.</exception>
    public SyntheticSource(SyntheticTask task, LengthRange? lengths = null, long seed = 0, int? samples = null)
    {
        if (samples is { } count)
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(count, 1, nameof(samples));
        }

        Lengths = lengths ?? task.TrainingLengths;
        task.Validate(Lengths);
        (_task, _samples, Seed) = (task, samples, seed);
        _order = new(samples, seed);
        Fingerprint = task.Fingerprint(Lengths) + (samples is null ? "" : $"-{samples}");
    }

    /// <summary>The lengths of the rows.</summary>
    public LengthRange Lengths { get; }

    /// <inheritdoc/>
    public override int ContextLength => Lengths.Maximum;

    /// <inheritdoc/>
    public override long Seed { get; }

    /// <inheritdoc/>
    public override string Fingerprint { get; }

    /// <inheritdoc/>
    public override long? TokenCount => (long?)_samples * ContextLength;

    /// <inheritdoc/>
    public override BatchPosition Position => new(_order.Epoch, _order.Row, Seed, ContextLength, Fingerprint);

    /// <inheritdoc/>
    public override TokenBatch Next(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        var indices = new long[rows];
        for (var r = 0; r < rows; r++)
        {
            indices[r] = _order.Next();
        }

        return _task.Rows(SyntheticSplit.Train, Seed, indices, Lengths);
    }

    /// <inheritdoc/>
    public override void Resume(BatchPosition position) => _order.Resume(position, Position);
}
