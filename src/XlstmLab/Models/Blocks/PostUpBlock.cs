using TorchSharp.Utils;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + mixer(norm(x)), then x + FFN(norm(x)): the post-up-projection block of the 7B model (xLSTM 7B, figure 8).</summary>
/// <remarks>
/// The mixer is an mLSTM, or in the blocks that <see cref="XlstmConfig.SLstmAt"/> names an sLSTM, which the 7B model's paper leaves out. A
/// convolution with SiLU, where there is one, stands before q and k, or before i and f.
/// </remarks>
internal sealed class PostUpBlock : XlstmBlock
{
    [ComponentName(Name = "norm_mlstm")]
    private readonly StreamNorm? _mlstmNorm;

    [ComponentName(Name = "norm_slstm")]
    private readonly StreamNorm? _slstmNorm;

    [ComponentName(Name = "conv1d")]
    private readonly CausalConv1d? _conv;

    [ComponentName(Name = "mlstm_layer")]
    private readonly MLstmLayer? _mlstm;

    [ComponentName(Name = "slstm_layer")]
    private readonly DenseSLstm? _slstm;

    [ComponentName(Name = "norm_mlstm_post")]
    private readonly StreamNorm? _mlstmPostNorm;

    [ComponentName(Name = "norm_slstm_post")]
    private readonly StreamNorm? _slstmPostNorm;

    [ComponentName(Name = "norm_ffn")]
    private readonly StreamNorm? _feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly FeedForward? _feedForward;

    [ComponentName(Name = "norm_ffn_post")]
    private readonly StreamNorm? _feedForwardPostNorm;

    public PostUpBlock(XlstmConfig config, int block, DropoutDraws dropout)
        : base(nameof(PostUpBlock), config, dropout)
    {
        var d = config.EmbeddingDim;
        if (config.SLstmAt.Contains(block))
        {
            (_slstmNorm, _slstmPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _conv = config.SLstmConvTaps > 0 ? new(d, config.SLstmConvTaps) : null;
            _slstm = new(config, block);
        }
        else
        {
            (_mlstmNorm, _mlstmPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _conv = config.ConvTaps > 0 ? new(d, config.ConvTaps) : null;
            _mlstm = new(config);
        }

        if (config.FeedForward != FeedForwardKind.None)
        {
            (_feedForwardNorm, _feedForwardPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _feedForward = new(config.FeedForward, d, config.FeedForwardDim, config.UseBias, config.WeightMode);
        }

        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, BlockPass pass)
    {
        var mixed = _mlstm is null ? MixBySLstm(x, pass) : MixByMLstm(x, pass);
        if (_feedForward is null)
        {
            return Add(x, mixed);
        }

        (x, var normed) = AddAndNorm(x, mixed, _feedForwardNorm!);
        return Add(x, _feedForwardPostNorm!.Forward(_feedForward.Forward(normed)));
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _conv?.Initialize(generator);
        _mlstm?.Initialize(inputStd, outputStd, generator);
        _slstm?.Initialize(inputStd, outputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }

    private Tensor MixByMLstm(Tensor x, BlockPass pass)
    {
        var normed = _mlstmNorm!.Forward(x); // (B, S, d)
        var (mixed, last) = _mlstm!.Forward(
            normed, pass.Convolve(_conv, normed), pass.MLstmBefore, pass.Layout, pass.Observe, pass.ReturnState);
        pass.Keep(last);
        return _mlstmPostNorm!.Forward(mixed);
    }

    private Tensor MixBySLstm(Tensor x, BlockPass pass)
    {
        var normed = _slstmNorm!.Forward(x); // (B, S, d)
        return _slstmPostNorm!.Forward(_slstm!.Forward(normed, pass.Convolve(_conv, normed), pass));
    }
}

/// <summary>The sLSTM between dense projections, as the 7B model has its mLSTM: y = W_out HeadNorm(sLSTM(W x)).</summary>
internal sealed class DenseSLstm : nn.Module
{
    [ComponentName(Name = "igate_preact")]
    private readonly Dense _inputGate;

    [ComponentName(Name = "fgate_preact")]
    private readonly Dense _forgetGate;

    [ComponentName(Name = "zgate_preact")]
    private readonly Dense _cellInput;

    [ComponentName(Name = "ogate_preact")]
    private readonly Dense _outputGate;

    [ComponentName(Name = "slstm_cell")]
    private readonly SLstmMixer _cell;

    [ComponentName(Name = "multihead_norm")]
    private readonly HeadNorm _headNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    public DenseSLstm(XlstmConfig config, int block)
        : base(nameof(DenseSLstm))
    {
        var (d, heads) = (config.EmbeddingDim, config.SLstmHeads);
        _inputGate = new(d, d);
        _forgetGate = new(d, d);
        _cellInput = new(d, d);
        _outputGate = new(d, d);
        _cell = new(config, block);
        _headNorm = new(config.HeadNorm, heads, d / heads, config.HeadNormEpsilon ?? config.NormEpsilon, config.UseBias, config.HeadNormGroups);
        _out = new(d, d, config.UseBias);
        RegisterComponents();
    }

    /// <summary>[B, S, d], and what the input and the forget gate look at, to [B, S, d].</summary>
    public Tensor Forward(Tensor x, Tensor convolved, BlockPass pass)
    {
        var h = _cell.Forward(
            _inputGate.Forward(convolved), _forgetGate.Forward(convolved), _cellInput.Forward(x), _outputGate.Forward(x), pass);
        return _out.Forward(_headNorm.Forward(h));
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var gate in new[] { _inputGate, _forgetGate, _cellInput, _outputGate })
        {
            gate.Weight.normal_(0, inputStd, generator);
        }

        _cell.Initialize(generator);
        _out.Weight.normal_(0, outputStd, generator);
    }
}
