using System.Numerics;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;

namespace XlstmLab.Models;

/// <summary>The architecture of a Mamba2 language model (Dao and Gu 2024), as a record to vary by <c>with</c>.</summary>
/// <remarks>The JSON names, and the sizes as it is made, are those of transformers' <c>Mamba2Config</c>.</remarks>
public sealed record Mamba2Config : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "mamba2";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 32768;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("hidden_size")]
    public override int EmbeddingDim { get; init; } = 4096;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public override int BlockCount { get; init; } = 64;

    /// <summary>The number of heads, H; together they have the inner width.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 128;

    /// <summary>The width of a head, P.</summary>
    [JsonPropertyName("head_dim")]
    public int HeadDim { get; init; } = 64;

    /// <summary>The states of each channel, N.</summary>
    [JsonPropertyName("state_size")]
    public int StateSize { get; init; } = 128;

    /// <summary>The groups of heads that share B and C, G.</summary>
    [JsonPropertyName("n_groups")]
    public int GroupCount { get; init; } = 8;

    /// <summary>The inner width as a multiple of d, E.</summary>
    [JsonPropertyName("expand")]
    public int Expand { get; init; } = 2;

    /// <summary>The taps of the causal convolution.</summary>
    [JsonPropertyName("conv_kernel")]
    public int ConvKernelSize { get; init; } = 4;

    /// <summary>The number of tokens that are treated in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 256;

    /// <summary>Whether the projections into and out of a block have biases.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>Whether the convolution has a bias.</summary>
    [JsonPropertyName("use_conv_bias")]
    public bool UseConvBias { get; init; } = true;

    /// <summary>The epsilon of all norms, added to the mean square.</summary>
    [JsonPropertyName("layer_norm_epsilon")]
    public double NormEpsilon { get; init; } = 1e-5;

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public override bool TieWordEmbeddings { get; init; }

    /// <summary>The standard deviation that embedding and head are drawn with (the paper's code: 0.02).</summary>
    [JsonPropertyName("initializer_range")]
    public double InitStd { get; init; } = 0.02;

    /// <summary>The smallest step size dt at the start.</summary>
    [JsonPropertyName("time_step_min")]
    public double TimeStepMin { get; init; } = 0.001;

    /// <summary>The largest step size dt at the start.</summary>
    [JsonPropertyName("time_step_max")]
    public double TimeStepMax { get; init; } = 0.1;

    /// <summary>What step sizes drawn below it are raised to.</summary>
    [JsonPropertyName("time_step_floor")]
    public double TimeStepFloor { get; init; } = 1e-4;

    /// <summary>The least that a token's step size can be, the first number of <c>time_step_limit</c>.</summary>
    [JsonIgnore]
    public double TimeStepLowest { get; init; }

    /// <summary>The most that a token's step size can be, the second number of <c>time_step_limit</c>.</summary>
    [JsonIgnore]
    public double TimeStepHighest { get; init; } = double.PositiveInfinity;

    /// <summary>Whether the output projections start divided by sqrt(L), as in the paper's code.</summary>
    [JsonPropertyName("rescale_prenorm_residual")]
    public bool RescaleOutput { get; init; } = true;

    /// <summary>The inner width, E d = H P.</summary>
    [JsonIgnore]
    public int InnerDim => Counts.Width((double)Expand * EmbeddingDim);

    /// <summary>The width of what the convolution reads: x, B and C.</summary>
    [JsonIgnore]
    public int ConvDim => Counts.Width((double)WideConvDim);

    /// <summary>The mixer of every block.</summary>
    [JsonIgnore]
    public Mamba2MixerConfig Mixer => new()
    {
        HeadCount = HeadCount,
        StateSize = StateSize,
        GroupCount = GroupCount,
        Expand = Expand,
        ConvKernelSize = ConvKernelSize,
        ChunkSize = ChunkSize,
        UseBias = UseBias,
        UseConvBias = UseConvBias,
        NormEpsilon = NormEpsilon,
        TimeStepMin = TimeStepMin,
        TimeStepMax = TimeStepMax,
        TimeStepFloor = TimeStepFloor,
        TimeStepLowest = TimeStepLowest,
        TimeStepHighest = double.IsFinite(TimeStepHighest) ? TimeStepHighest : null,
        RescaleOutput = RescaleOutput,
    };

    /// <summary>Where it stands.</summary>
    internal MixerSite Site => new(EmbeddingDim, 0, BlockCount);

    /// <inheritdoc/>
    public override Mamba2LanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters() =>
        Counts.Parameters(BlockCount * (Mixer.CountParameters(Site) + EmbeddingDim) + EmbeddingDim + TableParameters);

    /// <inheritdoc/>
    /// <remarks>The mixer counts what <see cref="Mamba2MixerConfig.ForwardFlopsPerToken"/> says.</remarks>
    public override double ForwardFlopsPerToken(long length) =>
        BlockCount * Mixer.ForwardFlopsPerToken(Site, length) + 2.0 * EmbeddingDim * VocabularySize;

    /// <inheritdoc/>
    public override long StateBytes(long length) => Counts.Bytes(BlockCount * Mixer.StateBytes(Site, length));

    /// <inheritdoc/>
    public override void Validate()
    {
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("vocab_size", VocabularySize), ("hidden_size", EmbeddingDim), ("num_hidden_layers", BlockCount), ("num_heads", HeadCount),
            ("head_dim", HeadDim), ("state_size", StateSize), ("n_groups", GroupCount), ("expand", Expand), ("conv_kernel", ConvKernelSize),
            ("chunk_size", ChunkSize));
        faults.Require(
            (long)HeadCount * HeadDim == (long)Expand * EmbeddingDim,
            $"num_heads {HeadCount} times head_dim {HeadDim} is {(long)HeadCount * HeadDim}; ",
            $"expected expand times hidden_size, {(long)Expand * EmbeddingDim}");
        faults.Require(
            WideConvDim + WideInnerDim + HeadCount < int.MaxValue,
            $"expand is {Expand}, n_groups {GroupCount}, state_size {StateSize}; expected an input projection of fewer than 2^31 - 1 rows");
        faults.Require(
            GroupCount < 1 || HeadCount % GroupCount == 0, $"n_groups is {GroupCount}; expected a divisor of num_heads {HeadCount}");
        faults.Require(
            NormEpsilon >= 0 && double.IsFinite(NormEpsilon),
            $"layer_norm_epsilon is {NormEpsilon}; expected a finite number of at least 0");
        faults.Require(InitStd >= 0 && double.IsFinite(InitStd), $"initializer_range is {InitStd}; expected a finite number of at least 0");
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
        faults.Require(
            TimeStepLowest >= 0 && double.IsFinite(TimeStepLowest) && TimeStepHighest >= TimeStepLowest,
            $"time_step_limit is [{TimeStepLowest}, {TimeStepHighest}]; expected two numbers of at least 0, the smaller first");
        faults.Throw();
    }

    private BigInteger WideInnerDim => (BigInteger)Expand * EmbeddingDim;

    private BigInteger WideConvDim => WideInnerDim + (BigInteger)2 * GroupCount * StateSize;
}
