using System.Numerics;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;

namespace XlstmLab.Models;

/// <summary>
/// The architecture of a Transformer with gated linear attention in the place of attention (Yang et al. 2023, section 4.4), one
/// data-dependent decay a head: simple GLA.
/// </summary>
/// <remarks>The JSON names are those of flash-linear-attention's <c>GLAConfig</c>.</remarks>
public sealed record GlaConfig : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "simple_gla";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 32000;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("hidden_size")]
    public override int EmbeddingDim { get; init; } = 2048;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public override int BlockCount { get; init; } = 24;

    /// <summary>The number of heads, NH.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 4;

    /// <summary>The width of all queries, and of all keys, as a multiple of d.</summary>
    [JsonPropertyName("expand_k")]
    public double KeyFactor { get; init; } = 0.5;

    /// <summary>The width of all values as a multiple of d.</summary>
    [JsonPropertyName("expand_v")]
    public double ValueFactor { get; init; } = 1;

    /// <summary>The inner width of the SwiGLU, d_ff; null for 8/3 d rounded up to a multiple of 256.</summary>
    [JsonPropertyName("intermediate_size")]
    public int? FeedForwardWidth { get; init; }

    /// <summary>How many tokens a convolution before queries, keys and values sees, K; 0 for none, as in the GLA paper.</summary>
    [JsonPropertyName("conv_size")]
    public int ConvTaps { get; init; } = 4;

    /// <summary>What divides log sigmoid of a decay's pre-activation, tau: the greater, the longer a fresh model remembers.</summary>
    [JsonPropertyName("gate_logit_normalizer")]
    public double GateNormalizer { get; init; } = 16;

    /// <summary>The epsilon of all norms, added to the mean square.</summary>
    [JsonPropertyName("norm_eps")]
    public double NormEpsilon { get; init; } = 1e-6;

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public override bool TieWordEmbeddings { get; init; }

    /// <summary>The standard deviation that weights are drawn with.</summary>
    [JsonPropertyName("initializer_range")]
    public double InitStd { get; init; } = 0.02;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string EmbeddingName => "model.embeddings.weight";

    /// <summary>The width of all queries, and of all keys, NH DK.</summary>
    [JsonIgnore]
    public int QkDim => (int)(EmbeddingDim * KeyFactor);

    /// <summary>The width of all values, NH DV.</summary>
    [JsonIgnore]
    public int VDim => (int)(EmbeddingDim * ValueFactor);

    /// <summary>The inner width of the SwiGLU, d_ff.</summary>
    [JsonIgnore]
    public int FeedForwardDim => FeedForwardWidth ?? Counts.Width((EmbeddingDim * 8L / 3 + 255) / 256 * 256);

    /// <summary>The mixer of every block.</summary>
    [JsonIgnore]
    public GlaMixerConfig Mixer => new()
    {
        HeadCount = HeadCount,
        KeyFactor = KeyFactor,
        ValueFactor = ValueFactor,
        ConvTaps = ConvTaps,
        GateNormalizer = GateNormalizer,
        NormEpsilon = NormEpsilon,
    };

    /// <summary>Where it stands.</summary>
    internal MixerSite Site => new(EmbeddingDim, 0, BlockCount);

    /// <inheritdoc/>
    public override GlaLanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters()
    {
        var feedForward = (BigInteger)3 * EmbeddingDim * Counts.Fitting(FeedForwardDim, "intermediate_size");
        return Counts.Parameters(
            BlockCount * (Mixer.CountParameters(Site) + feedForward + (BigInteger)2 * EmbeddingDim) + EmbeddingDim + TableParameters);
    }

    /// <inheritdoc/>
    /// <remarks>The attention counts what <see cref="GlaMixerConfig.ForwardFlopsPerToken"/> says.</remarks>
    public override double ForwardFlopsPerToken(long length)
    {
        double d = EmbeddingDim, inner = (double)Counts.Fitting(FeedForwardDim, "intermediate_size");
        return BlockCount * (Mixer.ForwardFlopsPerToken(Site, length) + 6 * d * inner) + 2 * d * VocabularySize;
    }

    /// <inheritdoc/>
    public override long StateBytes(long length) => Counts.Bytes(BlockCount * Mixer.StateBytes(Site, length));

    /// <inheritdoc/>
    public override void Validate()
    {
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("vocab_size", VocabularySize), ("hidden_size", EmbeddingDim), ("num_hidden_layers", BlockCount), ("num_heads", HeadCount),
            ("intermediate_size", FeedForwardDim));
        faults.Require(
            FeedForwardDim < int.MaxValue, $"hidden_size is {EmbeddingDim}; expected an intermediate_size below 2^31 - 1 with it");
        faults.Require(ConvTaps >= 0, $"conv_size is {ConvTaps}; expected at least 0");
        faults.Require(
            GateNormalizer > 0 && double.IsFinite(GateNormalizer),
            $"gate_logit_normalizer is {GateNormalizer}; expected a finite number above 0");
        faults.Require(
            NormEpsilon >= 0 && double.IsFinite(NormEpsilon), $"norm_eps is {NormEpsilon}; expected a finite number of at least 0");
        faults.Require(InitStd >= 0 && double.IsFinite(InitStd), $"initializer_range is {InitStd}; expected a finite number of at least 0");
        foreach (var (name, factor, width) in new[] { ("expand_k", KeyFactor, QkDim), ("expand_v", ValueFactor, VDim) })
        {
            faults.Require(
                width >= 1 && HeadCount >= 1 && width % HeadCount == 0,
                $"{name} is {factor}, which makes a width of {width}; expected a multiple of num_heads {HeadCount}");
        }

        faults.Throw();
    }
}
