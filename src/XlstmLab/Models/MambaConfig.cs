using System.Text.Json.Serialization;
using XlstmLab.Mixers;

namespace XlstmLab.Models;

/// <summary>
/// The architecture of a Mamba language model (Gu and Dao 2023), as a record to vary by <c>with</c>: as it is made, Mamba-130M but for its
/// depth.
/// </summary>
/// <remarks>The JSON names are those of transformers' <c>MambaConfig</c>.</remarks>
public sealed record MambaConfig : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "mamba";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 50280;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("hidden_size")]
    public override int EmbeddingDim { get; init; } = 768;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public override int BlockCount { get; init; } = 32;

    /// <summary>The states of each channel, N.</summary>
    [JsonPropertyName("state_size")]
    public int StateSize { get; init; } = 16;

    /// <summary>The inner width as a multiple of d, E.</summary>
    [JsonPropertyName("expand")]
    public int Expand { get; init; } = 2;

    /// <summary>The taps of the causal convolution.</summary>
    [JsonPropertyName("conv_kernel")]
    public int ConvKernelSize { get; init; } = 4;

    /// <summary>The rank of the step size's projection, R; null for d / 16, rounded up.</summary>
    [JsonPropertyName("time_step_rank")]
    public int? TimeStepRank { get; init; }

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
    public override bool TieWordEmbeddings { get; init; } = true;

    /// <summary>The standard deviation that embedding and head are drawn with (the paper's code: 0.02).</summary>
    [JsonPropertyName("initializer_range")]
    public double InitStd { get; init; } = 0.02;

    /// <summary>The smallest step size dt at the start (section 3.6).</summary>
    [JsonPropertyName("time_step_min")]
    public double TimeStepMin { get; init; } = 0.001;

    /// <summary>The largest step size dt at the start (section 3.6).</summary>
    [JsonPropertyName("time_step_max")]
    public double TimeStepMax { get; init; } = 0.1;

    /// <summary>What step sizes drawn below it are raised to.</summary>
    [JsonPropertyName("time_step_floor")]
    public double TimeStepFloor { get; init; } = 1e-4;

    /// <summary>The weights of the step size's projection start between plus and minus this over sqrt(R).</summary>
    [JsonPropertyName("time_step_scale")]
    public double TimeStepScale { get; init; } = 1;

    /// <summary>Whether the output projections start divided by sqrt(L), as in the paper's code.</summary>
    [JsonPropertyName("rescale_prenorm_residual")]
    public bool RescaleOutput { get; init; } = true;

    /// <summary>The inner width, E d.</summary>
    [JsonIgnore]
    public int InnerDim => Counts.Width((double)Expand * EmbeddingDim);

    /// <summary>The rank of the step size's projection, R.</summary>
    [JsonIgnore]
    public int StepRank => TimeStepRank ?? (int)((EmbeddingDim + 15L) / 16);

    /// <summary>The mixer of every block.</summary>
    [JsonIgnore]
    public MambaMixerConfig Mixer => new()
    {
        StateSize = StateSize,
        Expand = Expand,
        ConvKernelSize = ConvKernelSize,
        TimeStepRank = TimeStepRank,
        UseBias = UseBias,
        UseConvBias = UseConvBias,
        TimeStepMin = TimeStepMin,
        TimeStepMax = TimeStepMax,
        TimeStepFloor = TimeStepFloor,
        TimeStepScale = TimeStepScale,
        RescaleOutput = RescaleOutput,
    };

    /// <summary>Where it stands.</summary>
    internal MixerSite Site => new(EmbeddingDim, 0, BlockCount);

    /// <inheritdoc/>
    public override MambaLanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters() =>
        Counts.Parameters(BlockCount * (Mixer.CountParameters(Site) + EmbeddingDim) + EmbeddingDim + TableParameters);

    /// <inheritdoc/>
    /// <remarks>The mixer counts what <see cref="MambaMixerConfig.ForwardFlopsPerToken"/> says.</remarks>
    public override double ForwardFlopsPerToken(long length) =>
        BlockCount * Mixer.ForwardFlopsPerToken(Site, length) + 2.0 * EmbeddingDim * VocabularySize;

    /// <inheritdoc/>
    public override long StateBytes(long length) => Counts.Bytes(BlockCount * Mixer.StateBytes(Site, length));

    /// <inheritdoc/>
    public override void Validate()
    {
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("vocab_size", VocabularySize), ("hidden_size", EmbeddingDim), ("num_hidden_layers", BlockCount), ("state_size", StateSize),
            ("expand", Expand), ("conv_kernel", ConvKernelSize), ("time_step_rank", StepRank));
        faults.Require(
            (long)Expand * EmbeddingDim < int.MaxValue,
            $"expand is {Expand}; expected an inner width below 2^31 with hidden_size {EmbeddingDim}");
        faults.Require(
            NormEpsilon >= 0 && double.IsFinite(NormEpsilon),
            $"layer_norm_epsilon is {NormEpsilon}; expected a finite number of at least 0");
        faults.Require(InitStd >= 0 && double.IsFinite(InitStd), $"initializer_range is {InitStd}; expected a finite number of at least 0");
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
        faults.Require(
            TimeStepScale >= 0 && double.IsFinite(TimeStepScale),
            $"time_step_scale is {TimeStepScale}; expected a finite number of at least 0");
        faults.Throw();
    }
}
