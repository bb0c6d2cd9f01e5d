using System.Numerics;
using XlstmLab.Cells;

namespace XlstmLab.Models;

/// <summary>Counts of an xLSTM's parameters, floating-point operations and bytes, exact by the published formulas.</summary>
public static class XlstmAccounting
{
    /// <summary>The number of parameters (xLSTM 7B, appendix E, and the same for every other variant); fixed gates are none.</summary>
    /// <exception cref="ConfigException">There are 2^63 or more.</exception>
    public static long ParameterCount(XlstmConfig config) => Counts.Parameters(
        Counts.Tables(config)
            + MLstmBlockCount(config) * MLstmBlockParameters(config)
            + config.SLstmAt.Count * SLstmBlockParameters(config)
            + (config.AddOutNorm ? NormParameters(config, config.PreNorm) : 0));

    /// <summary>
    /// Floating-point operations of one mLSTM layer's cell over a sequence, forward, a multiply-add counting 2 and every other
    /// operation 1 (xLSTM 7B, appendix D).
    /// </summary>
    /// <param name="config">The architecture.</param>
    /// <param name="length">The sequence's length S in tokens, a multiple of the chunk or counted as if.</param>
    public static double CellFlops(XlstmConfig config, long length)
    {
        double k = (double)(QkDim(config) / config.HeadCount), v = (double)(VDim(config) / config.HeadCount);
        if (config.Form.Known() == MLstmForm.Recurrent)
        {
            return (double)config.HeadCount * length * (6 * k * v + 7 * k + v + 12);
        }

        double chunk = config.Form == MLstmForm.Parallel ? length : Math.Min(config.ChunkSize, length);
        var gates = 0.5 * chunk * (chunk + 1) + 2 * chunk;
        var stabiliser = 5 + 5 * chunk;
        var memory = 2 * k * v + 4 * chunk * k * v + 3 * chunk * k;
        var normalizer = 2 * k + 4 * chunk * k;
        var decays = 0.5 * chunk * (chunk + 1) + 6 * chunk * chunk + 2 * chunk;
        var scores = 2 * chunk * chunk * (1 + k);
        var values = 2 * chunk * chunk * v;
        var rowSums = 2 * chunk * chunk;
        var combine = 2 * chunk + chunk * (5 + 2 * v);
        var perChunk = gates + stabiliser + memory + normalizer + decays + scores + values + rowSums + combine;
        return config.HeadCount * (length / chunk) * perChunk;
    }

    /// <summary>
    /// Floating-point operations of a forward pass for one token of a sequence, logits included, embedding, norms and residuals
    /// not (scaling-law paper's convention; xLSTM 7B adds 2 d V for the embedding).
    /// </summary>
    /// <remarks>
    /// An sLSTM's unit counts 24 for its gates and states beside the products with R; an activation function counts 1.
    /// </remarks>
    public static double ForwardFlopsPerToken(XlstmConfig config, long length) =>
        MLstmBlockCount(config) * (MLstmBlockFlops(config) + CellFlops(config, length) / length)
        + config.SLstmAt.Count * SLstmBlockFlops(config)
        + 2.0 * config.EmbeddingDim * config.VocabularySize;

    /// <summary>Floating-point operations of a training step for one token: forward, and twice as much backward.</summary>
    public static double TrainingFlopsPerToken(XlstmConfig config, long length) => 3 * ForwardFlopsPerToken(config, length);

    /// <summary>The bytes of the recurrent state of one sequence in float32: C, n and m or h, c, n and m of every block, and its convolution's inputs.</summary>
    public static long StateBytes(XlstmConfig config)
    {
        static BigInteger Convolution(int taps, int channels) => (BigInteger)Math.Max(0, taps - 1) * channels;

        var channels = config.BlockStyle.Known() == BlockStyle.PreUp ? config.InnerDim : config.EmbeddingDim;
        var (qk, v) = (QkDim(config) / config.HeadCount, VDim(config) / config.HeadCount);
        var mlstm = config.HeadCount * (qk * v + qk + 1) + Convolution(config.ConvTaps, channels);
        var slstm = 4L * config.EmbeddingDim + Convolution(config.SLstmConvTaps, config.EmbeddingDim);
        return Counts.Bytes(4 * (MLstmBlockCount(config) * mlstm + config.SLstmAt.Count * slstm));
    }

    private static long MLstmBlockCount(XlstmConfig config) => config.BlockCount - config.SLstmAt.Count;

    private static BigInteger QkDim(XlstmConfig config) => Counts.Fitting(config.QkDim, "qk_dim_factor or proj_factor");

    private static BigInteger VDim(XlstmConfig config) => Counts.Fitting(config.VDim, "v_dim_factor or proj_factor");

    private static BigInteger InnerDim(int width) => Counts.Fitting(width, "ffn_proj_factor");

