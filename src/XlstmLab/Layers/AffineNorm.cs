using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>What all norms have: a scale of 1 and, if wanted, a bias of 0 a channel, and moments taken in float32 or wider.</summary>
public abstract class AffineNorm : nn.Module
{
    [ComponentName(Name = "weight")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _weight;

    [ComponentName(Name = "bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _bias;

    private readonly double _epsilon;

    private protected AffineNorm(string name, int? dim, double epsilon, bool bias)
        : base(name)
    {
        _weight = dim is { } scaled ? Parameters.Ones(scaled) : null;
        _bias = dim is { } shifted && bias ? Parameters.Zeros(shifted) : null;
        _epsilon = epsilon;
    }

    /// <summary>The scales, [d]; null for a norm that is none.</summary>
    private protected Tensor? Weight => _weight;

    /// <summary>The biases, [d], or null.</summary>
    private protected Tensor? Bias => _bias;

    /// <summary>What is added to the mean square or the variance.</summary>
    private protected double Epsilon => _epsilon;

    /// <summary>x / sqrt(mean(x^2) + eps) over the last dimension, in the type of x.</summary>
    private protected Tensor DivideByRootMeanSquare(Tensor x)
    {
        var wide = Widen(x);
        return (wide * rsqrt(wide.square().mean([-1L], keepdim: true) + _epsilon)).to(x.dtype);
    }

    /// <summary>(x - mean(x)) / sqrt(var(x) + eps) over the last dimension, in the type of x.</summary>
    private protected Tensor Standardize(Tensor x) =>
        nn.functional.layer_norm(Widen(x), [x.shape[^1]], null, null, _epsilon).to(x.dtype);

    /// <summary>The scaled norm over the last dimension in one pass, where there is a kernel for it.</summary>
    private protected Tensor? ByKernel(Tensor x, bool center) =>
        NormKernel.Serves(x) ? NormKernel.Forward(x, _weight!, _bias, _epsilon, center)
        : HasLoops(x) ? NormFused.Forward(x, _weight!, _bias, _epsilon, center)
        : null;

    /// <summary>Whether the norm is taken by a loop of the CPU.</summary>
    private protected bool HasLoops(Tensor x) => _weight is not null && CpuMemory.Serves(x) && CpuMemory.Serves(_weight);

    /// <summary>The learned scale and bias of each channel, [..., d].</summary>
    private protected Tensor Scale(Tensor normed)
    {
        var scaled = normed * _weight!.to(normed.dtype);
        return _bias is null ? scaled : scaled + _bias.to(normed.dtype);
    }

    private static Tensor Widen(Tensor x) => x.Widened();
}
