using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + mixer(norm(x)), with the mixer inside an up-projection: the first paper's block (xLSTM, figure 11).</summary>
internal sealed class PreUpBlock : XlstmBlock
{
    private readonly StreamNorm _norm;
    private readonly UpProjected _layer;
    private readonly StreamNorm _postNorm;

    public PreUpBlock(XlstmConfig config, MixerConfig mixer, int block, DropoutDraws dropout)
        : base(nameof(PreUpBlock), config, mixer.Create(config.Site(mixer, block)), dropout)
    {
        (_norm, _postNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
        _layer = new(config, mixer, Mixer);
        this.Register(("xlstm_norm", _norm), ("xlstm", _layer), ("xlstm_post_norm", _postNorm));
    }

    public override (Tensor Stream, Tensor Written) Forward(Tensor stream, Tensor? written, MixerPass pass)
    {
        (stream, var normed) = _norm.AddForward(stream, written); // both (B, S, d)
        return (stream, Drop(_postNorm.Forward(_layer.Forward(normed, pass)))); // (B, S, d)
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator) =>
        _layer.Initialize(inputStd, outputStd, generator);
}

/// <summary>
/// x_m, z = W_up x; c = SiLU(conv(x_m)), or x_m itself without a convolution; y = W_down((mixer(x_m, c) + skip * c) * SiLU(z)).
/// </summary>
internal sealed class UpProjected : nn.Module
{
    private readonly Dense _up;
    private readonly CausalConv1d? _conv;
    private readonly Mixer _mixer;
    private readonly Dense _down;
    private readonly int _inner;
    private readonly bool _gated;
    private readonly string _convolutionName;

    [ComponentName(Name = "learnable_skip")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _skip;

    public UpProjected(XlstmConfig config, MixerConfig mixerConfig, Mixer mixer)
        : base(nameof(UpProjected))
    {
        (_inner, _gated, _mixer) = (config.InnerDim, config.OutputGate, mixer);
        _convolutionName = XlstmBlock.ConvolutionName(mixerConfig);
        var (d, taps) = (config.EmbeddingDim, config.TapsBefore(mixerConfig));
        _up = new(d, _gated ? 2 * _inner : _inner, config.UseBias);
        _conv = taps > 0 ? new(_inner, taps) : null;
        _skip = config.LearnableSkip ? Parameters.Ones(_inner) : null;
        _down = new(_inner, d, config.UseBias);
        if (_skip is not null)
        {
            register_parameter("learnable_skip", _skip);
        }

        this.Register(("proj_up", _up), ("conv1d", _conv));
        if (mixerConfig is MLstmMixerConfig { Headwise: true })
        {
            this.RegisterPartsOf(mixer); // under the names of the first paper's package
        }
        else
        {
            this.Register(("mixer", mixer));
        }

        this.Register(("proj_down", _down));
    }

    public Tensor Forward(Tensor x, MixerPass pass)
    {
        var parts = _up.Forward(x).split(_inner, -1); // x_m and, if gated, z: (B, S, I)
        var widened = parts[0];
        var convolved = pass.Convolve(_conv, widened, _convolutionName); // (B, S, I)
        pass.Stream = x; // (B, S, d)
        var h = _mixer.Forward(widened, convolved, pass); // (B, S, I)
        if (_skip is not null)
        {
            h = h + _skip.to(h.dtype) * convolved; // (B, S, I)
        }

        return _down.Forward(_gated ? FeedForward.Middle(FeedForwardKind.SwiGlu, parts[1], h) : h); // (B, S, d)
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        _up.Weight.normal_(0, inputStd, generator);
        _conv?.Initialize(generator);
        _mixer.Initialize(inputStd, outputStd, generator);
        _down.Weight.normal_(0, outputStd, generator);
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
