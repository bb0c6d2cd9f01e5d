using System.Text.Json.Serialization;
using XlstmLab.Cells;

namespace XlstmLab.Models;

/// <summary>How a layer's projections are stored.</summary>
public enum WeightMode
{
    /// <summary>One matrix for each of q, k, v, o, the two gates and the two halves of the SwiGLU.</summary>
    Single,

    /// <summary>One matrix for q, k, v and o, one for both gates, one for the SwiGLU's input side.</summary>
    Fused,
}

/// <summary>The architecture of an xLSTM language model (Beck et al. 2025, section 3), as a record to vary by <c>with</c>.</summary>
/// <remarks>The JSON names are those of a Hugging Face <c>config.json</c>.</remarks>
public sealed record XlstmConfig
{
    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public int VocabularySize { get; init; } = 50304;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("embedding_dim")]
    public int EmbeddingDim { get; init; } = 4096;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_blocks")]
    public int BlockCount { get; init; } = 32;

    /// <summary>The number of heads of an mLSTM layer, NH.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 8;

    /// <summary>The width of all heads' queries as a share of d.</summary>
    [JsonPropertyName("qk_dim_factor")]
    public double QkDimFactor { get; init; } = 0.5;

    /// <summary>The width of all heads' values as a share of d.</summary>
    [JsonPropertyName("v_dim_factor")]
    public double VDimFactor { get; init; } = 1.0;

    /// <summary>The inner width of the SwiGLU as a multiple of d, before rounding up.</summary>
    [JsonPropertyName("ffn_proj_factor")]
    public double FeedForwardFactor { get; init; } = 2.667;

    /// <summary>The inner width of the SwiGLU is rounded up to a multiple of this.</summary>
    [JsonPropertyName("ffn_round_up_to_multiple_of")]
    public int FeedForwardRoundUpTo { get; init; } = 64;

    /// <summary>The soft cap a of both gates' pre-activations, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("gate_soft_cap")]
    public double? GateSoftCap { get; init; } = 15.0;

    /// <summary>The soft cap a of the logits, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("output_logit_soft_cap")]
    public double? OutputLogitSoftCap { get; init; } = 30.0;

    /// <summary>The epsilon of all norms, added to the mean square.</summary>
    [JsonPropertyName("norm_eps")]
    public double NormEpsilon { get; init; } = 1e-6;

    /// <summary>The epsilon of the mLSTM's denominator.</summary>
    [JsonPropertyName("eps")]
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>Whether projections and norms have biases; the gates always have.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>Whether a norm stands before the head.</summary>
    [JsonPropertyName("add_out_norm")]
    public bool AddOutNorm { get; init; } = true;

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public bool TieWordEmbeddings { get; init; }

    /// <summary>How projections are stored.</summary>
    [JsonPropertyName("weight_mode")]
    public WeightMode WeightMode { get; init; }

    /// <summary>The number of tokens the chunkwise form treats in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <summary>The input gate: exponential as in the 7B model, or sigmoid (mLSTMsig).</summary>
    [JsonPropertyName("input_gate")]
    public InputGate InputGate { get; init; }

    /// <summary>Whether the mLSTM divides by its normaliser.</summary>
    [JsonPropertyName("normalize")]
    public bool Normalize { get; init; } = true;

    /// <summary>The form the mLSTM is computed in.</summary>
    [JsonIgnore]
    public MLstmForm Form { get; init; } = MLstmForm.Chunkwise;

    /// <summary>How gradients treat the mLSTM's denominator.</summary>
    [JsonIgnore]
    public NormalizerGradient NormalizerGradient { get; init; }

    /// <summary>The width of one head's queries and keys, dqk.</summary>
    [JsonIgnore]
    public int QkHeadDim => QkDim / HeadCount;

    /// <summary>The width of one head's values, dhv.</summary>
    [JsonIgnore]
    public int VHeadDim => VDim / HeadCount;

    /// <summary>The width of all heads' queries, NH dqk.</summary>
    [JsonIgnore]
    public int QkDim => (int)(EmbeddingDim * QkDimFactor);

    /// <summary>The width of all heads' values, NH dhv.</summary>
    [JsonIgnore]
    public int VDim => (int)(EmbeddingDim * VDimFactor);

    /// <summary>The inner width of the SwiGLU, d_ff.</summary>
    [JsonIgnore]
    public int FeedForwardDim =>
        (int)((EmbeddingDim * FeedForwardFactor + FeedForwardRoundUpTo - 1) / FeedForwardRoundUpTo) * FeedForwardRoundUpTo;

    /// <summary>The cell's part of the configuration.</summary>
    [JsonIgnore]
    public MLstmOptions Cell => new()
    {
        InputGate = InputGate,
        Normalize = Normalize,
        Epsilon = Epsilon,
        Form = Form,
        ChunkSize = ChunkSize,
        NormalizerGradient = NormalizerGradient,
    };

    /// <summary>Checks that a model of these values can be built.</summary>
    /// <exception cref="ConfigException">It cannot; the message names every value that is wrong.</exception>
    public void Validate()
    {
        List<string> faults = [];
        void Require(bool holds, FormattableString fault)
        {
            if (!holds)
            {
                faults.Add(FormattableString.Invariant(fault));
            }
        }

        Require(VocabularySize >= 1, $"vocab_size is {VocabularySize}; expected at least 1");
        Require(EmbeddingDim >= 1, $"embedding_dim is {EmbeddingDim}; expected at least 1");
        Require(BlockCount >= 1, $"num_blocks is {BlockCount}; expected at least 1");
        Require(HeadCount >= 1, $"num_heads is {HeadCount}; expected at least 1");
        Require(ChunkSize >= 1, $"chunk_size is {ChunkSize}; expected at least 1");
        Require(FeedForwardRoundUpTo >= 1, $"ffn_round_up_to_multiple_of is {FeedForwardRoundUpTo}; expected at least 1");
        Require(NormEpsilon >= 0 && double.IsFinite(NormEpsilon), $"norm_eps is {NormEpsilon}; expected a finite number of at least 0");
        Require(Epsilon >= 0 && double.IsFinite(Epsilon), $"eps is {Epsilon}; expected a finite number of at least 0");
        Require(GateSoftCap is not { } gateCap || (gateCap > 0 && double.IsFinite(gateCap)), $"gate_soft_cap is {GateSoftCap}; expected a finite number above 0, or null");
        Require(OutputLogitSoftCap is not { } logitCap || (logitCap > 0 && double.IsFinite(logitCap)), $"output_logit_soft_cap is {OutputLogitSoftCap}; expected a finite number above 0, or null");
        Require(Enum.IsDefined(WeightMode), $"weight_mode is {(int)WeightMode}; expected single or fused");
        Require(Enum.IsDefined(InputGate), $"input_gate is {(int)InputGate}; expected exponential or sigmoid");

        // What is left speaks of products of the values above.
        if (EmbeddingDim >= 1 && HeadCount >= 1 && FeedForwardRoundUpTo >= 1)
        {
            RequireHeads("qk_dim_factor", QkDimFactor, QkDim);
            RequireHeads("v_dim_factor", VDimFactor, VDim);
            Require(FeedForwardFactor > 0 && EmbeddingDim * FeedForwardFactor + FeedForwardRoundUpTo < int.MaxValue && FeedForwardDim >= 1,
                $"ffn_proj_factor is {FeedForwardFactor}; expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width of 1 to 2^31");
        }

        if (faults.Count > 0)
        {
            throw new ConfigException(string.Join("; ", faults) + ".");
        }

        void RequireHeads(string name, double factor, int dim) =>
            Require(factor > 0 && EmbeddingDim * factor < int.MaxValue && dim >= HeadCount && dim % HeadCount == 0,
                $"{name} is {factor}, which with embedding_dim {EmbeddingDim} gives a width of {dim}; expected a multiple of num_heads {HeadCount}");
    }
}