    private static BigInteger MLstmBlockParameters(XlstmConfig config)
    {
        BigInteger d = config.EmbeddingDim, qk = QkDim(config), v = VDim(config);
        var bias = config.UseBias ? 1 : 0;
        var gated = config.OutputGate ? 1 : 0;
        var gates = GateParameters(config, config.InputGate.Known() != InputGate.None, config.InputGatePreactivation)
            + GateParameters(config, config.ForgetGate.Known() != ForgetGate.None, config.ForgetGatePreactivation);
        var norms = NormParameters(config, config.PreNorm) + NormParameters(config, config.PostNorm)
            + (config.QkNorm ? 2 * qk : 0) + HeadNormParameters(config, v);
        if (config.BlockStyle.Known() == BlockStyle.PreUp)
        {
            return (d + bias) * (1 + gated) * v // up-projection
                + ConvParameters(config.ConvTaps, v)
                + 3 * v * ((long)config.QkvBlockSize + bias)
                + gates + norms
                + (config.LearnableSkip ? v : 0)
                + (v + bias) * d; // down-projection
        }

        return (d + bias) * (2 * qk + (1 + gated) * v) // q, k, v, output gate
            + ConvParameters(config.ConvTaps, d)
            + gates + norms
            + (v + bias) * d // out projection
            + FeedForwardParameters(config, config.FeedForward, config.FeedForwardDim);
    }

    private static BigInteger SLstmBlockParameters(XlstmConfig config)
    {
        BigInteger d = config.EmbeddingDim;
        var cell = 4 * d * (d / config.SLstmHeads) + 4 * d; // R and b
        var norms = NormParameters(config, config.PreNorm) + NormParameters(config, config.PostNorm) + HeadNormParameters(config, d);
        var shared = cell + norms + ConvParameters(config.SLstmConvTaps, d);
        return config.BlockStyle.Known() == BlockStyle.PreUp
            ? shared + 4 * d * (d / config.SLstmHeads) + FeedForwardParameters(config, config.SLstmFeedForward, config.SLstmFeedForwardDim)
            : shared + 5 * d * d + (config.UseBias ? d : 0) + FeedForwardParameters(config, config.FeedForward, config.FeedForwardDim);
    }

    private static BigInteger GateParameters(XlstmConfig config, bool exists, GatePreactivation kind) => (exists, kind) switch
    {
        (false, _) or (_, GatePreactivation.Fixed) => 0,
        (_, GatePreactivation.BiasOnly) => config.HeadCount,
        (_, GatePreactivation.Learned) => (GateInputDim(config) + 1) * config.HeadCount,
        _ => throw UnknownValue.Of(kind),
    };

    private static BigInteger GateInputDim(XlstmConfig config) =>
        (config.GateSource ?? (config.BlockStyle.Known() == BlockStyle.PreUp ? GateSource.Qkv : GateSource.Input)).Known() == GateSource.Qkv
            ? 2 * QkDim(config) + VDim(config)
            : config.EmbeddingDim;

    private static BigInteger NormParameters(XlstmConfig config, NormKind kind) =>
        kind.Known() == NormKind.None ? 0 : config.EmbeddingDim * (config.UseBias ? 2L : 1L);

    private static BigInteger HeadNormParameters(XlstmConfig config, BigInteger width) =>
        config.HeadNorm.Known() == HeadNormKind.None ? 0 : width * (config.UseBias ? 2 : 1);

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

    /// <summary>What an mLSTM block computes for a token beside the cell.</summary>
    private static double MLstmBlockFlops(XlstmConfig config)
    {
        double d = config.EmbeddingDim, qk = (double)QkDim(config), v = (double)VDim(config);
        var gated = config.OutputGate ? 1 : 0;
        var gates = 0.0;
        foreach (var (exists, kind) in new[]
        {
            (config.InputGate.Known() != InputGate.None, config.InputGatePreactivation), (config.ForgetGate.Known() != ForgetGate.None, config.ForgetGatePreactivation),
        })
        {
            gates += exists && kind.Known() == GatePreactivation.Learned ? 2 * (double)GateInputDim(config) * config.HeadCount : 0;
        }

        return config.BlockStyle.Known() == BlockStyle.PreUp
            ? 2 * d * (1 + gated) * v + ConvFlops(config.ConvTaps, v) + 6 * v * config.QkvBlockSize + gates
                + (config.LearnableSkip ? 2 * v : 0) + gated * 2 * v + 2 * d * v
            : 2 * d * (2 * qk + (1 + gated) * v) + ConvFlops(config.ConvTaps, d) + gates
                + gated * v + 2 * d * v + FeedForwardFlops(config, config.FeedForward, config.FeedForwardDim);
    }

    private static double SLstmBlockFlops(XlstmConfig config)
    {
        double d = config.EmbeddingDim, size = config.EmbeddingDim / config.SLstmHeads;
        var cell = 8 * d * size + 24 * d;
        return config.BlockStyle.Known() == BlockStyle.PreUp
            ? cell + 8 * d * size + ConvFlops(config.SLstmConvTaps, d) + FeedForwardFlops(config, config.SLstmFeedForward, config.SLstmFeedForwardDim)
            : cell + 10 * d * d + ConvFlops(config.SLstmConvTaps, d) + FeedForwardFlops(config, config.FeedForward, config.FeedForwardDim);
    }

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
