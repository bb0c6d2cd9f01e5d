using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>The order that rows are drawn in: on without end, or a number of rows in epochs, each in another order.</summary>
/// <param name="samples">The number of rows of an epoch; null to draw without end.</param>
/// <param name="seed">The seed of the epochs' orders.</param>
internal sealed class RowOrder(int? samples, long seed)
{
    private readonly int[] _order = new int[samples ?? 0];
    private int _orderedEpoch = -1;

    /// <summary>The epoch, from 0; always 0 where rows are drawn without end.</summary>
    public int Epoch { get; private set; }

    /// <summary>The place of the next row in the epoch.</summary>
    public long Row { get; private set; }

    /// <summary>The index of the next row.</summary>
    public long Next()
    {
        if (samples is null)
        {
            return Row++;
        }

        Order();
        var index = _order[Row++];
        if (Row == samples)
        {
            (Epoch, Row) = (Epoch + 1, 0);
        }

        return index;
    }

    /// <summary>Goes to where a source of these rows stood.</summary>
    /// <param name="position">Where it stood.</param>
    /// <param name="here">Where this source stands.</param>
    /// <exception cref="ArgumentException">The position is of other data or another seed, or there is no such row.</exception>
    public void Resume(BatchPosition position, BatchPosition here)
    {
        var difference = position.DifferenceFrom(here)
            ?? (position.Epoch < 0 || position.Window < 0 || (samples is { } count ? position.Window >= count : position.Epoch > 0)
                ? $"row {position.Window} of epoch {position.Epoch}, which this source does not have"
                : null);
        if (difference is not null)
        {
            throw new ArgumentException($"Training cannot go on from this position: it is of {difference}.", nameof(position));
        }

        (Epoch, Row) = (position.Epoch, position.Window);
    }

    private void Order()
    {
        if (_orderedEpoch == Epoch)
        {
            return;
        }

        for (var k = 0; k < _order.Length; k++)
        {
            _order[k] = k;
        }

        new SplitMix64(seed, -1 - Epoch).Shuffle(_order);
        _orderedEpoch = Epoch;
    }
}
