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

    [ComponentName(Name = "qkv_opreact")]
    private readonly Dense? _qkvo;

    [ComponentName(Name = "q_norm")]
    private readonly HeadNorm? _qNorm;

    [ComponentName(Name = "k_norm")]
    private readonly HeadNorm? _kNorm;

    [ComponentName(Name = "multihead_norm")]
    private readonly HeadNorm _headNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly MLstmGates _gates;
    private readonly XlstmConfig _config;

    /// <summary>A layer of the configuration's widths, heads, gates, norms and weight mode.</summary>
    public MLstmLayer(XlstmConfig config)
        : base(nameof(MLstmLayer))
    {
        _config = config;
        var (d, heads, bias) = (config.EmbeddingDim, config.HeadCount, config.UseBias);
        if (config.WeightMode.Known() == WeightMode.Single)
        {
            _q = new(d, config.QkDim, bias);
            _k = new(d, config.QkDim, bias);
            _v = new(d, config.VDim, bias);
            _outputGate = config.OutputGate ? new(d, config.VDim, bias) : null;
        }
        else
        {
            _qkvo = new(d, 2 * config.QkDim + (config.OutputGate ? 2 : 1) * config.VDim, bias);
        }

        if (config.QkNorm)
        {
            _qNorm = new(HeadNormKind.Rms, heads, config.QkHeadDim, config.NormEpsilon);
            _kNorm = new(HeadNormKind.Rms, heads, config.QkHeadDim, config.NormEpsilon);
        }

        _gates = new(config, config.GateSource == GateSource.Qkv ? 2 * config.QkDim + config.VDim : d);
        _gates.Register(this);
        _headNorm = new(config.HeadNorm, heads, config.VHeadDim, config.HeadNormEpsilon ?? config.NormEpsilon, bias, config.HeadNormGroups);
        _out = new(config.VDim, d, bias);
        RegisterComponents();
    }

    /// <summary>Mixes a sequence.</summary>
    /// <param name="x">[B, S, d].</param>
    /// <param name="convolved">[B, S, d] what q and k look at in place of x; x itself where no convolution stands before them.</param>
    /// <param name="state">The state to start from, or null.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="observe">Shown the layer's activations, or null.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <returns>[B, S, d] in the type of x, and the state if it is wanted.</returns>
    public (Tensor Y, MLstmState? State) Forward(
        Tensor x, Tensor convolved, MLstmState? state, SequenceLayout? layout, Action<string, Tensor>? observe, bool returnState)
    {
        var (q, k, v, o) = ProjectInputs(x, convolved); // (B, S, NH DK), (B, S, NH DV)
        q = _qNorm?.Forward(PerHead(q)) ?? q;
        k = _kNorm?.Forward(PerHead(k)) ?? k;
        var (igatePreact, fgatePreact) = _gates.Forward(_config.GateSource == GateSource.Qkv ? cat([q, k, v], -1) : x); // (B, NH, S)
        (q, k, v) = (PerHead(q).transpose(1, 2), PerHead(k).transpose(1, 2), PerHead(v).transpose(1, 2)); // (B, NH, S, DK) and (B, NH, S, DV)

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

        var gated = _headNorm.ForwardGated(h.transpose(1, 2), o); // (B, S, NH DV)
        if (observe is not null)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("igate_preact", igatePreact);
            observe("fgate_preact", fgatePreact);
            if (o is not null)
            {
                observe("ogate_preact", o);
            }

            observe("h", h);
        }

        return (_out.Forward(gated), last);
    }

    /// <summary>Draws fresh weights (initialisation of the 7B model: an output gate of 1/2, and gates that see no token yet).</summary>
    internal void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        if (_qkvo is not null)
        {
            _qkvo.Weight.normal_(0, inputStd, generator);
            if (_config.OutputGate)
            {
                _qkvo.Weight.narrow(0, 2 * _config.QkDim + _config.VDim, _config.VDim).zero_();
            }
        }
        else
        {
            foreach (var projection in new[] { _q!, _k!, _v! })
            {
                projection.Weight.normal_(0, inputStd, generator);
            }
        }

        _gates.Initialize(generator);
        _out.Weight.normal_(0, outputStd, generator);
    }

    private (Tensor Q, Tensor K, Tensor V, Tensor? O) ProjectInputs(Tensor x, Tensor convolved)
    {
        if (_qkvo is null)
        {
            return (_q!.Forward(convolved), _k!.Forward(convolved), _v!.Forward(x), _outputGate?.Forward(x));
        }

        var (qk, v) = ((long)_config.QkDim, (long)_config.VDim);
        var parts = _qkvo.Forward(x).split(_config.OutputGate ? [qk, qk, v, v] : [qk, qk, v], -1);
        return (parts[0], parts[1], parts[2], _config.OutputGate ? parts[3] : null);
    }

    /// <summary>[B, S, NH D] to [B, S, NH, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_config.HeadCount, -1]);
}
