using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// The keys of a pass that is recorded as a graph: one for each of its dropouts, in memory, drawn anew before each start.
/// </summary>
/// <param name="draws">What draws them.</param>
/// <param name="count">How many dropouts the pass has.</param>
/// <param name="device">The device.</param>
internal sealed class DropoutKeys(DropoutDraws draws, int count, Device device) : IDisposable
{
    private readonly DeviceInput<long>? _table = count > 0 ? new(ScalarType.Int64, device, count) : null;
    private readonly Tensor?[] _places = new Tensor?[count];
    private int _taken;

    /// <summary>Takes the pass that is under way for the one to be recorded: its dropouts read their keys from memory.</summary>
    public void Record(Action pass)
    {
        (_taken, draws.Recording) = (0, this);
        try
        {
            pass();
        }
        finally
        {
            draws.Recording = null;
        }

        if (_taken != count)
        {
            throw new InvalidOperationException($"The pass drops {_taken} times, and did {count} times before.");
        }
    }

    /// <summary>The key of the next dropout of the pass.</summary>
    internal DropoutKey Take()
    {
        if (_taken == count)
        {
            throw new InvalidOperationException($"The pass drops more often than the {count} times that it did before.");
        }

        var place = _places[_taken] ??= _table!.Values.narrow(0, _taken, 1).DetachFromDisposeScope();
        _taken++;
        return new(0, place);
    }

    /// <summary>Draws the keys of the next start, in the order of the dropouts.</summary>
    public void Draw()
    {
        if (_table is null)
        {
            return;
        }

        var keys = _table.Next();
        for (var k = 0; k < keys.Length; k++)
        {
            keys[k] = draws.Key();
        }

        _table.Send();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Array.ForEach(_places, place => place?.Dispose());
        _table?.Dispose();
    }
}
