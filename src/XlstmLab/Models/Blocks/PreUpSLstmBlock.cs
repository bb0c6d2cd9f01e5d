using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + sLSTM(norm(x)), then x + FFN(norm(x)): the first paper's block around an sLSTM (xLSTM, figure 10).</summary>
internal sealed class PreUpSLstmBlock : XlstmBlock
{
    private readonly StreamNorm _norm;
    private readonly Convolved _layer;
    private readonly StreamNorm _postNorm;
    private readonly StreamNorm? _feedForwardNorm;
    private readonly FirstFeedForward? _feedForward;
    private readonly StreamNorm? _feedForwardPostNorm;

    public PreUpSLstmBlock(XlstmConfig config, MixerConfig mixer, int block, DropoutDraws dropout)
        : base(nameof(PreUpSLstmBlock), config, mixer.Create(config.Site(mixer, block)), dropout)
    {
        (_norm, _postNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
        _layer = new(config, mixer, Mixer);
        if (config.SLstmFeedForward != FeedForwardKind.None)
        {
            (_feedForwardNorm, _feedForwardPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _feedForward = new(config);
        }

        this.Register(("xlstm_norm", _norm), ("xlstm", _layer), ("xlstm_post_norm", _postNorm));
        this.Register(("ffn_norm", _feedForwardNorm), ("ffn", _feedForward), ("ffn_post_norm", _feedForwardPostNorm));
    }

    public override (Tensor Stream, Tensor Written) Forward(Tensor stream, Tensor? written, MixerPass pass)
    {
        (stream, var normed) = _norm.AddForward(stream, written); // both (B, S, d)
        written = Drop(_postNorm.Forward(_layer.Forward(normed, pass))); // (B, S, d)
        if (_feedForward is null)
        {
            return (stream, written);
        }

        (stream, normed) = _feedForwardNorm!.AddForward(stream, written); // both (B, S, d)
        return (stream, Drop(_feedForwardPostNorm!.Forward(_feedForward.Forward(normed)))); // (B, S, d)
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _layer.Initialize(inputStd, outputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }
}

/// <summary>A mixer and the convolution before it, whose parts are named as if they were one layer's.</summary>
internal sealed class Convolved : nn.Module
{
    private readonly CausalConv1d? _conv;
    private readonly Mixer _mixer;
    private readonly string _convolutionName;

    public Convolved(XlstmConfig config, MixerConfig mixerConfig, Mixer mixer)
        : base(nameof(Convolved))
    {
        var taps = config.TapsBefore(mixerConfig);
        (_mixer, _convolutionName) = (mixer, XlstmBlock.ConvolutionName(mixerConfig));
        _conv = taps > 0 ? new(config.EmbeddingDim, taps) : null;
        this.Register(("conv1d", _conv));
        this.RegisterPartsOf(mixer);
    }

    public Tensor Forward(Tensor x, MixerPass pass) => _mixer.Forward(x, pass.Convolve(_conv, x, _convolutionName), pass);

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _conv?.Initialize(generator);
        _mixer.Initialize(inputStd, outputStd, generator);
    }

    /// <summary>Registered by hand, with the mixer's parts.</summary>
    protected override void RegisterComponents()
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            _mixer.Dispose();
        }
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
            return _down.Forward(FeedForward.Middle(_kind, up, null)); // (B, S, d)
        }

        var both = up.chunk(2, -1); // 2 of (B, S, F)
        return _down.Forward(FeedForward.Middle(_kind, both[0], both[1])); // (B, S, F) to (B, S, d)
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        _up.Weight.normal_(0, inputStd, generator);
        _down.Weight.normal_(0, outputStd, generator);
    }
}
