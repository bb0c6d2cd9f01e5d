using System.Numerics;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;

namespace XlstmLab.Models;

/// <summary>Counts of an xLSTM's parameters, floating-point operations and bytes, exact by the published formulas.</summary>
public static class XlstmAccounting
{
    /// <summary>The number of parameters (xLSTM 7B, appendix E, and the same for every other variant); fixed gates are none.</summary>
    /// <exception cref="ConfigException">There are 2^63 or more.</exception>
    public static long ParameterCount(XlstmConfig config) => Counts.Parameters(
        config.TableParameters
            + Blocks(config).Aggregate(BigInteger.Zero, (sum, block) => sum + block.Count * BlockParameters(config, block.Mixer))
            + (config.AddOutNorm ? NormParameters(config, config.PreNorm) : 0));

    /// <summary>
    /// Floating-point operations of one mLSTM layer's cell over a sequence, forward, a multiply-add counting 2 and every other
    /// operation 1 (xLSTM 7B, appendix D).
    /// </summary>
    /// <param name="config">The architecture.</param>
    /// <param name="length">The sequence's length S in tokens, a multiple of the chunk or counted as if.</param>
    public static double CellFlops(XlstmConfig config, long length) => config.MLstm.CellFlops(config.WidthOf(config.MLstm), length);

    /// <summary>
    /// Floating-point operations of a forward pass for one token of a sequence, logits included, embedding, norms and residuals
    /// not (scaling-law paper's convention; xLSTM 7B adds 2 d V for the embedding).
    /// </summary>
    /// <remarks>
    /// An sLSTM's unit counts 24 for its gates and states beside the products with R; an activation function counts 1.
    /// </remarks>
    public static double ForwardFlopsPerToken(XlstmConfig config, long length) =>
        Blocks(config).Sum(block => block.Count * BlockFlops(config, block.Mixer, length))
            + 2.0 * config.EmbeddingDim * config.VocabularySize;

    /// <summary>Floating-point operations of a training step for one token: forward, and twice as much backward.</summary>
    public static double TrainingFlopsPerToken(XlstmConfig config, long length) => 3 * ForwardFlopsPerToken(config, length);

    /// <summary>The bytes of the state of one sequence in float32: what every block's mixer keeps, and its convolution's inputs.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="length">The tokens read so far; only caches of keys and values grow with them.</param>
    public static long StateBytes(XlstmConfig config, long length = 1) =>
        Counts.Bytes(
            Blocks(config).Aggregate(BigInteger.Zero, (sum, block) => sum + block.Count * BlockState(config, block.Mixer, length)));

    /// <summary>The different mixers of the blocks, each with the number of its blocks.</summary>
    private static IEnumerable<(MixerConfig Mixer, long Count)> Blocks(XlstmConfig config)
    {
        // Without a look at every block, of which a faulty file may want billions.
        var slstm = config.Mixers.GivenSLstmAt.Count;
        return slstm > 0
            ? [(config.MLstm, config.BlockCount - slstm), (config.SLstm, slstm)]
            : Enumerable.Range(0, config.Mixers.Count).Select(config.MixerAt).CountBy(mixer => mixer)
                .Select(pair => (pair.Key, (long)pair.Value * (config.BlockCount / config.Mixers.Count)));
    }

    private static BigInteger BlockParameters(XlstmConfig config, MixerConfig mixer)
    {
        BigInteger d = config.EmbeddingDim, width = Width(config, mixer);
        var shared = NormParameters(config, config.PreNorm) + NormParameters(config, config.PostNorm)
            + ConvParameters(config.TapsBefore(mixer), width)
            + mixer.CountParameters(config.Site(mixer, 0));
        if (config.BlockStyle.Known() == BlockStyle.PostUp)
        {
            return shared + FeedForwardParameters(config, config.FeedForward, config.FeedForwardDim);
        }

        var bias = config.UseBias ? 1 : 0;
        return mixer is SLstmMixerConfig
            ? shared + FeedForwardParameters(config, config.SLstmFeedForward, config.SLstmFeedForwardDim)
            : shared + (d + bias) * (config.OutputGate ? 2 : 1) * width // up-projection
                + (config.LearnableSkip ? width : 0)
                + (width + bias) * d; // down-projection
    }

    private static double BlockFlops(XlstmConfig config, MixerConfig mixer, long length)
    {
        double d = config.EmbeddingDim, width = (double)Width(config, mixer);
        var shared = mixer.ForwardFlopsPerToken(config.Site(mixer, 0), length) + ConvFlops(config.TapsBefore(mixer), width);
        if (config.BlockStyle.Known() == BlockStyle.PostUp)
        {
            return shared + FeedForwardFlops(config, config.FeedForward, config.FeedForwardDim);
        }

        var gated = config.OutputGate ? 1 : 0;
        return mixer is SLstmMixerConfig
            ? shared + FeedForwardFlops(config, config.SLstmFeedForward, config.SLstmFeedForwardDim)
            : shared + 2 * d * (1 + gated) * width + (config.LearnableSkip ? 2 * width : 0) + gated * 2 * width + 2 * d * width;
    }

    private static BigInteger BlockState(XlstmConfig config, MixerConfig mixer, long length) =>
        mixer.StateBytes(config.Site(mixer, 0), length) + 4 * Math.Max(0, config.TapsBefore(mixer) - 1) * Width(config, mixer);

    private static BigInteger Width(XlstmConfig config, MixerConfig mixer) => Counts.Fitting(config.WidthOf(mixer), "proj_factor");

    private static BigInteger InnerDim(int width) => Counts.Fitting(width, "ffn_proj_factor");

    private static BigInteger NormParameters(XlstmConfig config, NormKind kind) =>
        kind.Known() == NormKind.None ? 0 : config.EmbeddingDim * (config.UseBias ? 2L : 1L);

    private static BigInteger ConvParameters(int taps, BigInteger channels) => taps == 0 ? 0 : (taps + 1L) * channels;

    /// <summary>A feed-forward layer and its norms; none for none.</summary>
    private static BigInteger FeedForwardParameters(XlstmConfig config, FeedForwardKind kind, int width)
    {
        if (kind.Known() == FeedForwardKind.None)
        {
            return 0;
        }

        var inner = InnerDim(width);
        var bias = config.UseBias ? 1 : 0;
        var up = IsGated(kind) ? 2 * inner : inner;
        return ((long)config.EmbeddingDim + bias) * up + (inner + bias) * config.EmbeddingDim
            + NormParameters(config, config.PreNorm) + NormParameters(config, config.PostNorm);
    }

    private static bool IsGated(FeedForwardKind kind) => kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;

    private static double ConvFlops(int taps, double channels) => taps == 0 ? 0 : (2.0 * taps + 1) * channels;

    /// <summary>The 7B paper counts 2 d for the SwiGLU's elementwise part.</summary>
    private static double FeedForwardFlops(XlstmConfig config, FeedForwardKind kind, int width) => kind switch
    {
        FeedForwardKind.None => 0,
        FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu => config.EmbeddingDim * (6 * (double)InnerDim(width) + 2),
        FeedForwardKind.Mlp or FeedForwardKind.ReluSquared => config.EmbeddingDim * (4 * (double)InnerDim(width) + 1),
        _ => throw UnknownValue.Of(kind),
    };
}
