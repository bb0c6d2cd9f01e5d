using System.Text.Json;
using System.Text.Json.Serialization;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;

namespace XlstmLab.Models;

/// <summary>The architecture of an xLSTM language model, as a record to vary by <c>with</c>: as it is made, that of xLSTM 7B.</summary>
/// <remarks>
/// Sections named below are of <i>xLSTM 7B</i> (Beck et al. 2025), unless it says the first paper, <i>xLSTM</i> (Beck et al. 2024). The JSON
/// names are those of a Hugging Face <c>config.json</c>; what the 7B model does not have is written only where it is used.
/// </remarks>
public sealed record XlstmConfig : LanguageModelConfig
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string ModelType => "xlstm";

    /// <summary>The number of token ids, V.</summary>
    [JsonPropertyName("vocab_size")]
    public override int VocabularySize { get; init; } = 50304;

    /// <summary>The width of the residual stream, d.</summary>
    [JsonPropertyName("embedding_dim")]
    public override int EmbeddingDim { get; init; } = 4096;

    /// <summary>The number of blocks, L.</summary>
    [JsonPropertyName("num_blocks")]
    public override int BlockCount { get; init; } = 32;

    /// <summary>The number of heads of an mLSTM layer, NH.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 8;

    /// <summary>The width of all heads' queries as a share of d in post-up blocks; in pre-up ones it is the inner width.</summary>
    [JsonPropertyName("qk_dim_factor")]
    public double QkDimFactor { get; init; } = 0.5;

    /// <summary>The width of all heads' values as a share of d in post-up blocks; in pre-up ones it is the inner width.</summary>
    [JsonPropertyName("v_dim_factor")]
    public double VDimFactor { get; init; } = 1.0;

    /// <summary>The inner width of the feed-forward layer as a multiple of d, before rounding up.</summary>
    [JsonPropertyName("ffn_proj_factor")]
    public double FeedForwardFactor { get; init; } = 2.667;

    /// <summary>The inner width of the feed-forward layer is rounded up to a multiple of this.</summary>
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
    public override bool TieWordEmbeddings { get; init; }

    /// <summary>How projections are stored.</summary>
    [JsonPropertyName("weight_mode")]
    public WeightMode WeightMode { get; init; }

    /// <summary>The number of tokens the chunkwise form treats in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <summary>Where a block widens the stream (section 3.2, table 2).</summary>
    [JsonPropertyName("block_style")]
    public BlockStyle BlockStyle { get; init; }

    /// <summary>
    /// What mixes the tokens of each block: one mixer for all, a list that is repeated, or a ratio such as <c>[7:1]</c>; of <c>mlstm</c>,
    /// <c>slstm</c>, <c>attention</c>, <c>sliding_window</c>, <c>mlstm_window</c>, <c>gla</c>, <c>delta</c>, <c>gated_delta</c>, <c>mamba</c>,
    /// <c>mamba2</c>, <c>mamba3</c>, <c>lstm</c>, <c>gru</c> and your own. As it is made, the mLSTM that the properties below describe.
    /// </summary>
    [JsonIgnore] // under "mixers", which has several forms
    public MixerPattern Mixers { get; init; } = MixerPattern.MLstm;

    /// <summary>
    /// The blocks that mix by an sLSTM, the others do by an mLSTM: xLSTM[a:b] has a mLSTM blocks for b sLSTM blocks (first paper,
    /// section 2.4). It is a pattern of <see cref="Mixers"/>; setting it sets that.
    /// </summary>
    [JsonPropertyName("slstm_at")]
    public BlockList SLstmAt
    {
        get => Mixers.SLstmAt(BlockCount);
        init => Mixers = MixerPattern.WithSLstmAt(value);
    }

    /// <summary>The input gate: exponential (eq. 4), sigmoid (mLSTMsig), or none, which lets everything in.</summary>
    [JsonPropertyName("input_gate")]
    public InputGate InputGate { get; init; }

    /// <summary>
    /// The forget gate: sigmoid, exponential (first paper, eq. 26), or none, which forgets nothing. It goes with every input gate: where either
    /// is exponential, a running maximum keeps the memory finite.
    /// </summary>
    [JsonPropertyName("forget_gate")]
    public ForgetGate ForgetGate { get; init; }

    /// <summary>Whether a learned gate of each channel stands behind the head norm (eq. 9); pre-up blocks have SiLU(z) in its place.</summary>
    [JsonPropertyName("output_gate")]
    public bool OutputGate { get; init; } = true;

    /// <summary>What the input gate's pre-activation is made of (figure 13: fixed at 0 or -10).</summary>
    [JsonPropertyName("igate_preactivation")]
    public GatePreactivation InputGatePreactivation { get; init; }

    /// <summary>What the forget gate's pre-activation is made of (first paper, table 2).</summary>
    [JsonPropertyName("fgate_preactivation")]
    public GatePreactivation ForgetGatePreactivation { get; init; }

    /// <summary>What the gates look at; null for the block style's own: x in post-up blocks, q k v in pre-up ones.</summary>
    [JsonPropertyName("gate_source")]
    public GateSource? GateSource { get; init; }

    /// <summary>The input gate's bias at the start (figure 11), or for ever if the gate is fixed.</summary>
    [JsonPropertyName("igate_bias_init")]
    public double InputGateBias { get; init; } = -10;

    /// <summary>The standard deviation of the input gate's bias around its start; the first paper's code has 0.1 around 0.</summary>
    [JsonPropertyName("igate_bias_init_std")]
    public double InputGateBiasStd { get; init; }

    /// <summary>The first head's forget-gate bias at the start; the others' lie evenly up to the last head's.</summary>
    [JsonPropertyName("fgate_bias_init_first")]
    public double ForgetGateBiasFirst { get; init; } = 3;

    /// <summary>The last head's forget-gate bias at the start.</summary>
    [JsonPropertyName("fgate_bias_init_last")]
    public double ForgetGateBiasLast { get; init; } = 6;

    /// <summary>Whether the mLSTM divides by its normaliser; without it, exponential gates need a norm within each head.</summary>
    [JsonPropertyName("normalize")]
    public bool Normalize { get; init; } = true;

    /// <summary>Whether q and k of each head go through an RMSNorm with a learned scale; gates that look at q and k see them behind it.</summary>
    [JsonPropertyName("qk_norm")]
    public bool QkNorm { get; init; }

    /// <summary>The norm of what a mixer or feed-forward layer reads of the stream (figure 9); the one before the head is the same.</summary>
    [JsonPropertyName("pre_norm")]
    public NormKind PreNorm { get; init; }

    /// <summary>The norm of what a mixer or feed-forward layer writes into the stream: with a pre-norm, the sandwich.</summary>
    [JsonPropertyName("post_norm")]
    public NormKind PostNorm { get; init; } = NormKind.None;

    /// <summary>The norm of the mLSTM's h (figure 9).</summary>
    [JsonPropertyName("head_norm")]
    public HeadNormKind HeadNorm { get; init; }

    /// <summary>The number of groups of <see cref="HeadNormKind.Group"/>; null for one a head.</summary>
    [JsonPropertyName("head_norm_groups")]
    public int? HeadNormGroups { get; init; }

    /// <summary>The head norm's epsilon, a threshold between outputs that pass and that are suppressed; null for that of all norms.</summary>
    [JsonPropertyName("head_norm_eps")]
    public double? HeadNormEpsilon { get; init; }

    /// <summary>The feed-forward layer of post-up blocks.</summary>
    [JsonPropertyName("feed_forward")]
    public FeedForwardKind FeedForward { get; init; }

    /// <summary>
    /// The taps of the causal convolution before q and k (and an sLSTM's i and f); 0 for none; null for the block style's own: none in
    /// post-up blocks, 4 in pre-up ones (first paper, table 8).
    /// </summary>
    [JsonPropertyName("conv1d_kernel_size")]
    public int? ConvKernelSize { get; init; }

    /// <summary>The taps of an sLSTM's convolution; null for those of <see cref="ConvKernelSize"/> (first paper, formal languages: 0).</summary>
    [JsonPropertyName("slstm_conv1d_kernel_size")]
    public int? SLstmConvKernelSize { get; init; }

    /// <summary>The inner width of a pre-up mLSTM block as a multiple of d, before rounding up to a multiple of 64.</summary>
    [JsonPropertyName("proj_factor")]
    public double UpFactor { get; init; } = 2;

    /// <summary>The size of the blocks on the diagonal of a pre-up block's q, k and v projections.</summary>
    [JsonPropertyName("qkv_proj_blocksize")]
    public int QkvBlockSize { get; init; } = 4;

    /// <summary>Whether a pre-up block adds its convolution's output, scaled by a learned channel weight, to h.</summary>
    [JsonPropertyName("learnable_skip")]
    public bool LearnableSkip { get; init; } = true;

    /// <summary>The number of heads of an sLSTM layer; null for that of the mLSTM.</summary>
    [JsonPropertyName("slstm_num_heads")]
    public int? SLstmHeadCount { get; init; }

    /// <summary>The forget gate of an sLSTM: sigmoid or exponential (first paper, eq. 14).</summary>
    [JsonPropertyName("slstm_forget_gate")]
    public ForgetGate SLstmForgetGate { get; init; }

    /// <summary>What the sLSTM's recurrent weights R start as.</summary>
    [JsonPropertyName("slstm_recurrent_init")]
    public RecurrentInit SLstmRecurrentInit { get; init; }

    /// <summary>What the sLSTM's forget-gate biases start as.</summary>
    [JsonPropertyName("slstm_forget_bias_init")]
    public SLstmForgetBias SLstmForgetBias { get; init; }

    /// <summary>The largest absolute value of the gradient that goes through R from a token to the one before; null for no clip. The first paper has 10.</summary>
    [JsonPropertyName("slstm_gradient_clip")]
    public double? SLstmGradientClip { get; init; }

    /// <summary>The feed-forward layer behind an sLSTM in the pre-up style (first paper: GeGLU); post-up blocks have <see cref="FeedForward"/>.</summary>
    [JsonPropertyName("slstm_feed_forward")]
    public FeedForwardKind SLstmFeedForward { get; init; } = FeedForwardKind.GeGlu;

    /// <summary>The inner width of that layer as a multiple of d, before rounding up (first paper: 4/3; its code: 1.3).</summary>
    [JsonPropertyName("slstm_ffn_proj_factor")]
    public double SLstmFeedForwardFactor { get; init; } = 1.3;

    /// <summary>How embedding, head (the embedding itself where they are tied) and all projections that read the stream are drawn.</summary>
    [JsonPropertyName("input_init")]
    public WeightInit InputInit { get; init; } = WeightInit.Small;

    /// <summary>How the projections that write into the stream are drawn.</summary>
    [JsonPropertyName("output_init")]
    public WeightInit OutputInit { get; init; } = WeightInit.Wang;

    /// <summary>The standard deviation of <see cref="WeightInit.Normal"/>.</summary>
    [JsonPropertyName("init_std")]
    public double InitStd { get; init; } = 0.02;

    /// <summary>The share of what each layer writes into the stream, behind its post-norm, that is dropped in training mode.</summary>
    [JsonPropertyName("dropout")]
    public double Dropout { get; init; }

    /// <summary>The form the mLSTM is computed in.</summary>
    [JsonPropertyName("mlstm_form")]
    public MLstmForm Form { get; init; } = MLstmForm.Chunkwise;

    /// <summary>How gradients treat the mLSTM's denominator.</summary>
    [JsonPropertyName("normalizer_gradient")]
    public NormalizerGradient NormalizerGradient { get; init; }

    /// <summary>The width of one head's queries and keys, dqk.</summary>
    [JsonIgnore]
    public int QkHeadDim => QkDim / HeadCount;

    /// <summary>The width of one head's values, dhv.</summary>
    [JsonIgnore]
    public int VHeadDim => VDim / HeadCount;

    /// <summary>The width of all heads' queries, NH dqk.</summary>
    [JsonIgnore]
    public int QkDim => BlockStyle.Known() == BlockStyle.PreUp ? InnerDim : (int)(EmbeddingDim * QkDimFactor);

    /// <summary>The width of all heads' values, NH dhv.</summary>
    [JsonIgnore]
    public int VDim => BlockStyle.Known() == BlockStyle.PreUp ? InnerDim : (int)(EmbeddingDim * VDimFactor);

    /// <summary>The inner width of a pre-up mLSTM block.</summary>
    [JsonIgnore]
    public int InnerDim => RoundUp(EmbeddingDim * UpFactor);

    /// <summary>The taps of the mLSTM's convolution, 0 for none.</summary>
    [JsonIgnore]
    public int ConvTaps => ConvKernelSize ?? (BlockStyle.Known() == BlockStyle.PreUp ? 4 : 0);

    /// <summary>The taps of the sLSTM's convolution, 0 for none.</summary>
    [JsonIgnore]
    public int SLstmConvTaps => SLstmConvKernelSize ?? ConvTaps;

    /// <summary>The number of heads of an sLSTM layer.</summary>
    [JsonIgnore]
    public int SLstmHeads => SLstmHeadCount ?? HeadCount;

    /// <summary>The inner width of the feed-forward layer behind an sLSTM in the pre-up style.</summary>
    [JsonIgnore]
    public int SLstmFeedForwardDim => RoundUp(EmbeddingDim * SLstmFeedForwardFactor);

    /// <summary>The inner width of the feed-forward layer, d_ff.</summary>
    [JsonIgnore]
    public int FeedForwardDim => Layers.FeedForward.InnerDim(EmbeddingDim, FeedForwardFactor, FeedForwardRoundUpTo);

    /// <summary>The standard deviation that embedding, head and what reads the stream are drawn with.</summary>
    [JsonIgnore]
    public double InputStd => WeightInits.StandardDeviation(InputInit, EmbeddingDim, BlockCount, InitStd);

    /// <summary>The standard deviation that what writes into the stream is drawn with.</summary>
    [JsonIgnore]
    public double OutputStd => WeightInits.StandardDeviation(OutputInit, EmbeddingDim, BlockCount, InitStd);

    /// <summary>The mLSTM that the configuration describes.</summary>
    [JsonIgnore]
    public MLstmMixerConfig MLstm => new()
    {
        HeadCount = HeadCount,
        QkDimFactor = QkDimFactor,
        VDimFactor = VDimFactor,
        Headwise = BlockStyle.Known() == BlockStyle.PreUp,
        QkvBlockSize = QkvBlockSize,
        WeightMode = WeightMode,
        UseBias = UseBias,
        GateSoftCap = GateSoftCap,
        InputGate = InputGate,
        ForgetGate = ForgetGate,
        OutputGate = OutputGate,
        InputGatePreactivation = InputGatePreactivation,
        ForgetGatePreactivation = ForgetGatePreactivation,
        GateSource = GateSource,
        InputGateBias = InputGateBias,
        InputGateBiasStd = InputGateBiasStd,
        ForgetGateBiasFirst = ForgetGateBiasFirst,
        ForgetGateBiasLast = ForgetGateBiasLast,
        QkNorm = QkNorm,
        NormEpsilon = NormEpsilon,
        HeadNorm = HeadNorm,
        HeadNormGroups = HeadNormGroups,
        HeadNormEpsilon = HeadNormEpsilon,
        Normalize = Normalize,
        Epsilon = Epsilon,
        Form = Form,
        ChunkSize = ChunkSize,
        NormalizerGradient = NormalizerGradient,
    };

    /// <summary>The sLSTM that the configuration describes.</summary>
    [JsonIgnore]
    public SLstmMixerConfig SLstm => new()
    {
        HeadCount = SLstmHeads,
        Headwise = BlockStyle.Known() == BlockStyle.PreUp,
        UseBias = UseBias,
        ForgetGate = SLstmForgetGate,
        RecurrentInit = SLstmRecurrentInit,
        ForgetBias = SLstmForgetBias,
        ForgetGateBiasFirst = ForgetGateBiasFirst,
        ForgetGateBiasLast = ForgetGateBiasLast,
        GradientClip = SLstmGradientClip,
        HeadNorm = HeadNorm,
        HeadNormGroups = HeadNormGroups,
        HeadNormEpsilon = HeadNormEpsilon ?? NormEpsilon,
    };

    /// <summary>The mLSTM cell's part of the configuration.</summary>
    [JsonIgnore]
    public MLstmOptions Cell => MLstm.Cell;

    /// <summary>The sLSTM cell's part of the configuration.</summary>
    [JsonIgnore]
    public SLstmOptions SLstmCell => SLstm.Cell;

    /// <summary>What mixes the tokens of a block.</summary>
    /// <param name="block">The block, from 0.</param>
    public MixerConfig MixerAt(int block) => Mixers.At(block) switch
    {
        OwnMixer { Name: "slstm" } => SLstm,
        OwnMixer => MLstm,
        var other => other,
    };

    /// <summary>The place of a block's mixer.</summary>
    internal MixerSite Site(MixerConfig mixer, int block) => new(WidthOf(mixer), block, BlockCount)
    {
        StreamWidth = EmbeddingDim,
        HeadCount = HeadCount,
        NormEpsilon = NormEpsilon,
    };

    /// <summary>The width that a mixer works in: within a pre-up block's up-projection, but for an sLSTM, which has none (first paper, figure 10).</summary>
    internal int WidthOf(MixerConfig mixer) => BlockStyle.Known() == BlockStyle.PreUp && mixer is not SLstmMixerConfig ? InnerDim : EmbeddingDim;

    /// <summary>The taps of the convolution before a mixer, 0 for none.</summary>
    internal int TapsBefore(MixerConfig mixer) => mixer is SLstmMixerConfig ? SLstmConvTaps : ConvTaps;

    /// <inheritdoc/>
    public override XlstmLanguageModel CreateModel(int seed = 0) => new(this, seed);

    /// <inheritdoc/>
    public override long CountParameters() => XlstmAccounting.ParameterCount(this);

    /// <inheritdoc/>
    public override double ForwardFlopsPerToken(long length) => XlstmAccounting.ForwardFlopsPerToken(this, length);

    /// <inheritdoc/>
    public override long StateBytes(long length) => XlstmAccounting.StateBytes(this, length);

    /// <summary>The first paper's rounding: up to a multiple of 64.</summary>
    private static int RoundUp(double width) => Counts.Width(Math.Ceiling(width / 64) * 64);

    /// <inheritdoc/>
    public override void Validate()
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
        RequireKnown("weight_mode", WeightMode);
        RequireKnown("block_style", BlockStyle);
        if (!Enum.IsDefined(BlockStyle))
        {
            ThrowFaults(); // widths, which the rest speaks of, depend on it
        }

        RequireKnown("input_gate", InputGate);
        RequireKnown("forget_gate", ForgetGate);
        RequireKnown("igate_preactivation", InputGatePreactivation);
        RequireKnown("fgate_preactivation", ForgetGatePreactivation);
        RequireKnown("gate_source", GateSource ?? XlstmLab.Mixers.GateSource.Input);
        RequireKnown("pre_norm", PreNorm);
        RequireKnown("post_norm", PostNorm);
        RequireKnown("head_norm", HeadNorm);
        RequireKnown("feed_forward", FeedForward);
        RequireKnown("input_init", InputInit);
        RequireKnown("output_init", OutputInit);
        RequireKnown("slstm_recurrent_init", SLstmRecurrentInit);
        RequireKnown("slstm_forget_bias_init", SLstmForgetBias);
        RequireKnown("slstm_feed_forward", SLstmFeedForward);
        RequireKnown("mlstm_form", Form);
        RequireKnown("normalizer_gradient", NormalizerGradient);
        Require(double.IsFinite(InputGateBias), $"igate_bias_init is {InputGateBias}; expected a finite number");
        Require(InputGateBiasStd >= 0 && double.IsFinite(InputGateBiasStd), $"igate_bias_init_std is {InputGateBiasStd}; expected a finite number of at least 0");
        Require(double.IsFinite(ForgetGateBiasFirst), $"fgate_bias_init_first is {ForgetGateBiasFirst}; expected a finite number");
        Require(double.IsFinite(ForgetGateBiasLast), $"fgate_bias_init_last is {ForgetGateBiasLast}; expected a finite number");
        Require(HeadNormEpsilon is not { } headEpsilon || (headEpsilon >= 0 && double.IsFinite(headEpsilon)), $"head_norm_eps is {HeadNormEpsilon}; expected a finite number of at least 0, or null for norm_eps");
        Require(InitStd >= 0 && double.IsFinite(InitStd), $"init_std is {InitStd}; expected a finite number of at least 0");
        Require(Dropout is >= 0 and < 1, $"dropout is {Dropout}; expected a share from 0 to below 1");

        // An axis that would silently change nothing is a mistake too.
        Require(WeightMode != WeightMode.Fused || BlockStyle != BlockStyle.PreUp,
            $"weight_mode is fused and block_style is pre_up; expected single, because a pre-up block's q and k read the convolution and v does not, which leaves nothing to fuse");
        Require(InputGate != InputGate.None || InputGatePreactivation == GatePreactivation.Learned,
            $"igate_preactivation is given and input_gate is none; expected an input gate, or no igate_preactivation");
        Require(ForgetGate != ForgetGate.None || ForgetGatePreactivation == GatePreactivation.Learned,
            $"fgate_preactivation is given and forget_gate is none; expected a forget gate, or no fgate_preactivation");
        Require(GateSource != XlstmLab.Mixers.GateSource.Qkv
                || (InputGate != InputGate.None && InputGatePreactivation == GatePreactivation.Learned)
                || (ForgetGate != ForgetGate.None && ForgetGatePreactivation == GatePreactivation.Learned),
            $"gate_source is qkv and no gate has weights that would look at q, k and v; expected a gate with a learned pre-activation, or no gate_source");
        Require(HeadNormGroups is null || HeadNorm == HeadNormKind.Group,
            $"head_norm_groups is {HeadNormGroups} and head_norm is not group; expected null, because a norm within each head has one group a head");

        var given = Mixers.GivenSLstmAt;
        Require(given.All(block => block >= 0 && block < BlockCount) && given.Distinct().Count() == given.Count,
            $"slstm_at is {given}; expected different blocks from 0 to {BlockCount - 1}");
        Require(BlockCount % Mixers.Count == 0,
            $"mixers has {Mixers.Count} mixers ({Mixers}), which are repeated over the blocks; expected a divisor of num_blocks {BlockCount}");
        var hasSLstm = given.Count > 0 || Mixers.Contains(OwnMixer.SLstm);
        var hasMLstm = given.Count > 0 ? given.Count < BlockCount : Mixers.Contains(OwnMixer.MLstm);
        Require(ConvKernelSize is null or >= 0, $"conv1d_kernel_size is {ConvKernelSize}; expected at least 0, or null");
        Require(SLstmConvKernelSize is null or >= 0, $"slstm_conv1d_kernel_size is {SLstmConvKernelSize}; expected at least 0, or null");
        Require(QkvBlockSize >= 1, $"qkv_proj_blocksize is {QkvBlockSize}; expected at least 1");
        Require(SLstmHeads >= 1 && EmbeddingDim % Math.Max(1, SLstmHeads) == 0 || !hasSLstm,
            $"slstm_num_heads is {SLstmHeads}; expected a divisor of embedding_dim {EmbeddingDim}");
        Require(SLstmForgetGate is ForgetGate.Sigmoid or ForgetGate.Exponential, $"slstm_forget_gate is {SLstmForgetGate}; expected sigmoid or exponential");
        Require(SLstmGradientClip is not { } clip || clip > 0, $"slstm_gradient_clip is {SLstmGradientClip}; expected a number above 0, or null");
        Require(BlockStyle == BlockStyle.PostUp || (UpFactor > 0 && EmbeddingDim * UpFactor < int.MaxValue / 4),
            $"proj_factor is {UpFactor}; expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width below 2^29");
        Require(BlockStyle == BlockStyle.PostUp || (SLstmFeedForwardFactor > 0 && EmbeddingDim * SLstmFeedForwardFactor < int.MaxValue / 4),
            $"slstm_ffn_proj_factor is {SLstmFeedForwardFactor}; expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width below 2^29");

        Require(ConvTaps == 0 || WeightMode == WeightMode.Single || !hasMLstm || BlockStyle == BlockStyle.PreUp,
            $"conv1d_kernel_size is {ConvTaps} with weight_mode fused; expected 0, since q and k then look at something else than v, or single");
        Require(hasSLstm || (SLstmHeadCount is null && SLstmConvKernelSize is null && SLstmGradientClip is null),
            $"slstm_num_heads, slstm_conv1d_kernel_size or slstm_gradient_clip is given and slstm_at is empty; expected a block with an sLSTM, or none of them");
        Require(!hasSLstm || EmbeddingDim / Math.Max(1, SLstmHeads) > 1 || HeadNorm is HeadNormKind.Rms or HeadNormKind.None,
            $"slstm_num_heads is {SLstmHeads}, which leaves one unit a head, of which head_norm makes 0; expected fewer heads, or head_norm rms or none");
        Require(!hasSLstm || HeadNorm != HeadNormKind.Group || HeadNormGroups is not { } groups || (groups >= 1 && EmbeddingDim % groups == 0),
            $"head_norm_groups is {HeadNormGroups}; expected a divisor of embedding_dim {EmbeddingDim}, which the sLSTM's output has");

        // What is left speaks of products of the values above.
        if (EmbeddingDim >= 1 && HeadCount >= 1 && FeedForwardRoundUpTo >= 1)
        {
            if (BlockStyle == BlockStyle.PreUp)
            {
                Require(!Mixers.IsOwn && !hasMLstm || (InnerDim >= HeadCount && InnerDim % HeadCount == 0),
                    $"proj_factor is {UpFactor}, which with embedding_dim {EmbeddingDim} gives an inner width of {InnerDim}; expected a multiple of num_heads {HeadCount}");
                Require(!Mixers.IsOwn && !hasMLstm || QkvBlockSize < 1 || InnerDim % QkvBlockSize == 0,
                    $"qkv_proj_blocksize is {QkvBlockSize}; expected a divisor of the inner width {InnerDim}");
            }
            else if (Mixers.IsOwn || hasMLstm)
            {
                RequireHeads("qk_dim_factor", QkDimFactor, QkDim);
                RequireHeads("v_dim_factor", VDimFactor, VDim);
            }

            if (faults.Count == 0 && (Mixers.IsOwn || hasMLstm))
            {
                RequireHeadNorms();
            }

            for (var at = 0; faults.Count == 0 && at < Mixers.Count; at++)
            {
                RequireMixer(at);
            }

            Require(FeedForwardFactor > 0 && EmbeddingDim * FeedForwardFactor + FeedForwardRoundUpTo < int.MaxValue && FeedForwardDim >= 1,
                $"ffn_proj_factor is {FeedForwardFactor}; expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width of 1 to 2^31");
        }

        ThrowFaults();

        void ThrowFaults()
        {
            if (faults.Count > 0)
            {
                throw new ConfigException(string.Join("; ", faults) + ".");
            }
        }

        void RequireKnown<T>(string name, T value)
            where T : struct, Enum =>
            Require(Enum.IsDefined(value), $"{name} is {value:D}; expected one of {string.Join(", ", Enum.GetNames<T>().Select(JsonNamingPolicy.SnakeCaseLower.ConvertName))}");

        void RequireHeadNorms()
        {
            var groups = HeadNormGroups ?? HeadCount;
            Require(groups >= 1 && VDim % groups == 0, $"head_norm_groups is {groups}; expected a divisor of the {VDim} channels of all heads");
            var widest = HeadNorm == HeadNormKind.Group ? VDim / Math.Max(groups, 1) : VHeadDim;
            Require(HeadNorm is not (HeadNormKind.Layer or HeadNormKind.Group) || widest > 1,
                $"head_norm normalises a single channel at a time, which makes 0 of everything; expected wider heads or fewer groups, or head_norm rms or none");
            Require(Normalize || !Cell.Stabilizes || (HeadNorm != HeadNormKind.None && groups % HeadCount == 0),
                $"normalize is false with an exponential gate: h then counts in units of exp(m), which changes from token to token and only a norm within each head takes out; expected a head_norm with a multiple of num_heads {HeadCount} groups, or sigmoid gates");
            Require(!QkNorm || QkHeadDim > 1, $"qk_norm is true with one channel a head, of which it leaves the sign alone; expected a greater qk_dim_factor");
        }

        void RequireMixer(int at)
        {
            if (Mixers[at] is OwnMixer)
            {
                return; // checked above
            }

            try
            {
                Mixers[at].Validate(Site(Mixers[at], at));
            }
            catch (ConfigException e)
            {
                faults.Add(FormattableString.Invariant($"mixers[{at}], {Mixers[at].Kind}: {e.Message.TrimEnd('.')}"));
            }
        }

        void RequireHeads(string name, double factor, int dim) =>
            Require(factor > 0 && EmbeddingDim * factor < int.MaxValue && dim >= HeadCount && dim % HeadCount == 0,
                $"{name} is {factor}, which with embedding_dim {EmbeddingDim} gives a width of {dim}; expected a multiple of num_heads {HeadCount}");
    }
}
