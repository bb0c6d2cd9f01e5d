using XlstmLab.Operations;
namespace XlstmLab.Models;

/// <summary>LSTM language models by name: the first paper's way from the LSTM to the xLSTM (table 2), and a small one over bytes.</summary>
/// <remarks>
/// The paper gives parameter counts only; these widths and blocks are those that have them, to all digits that it prints.
/// </remarks>
public static class LstmPresets
{
    /// <summary>About 0.9 million parameters over bytes, beside <see cref="XlstmPresets.Bytes1M"/>.</summary>
    public static LstmConfig Bytes1M { get; } = new() { VocabularySize = 257, EmbeddingDim = 128, BlockCount = 3 };

    /// <summary>The vanilla LSTM, a plain stack: 607.8 million parameters.</summary>
    public static LstmConfig Vanilla600M { get; } = new() { EmbeddingDim = 1536, Residual = false, FeedForward = FeedForwardKind.None };

    /// <summary>With the residual backbone: 506.1 million parameters.</summary>
    public static LstmConfig Residual500M { get; } = new() { BlockCount = 48, FeedForward = FeedForwardKind.None };

    /// <summary>With the up-projection backbone, the best of them: 505.9 million parameters.</summary>
    public static LstmConfig UpProjection500M { get; } = new();

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, LstmConfig> All { get; } =
        new SortedDictionary<string, LstmConfig>(StringComparer.OrdinalIgnoreCase)
        {
            ["lstm-bytes-1m"] = Bytes1M,
            ["lstm-vanilla-600m"] = Vanilla600M,
            ["lstm-residual-500m"] = Residual500M,
            ["lstm-500m"] = UpProjection500M,
        };
}
