using TorchSharp.Utils;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + sLSTM(norm(x)), then x + FFN(norm(x)): the first paper's block around an sLSTM (xLSTM, figure 10).</summary>
internal sealed class PreUpSLstmBlock : XlstmBlock
{
    [ComponentName(Name = "xlstm_norm")]
    private readonly StreamNorm _norm;

    [ComponentName(Name = "xlstm")]
    private readonly HeadwiseSLstm _mixer;

    [ComponentName(Name = "xlstm_post_norm")]
    private readonly StreamNorm _postNorm;

    [ComponentName(Name = "ffn_norm")]
    private readonly StreamNorm? _feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly FirstFeedForward? _feedForward;

    [ComponentName(Name = "ffn_post_norm")]
    private readonly StreamNorm? _feedForwardPostNorm;

    public PreUpSLstmBlock(XlstmConfig config, int block, DropoutDraws dropout)
        : base(nameof(PreUpSLstmBlock), config, dropout)
    {
        (_norm, _postNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
        _mixer = new(config, block);
        if (config.SLstmFeedForward != FeedForwardKind.None)
        {
            (_feedForwardNorm, _feedForwardPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _feedForward = new(config);
        }

        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, BlockPass pass)
    {
        x = Add(x, _postNorm.Forward(_mixer.Forward(_norm.Forward(x), pass)));
        return _feedForward is null ? x : Add(x, _feedForwardPostNorm!.Forward(_feedForward.Forward(_feedForwardNorm!.Forward(x))));
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }
}

/// <summary>The sLSTM of the first paper: i and f look at SiLU(conv(x)), z and o at x, each head at its own part; y = HeadNorm(h).</summary>
internal sealed class HeadwiseSLstm : nn.Module
{
    [ComponentName(Name = "conv1d")]
    private readonly CausalConv1d? _conv;

    [ComponentName(Name = "igate")]
    private readonly HeadwiseDense _inputGate;

    [ComponentName(Name = "fgate")]
    private readonly HeadwiseDense _forgetGate;

    [ComponentName(Name = "zgate")]
    private readonly HeadwiseDense _cellInput;

    [ComponentName(Name = "ogate")]
    private readonly HeadwiseDense _outputGate;

    [ComponentName(Name = "slstm_cell")]
    private readonly SLstmMixer _cell;

    [ComponentName(Name = "group_norm")]
    private readonly HeadNorm _headNorm;

    public HeadwiseSLstm(XlstmConfig config, int block)
        : base(nameof(HeadwiseSLstm))
    {
        var (d, heads) = (config.EmbeddingDim, config.SLstmHeads);
        _conv = config.SLstmConvTaps > 0 ? new(d, config.SLstmConvTaps) : null;
        _inputGate = new(d, heads);
        _forgetGate = new(d, heads);
        _cellInput = new(d, heads);
        _outputGate = new(d, heads);
        _cell = new(config, block);
        _headNorm = new(config.HeadNorm, heads, d / heads, config.HeadNormEpsilon ?? config.NormEpsilon, config.UseBias, config.HeadNormGroups);
        RegisterComponents();
    }

    public Tensor Forward(Tensor x, BlockPass pass)
    {
        var gateInput = pass.Convolve(_conv, x); // (B, S, d)
        var h = _cell.Forward(
            _inputGate.Forward(gateInput), _forgetGate.Forward(gateInput), _cellInput.Forward(x), _outputGate.Forward(x), pass); // (B, S, NH, D)
        return _headNorm.Forward(h); // (B, S, d)
    }

    public void Initialize(double inputStd, Generator generator)
    {
        using var grad = no_grad();
        _conv?.Initialize(generator);
        foreach (var gate in new[] { _inputGate, _forgetGate, _cellInput, _outputGate })
        {
            gate.Weight.normal_(0, inputStd, generator);
        }

        _cell.Initialize(generator);
    }
}

/// <summary>The first paper's feed-forward layer: gate and up-projection in one matrix, the gate first.</summary>
internal sealed class FirstFeedForward : nn.Module
{
    [ComponentName(Name = "proj_up")]
    private readonly Dense _up;

    [ComponentName(Name = "proj_down")]
    private readonly Dense _down;

    private readonly FeedForwardKind _kind;

    public FirstFeedForward(XlstmConfig config)
        : base(nameof(FirstFeedForward))
    {
        _kind = config.SLstmFeedForward.Known();
        var (d, inner) = (config.EmbeddingDim, config.SLstmFeedForwardDim);
        _up = new(d, _kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu ? 2 * inner : inner, config.UseBias);
        _down = new(inner, d, config.UseBias);
        RegisterComponents();
    }

    public Tensor Forward(Tensor x)
    {
        var up = _up.Forward(x); // (B, S, F), or gate and value side by side
        if (_kind is FeedForwardKind.Mlp or FeedForwardKind.ReluSquared)
        {
            return _down.Forward(FeedForward.Activate(_kind, up));
        }

        var both = up.chunk(2, -1);
        return _down.Forward(FeedForward.Activate(_kind, both[0]) * both[1]);
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        _up.Weight.normal_(0, inputStd, generator);
        _down.Weight.normal_(0, outputStd, generator);
    }
}
