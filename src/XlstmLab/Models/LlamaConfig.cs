using System.Numerics;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;

namespace XlstmLab.Models;

/// <summary>The architecture of a Llama-style Transformer (Touvron et al. 2023; Ainslie et al. 2023 for grouped queries).</summary>
/// <remarks>The JSON names, and the values as it is made, are those of transformers' <c>LlamaConfig</c>.</remarks>
public sealed record LlamaConfig : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "llama";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 32000;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("hidden_size")]
    public override int EmbeddingDim { get; init; } = 4096;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public override int BlockCount { get; init; } = 32;

    /// <summary>The number of heads that ask, NH.</summary>
    [JsonPropertyName("num_attention_heads")]
    public int HeadCount { get; init; } = 32;

    /// <summary>The number of heads with keys and values, NKV, each for NH / NKV heads that ask; null for NH.</summary>
    [JsonPropertyName("num_key_value_heads")]
    public int? KeyValueHeads { get; init; }

    /// <summary>The width of a head, D; null for d / NH.</summary>
    [JsonPropertyName("head_dim")]
    public int? HeadWidth { get; init; }

    /// <summary>The inner width of the SwiGLU, d_ff.</summary>
    [JsonPropertyName("intermediate_size")]
    public int FeedForwardDim { get; init; } = 11008;

    /// <summary>The base of the rotary embedding's wave lengths (Su et al. 2021, eq. 15: 10000).</summary>
    [JsonPropertyName("rope_theta")]
    public double RopeTheta { get; init; } = 10000;

    /// <summary>The length that the model is made for; nothing here depends on it.</summary>
    [JsonPropertyName("max_position_embeddings")]
    public int MaxLength { get; init; } = 2048;

    /// <summary>The epsilon of all norms, added to the mean square.</summary>
    [JsonPropertyName("rms_norm_eps")]
    public double NormEpsilon { get; init; } = 1e-6;

    /// <summary>Whether the projections of the attention have biases.</summary>
    [JsonPropertyName("attention_bias")]
    public bool AttentionBias { get; init; }

    /// <summary>Whether the projections of the SwiGLU have biases.</summary>
    [JsonPropertyName("mlp_bias")]
    public bool FeedForwardBias { get; init; }

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public override bool TieWordEmbeddings { get; init; }

    /// <summary>The standard deviation that weights are drawn with.</summary>
    [JsonPropertyName("initializer_range")]
    public double InitStd { get; init; } = 0.02;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string EmbeddingName => "model.embed_tokens.weight";

    /// <summary>The number of heads with keys and values, NKV.</summary>
    [JsonIgnore]
    public int KeyValueHeadCount => KeyValueHeads ?? HeadCount;

    /// <summary>The width of a head, D.</summary>
    [JsonIgnore]
    public int HeadDim => HeadWidth ?? EmbeddingDim / HeadCount;

    /// <summary>The mixer of every block.</summary>
    [JsonIgnore]
    public AttentionMixerConfig Mixer =>
        new()
        {
            HeadCount = HeadCount,
            KeyValueHeads = KeyValueHeads,
            HeadWidth = HeadWidth,
            RopeTheta = RopeTheta,
            UseBias = AttentionBias,
        };

    /// <summary>Where it stands.</summary>
    internal MixerSite Site => new(EmbeddingDim, 0, BlockCount);

    /// <inheritdoc/>
    public override LlamaLanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters()
    {
        BigInteger d = EmbeddingDim, inner = FeedForwardDim;
        var feedForward = 3 * d * inner + (FeedForwardBias ? 2 * inner + d : 0);
        return Counts.Parameters(BlockCount * (Mixer.CountParameters(Site) + feedForward + 2 * d) + d + TableParameters);
    }

    /// <inheritdoc/>
    /// <remarks>The attention counts what <see cref="AttentionMixerConfig.ForwardFlopsPerToken"/> says.</remarks>
    public override double ForwardFlopsPerToken(long length)
    {
        double d = EmbeddingDim;
        return BlockCount * (Mixer.ForwardFlopsPerToken(Site, length) + 6 * d * FeedForwardDim) + 2 * d * VocabularySize;
    }

    /// <inheritdoc/>
    public override long StateBytes(long length) => Counts.Bytes(BlockCount * Mixer.StateBytes(Site, length));

    /// <inheritdoc/>
    public override void Validate()
    {
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("vocab_size", VocabularySize), ("hidden_size", EmbeddingDim), ("num_hidden_layers", BlockCount),
            ("num_attention_heads", HeadCount),
            ("num_key_value_heads", KeyValueHeadCount), ("intermediate_size", FeedForwardDim), ("max_position_embeddings", MaxLength));
        faults.Require(RopeTheta > 0 && double.IsFinite(RopeTheta), $"rope_theta is {RopeTheta}; expected a finite number above 0");
        faults.Require(
            NormEpsilon >= 0 && double.IsFinite(NormEpsilon), $"rms_norm_eps is {NormEpsilon}; expected a finite number of at least 0");
        faults.Require(InitStd >= 0 && double.IsFinite(InitStd), $"initializer_range is {InitStd}; expected a finite number of at least 0");
        if (HeadCount >= 1 && KeyValueHeadCount >= 1)
        {
            faults.Require(
                HeadCount % KeyValueHeadCount == 0,
                $"num_key_value_heads is {KeyValueHeadCount}; expected a divisor of num_attention_heads {HeadCount}");
            faults.Require(
                HeadWidth is not null || EmbeddingDim % HeadCount == 0,
                $"num_attention_heads is {HeadCount}; expected a divisor of hidden_size {EmbeddingDim}, or a head_dim");
            faults.Require(
                HeadDim >= 2 && HeadDim % 2 == 0,
                $"head_dim is {HeadDim}; expected an even number of at least 2: channels are rotated in pairs");
        }

        faults.Throw();
    }
}
