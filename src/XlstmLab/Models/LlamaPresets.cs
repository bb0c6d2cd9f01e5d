namespace XlstmLab.Models;

/// <summary>
/// Llama-style Transformers by name: the sizes that the scaling-law paper trains beside xLSTM, and a small one over bytes.
/// </summary>
/// <remarks>
/// Widths, blocks and parameter counts are those of the paper's token/param runs; heads of width 128, a RoPE base of 500,000 and the
/// SwiGLU's width of 8/3 d rounded up to a multiple of 64 are those of the published training code's baselines.
/// </remarks>
public static class LlamaPresets
{
    /// <summary>About 0.9 million parameters over bytes, beside <see cref="XlstmPresets.Bytes1M"/>.</summary>
    public static LlamaConfig Bytes1M { get; } = Published(128, 4) with { VocabularySize = 257, HeadCount = 4, FeedForwardDim = 384 };

    /// <summary>162 million parameters.</summary>
    public static LlamaConfig Llama160M { get; } = Published(768, 12);

    /// <summary>407 million parameters.</summary>
    public static LlamaConfig Llama400M { get; } = Published(1024, 24);

    /// <summary>834 million parameters.</summary>
    public static LlamaConfig Llama830M { get; } = Published(1536, 24);

    /// <summary>1.42 billion parameters.</summary>
    public static LlamaConfig Llama1400M { get; } = Published(2048, 24);

    /// <summary>2.78 billion parameters.</summary>
    public static LlamaConfig Llama2700M { get; } = Published(2560, 32);

    /// <summary>6.86 billion parameters.</summary>
    public static LlamaConfig Llama7B { get; } = Published(4096, 32);

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, LlamaConfig> All { get; } =
        new SortedDictionary<string, LlamaConfig>(StringComparer.OrdinalIgnoreCase)
        {
            ["llama-bytes-1m"] = Bytes1M,
            ["llama-160m"] = Llama160M,
            ["llama-400m"] = Llama400M,
            ["llama-830m"] = Llama830M,
            ["llama-1.4b"] = Llama1400M,
            ["llama-2.7b"] = Llama2700M,
            ["llama-7b"] = Llama7B,
        };

    private static LlamaConfig Published(int dim, int blocks) => new()
    {
        VocabularySize = 50304,
        EmbeddingDim = dim,
        BlockCount = blocks,
        HeadCount = dim / 128,
        FeedForwardDim = (dim * 8 / 3 + 63) / 64 * 64,
        RopeTheta = 500_000,
        MaxLength = 8192,
    };
}
