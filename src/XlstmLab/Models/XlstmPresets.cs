using XlstmLab.Layers;
using XlstmLab.Mixers;
namespace XlstmLab.Models;

/// <summary>Architectures by name: small ones for a laptop, and the published ones.</summary>
/// <remarks>
/// <para>
/// <c>xlstm-*</c>: the scaling-law paper's token/param runs and xLSTM 7B, with the 7B paper's ablations (table 3, figures 11 and 13).
/// <c>xlstm-old-*</c>: the same paper's old block (table 2). <c>xlstm1-*</c>: the first paper's models (table 7), as [1:0] and [7:1].
/// <c>parity-*</c>: the parity experiment of the first paper's published code.
/// </para>
/// <para>
/// The published runs round the SwiGLU's width up exactly, the published PyTorch code (and so <see cref="XlstmConfig.FeedForwardDim"/>)
/// with an integer division that loses a step at d = 768 and d = 1536: those two presets name the width by their factor.
/// </para>
/// </remarks>
public static class XlstmPresets
{
    /// <summary>About 0.9 million parameters over bytes: trains in minutes on two cores.</summary>
    public static XlstmConfig Bytes1M { get; } = Bytes(128, 4, 4);

    /// <summary>About 3 million parameters over bytes.</summary>
    public static XlstmConfig Bytes3M { get; } = Bytes(192, 6, 4);

    /// <summary>About 10 million parameters over bytes.</summary>
    public static XlstmConfig Bytes10M { get; } = Bytes(320, 8, 5);

    /// <summary>About 10.8 million parameters over bytes, with dropout for texts of a few megabytes that are read many times.</summary>
    public static XlstmConfig Shakespeare10M { get; } = Bytes(384, 6, 3) with { Dropout = 0.3, WeightMode = WeightMode.Fused };

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

    /// <summary>The first paper's 125M: 163.8 million parameters as [1:0].</summary>
    public static XlstmConfig First125M { get; } = FirstPaper(768, 24);

    /// <summary>The first paper's 350M: 409.3 million parameters as [1:0], 408.4 million as [7:1].</summary>
    public static XlstmConfig First350M { get; } = FirstPaper(1024, 48);

    /// <summary>The first paper's 760M: 841 million parameters as [1:0].</summary>
    public static XlstmConfig First760M { get; } = FirstPaper(1536, 48);

    /// <summary>The first paper's 1.3B: 1.42 billion parameters as [1:0].</summary>
    public static XlstmConfig First1300M { get; } = FirstPaper(2048, 48);

    /// <summary>The first paper's 2.7B: 2.78 billion parameters as [1:0].</summary>
    public static XlstmConfig First2700M { get; } = FirstPaper(2560, 64);

    /// <summary>All presets by the name the command line knows them by.</summary>
    public static IReadOnlyDictionary<string, XlstmConfig> All { get; } =
        new SortedDictionary<string, XlstmConfig>(StringComparer.OrdinalIgnoreCase)
        {
            ["bytes-1m"] = Bytes1M,
            ["bytes-3m"] = Bytes3M,
            ["bytes-10m"] = Bytes10M,
            ["shakespeare-10m"] = Shakespeare10M,
            ["xlstm-160m"] = Xlstm160M,
            ["xlstm-400m"] = Xlstm400M,
            ["xlstm-830m"] = Xlstm830M,
            ["xlstm-1.4b"] = Xlstm1400M,
            ["xlstm-2.7b"] = Xlstm2700M,
            ["xlstm-7b"] = Xlstm7B,
            ["xlstm-7b-4-heads"] = Xlstm7B with { HeadCount = 4 },
            ["xlstm-7b-16-heads"] = Xlstm7B with { HeadCount = 16 },
            ["xlstm-7b-32-heads"] = Xlstm7B with { HeadCount = 32 },
            ["xlstm-7b-igate-0"] = WithFixedInputGate(0),
            ["xlstm-7b-igate-minus-10"] = WithFixedInputGate(-10),
            ["xlstm-old-160m"] = OldBlock(768, 24),
            ["xlstm-old-400m"] = OldBlock(1024, 48),
            ["xlstm-old-1.4b"] = OldBlock(2048, 48),
            ["xlstm-old-7b"] = OldBlock(4096, 64) with { HeadCount = 8 },
            ["xlstm1-125m-1-0"] = First125M,
            ["xlstm1-125m-7-1"] = Mixed(First125M, [3, 20]),
            ["xlstm1-350m-1-0"] = First350M,
            ["xlstm1-350m-7-1"] = Mixed(First350M, [3, 5, 7, 40, 42, 44]),
            ["xlstm1-760m-1-0"] = First760M,
            ["xlstm1-760m-7-1"] = Mixed(First760M, [3, 5, 7, 40, 42, 44]),
            ["xlstm1-1.3b-1-0"] = First1300M,
            ["xlstm1-1.3b-7-1"] = Mixed(First1300M, [3, 5, 7, 40, 42, 44]),
            ["xlstm1-2.7b-1-0"] = First2700M,
            ["xlstm1-2.7b-7-1"] = Mixed(First2700M, WithRatio(First2700M, 7, 1).SLstmAt),
            ["parity-1-0"] = Parity(1, 0),
            ["parity-0-1"] = Parity(0, 1),
            ["parity-1-1"] = Parity(1, 1),
        };

