using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What an sLSTM remembers of the tokens it has read: four tensors [B, NH, D], float32 or wider.</summary>
/// <remarks>All zeros is the empty state. A unit whose n is zero is empty: its c and m have no influence.</remarks>
/// <param name="H">The last output, which the recurrent kernel reads; y in the published code.</param>
/// <param name="C">The cell state, in units of e^m.</param>
/// <param name="N">The normaliser, in units of e^m. At least 1 after the first token.</param>
/// <param name="M">The running maximum of the logarithms of the gates.</param>
public sealed record SLstmState(Tensor H, Tensor C, Tensor N, Tensor M) : IDisposable
{
    /// <summary>The empty state.</summary>
    /// <param name="batch">The number of sequences, B.</param>
    /// <param name="heads">The number of heads, NH.</param>
    /// <param name="size">The units of a head, D.</param>
    /// <param name="dtype">float32 or float64.</param>
    /// <param name="device">Where the state lies; null is the CPU.</param>
    public static SLstmState Empty(long batch, long heads, long size, ScalarType dtype = ScalarType.Float32, Device? device = null)
    {
        Tensor Zeros() => zeros([batch, heads, size], dtype, device);
        return new(Zeros(), Zeros(), Zeros(), Zeros());
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        H.Dispose();
        C.Dispose();
        N.Dispose();
        M.Dispose();
    }

    /// <summary>A state made of each tensor's image.</summary>
    internal SLstmState Map(Func<Tensor, Tensor> image) => new(image(H), image(C), image(N), image(M));

    /// <summary>The same tensors, owned by the dispose scope around the present one.</summary>
    internal SLstmState MoveToOuterDisposeScope() => Map(t => t.MoveToOuterDisposeScope());
}
