namespace XlstmLab.Models;

/// <summary>Mamba models by name: the published sizes (Gu and Dao 2023, table 12), and a small one over bytes.</summary>
public static class MambaPresets
{
    /// <summary>About a million parameters over bytes, beside <see cref="XlstmPresets.Bytes1M"/>.</summary>
    public static MambaConfig Bytes1M { get; } = new() { VocabularySize = 257, EmbeddingDim = 128, BlockCount = 8 };

    /// <summary>129 million parameters.</summary>
    public static MambaConfig Mamba130M { get; } = new() { BlockCount = 24 };

    /// <summary>372 million parameters.</summary>
    public static MambaConfig Mamba370M { get; } = new() { EmbeddingDim = 1024, BlockCount = 48 };

    /// <summary>793 million parameters.</summary>
    public static MambaConfig Mamba790M { get; } = new() { EmbeddingDim = 1536, BlockCount = 48 };

    /// <summary>1.37 billion parameters.</summary>
    public static MambaConfig Mamba1400M { get; } = new() { EmbeddingDim = 2048, BlockCount = 48 };

    /// <summary>2.77 billion parameters.</summary>
    public static MambaConfig Mamba2800M { get; } = new() { EmbeddingDim = 2560, BlockCount = 64 };

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, MambaConfig> All { get; } =
        new SortedDictionary<string, MambaConfig>(StringComparer.OrdinalIgnoreCase)
        {
            ["mamba-bytes-1m"] = Bytes1M,
            ["mamba-130m"] = Mamba130M,
            ["mamba-370m"] = Mamba370M,
            ["mamba-790m"] = Mamba790M,
            ["mamba-1.4b"] = Mamba1400M,
            ["mamba-2.8b"] = Mamba2800M,
        };
}
