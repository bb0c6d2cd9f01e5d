namespace XlstmLab.Models;

/// <summary>Mamba2 models by name: the published sizes (Dao and Gu 2024, table 9), and a small one over bytes.</summary>
public static class Mamba2Presets
{
    /// <summary>About a million parameters over bytes, beside <see cref="XlstmPresets.Bytes1M"/>.</summary>
    public static Mamba2Config Bytes1M { get; } =
        Published(128, 8) with { VocabularySize = 257, HeadCount = 8, HeadDim = 32, StateSize = 64, ChunkSize = 64 };

    /// <summary>129 million parameters.</summary>
    public static Mamba2Config Mamba2Of130M { get; } = Published(768, 24);

    /// <summary>368 million parameters.</summary>
    public static Mamba2Config Mamba2Of370M { get; } = Published(1024, 48);

    /// <summary>780 million parameters.</summary>
    public static Mamba2Config Mamba2Of780M { get; } = Published(1536, 48);

    /// <summary>1.34 billion parameters.</summary>
    public static Mamba2Config Mamba2Of1300M { get; } = Published(2048, 48);

    /// <summary>2.70 billion parameters.</summary>
    public static Mamba2Config Mamba2Of2700M { get; } = Published(2560, 64);

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, Mamba2Config> All { get; } =
        new SortedDictionary<string, Mamba2Config>(StringComparer.OrdinalIgnoreCase)
        {
            ["mamba2-bytes-1m"] = Bytes1M,
            ["mamba2-130m"] = Mamba2Of130M,
            ["mamba2-370m"] = Mamba2Of370M,
            ["mamba2-780m"] = Mamba2Of780M,
            ["mamba2-1.3b"] = Mamba2Of1300M,
            ["mamba2-2.7b"] = Mamba2Of2700M,
        };

    private static Mamba2Config Published(int dim, int blocks) => new()
    {
        VocabularySize = 50288,
        EmbeddingDim = dim,
        BlockCount = blocks,
        HeadCount = dim * 2 / 64,
        GroupCount = 1,
        TieWordEmbeddings = true,
    };
}
