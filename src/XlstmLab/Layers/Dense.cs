using TorchSharp.Modules;
using TorchSharp.Utils;
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
        _weight = Parameters.Zeros(outputDim, inputDim);
        _bias = bias ? Parameters.Zeros(outputDim) : null;
        RegisterComponents();
    }

    /// <summary>W, [output, input].</summary>
    public Tensor Weight => _weight;

    /// <summary>b, [output], or null.</summary>
    public Tensor? Bias => _bias;

    /// <summary>[..., input] to [..., output].</summary>
    public Tensor Forward(Tensor x) => nn.functional.linear(x, _weight.to(x.dtype), _bias?.to(x.dtype));
}
