using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>y = W x + b in the type of x: master weights may be wider than the computation.</summary>
public sealed class Dense : nn.Module
{
    [ComponentName(Name = "weight")]
    [Role(ParameterRole.HiddenMatrix)]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _bias;

    /// <summary>A projection whose weights are zero until they are initialised or loaded.</summary>
    /// <param name="inputDim">The width of x.</param>
    /// <param name="outputDim">The width of y.</param>
    /// <param name="bias">Whether there is a bias.</param>
    public Dense(int inputDim, int outputDim, bool bias = false)
        : base(nameof(Dense))
    {
        _weight = Parameters.Projection(outputDim, inputDim);
        _bias = bias ? Parameters.Zeros(outputDim) : null;
        RegisterComponents();
    }

    /// <summary>W, [output, input].</summary>
    public Tensor Weight => _weight;

    /// <summary>b, [output], or null.</summary>
    public Tensor? Bias => _bias;

    /// <summary>[..., input] to [..., output].</summary>
    public Tensor Forward(Tensor x) =>
        TrainedProducts.IsCurrent && _bias is null && JointProjection.Serves(x, _weight)
            ? JointProjection.Forward(x, [_weight], _weight.size(0))[0]
            : nn.functional.linear(x, _weight.to(x.dtype), _bias?.to(x.dtype));

    /// <summary>Several projections of one input, by one product where there is a kernel that joins them.</summary>
    /// <param name="x">[..., input].</param>
    /// <param name="projections">The projections.</param>
    /// <returns>Each [..., output].</returns>
    internal static IReadOnlyList<Tensor> ForwardTogether(Tensor x, params IReadOnlyList<Dense> projections) =>
        projections.All(p => p._bias is null) && JointProjection.Serves(x, [.. projections.Select(p => p._weight)])
            ? JointProjection.Forward(x, [.. projections.Select(p => p._weight)], [.. projections.Select(p => p._weight.size(0))])
            : [.. projections.Select(p => p.Forward(x))];

    /// <summary>Projections of a stream and of its convolution, by one product where the two are the same.</summary>
    /// <param name="convolved">[..., input].</param>
    /// <param name="ofConvolved">Projections of that.</param>
    /// <param name="x">[..., input].</param>
    /// <param name="ofX">Projections of that.</param>
    /// <returns>Each [..., output]; those of the convolution first.</returns>
    internal static IReadOnlyList<Tensor> ForwardTogether(
        Tensor convolved, IReadOnlyList<Dense> ofConvolved, Tensor x, IReadOnlyList<Dense> ofX) =>
        ReferenceEquals(x, convolved)
            ? ForwardTogether(x, [.. ofConvolved, .. ofX])
            : [.. ForwardTogether(convolved, ofConvolved), .. ForwardTogether(x, ofX)];

    /// <summary>A projection whose result is several, likewise.</summary>
    /// <param name="x">[..., input].</param>
    /// <param name="widths">The widths of the results; together the output's.</param>
    /// <returns>Each [..., width].</returns>
    internal IReadOnlyList<Tensor> ForwardSplit(Tensor x, params long[] widths) =>
        _bias is null && widths.All(width => width % 8 == 0) && JointProjection.Serves(x, _weight)
            ? JointProjection.Forward(x, [_weight], widths)
            : Forward(x).split(widths, -1);
}
