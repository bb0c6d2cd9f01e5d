using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>x + mixer(norm(x)), then x + FFN(norm(x)): the post-up-projection block of the 7B model (xLSTM 7B, figure 8).</summary>
/// <remarks>
/// A convolution with SiLU, where there is one, stands before q and k, before i and f of an sLSTM, or before all of a mixer without either.
/// </remarks>
internal sealed class PostUpBlock : XlstmBlock
{
    private readonly StreamNorm _norm;
    private readonly CausalConv1d? _conv;
    private readonly StreamNorm _postNorm;
    private readonly StreamNorm? _feedForwardNorm;
    private readonly FeedForward? _feedForward;
    private readonly StreamNorm? _feedForwardPostNorm;
    private readonly string _convolutionName;

    public PostUpBlock(XlstmConfig config, MixerConfig mixer, int block, DropoutDraws dropout)
        : base(nameof(PostUpBlock), config, mixer.Create(config.Site(mixer, block)), dropout)
    {
        _convolutionName = ConvolutionName(mixer);
        var (d, taps) = (config.EmbeddingDim, config.TapsBefore(mixer));
        (_norm, _postNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
        _conv = taps > 0 ? new(d, taps) : null;
        if (config.FeedForward != FeedForwardKind.None)
        {
            (_feedForwardNorm, _feedForwardPostNorm) = (Norm(config, config.PreNorm), Norm(config, config.PostNorm));
            _feedForward = new(config.FeedForward, d, config.FeedForwardDim, config.UseBias, config.WeightMode);
        }

        var (norm, layer) = mixer switch
        {
            MLstmMixerConfig => ("norm_mlstm", "mlstm_layer"),
            SLstmMixerConfig => ("norm_slstm", "slstm_layer"),
            _ => ("norm_mixer", "mixer"),
        };
        this.Register((norm, _norm), ("conv1d", _conv), (layer, Mixer), (norm + "_post", _postNorm));
        this.Register(("norm_ffn", _feedForwardNorm), ("ffn", _feedForward), ("norm_ffn_post", _feedForwardPostNorm));
    }

    public override (Tensor Stream, Tensor Written) Forward(Tensor stream, Tensor? written, MixerPass pass)
    {
        (stream, var normed) = _norm.AddForward(stream, written); // both (B, S, d)
        var convolved = pass.Convolve(_conv, normed, _convolutionName); // (B, S, d)
        written = Drop(_postNorm.Forward(Mixer.Forward(normed, convolved, pass))); // (B, S, d)
        if (_feedForward is null)
        {
            return (stream, written);
        }

        (stream, normed) = _feedForwardNorm!.AddForward(stream, written); // both (B, S, d)
        return (stream, Drop(_feedForwardPostNorm!.Forward(_feedForward.Forward(normed)))); // (B, S, d), within (B, S, F)
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _conv?.Initialize(generator);
        Mixer.Initialize(inputStd, outputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }
}
