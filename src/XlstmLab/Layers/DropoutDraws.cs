using TorchSharp;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// Dropout that draws from a generator of its own: neither from torch's global one, which all threads share, nor into it.
/// </summary>
/// <remarks>
/// The generator is one of the CPU wherever the tensors are. On a GPU it draws a key, from which the dropped places follow.
/// </remarks>
internal sealed class DropoutDraws : IDisposable
{
    private Generator? _generator;

    /// <summary>The generator's state, as torch's own one has it.</summary>
    public byte[] State
    {
        get
        {
            using var state = Draws.get_state();
            return state.bytes.ToArray();
        }

        set
        {
            using var state = tensor(value, ScalarType.Byte, CPU);
            Draws.set_state(state);
        }
    }

    /// <summary>How many keys were drawn so far.</summary>
    internal int KeyCount { get; private set; }

    /// <summary>Where the dropouts of a pass that is being recorded find their keys; null while each draws its own.</summary>
    internal DropoutKeys? Recording { get; set; }

    private Generator Draws => _generator ??= new(0, CPU);

    /// <summary>Begins anew, with the draws of a seed.</summary>
    public void Seed(long seed)
    {
        _generator?.Dispose();
        _generator = new((ulong)seed, CPU);
    }

    /// <summary>x / (1 - share), with a share of its elements, drawn anew at each call, set to 0.</summary>
    /// <param name="x">[...] floating point, on any device.</param>
    /// <param name="share">From 0 to below 1; 0 draws nothing and gives x itself.</param>
    public Tensor Apply(Tensor x, double share)
    {
        if (share == 0)
        {
            return x;
        }

        if (x.device_type == DeviceType.CPU && !DropoutKernel.Serves(x))
        {
            using var scope = NewDisposeScope();
            var kept = empty_like(x.detach()).bernoulli_(1 - share, Draws).div_(1 - share);
            return (x * kept).MoveToOuterDisposeScope();
        }

        return DropoutKernel.Serves(x) ? DropoutKernel.Forward(x, share, Recording?.Take() ?? Key())
            : Recording is null ? DropoutKernel.ByOperations(x, share, Key())
            : throw new NotSupportedException(
                $"Dropout of {x.dtype} has no kernel, and would drop the same places at each start of a graph.");
    }

    public void Dispose()
    {
        _generator?.Dispose();
        _generator = null;
    }

    /// <summary>Draws a key.</summary>
    internal long Key()
    {
        KeyCount++;
        using var scope = NewDisposeScope();
        return randint(0, long.MaxValue, [1], ScalarType.Int64, CPU, generator: Draws).item<long>();
    }
}
