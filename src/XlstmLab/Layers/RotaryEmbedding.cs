using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// Rotary position embedding (Su et al. 2021, eq. 34): pairs of channels are turned by angles that grow with the position.
/// </summary>
/// <remarks>
/// Channel j of the first half is paired with channel j of the second half, as in the published Llama checkpoints of Hugging Face.
/// </remarks>
public static class RotaryEmbedding
{
    /// <summary>The cosines and sines of t theta^(-2j/D), taken in float64.</summary>
    /// <param name="positions">t, [..., S].</param>
    /// <param name="dim">The width of a head, D, even.</param>
    /// <param name="theta">The base.</param>
    /// <param name="type">The results' type.</param>
    /// <returns>Both [..., S, D/2].</returns>
    public static (Tensor Cos, Tensor Sin) Angles(Tensor positions, int dim, double theta, ScalarType type)
    {
        var frequencies = exp(arange(0, dim, 2, dtype: ScalarType.Float64, device: positions.device) * (-Math.Log(theta) / dim)); // (D/2)
        var angles = positions.to(ScalarType.Float64).unsqueeze(-1) * frequencies; // (..., S, D/2)
        return (angles.cos().to(type), angles.sin().to(type));
    }

    /// <summary>Turns queries and keys, and has values beside them; in one pass where there is a kernel.</summary>
    /// <param name="q">[B, S, NH D].</param>
    /// <param name="k">[B, S, NKV D].</param>
    /// <param name="v">[B, S, NKV D].</param>
    /// <param name="cos">The cosines, [S, D/2] or [B, 1, S, D/2].</param>
    /// <param name="sin">The sines, likewise.</param>
    /// <param name="headDim">D.</param>
    /// <returns>[B, NH, S, D] and twice [B, NKV, S, D].</returns>
    internal static (Tensor Q, Tensor K, Tensor V) Rotate(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, int headDim)
    {
        if (new[] { q, k, v }.All(x => RotaryKernel.Serves(x, cos, headDim)))
        {
            return RotaryKernel.Forward(q, k, v, cos, sin, headDim);
        }

        Tensor SplitHeads(Tensor x) => x.unflatten(2, [-1, headDim]).transpose(1, 2);
        return (Rotate(SplitHeads(q), cos, sin), Rotate(SplitHeads(k), cos, sin), SplitHeads(v));
    }

    /// <summary>Turns x, [B, NH, S, D], by angles that broadcast to [B, NH, S, D/2]; the result has x's type.</summary>
    public static Tensor Rotate(Tensor x, Tensor cos, Tensor sin)
    {
        var halves = x.to(cos.dtype).chunk(2, -1);
        var (a, b) = (halves[0], halves[1]); // (B, NH, S, D/2)
        return cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype);
    }
}