    /// <summary>The preset of that name.</summary>
    /// <exception cref="ArgumentException">There is none; the message lists all.</exception>
    public static XlstmConfig ByName(string name) =>
        All.TryGetValue(name, out var config)
            ? config
            : throw new ArgumentException(
                $"There is no preset '{name}'.{NearestName.Hint(name, All.Keys)} Presets: {string.Join(", ", All.Keys)}.", nameof(name));

    /// <summary>
    /// xLSTM[a:b]: of every a + b blocks the first a mix by an mLSTM and the last b by an sLSTM (first paper, section 2.4).
    /// </summary>
    /// <remarks>The first paper's large [7:1] models have their sLSTM blocks at places of their own: see the presets.</remarks>
    /// <param name="config">The rest of the architecture.</param>
    /// <param name="mlstm">a, at least 0.</param>
    /// <param name="slstm">b, at least 0.</param>
    /// <exception cref="ConfigException">The number of blocks is no multiple of a + b, with both above 0, or both are 0.</exception>
    public static XlstmConfig WithRatio(XlstmConfig config, int mlstm, int slstm)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentOutOfRangeException.ThrowIfNegative(mlstm);
        ArgumentOutOfRangeException.ThrowIfNegative(slstm);
        var period = mlstm + slstm;
        if (period == 0 || (mlstm > 0 && slstm > 0 && config.BlockCount % period != 0))
        {
            throw new ConfigException(
                $"xLSTM[{mlstm}:{slstm}] is not possible with {config.BlockCount} blocks: expected a multiple of {Math.Max(1, period)} "
                + "blocks, or slstm_at by hand.");
        }

        return config with { SLstmAt = [.. Enumerable.Range(0, config.BlockCount).Where(block => block % period >= mlstm)] };
    }

    /// <summary>
    /// A width of the scaling-law paper's IsoFLOP grid in the 7B architecture. Its widths from 512 to 4096 follow a rule: heads of 256
    /// channels where the width is at least 1024 and a multiple of 256, else of 128.
    /// </summary>
    /// <param name="dim">The width d, a multiple of 128.</param>
    /// <param name="blocks">The number of blocks L; the paper has 10 to 38.</param>
    /// <exception cref="ConfigException">The width is no multiple of 128.</exception>
    public static XlstmConfig ScalingLaw(int dim, int blocks) =>
        dim >= 128 && dim % 128 == 0
            ? Published(dim, blocks, dim / (dim >= 1024 && dim % 256 == 0 ? 256 : 128)) with
            {
                FeedForwardFactor = Math.Ceiling(2.667 * dim / 64) * 64 / dim,
            }
            : throw new ConfigException($"The scaling-law grid has widths that are multiples of 128, not {dim}.");

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

    /// <summary>
    /// The first paper's block with the 7B paper's remedies: RMSNorm, soft caps and an input-gate bias of -10 (xLSTM 7B, table 2 and figure
    /// 9).
    /// </summary>
    private static XlstmConfig OldBlock(int dim, int blocks) => FirstPaper(dim, blocks) with
    {
        PreNorm = NormKind.Rms,
        NormEpsilon = 1e-6,
        GateSoftCap = 15,
        OutputLogitSoftCap = 30,
        InputGateBias = -10,
        InputGateBiasStd = 0,
    };

    /// <summary>The first paper's [7:1], whose sLSTM is trained with a clip of 10.</summary>
    private static XlstmConfig Mixed(XlstmConfig config, BlockList slstmAt) => config with { SLstmAt = slstmAt, SLstmGradientClip = 10 };

    private static XlstmConfig WithFixedInputGate(double preactivation) =>
        Xlstm7B with { InputGatePreactivation = GatePreactivation.Fixed, InputGateBias = preactivation };

    private static XlstmConfig Parity(int mlstm, int slstm) =>
        WithRatio(FirstPaper(64, 2) with { VocabularySize = 3, HeadCount = 1 }, mlstm, slstm);

    private static XlstmConfig Bytes(int dim, int blocks, int heads) =>
        new() { VocabularySize = 257, EmbeddingDim = dim, BlockCount = blocks, HeadCount = heads };

    private static XlstmConfig Published(int dim, int blocks, int heads) =>
        new() { EmbeddingDim = dim, BlockCount = blocks, HeadCount = heads };
}
