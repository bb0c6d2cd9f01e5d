using XlstmLab.Cells;

namespace XlstmLab.Models;

/// <summary>Counts of an xLSTM's parameters, floating-point operations and bytes, exact by the published formulas.</summary>
public static class XlstmAccounting
{
    /// <summary>The number of parameters (xLSTM 7B, appendix E), biases and tied embeddings included where the configuration has them.</summary>
    public static long ParameterCount(XlstmConfig config)
    {
        long d = config.EmbeddingDim, qk = config.QkDim, v = config.VDim, inner = config.FeedForwardDim, heads = config.HeadCount;
        var biases = config.UseBias ? 1L : 0;
        var mixer = d * (2 * qk + 2 * v) + biases * (2 * qk + 2 * v) // q, k, v, output gate
            + 2 * (d * heads + heads) // input and forget gate
            + v * (1 + biases) // head norm
            + v * d + biases * d; // out projection
        var feedForward = 3 * d * inner + biases * (2 * inner + d);
        var norm = d * (1 + biases);
        var table = (long)config.VocabularySize * d;
        return table + config.BlockCount * (mixer + feedForward + 2 * norm) + (config.AddOutNorm ? norm : 0) + (config.TieWordEmbeddings ? 0 : table);
    }

    /// <summary>
    /// Floating-point operations of one mLSTM layer's cell over a sequence, forward, a multiply-add counting 2 and every other
    /// operation 1 (xLSTM 7B, appendix D).
    /// </summary>
    /// <param name="config">The architecture.</param>
    /// <param name="length">The sequence's length S in tokens, a multiple of the chunk or counted as if.</param>
    public static double CellFlops(XlstmConfig config, long length)
    {
        if (config.Form == MLstmForm.Recurrent)
        {
            double k1 = config.QkHeadDim, v1 = config.VHeadDim;
            return config.HeadCount * length * (6 * k1 * v1 + 7 * k1 + v1 + 12);
        }

        double chunk = config.Form == MLstmForm.Parallel ? length : Math.Min(config.ChunkSize, length);
        double k = config.QkHeadDim, v = config.VHeadDim;
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
    public static double ForwardFlopsPerToken(XlstmConfig config, long length)
    {
        double d = config.EmbeddingDim, qk = config.QkDim, v = config.VDim, inner = config.FeedForwardDim, heads = config.HeadCount;
        var projections = 2 * d * (2 * qk + v + 2 * heads) + 4 * d * v + v;
        var feedForward = 6 * d * inner + 2 * d;
        return config.BlockCount * (projections + feedForward + CellFlops(config, length) / length) + 2 * d * config.VocabularySize;
    }

    /// <summary>Floating-point operations of a training step for one token: forward, and twice as much backward.</summary>
    public static double TrainingFlopsPerToken(XlstmConfig config, long length) => 3 * ForwardFlopsPerToken(config, length);

    /// <summary>The bytes of the recurrent state of one sequence in float32: C, n and m of every block.</summary>
    public static long StateBytes(XlstmConfig config) =>
        4L * config.BlockCount * config.HeadCount * (config.QkHeadDim * (long)config.VHeadDim + config.QkHeadDim + 1);
}
