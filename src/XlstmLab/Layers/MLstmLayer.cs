using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>The mLSTM between its projections: q, k, v, two gates a head, head norm, output gate.</summary>
/// <remarks>xLSTM 7B, section 3.1 and figure 8: y = W_out(sigmoid(W_o x) * HeadNorm(h)).</remarks>
public sealed class MLstmLayer : nn.Module
{
    [ComponentName(Name = "q")]
    private readonly Dense? _q;

    [ComponentName(Name = "k")]
    private readonly Dense? _k;

    [ComponentName(Name = "v")]
    private readonly Dense? _v;

    [ComponentName(Name = "ogate_preact")]
    private readonly Dense? _outputGate;

    [ComponentName(Name = "igate_preact")]
    private readonly Dense? _inputGate;

    [ComponentName(Name = "fgate_preact")]
    private readonly Dense? _forgetGate;

    [ComponentName(Name = "qkv_opreact")]
    private readonly Dense? _qkvo;

    [ComponentName(Name = "ifgate_preact")]
    private readonly Dense? _gates;

    [ComponentName(Name = "multihead_norm")]
    private readonly MultiHeadLayerNorm _headNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly XlstmConfig _config;

    /// <summary>A layer of the configuration's widths, heads and weight mode.</summary>
    public MLstmLayer(XlstmConfig config)
        : base(nameof(MLstmLayer))
    {
        _config = config;
        var (d, heads, bias) = (config.EmbeddingDim, config.HeadCount, config.UseBias);
        if (config.WeightMode == WeightMode.Single)
        {
            _q = new(d, config.QkDim, bias);
            _k = new(d, config.QkDim, bias);
            _v = new(d, config.VDim, bias);
            _outputGate = new(d, config.VDim, bias);
            _inputGate = new(d, heads, bias: true);
            _forgetGate = new(d, heads, bias: true);
        }
        else
        {
            _qkvo = new(d, 2 * config.QkDim + 2 * config.VDim, bias);
            _gates = new(d, 2 * heads, bias: true);
        }

        _headNorm = new(config.VDim, config.NormEpsilon, bias);
        _out = new(config.VDim, d, bias);
        RegisterComponents();
    }

    /// <summary>Mixes a sequence.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="state">The state to start from, or null.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="observe">Shown the layer's activations, or null.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <returns>[B, S, d] in the type of x, and the state if it is wanted.</returns>
    public (Tensor Y, MLstmState? State) Forward(
        Tensor x, MLstmState? state, SequenceLayout? layout, Action<string, Tensor>? observe, bool returnState)
    {
        var (q, k, v, o) = ProjectInputs(x);
        var (igatePreact, fgatePreact) = ProjectGates(x);
        igatePreact = SoftCap.Apply(igatePreact, _config.GateSoftCap).transpose(1, 2); // (B, NH, S)
        fgatePreact = SoftCap.Apply(fgatePreact, _config.GateSoftCap).transpose(1, 2);
        (q, k, v) = (SplitHeads(q), SplitHeads(k), SplitHeads(v)); // (B, NH, S, DK) and (B, NH, S, DV)

        Tensor h;
        MLstmState? last = null;
        if (returnState)
        {
            (h, last) = MLstmCell.Forward(q, k, v, igatePreact, fgatePreact, state, layout, _config.Cell);
        }
        else
        {
            h = MLstmCell.ForwardOutput(q, k, v, igatePreact, fgatePreact, state, layout, _config.Cell);
        }

        var normed = _headNorm.Forward(h.transpose(1, 2)); // (B, S, NH DV)
        if (observe is not null)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("igate_preact", igatePreact);
            observe("fgate_preact", fgatePreact);
            observe("ogate_preact", o);
            observe("h", h);
        }

        return (_out.Forward(sigmoid(o) * normed), last);
    }

    /// <summary>Draws fresh weights (initialisation of the 7B model; std in units of its paper's appendix).</summary>
    internal void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        if (_qkvo is not null)
        {
            _qkvo.Weight.normal_(0, inputStd, generator);
            _qkvo.Weight.narrow(0, 2 * _config.QkDim + _config.VDim, _config.VDim).zero_();
        }
        else
        {
            foreach (var projection in new[] { _q!, _k!, _v! })
            {
                projection.Weight.normal_(0, inputStd, generator);
            }
        }

        // The gates open alike for every token: an input gate of exp(-10), forget gates that span short to long memories.
        var forget = linspace(3.0, 6.0, _config.HeadCount);
        if (_gates is not null)
        {
            _gates.Bias!.narrow(0, 0, _config.HeadCount).fill_(-10.0);
            _gates.Bias!.narrow(0, _config.HeadCount, _config.HeadCount).copy_(forget);
        }
        else
        {
            _inputGate!.Bias!.fill_(-10.0);
            _forgetGate!.Bias!.copy_(forget);
        }

        _out.Weight.normal_(0, outputStd, generator);
    }

    private (Tensor Q, Tensor K, Tensor V, Tensor O) ProjectInputs(Tensor x)
    {
        if (_qkvo is null)
        {
            return (_q!.Forward(x), _k!.Forward(x), _v!.Forward(x), _outputGate!.Forward(x));
        }

        var parts = _qkvo.Forward(x).split([_config.QkDim, _config.QkDim, _config.VDim, _config.VDim], -1);
        return (parts[0], parts[1], parts[2], parts[3]);
    }

    /// <summary>Both gates' pre-activations [B, S, NH], float32 or wider: their sums over a sequence need the digits.</summary>
    private (Tensor Input, Tensor Forget) ProjectGates(Tensor x)
    {
        var wide = x.dtype == ScalarType.BFloat16 ? x.to(ScalarType.Float32) : x;
        if (_gates is null)
        {
            return (_inputGate!.Forward(wide), _forgetGate!.Forward(wide));
        }

        var both = _gates.Forward(wide).chunk(2, -1);
        return (both[0], both[1]);
    }

    private Tensor SplitHeads(Tensor x) =>
        x.unflatten(2, [_config.HeadCount, x.shape[2] / _config.HeadCount]).transpose(1, 2);
}
