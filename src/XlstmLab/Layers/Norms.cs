using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>x / sqrt(mean(x^2) + eps) * weight + bias, with the mean taken in float32 or wider.</summary>
public sealed class RmsNorm : nn.Module
{
    [ComponentName(Name = "weight")]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
    private readonly Parameter? _bias;

    private readonly double _epsilon;

    /// <summary>A norm over the last dimension, with scale 1.</summary>
    public RmsNorm(int dim, double epsilon, bool bias = false)
        : base(nameof(RmsNorm))
    {
        _weight = Parameters.Ones(dim);
        _bias = bias ? Parameters.Zeros(dim) : null;
        _epsilon = epsilon;
        RegisterComponents();
    }

    /// <summary>[..., d] to [..., d], in the type of x.</summary>
    public Tensor Forward(Tensor x)
    {
        var wide = x.dtype == ScalarType.BFloat16 ? x.to(ScalarType.Float32) : x;
        var normed = (wide * rsqrt(wide.square().mean([-1L], keepdim: true) + _epsilon)).to(x.dtype);
        return Affine.Apply(normed, _weight, _bias);
    }
}

/// <summary>The head norm: a LayerNorm over each head's values, with one scale a channel.</summary>
public sealed class MultiHeadLayerNorm : nn.Module
{
    [ComponentName(Name = "weight")]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
    private readonly Parameter? _bias;

    private readonly double _epsilon;

    /// <summary>A norm over heads of equal width, with scale 1.</summary>
    /// <param name="dim">The width of all heads.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <param name="bias">Whether there is a bias.</param>
    public MultiHeadLayerNorm(int dim, double epsilon, bool bias = false)
        : base(nameof(MultiHeadLayerNorm))
    {
        _weight = Parameters.Ones(dim);
        _bias = bias ? Parameters.Zeros(dim) : null;
        _epsilon = epsilon;
        RegisterComponents();
    }

    /// <summary>[B, S, NH, DV] to [B, S, NH DV], in the type of x.</summary>
    public Tensor Forward(Tensor x)
    {
        var wide = x.dtype == ScalarType.BFloat16 ? x.to(ScalarType.Float32) : x;
        var normed = nn.functional.layer_norm(wide, [x.shape[3]], null, null, _epsilon).to(x.dtype);
        return Affine.Apply(normed.flatten(2), _weight, _bias);
    }
}

file static class Affine
{
    public static Tensor Apply(Tensor x, Tensor weight, Tensor? bias) =>
        bias is null ? x * weight.to(x.dtype) : x * weight.to(x.dtype) + bias.to(x.dtype);
}
