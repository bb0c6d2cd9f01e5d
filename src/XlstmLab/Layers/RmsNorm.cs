using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>x / sqrt(mean(x^2) + eps) * weight + bias, with the mean taken in float32 or wider.</summary>
public sealed class RmsNorm : AffineNorm
{
    /// <summary>A norm over the last dimension, with scale 1.</summary>
    /// <param name="dim">The width of x.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="bias">Whether there is a bias.</param>
    public RmsNorm(int dim, double epsilon, bool bias = false)
        : base(nameof(RmsNorm), dim, epsilon, bias) =>
        RegisterComponents();

    /// <summary>x + delta, and its norm in the type of what reads it: for a stream that is wider than what reads and writes it.</summary>
    /// <param name="x">[..., d].</param>
    /// <param name="delta">[..., d]; null is zero.</param>
    /// <param name="type">The norm's type.</param>
    internal (Tensor Sum, Tensor Y) AddForward(Tensor x, Tensor? delta, ScalarType type)
    {
        if (type == ScalarType.BFloat16 && (delta is null || delta.dtype == type) && NormKernel.ServesWide(x))
        {
            return delta is null
                ? (x, NormKernel.Forward(x, Weight!, Bias, Epsilon, center: false))
                : NormKernel.AddForward(x, delta.contiguous(), Weight!, Bias, Epsilon, center: false);
        }

        if (type == ScalarType.Float32 && delta is not null && HasLoops(x) && CpuMemory.Serves(delta))
        {
            return NormFused.AddForward(x, delta, Weight!, Bias, Epsilon, center: false);
        }

        var sum = delta is null ? x : x + delta;
        return (sum, Forward(sum).to(type));
    }

    /// <summary>[..., d] to [..., d], in the type of x.</summary>
    public Tensor Forward(Tensor x) => ByKernel(x, center: false) ?? Scale(DivideByRootMeanSquare(x));
}
