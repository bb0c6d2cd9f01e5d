using System.Numerics;
using System.Text.Json.Serialization;
using XlstmLab.Mixers;
using XlstmLab.Operations;

namespace XlstmLab.Models;

/// <summary>
/// The architecture of a language model of LSTM layers (Hochreiter and Schmidhuber 1997), as the first paper's table 2 builds it up.
/// </summary>
public sealed record LstmConfig : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "lstm";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 50304;

    /// <summary>The width of embeddings and of all layers' h and c, d.</summary>
    [JsonPropertyName("hidden_size")]
    public override int EmbeddingDim { get; init; } = 1024;

    /// <summary>The number of LSTM layers, L.</summary>
    [JsonPropertyName("num_hidden_layers")]
    public override int BlockCount { get; init; } = 24;

    /// <summary>Whether layers are residual blocks with a LayerNorm before; otherwise they are a plain stack without norms.</summary>
    [JsonPropertyName("residual")]
    public bool Residual { get; init; } = true;

    /// <summary>
    /// The feed-forward layer after each LSTM layer, in a residual block of its own: the paper's backbone with up-projection.
    /// </summary>
    [JsonPropertyName("feed_forward")]
    public FeedForwardKind FeedForward { get; init; } = FeedForwardKind.Mlp;

    /// <summary>
    /// The inner width of the feed-forward layer, d_ff; null for 4 d, or 8/3 d rounded up to a multiple of 64 where it is gated.
    /// </summary>
    [JsonPropertyName("intermediate_size")]
    public int? FeedForwardWidth { get; init; }

    /// <summary>The forget gates' bias as the model is made (Jozefowicz et al. 2015: 1).</summary>
    [JsonPropertyName("forget_gate_bias")]
    public double ForgetGateBias { get; init; } = 1;

    /// <summary>The epsilon of all norms, added to the variance.</summary>
    [JsonPropertyName("norm_eps")]
    public double NormEpsilon { get; init; } = 1e-5;

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public override bool TieWordEmbeddings { get; init; }

    /// <inheritdoc/>
    [JsonIgnore]
    public override string EmbeddingName => "model.embeddings.weight";

    /// <summary>The inner width of the feed-forward layer, d_ff; 0 where there is none.</summary>
    [JsonIgnore]
    public int FeedForwardDim =>
        FeedForward == FeedForwardKind.None ? 0
        : FeedForwardWidth ?? Counts.Width(IsGated ? (EmbeddingDim * 8L / 3 + 63) / 64 * 64 : 4L * EmbeddingDim);

    private bool IsGated => FeedForward is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;

    /// <summary>The mixer of every block.</summary>
    [JsonIgnore]
    public LstmMixerConfig Mixer => new() { ForgetGateBias = ForgetGateBias };

    /// <summary>Where it stands.</summary>
    internal MixerSite Site => new(EmbeddingDim, 0, BlockCount);

    /// <inheritdoc/>
    public override LstmLanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters()
    {
        BigInteger d = EmbeddingDim;
        var norms = !Residual ? 0 : FeedForward == FeedForwardKind.None ? d : 2 * d;
        return Counts.Parameters(
            BlockCount * (Mixer.CountParameters(Site) + FeedForwardWeights + norms) + (Residual ? d : 0) + TableParameters);
    }

    /// <inheritdoc/>
    /// <remarks>The gates' nonlinearities and products are not counted.</remarks>
    public override double ForwardFlopsPerToken(long length)
    {
        double d = EmbeddingDim;
        return BlockCount * (Mixer.ForwardFlopsPerToken(Site, length) + 2 * (double)FeedForwardWeights) + 2 * d * VocabularySize;
    }

    /// <inheritdoc/>
    public override long StateBytes(long length) => Counts.Bytes(BlockCount * Mixer.StateBytes(Site, length));

    /// <inheritdoc/>
    public override void Validate()
    {
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(("vocab_size", VocabularySize), ("hidden_size", EmbeddingDim), ("num_hidden_layers", BlockCount));
        faults.Require(Enum.IsDefined(FeedForward), $"feed_forward is {FeedForward}; expected a kind of feed-forward layer");
        faults.Require(
            FeedForward == FeedForwardKind.None || FeedForwardDim is >= 1 and < int.MaxValue,
            $"intermediate_size is {FeedForwardDim}; expected at least 1 and less than 2^31 - 1");
        faults.Require(
            Residual || FeedForward == FeedForwardKind.None,
            $"residual is false and feed_forward is {FeedForward}; a plain stack has none");
        faults.Require(double.IsFinite(ForgetGateBias), $"forget_gate_bias is {ForgetGateBias}; expected a finite number");
        faults.Require(
            NormEpsilon >= 0 && double.IsFinite(NormEpsilon), $"norm_eps is {NormEpsilon}; expected a finite number of at least 0");
        faults.Throw();
    }

    private BigInteger FeedForwardWeights => FeedForward.Known() == FeedForwardKind.None
        ? 0
        : (IsGated ? 3 : 2) * (BigInteger)EmbeddingDim * Counts.Fitting(FeedForwardDim, "intermediate_size");
}
