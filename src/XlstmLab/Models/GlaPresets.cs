namespace XlstmLab.Models;

/// <summary>
/// Simple gated linear attention by name: the published size that the first xLSTM paper compares with, and a small one over bytes.
/// </summary>
public static class GlaPresets
{
    /// <summary>About 0.9 million parameters over bytes, beside <see cref="XlstmPresets.Bytes1M"/>.</summary>
    /// <remarks>Weights have the standard deviation sqrt(2 / (5 d)), which is the published 0.02 at the published width.</remarks>
    public static GlaConfig Bytes1M { get; } = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 128,
        BlockCount = 4,
        HeadCount = 4,
        FeedForwardWidth = 384,
        InitStd = 0.056,
    };

    /// <summary>
    /// 412 million parameters, GLA's in the first paper's table 1, with a decay a head instead of one a channel and with convolutions.
    /// </summary>
    /// <remarks>24 blocks of width 1024 and 4 heads (Yang et al. 2023, section 5.1: the 340M model, which has fewer token ids).</remarks>
    public static GlaConfig Gla400M { get; } = new() { VocabularySize = 50304, EmbeddingDim = 1024 };

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, GlaConfig> All { get; } =
        new SortedDictionary<string, GlaConfig>(StringComparer.OrdinalIgnoreCase)
        {
            ["gla-bytes-1m"] = Bytes1M,
            ["gla-400m"] = Gla400M,
        };
}
