using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>The norm of all heads' outputs, with one scale a channel (xLSTM 7B, figure 9).</summary>
public sealed class HeadNorm : AffineNorm
{
    private readonly HeadNormKind _kind;
    private readonly int _groups;

    /// <summary>A norm over heads of equal width, with scale 1; <see cref="HeadNormKind.None"/> has no parameters.</summary>
    /// <param name="kind">The norm.</param>
    /// <param name="heads">The number of heads, NH.</param>
    /// <param name="headDim">The width of a head, DV.</param>
    /// <param name="epsilon">Added to the variance or the mean square.</param>
    /// <param name="bias">Whether there is a bias.</param>
    /// <param name="groups">The number of groups of <see cref="HeadNormKind.Group"/>, a divisor of NH DV; null for one a head.</param>
    /// <exception cref="ArgumentException">The groups do not divide the channels.</exception>
    public HeadNorm(HeadNormKind kind, int heads, int headDim, double epsilon, bool bias = false, int? groups = null)
        : base(nameof(HeadNorm), kind.Known() == HeadNormKind.None ? null : heads * headDim, epsilon, bias)
    {
        _kind = kind;
        _groups = groups ?? heads;
        if (_groups < 1 || heads * headDim % _groups != 0)
        {
            throw new ArgumentException(
                $"Expected a number of groups that divides the {heads * headDim} channels, got {_groups}.", nameof(groups));
        }

        RegisterComponents();
    }

    /// <summary>The norm of an mLSTM's heads under its output gate, sigmoid(o) norm(h).</summary>
    /// <param name="h">[B, S, NH, DV].</param>
    /// <param name="o">[B, S, NH DV] pre-activation of the output gate; null for no gate.</param>
    /// <returns>[B, S, NH DV] in the type of h.</returns>
    public Tensor ForwardGated(Tensor h, Tensor? o)
    {
        if (HeadNormGateKernel.Serves(h, _kind, oneGroupAHead: _groups == h.shape[2]))
        {
            return HeadNormGateKernel.Forward(h, o, Weight!, Bias, _kind, Epsilon);
        }

        if (HasLoops(h) && (o is null || CpuMemory.Serves(o)))
        {
            return ByLoops(h, o);
        }

        var normed = ByTorch(h);
        return o is null ? normed : sigmoid(o) * normed;
    }

    /// <summary>[B, S, NH, DV] to [B, S, NH DV], in the type of x.</summary>
    public Tensor Forward(Tensor x) => ForwardGated(x, null);

    private Tensor ByTorch(Tensor x) => _kind switch
    {
        HeadNormKind.Layer => Scale(Standardize(x).flatten(2)),
        HeadNormKind.Rms => Scale(DivideByRootMeanSquare(x).flatten(2)),
        HeadNormKind.Group => Scale(Standardize(x.flatten(2).unflatten(2, [_groups, -1])).flatten(2)),
        HeadNormKind.None => x.flatten(2),
        _ => throw UnknownValue.Of(_kind),
    };

    private Tensor ByLoops(Tensor x, Tensor? o) => NormFused.Forward(
        x.flatten(2), Weight!, Bias, Epsilon, center: _kind != HeadNormKind.Rms, _kind == HeadNormKind.Group ? _groups : (int)x.shape[2],
        o);
}
