namespace XlstmLab.Models;

/// <summary>Architectures by name: small ones for a laptop, and the published sizes (scaling-law paper, token/param runs; xLSTM 7B).</summary>
/// <remarks>
/// The published runs round the SwiGLU's width up exactly, the published PyTorch code (and so <see cref="XlstmConfig.FeedForwardDim"/>) with
/// an integer division that loses a step at d = 768 and d = 1536: those two presets name the width by their factor.
/// </remarks>
public static class XlstmPresets
{
    /// <summary>About 0.9 million parameters over bytes: trains in minutes on two cores.</summary>
    public static XlstmConfig Bytes1M { get; } = Bytes(128, 4, 4);

    /// <summary>About 3 million parameters over bytes.</summary>
    public static XlstmConfig Bytes3M { get; } = Bytes(192, 6, 4);

    /// <summary>About 10 million parameters over bytes.</summary>
    public static XlstmConfig Bytes10M { get; } = Bytes(320, 8, 5);

    /// <summary>164 million parameters.</summary>
    public static XlstmConfig Xlstm160M { get; } = Published(768, 12, 6) with { FeedForwardFactor = 2112.0 / 768 };

    /// <summary>407 million parameters.</summary>
    public static XlstmConfig Xlstm400M { get; } = Published(1024, 24, 4);

    /// <summary>841 million parameters.</summary>
    public static XlstmConfig Xlstm830M { get; } = Published(1536, 24, 4) with { FeedForwardFactor = 4160.0 / 1536 };

    /// <summary>1.42 billion parameters.</summary>
    public static XlstmConfig Xlstm1400M { get; } = Published(2048, 24, 4);

    /// <summary>2.78 billion parameters.</summary>
    public static XlstmConfig Xlstm2700M { get; } = Published(2560, 32, 5);

    /// <summary>6.87 billion parameters: xLSTM 7B.</summary>
    public static XlstmConfig Xlstm7B { get; } = Published(4096, 32, 8);

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, XlstmConfig> All { get; } = new SortedDictionary<string, XlstmConfig>(StringComparer.OrdinalIgnoreCase)
    {
        ["bytes-1m"] = Bytes1M,
        ["bytes-3m"] = Bytes3M,
        ["bytes-10m"] = Bytes10M,
        ["xlstm-160m"] = Xlstm160M,
        ["xlstm-400m"] = Xlstm400M,
        ["xlstm-830m"] = Xlstm830M,
        ["xlstm-1.4b"] = Xlstm1400M,
        ["xlstm-2.7b"] = Xlstm2700M,
        ["xlstm-7b"] = Xlstm7B,
    };

    /// <summary>The preset of that name.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all.</exception>
    public static XlstmConfig ByName(string name) =>
        All.TryGetValue(name, out var config)
            ? config
            : throw new ArgumentException($"There is no preset '{name}'. Presets: {string.Join(", ", All.Keys)}.", nameof(name));

    /// <summary>
    /// The first paper's architecture as its published code has it: pre-up mLSTM blocks, LayerNorm, no soft caps, heads of the inner width,
    /// and sLSTM blocks with GeGLU where <see cref="XlstmConfig.SLstmAt"/> names them.
    /// </summary>
    /// <param name="dim">The width d.</param>
    /// <param name="blocks">The number of blocks L.</param>
    public static XlstmConfig FirstPaper(int dim, int blocks) => new()
    {
        EmbeddingDim = dim,
        BlockCount = blocks,
        HeadCount = 4,
        BlockStyle = BlockStyle.PreUp,
        PreNorm = NormKind.Layer,
        NormEpsilon = 1e-5,
        GateSoftCap = null,
        OutputLogitSoftCap = null,
        InputGateBias = 0,
        InputGateBiasStd = 0.1,
    };

    private static XlstmConfig Bytes(int dim, int blocks, int heads) =>
        new() { VocabularySize = 257, EmbeddingDim = dim, BlockCount = blocks, HeadCount = heads };

    private static XlstmConfig Published(int dim, int blocks, int heads) =>
        new() { EmbeddingDim = dim, BlockCount = blocks, HeadCount = heads };
}
