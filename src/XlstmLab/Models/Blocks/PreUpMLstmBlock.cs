using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + mLSTM(norm(x)), with the mLSTM inside an up-projection: the first paper's block (xLSTM, figure 11).</summary>
internal sealed class PreUpMLstmBlock : XlstmBlock
{
    [ComponentName(Name = "xlstm_norm")]
    private readonly StreamNorm _norm;

    [ComponentName(Name = "xlstm")]
    private readonly PreUpMLstm _mixer;

    [ComponentName(Name = "xlstm_post_norm")]
    private readonly StreamNorm _postNorm;

    public PreUpMLstmBlock(XlstmConfig config, DropoutDraws dropout)
        : base(nameof(PreUpMLstmBlock), config, dropout)
    {
        (_norm, _postNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
        _mixer = new(config);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, BlockPass pass) => Add(x, _postNorm.Forward(_mixer.Forward(_norm.Forward(x), pass)));

    public override void Initialize(double inputStd, double outputStd, Generator generator) =>
        _mixer.Initialize(inputStd, outputStd, generator);
}

/// <summary>
/// The mLSTM of the first paper: x_m, z = W_up x; q and k look at SiLU(conv(x_m)), v at x_m; y = W_down((HeadNorm(h) + skip * SiLU(conv(x_m))) * SiLU(z)).
/// </summary>
/// <remarks>Without a convolution, q, k and the skip look at x_m itself.</remarks>
internal sealed class PreUpMLstm : nn.Module
{
    [ComponentName(Name = "proj_up")]
    private readonly Dense _up;

    [ComponentName(Name = "conv1d")]
    private readonly CausalConv1d? _conv;

    [ComponentName(Name = "q_proj")]
    private readonly HeadwiseDense _q;

    [ComponentName(Name = "k_proj")]
    private readonly HeadwiseDense _k;

    [ComponentName(Name = "v_proj")]
    private readonly HeadwiseDense _v;

    [ComponentName(Name = "mlstm_cell")]
    private readonly PreUpMLstmCell _cell;

    [ComponentName(Name = "learnable_skip")]
    private readonly Parameter? _skip;

    [ComponentName(Name = "proj_down")]
    private readonly Dense _down;

    private readonly XlstmConfig _config;

    public PreUpMLstm(XlstmConfig config)
        : base(nameof(PreUpMLstm))
    {
        _config = config;
        var (d, inner) = (config.EmbeddingDim, config.InnerDim);
        var blocks = inner / config.QkvBlockSize;
        _up = new(d, config.OutputGate ? 2 * inner : inner, config.UseBias);
        _conv = config.ConvTaps > 0 ? new(inner, config.ConvTaps) : null;
        _q = new(inner, blocks, config.UseBias);
        _k = new(inner, blocks, config.UseBias);
        _v = new(inner, blocks, config.UseBias);
        _cell = new(config);
        _skip = config.LearnableSkip ? Parameters.Ones(inner) : null;
        _down = new(inner, d, config.UseBias);
        RegisterComponents();
    }

    public Tensor Forward(Tensor x, BlockPass pass)
    {
        var parts = _up.Forward(x).split(_config.InnerDim, -1);                                // x_m and, if gated, z: (B, S, I)
        var widened = parts[0];
        var convolved = pass.Convolve(_conv, widened); // (B, S, I)
        var h = _cell.Forward(_q.Forward(convolved), _k.Forward(convolved), _v.Forward(widened), x, pass); // (B, S, I)
        if (_skip is not null)
        {
            h = h + _skip.to(h.dtype) * convolved;
        }

        return _down.Forward(_config.OutputGate ? h * nn.functional.silu(parts[1]) : h);
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        _up.Weight.normal_(0, inputStd, generator);
        _conv?.Initialize(generator);
        foreach (var projection in new[] { _q, _k, _v })
        {
            projection.Weight.normal_(0, inputStd, generator); // as for the stream's width, though they read blocks
        }

        _cell.Initialize(generator);
        _down.Weight.normal_(0, outputStd, generator);
    }
}

/// <summary>Norms of q and k where wanted, gates, cell and head norm.</summary>
internal sealed class PreUpMLstmCell : nn.Module
{
    [ComponentName(Name = "q_norm")]
    private readonly HeadNorm? _qNorm;

    [ComponentName(Name = "k_norm")]
    private readonly HeadNorm? _kNorm;

    [ComponentName(Name = "outnorm")]
    private readonly HeadNorm _headNorm;

    private readonly MLstmGates _gates;
    private readonly XlstmConfig _config;

    public PreUpMLstmCell(XlstmConfig config)
        : base(nameof(PreUpMLstmCell))
    {
        _config = config;
        var (heads, size) = (config.HeadCount, config.VHeadDim);
        if (config.QkNorm)
        {
            _qNorm = new(HeadNormKind.Rms, heads, size, config.NormEpsilon);
            _kNorm = new(HeadNormKind.Rms, heads, size, config.NormEpsilon);
        }

        _gates = new(config, config.GateSource == GateSource.Input ? config.EmbeddingDim : 3 * config.InnerDim);
        _gates.Register(this, suffix: "");
        _headNorm = new(config.HeadNorm, heads, size, config.HeadNormEpsilon ?? config.NormEpsilon, config.UseBias, config.HeadNormGroups);
        RegisterComponents();
    }

    /// <summary>Mixes a sequence.</summary>
    /// <param name="q">[B, S, I], as k and v.</param>
    /// <param name="k">Keys.</param>
    /// <param name="v">Values.</param>
    /// <param name="x">[B, S, d], what the block's up-projection reads.</param>
    /// <param name="pass">The state, and where documents start.</param>
    /// <returns>HeadNorm(h), [B, S, I].</returns>
    public Tensor Forward(Tensor q, Tensor k, Tensor v, Tensor x, BlockPass pass)
    {
        q = _qNorm?.Forward(PerHead(q)) ?? q;
        k = _kNorm?.Forward(PerHead(k)) ?? k;
        var (igatePreact, fgatePreact) = _gates.Forward(_config.GateSource == GateSource.Input ? x : cat([q, k, v], -1)); // (B, NH, S)
        (q, k, v) = (PerHead(q).transpose(1, 2), PerHead(k).transpose(1, 2), PerHead(v).transpose(1, 2));                 // (B, NH, S, D)

        Tensor h;
        if (pass.ReturnState)
        {
            (h, var last) = MLstmCell.Forward(q, k, v, igatePreact, fgatePreact, pass.MLstmBefore, pass.Layout, _config.Cell);
            pass.Keep(last);
        }
        else
        {
            h = MLstmCell.ForwardOutput(q, k, v, igatePreact, fgatePreact, pass.MLstmBefore, pass.Layout, _config.Cell);
        }

        if (pass.Observe is { } observe)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("igate_preact", igatePreact);
            observe("fgate_preact", fgatePreact);
            observe("h", h);
        }

        return _headNorm.Forward(h.transpose(1, 2));
    }

    public void Initialize(Generator generator) => _gates.Initialize(generator);

    /// <summary>[B, S, NH D] to [B, S, NH, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_config.HeadCount, -1]);
}
