using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What an mLSTM remembers: the matrix memory and its normaliser, both scaled by exp(-m).</summary>
/// <param name="C">[B, NH, DK, DV], the matrix memory.</param>
/// <param name="N">[B, NH, DK], the normaliser.</param>
/// <param name="M">
/// [B, NH, 1], the logarithm of the scale: the memory in units of 1 is exp(M) C. Always 0 where no gate is exponential.
/// </param>
public sealed record MLstmState(Tensor C, Tensor N, Tensor M) : IDisposable
{
    /// <summary>The state before the first token: all zero.</summary>
    public static MLstmState Empty(long batch, long heads, long qkHeadDim, long vHeadDim, ScalarType type, Device? device = null) =>
        new(
            zeros(batch, heads, qkHeadDim, vHeadDim, dtype: type, device: device),
            zeros(batch, heads, qkHeadDim, dtype: type, device: device),
            zeros(batch, heads, 1, dtype: type, device: device));

    internal MLstmState MoveToOuterDisposeScope() =>
        new(C.MoveToOuterDisposeScope(), N.MoveToOuterDisposeScope(), M.MoveToOuterDisposeScope());

    /// <inheritdoc/>
    public void Dispose()
    {
        C.Dispose();
        N.Dispose();
        M.Dispose();
    }
}
