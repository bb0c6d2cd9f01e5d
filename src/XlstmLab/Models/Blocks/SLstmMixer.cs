using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>The sLSTM's own weights: the recurrent kernel R and the gates' biases, with the cell between four gates and h.</summary>
internal sealed class SLstmMixer : nn.Module
{
    [ComponentName(Name = "_recurrent_kernel_")]
    private readonly Parameter _recurrentKernel;

    [ComponentName(Name = "_bias_")]
    private readonly Parameter _bias;

    private readonly XlstmConfig _config;
    private readonly int _block;
    private readonly int _heads;
    private readonly int _size;

    public SLstmMixer(XlstmConfig config, int block)
        : base(nameof(SLstmMixer))
    {
        (_config, _block, _heads) = (config, block, config.SLstmHeads);
        _size = config.EmbeddingDim / _heads;
        _recurrentKernel = Parameters.Zeros(_heads, 4 * _size, _size); // (head, gate and unit written, unit read)
        _bias = Parameters.Zeros(4 * config.EmbeddingDim);             // gate, head, unit
        RegisterComponents();
    }

    /// <summary>Four [B, S, d] to h [B, S, NH, D].</summary>
    public Tensor Forward(Tensor igate, Tensor fgate, Tensor zgate, Tensor ogate, BlockPass pass)
    {
        var gates = stack([igate, fgate, zgate, ogate], 2).unflatten(3, [_heads, _size]);       // (B, S, 4, NH, D)
        var (h, last) = SLstmCell.Forward(
            gates, _recurrentKernel.view(_heads, 4, _size, _size), _bias.view(4, _heads, _size), pass.SLstmBefore, pass.Layout, _config.SLstmCell);
        if (pass.ReturnState)
        {
            pass.Keep(last);
        }

        pass.Observe?.Invoke("slstm_gate_preacts", gates);
        pass.Observe?.Invoke("h", h);
        return h.transpose(1, 2); // (B, S, NH, D)
    }

    public void Initialize(Generator generator)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var bound = 1 / Math.Sqrt(_size);
        _ = _config.SLstmRecurrentInit switch
        {
            RecurrentInit.Uniform => _recurrentKernel.uniform_(-bound, bound, generator),
            RecurrentInit.Normal => _recurrentKernel.normal_(0, bound, generator),
            RecurrentInit.Zeros => _recurrentKernel.zero_(),
            _ => throw UnknownValue.Of(_config.SLstmRecurrentInit),
        };

        _bias.zero_();
        _bias.view(4, _heads, _size)[1].copy_(ForgetBias()); // the same in every head
    }

    private Tensor ForgetBias()
    {
        if (_config.SLstmForgetBias.Known() == SLstmForgetBias.Linear)
        {
            return linspace(_config.ForgetGateBiasFirst, _config.ForgetGateBiasLast, _size);
        }

        var depth = _block / Math.Max(1.0, _config.BlockCount - 1);
        return 5 - 12 * (arange(_size, ScalarType.Float32) / Math.Max(1, _size - 1)).pow(0.3 + 1.3 * depth);
    }
}
