using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>Both gates' pre-activations of an mLSTM, one of each a head, soft-capped (xLSTM 7B, section 3.2; xLSTM, table 2).</summary>
/// <remarks>
/// It is no module itself: its parts are modules of the layer that has it, under the names <c>igate_preact</c> and <c>fgate_preact</c>, or
/// <c>ifgate_preact</c> where weights are fused and both gates are of one kind. A gate that the cell does not have has no part.
/// </remarks>
#pragma warning disable CA1001 // The layer that they are registered with disposes the parts.
public sealed class MLstmGates
#pragma warning restore CA1001
{
    private readonly GateProjection? _input;
    private readonly GateProjection? _forget;
    private readonly GateProjection? _both;
    private readonly MLstmMixerConfig _config;

    /// <summary>Gates that are zero until they are initialised or loaded.</summary>
    /// <param name="config">The gates' kinds, initialisation and soft cap, the number of heads and the weight mode.</param>
    /// <param name="inputDim">The width of what the gates look at.</param>
    public MLstmGates(MLstmMixerConfig config, int inputDim)
    {
        _config = config;
        var hasInput = config.InputGate.Known() != InputGate.None;
        var hasForget = config.ForgetGate.Known() != ForgetGate.None;
        if (config.WeightMode == WeightMode.Fused && hasInput && hasForget
            && config.InputGatePreactivation == config.ForgetGatePreactivation)
        {
            _both = new(config.InputGatePreactivation, inputDim, 2 * config.HeadCount);
            return;
        }

        _input = hasInput ? new(config.InputGatePreactivation, inputDim, config.HeadCount) : null;
        _forget = hasForget ? new(config.ForgetGatePreactivation, inputDim, config.HeadCount) : null;
    }

    /// <summary>Makes the gates' weights and biases modules of a layer; to be called once, in its constructor.</summary>
    /// <param name="layer">The layer.</param>
    /// <param name="suffix">
    /// What follows <c>igate</c>, <c>fgate</c> and <c>ifgate</c> in their names; nothing in the first paper's package.
    /// </param>
    public void Register(nn.Module layer, string suffix = "_preact")
    {
        foreach (var (name, part) in new[] { ("igate", _input), ("fgate", _forget), ("ifgate", _both) })
        {
            if (part is not null)
            {
                layer.register_module(name + suffix, part);
            }
        }
    }

    /// <summary>The pre-activations after the soft cap; zero for a gate that the cell does not have.</summary>
    /// <param name="x">[B, S, input] what the gates look at.</param>
    /// <returns>i~ and f~, [B, NH, S], float32 or wider: their sums over a sequence need the digits.</returns>
    public (Tensor Input, Tensor Forget) Forward(Tensor x)
    {
        var (input, forget, _) = ForwardThrough(x);
        return (input, forget);
    }

    /// <summary>The same, and x for all else that reads it: there the gradients of both are added on the way.</summary>
    internal (Tensor Input, Tensor Forget, Tensor X) ForwardThrough(Tensor x)
    {
        if (GateKernel.Serves(x, _config.HeadCount) && (_both ?? _input ?? _forget)?.Weight is not null)
        {
            var (input, forget) = ((_input?.Weight, _input?.Bias), (_forget?.Weight, _forget?.Bias));
            if (_both is not null)
            {
                var (weights, biases) = (_both.Weight!.chunk(2), _both.Bias.chunk(2));
                (input, forget) = ((weights[0], biases[0]), (weights[1], biases[1]));
            }

            return GateKernel.Forward(x, input, forget, _config.HeadCount, _config.GateSoftCap);
        }

        var wide = x.Widened();
        if (_both is not null)
        {
            var both = SoftCap.Apply(_both.Forward(wide), _config.GateSoftCap).transpose(1, 2).chunk(2, 1);
            return (both[0], both[1], x);
        }

        return (Capped(_input, wide), Capped(_forget, wide), x);
    }

    /// <summary>
    /// Sets what training starts from: no weights, so that the gates open alike for every token, an input gate around
    /// <see cref="MLstmMixerConfig.InputGateBias"/>, and forget gates that span short to long memories.
    /// </summary>
    /// <param name="generator">Where the numbers come from.</param>
    public void Initialize(Generator generator)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var heads = _config.HeadCount;
        var (input, forget) = _both is null ? (_input?.Bias, _forget?.Bias)
            : (_both.Bias.narrow(0, 0, heads), _both.Bias.narrow(0, heads, heads));
        _input?.Weight?.zero_();
        _forget?.Weight?.zero_();
        _both?.Weight?.zero_();
        input?.fill_(_config.InputGateBias);
        if (_config.InputGateBiasStd > 0)
        {
            input?.add_(randn(heads, generator: generator) * _config.InputGateBiasStd);
        }

        forget?.copy_(linspace(_config.ForgetGateBiasFirst, _config.ForgetGateBiasLast, heads));
    }

    private Tensor Capped(GateProjection? gate, Tensor x) => gate is null
        ? zeros(x.shape[0], _config.HeadCount, x.shape[1], dtype: x.dtype, device: x.device)
        : SoftCap.Apply(gate.Forward(x), _config.GateSoftCap).transpose(1, 2);
}

/// <summary>W x + b, b alone, or a b that is not trained.</summary>
internal sealed class GateProjection : nn.Module
{
    [ComponentName(Name = "weight")]
    [Role(ParameterRole.Weight)]
    private readonly Parameter? _weight;

    [ComponentName(Name = "bias")]
    [Role(ParameterRole.Vector)]
    private readonly Tensor _bias;

    public GateProjection(GatePreactivation kind, int inputDim, int outputDim)
        : base(nameof(GateProjection))
    {
        _weight = kind.Known() == GatePreactivation.Learned ? Parameters.Zeros(outputDim, inputDim) : null;
        _bias = kind == GatePreactivation.Fixed ? zeros(outputDim).DetachFromDisposeScope() : Parameters.Zeros(outputDim);
        RegisterComponents();
    }

    public Tensor? Weight => _weight;

    /// <summary>A parameter, or a buffer where it is fixed.</summary>
    public Tensor Bias => _bias;

    public Tensor Forward(Tensor x) => _weight is null
        ? _bias.to(x.dtype).expand(x.shape[0], x.shape[1], -1)
        : nn.functional.linear(x, _weight.to(x.dtype), _bias.to(x.dtype));
}
