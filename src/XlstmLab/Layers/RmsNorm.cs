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

    /// <summary>[..., d] to [..., d], in the type of x.</summary>
    public Tensor Forward(Tensor x) => ByKernel(x, center: false) ?? Scale(DivideByRootMeanSquare(x));
}
