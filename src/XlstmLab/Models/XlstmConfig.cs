using System.Text.Json.Serialization;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Operations;

namespace XlstmLab.Models;

/// <summary>The architecture of an xLSTM language model, as a record to vary by <c>with</c>: as it is made, that of xLSTM 7B.</summary>
/// <remarks>
/// Sections named below are of <i>xLSTM 7B</i> (Beck et al. 2025), unless it says the first paper, <i>xLSTM</i> (Beck et al. 2024). The
/// JSON names are those of a Hugging Face <c>config.json</c>; what the 7B model does not have is written only where it is used.
/// </remarks>
public sealed record XlstmConfig : LanguageModelConfig
{
    // What a mixer has by itself is its record's: its properties here read and write it.
    private readonly MLstmMixerConfig _mlstm = new();
    private readonly SLstmMixerConfig _slstm = new();

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
    public int HeadCount { get => _mlstm.HeadCount; init => _mlstm = _mlstm with { HeadCount = value }; }

    /// <summary>The width of all heads' queries as a share of d in post-up blocks; in pre-up ones it is the inner width.</summary>
    [JsonPropertyName("qk_dim_factor")]
    public double QkDimFactor { get => _mlstm.QkDimFactor; init => _mlstm = _mlstm with { QkDimFactor = value }; }

    /// <summary>The width of all heads' values as a share of d in post-up blocks; in pre-up ones it is the inner width.</summary>
    [JsonPropertyName("v_dim_factor")]
    public double VDimFactor { get => _mlstm.VDimFactor; init => _mlstm = _mlstm with { VDimFactor = value }; }

    /// <summary>The inner width of the feed-forward layer as a multiple of d, before rounding up.</summary>
    [JsonPropertyName("ffn_proj_factor")]
    public double FeedForwardFactor { get; init; } = 2.667;

    /// <summary>The inner width of the feed-forward layer is rounded up to a multiple of this.</summary>
    [JsonPropertyName("ffn_round_up_to_multiple_of")]
    public int FeedForwardRoundUpTo { get; init; } = 64;

    /// <summary>The soft cap a of both gates' pre-activations, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("gate_soft_cap")]
    public double? GateSoftCap { get => _mlstm.GateSoftCap; init => _mlstm = _mlstm with { GateSoftCap = value }; }

    /// <summary>The soft cap a of the logits, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("output_logit_soft_cap")]
    public double? OutputLogitSoftCap { get; init; } = 30.0;

    /// <summary>The epsilon of all norms, added to the mean square.</summary>
    [JsonPropertyName("norm_eps")]
    public double NormEpsilon { get => _mlstm.NormEpsilon; init => _mlstm = _mlstm with { NormEpsilon = value }; }

    /// <summary>The epsilon of the mLSTM's denominator.</summary>
    [JsonPropertyName("eps")]
    public double Epsilon { get => _mlstm.Epsilon; init => _mlstm = _mlstm with { Epsilon = value }; }

    /// <summary>Whether projections and norms have biases; the gates always have.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get => _mlstm.UseBias; init => _mlstm = _mlstm with { UseBias = value }; }

    /// <summary>Whether a norm stands before the head.</summary>
    [JsonPropertyName("add_out_norm")]
    public bool AddOutNorm { get; init; } = true;

    /// <summary>Whether the head uses the embedding's matrix.</summary>
    [JsonPropertyName("tie_word_embeddings")]
    public override bool TieWordEmbeddings { get; init; }

    /// <summary>How projections are stored.</summary>
    [JsonPropertyName("weight_mode")]
    public WeightMode WeightMode { get => _mlstm.WeightMode; init => _mlstm = _mlstm with { WeightMode = value }; }

    /// <summary>The number of tokens the chunkwise form treats in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get => _mlstm.ChunkSize; init => _mlstm = _mlstm with { ChunkSize = value }; }

    /// <summary>Where a block widens the stream (section 3.2, table 2).</summary>
    [JsonPropertyName("block_style")]
    public BlockStyle BlockStyle { get; init; }

    /// <summary>
    /// What mixes the tokens of each block: one mixer for all, a list that is repeated, or a ratio such as <c>[7:1]</c>; of <c>mlstm</c>,
    /// <c>slstm</c>, <c>attention</c>, <c>sliding_window</c>, <c>mlstm_window</c>, <c>gla</c>, <c>delta</c>, <c>gated_delta</c>,
    /// <c>mamba</c>, <c>mamba2</c>, <c>mamba3</c>, <c>lstm</c>, <c>gru</c> and your own. As it is made, the mLSTM that the properties below
    /// describe.
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
    public InputGate InputGate { get => _mlstm.InputGate; init => _mlstm = _mlstm with { InputGate = value }; }

    /// <summary>
    /// The forget gate: sigmoid, exponential (first paper, eq. 26), or none, which forgets nothing. It goes with every input gate: where
    /// either is exponential, a running maximum keeps the memory finite.
    /// </summary>
    [JsonPropertyName("forget_gate")]
    public ForgetGate ForgetGate { get => _mlstm.ForgetGate; init => _mlstm = _mlstm with { ForgetGate = value }; }

    /// <summary>
    /// Whether a learned gate of each channel stands behind the head norm (eq. 9); pre-up blocks have SiLU(z) in its place.
    /// </summary>
    [JsonPropertyName("output_gate")]
    public bool OutputGate { get => _mlstm.OutputGate; init => _mlstm = _mlstm with { OutputGate = value }; }

    /// <summary>What the input gate's pre-activation is made of (figure 13: fixed at 0 or -10).</summary>
    [JsonPropertyName("igate_preactivation")]
    public GatePreactivation InputGatePreactivation
    {
        get => _mlstm.InputGatePreactivation;
        init => _mlstm = _mlstm with { InputGatePreactivation = value };
    }

    /// <summary>What the forget gate's pre-activation is made of (first paper, table 2).</summary>
    [JsonPropertyName("fgate_preactivation")]
    public GatePreactivation ForgetGatePreactivation
    {
        get => _mlstm.ForgetGatePreactivation;
        init => _mlstm = _mlstm with { ForgetGatePreactivation = value };
    }

    /// <summary>What the gates look at; null for the block style's own: x in post-up blocks, q k v in pre-up ones.</summary>
    [JsonPropertyName("gate_source")]
    public GateSource? GateSource { get => _mlstm.GateSource; init => _mlstm = _mlstm with { GateSource = value }; }

    /// <summary>The input gate's bias at the start (figure 11), or for ever if the gate is fixed.</summary>
    [JsonPropertyName("igate_bias_init")]
    public double InputGateBias { get => _mlstm.InputGateBias; init => _mlstm = _mlstm with { InputGateBias = value }; }

    /// <summary>The standard deviation of the input gate's bias around its start; the first paper's code has 0.1 around 0.</summary>
    [JsonPropertyName("igate_bias_init_std")]
    public double InputGateBiasStd { get => _mlstm.InputGateBiasStd; init => _mlstm = _mlstm with { InputGateBiasStd = value }; }

    /// <summary>The first head's forget-gate bias at the start; the others' lie evenly up to the last head's.</summary>
    [JsonPropertyName("fgate_bias_init_first")]
    public double ForgetGateBiasFirst { get => _mlstm.ForgetGateBiasFirst; init => _mlstm = _mlstm with { ForgetGateBiasFirst = value }; }

    /// <summary>The last head's forget-gate bias at the start.</summary>
    [JsonPropertyName("fgate_bias_init_last")]
    public double ForgetGateBiasLast { get => _mlstm.ForgetGateBiasLast; init => _mlstm = _mlstm with { ForgetGateBiasLast = value }; }

    /// <summary>Whether the mLSTM divides by its normaliser; without it, exponential gates need a norm within each head.</summary>
    [JsonPropertyName("normalize")]
    public bool Normalize { get => _mlstm.Normalize; init => _mlstm = _mlstm with { Normalize = value }; }

    /// <summary>
    /// Whether q and k of each head go through an RMSNorm with a learned scale; gates that look at q and k see them behind it.
    /// </summary>
    [JsonPropertyName("qk_norm")]
    public bool QkNorm { get => _mlstm.QkNorm; init => _mlstm = _mlstm with { QkNorm = value }; }

    /// <summary>
    /// The norm of what a mixer or feed-forward layer reads of the stream (figure 9); the one before the head is the same.
    /// </summary>
    [JsonPropertyName("pre_norm")]
    public NormKind PreNorm { get; init; }

    /// <summary>The norm of what a mixer or feed-forward layer writes into the stream: with a pre-norm, the sandwich.</summary>
    [JsonPropertyName("post_norm")]
    public NormKind PostNorm { get; init; } = NormKind.None;

    /// <summary>The norm of the mLSTM's h (figure 9).</summary>
    [JsonPropertyName("head_norm")]
    public HeadNormKind HeadNorm { get => _mlstm.HeadNorm; init => _mlstm = _mlstm with { HeadNorm = value }; }

    /// <summary>The number of groups of <see cref="HeadNormKind.Group"/>; null for one a head.</summary>
    [JsonPropertyName("head_norm_groups")]
    public int? HeadNormGroups { get => _mlstm.HeadNormGroups; init => _mlstm = _mlstm with { HeadNormGroups = value }; }

    /// <summary>
    /// The head norm's epsilon, a threshold between outputs that pass and that are suppressed; null for that of all norms.
    /// </summary>
    [JsonPropertyName("head_norm_eps")]
    public double? HeadNormEpsilon { get => _mlstm.HeadNormEpsilon; init => _mlstm = _mlstm with { HeadNormEpsilon = value }; }

    /// <summary>The feed-forward layer of post-up blocks.</summary>
    [JsonPropertyName("feed_forward")]
    public FeedForwardKind FeedForward { get; init; }

    /// <summary>
    /// The taps of the causal convolution before q and k (and an sLSTM's i and f); 0 for none; null for the block style's own: none in
    /// post-up blocks, 4 in pre-up ones (first paper, table 8).
    /// </summary>
    [JsonPropertyName("conv1d_kernel_size")]
    public int? ConvKernelSize { get; init; }

    /// <summary>
    /// The taps of an sLSTM's convolution; null for those of <see cref="ConvKernelSize"/> (first paper, formal languages: 0).
    /// </summary>
    [JsonPropertyName("slstm_conv1d_kernel_size")]
    public int? SLstmConvKernelSize { get; init; }

    /// <summary>The inner width of a pre-up mLSTM block as a multiple of d, before rounding up to a multiple of 64.</summary>
    [JsonPropertyName("proj_factor")]
    public double UpFactor { get; init; } = 2;

    /// <summary>The size of the blocks on the diagonal of a pre-up block's q, k and v projections.</summary>
    [JsonPropertyName("qkv_proj_blocksize")]
    public int QkvBlockSize { get => _mlstm.QkvBlockSize; init => _mlstm = _mlstm with { QkvBlockSize = value }; }

    /// <summary>Whether a pre-up block adds its convolution's output, scaled by a learned channel weight, to h.</summary>
    [JsonPropertyName("learnable_skip")]
    public bool LearnableSkip { get; init; } = true;

    /// <summary>The number of heads of an sLSTM layer; null for that of the mLSTM.</summary>
    [JsonPropertyName("slstm_num_heads")]
    public int? SLstmHeadCount { get; init; }

    /// <summary>The forget gate of an sLSTM: sigmoid or exponential (first paper, eq. 14).</summary>
    [JsonPropertyName("slstm_forget_gate")]
    public ForgetGate SLstmForgetGate { get => _slstm.ForgetGate; init => _slstm = _slstm with { ForgetGate = value }; }

    /// <summary>What the sLSTM's recurrent weights R start as.</summary>
    [JsonPropertyName("slstm_recurrent_init")]
    public RecurrentInit SLstmRecurrentInit { get => _slstm.RecurrentInit; init => _slstm = _slstm with { RecurrentInit = value }; }

    /// <summary>What the sLSTM's forget-gate biases start as.</summary>
    [JsonPropertyName("slstm_forget_bias_init")]
    public SLstmForgetBias SLstmForgetBias { get => _slstm.ForgetBias; init => _slstm = _slstm with { ForgetBias = value }; }

    /// <summary>
    /// The largest absolute value of the gradient that goes through R from a token to the one before; null for no clip. The first paper has
    /// 10.
    /// </summary>
    [JsonPropertyName("slstm_gradient_clip")]
    public double? SLstmGradientClip { get => _slstm.GradientClip; init => _slstm = _slstm with { GradientClip = value }; }

    /// <summary>
    /// The feed-forward layer behind an sLSTM in the pre-up style (first paper: GeGLU); post-up blocks have <see cref="FeedForward"/>.
    /// </summary>
    [JsonPropertyName("slstm_feed_forward")]
    public FeedForwardKind SLstmFeedForward { get; init; } = FeedForwardKind.GeGlu;

    /// <summary>The inner width of that layer as a multiple of d, before rounding up (first paper: 4/3; its code: 1.3).</summary>
    [JsonPropertyName("slstm_ffn_proj_factor")]
    public double SLstmFeedForwardFactor { get; init; } = 1.3;

    /// <summary>
    /// How embedding, head (the embedding itself where they are tied) and all projections that read the stream are drawn.
    /// </summary>
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
    public MLstmForm Form { get => _mlstm.Form; init => _mlstm = _mlstm with { Form = value }; }

    /// <summary>How gradients treat the mLSTM's denominator.</summary>
    [JsonPropertyName("normalizer_gradient")]
    public NormalizerGradient NormalizerGradient
    {
        get => _mlstm.NormalizerGradient;
        init => _mlstm = _mlstm with { NormalizerGradient = value };
    }

    /// <summary>The width of one head's queries and keys, dqk.</summary>
    [JsonIgnore]
    public int QkHeadDim => QkDim / HeadCount;

    /// <summary>The width of one head's values, dhv.</summary>
    [JsonIgnore]
    public int VHeadDim => VDim / HeadCount;

    /// <summary>The width of all heads' queries, NH dqk.</summary>
    [JsonIgnore]
    public int QkDim => MLstm.QkDim(WidthOf(MLstm));

    /// <summary>The width of all heads' values, NH dhv.</summary>
    [JsonIgnore]
    public int VDim => MLstm.VDim(WidthOf(MLstm));

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
    public MLstmMixerConfig MLstm => _mlstm with { Headwise = BlockStyle.Known() == BlockStyle.PreUp };

    /// <summary>The sLSTM that the configuration describes, with the mLSTM's biases and norms.</summary>
    [JsonIgnore]
    public SLstmMixerConfig SLstm => _slstm with
    {
        HeadCount = SLstmHeads,
        Headwise = BlockStyle.Known() == BlockStyle.PreUp,
        UseBias = UseBias,
        ForgetGateBiasFirst = ForgetGateBiasFirst,
        ForgetGateBiasLast = ForgetGateBiasLast,
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

    /// <summary>
    /// The width that a mixer works in: within a pre-up block's up-projection, but for an sLSTM, which has none (first paper, figure 10).
    /// </summary>
    internal int WidthOf(MixerConfig mixer) =>
        BlockStyle.Known() == BlockStyle.PreUp && mixer is not SLstmMixerConfig ? InnerDim : EmbeddingDim;

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
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("vocab_size", VocabularySize), ("embedding_dim", EmbeddingDim), ("num_blocks", BlockCount),
            ("ffn_round_up_to_multiple_of", FeedForwardRoundUpTo));
        faults.RequireSoftCap("output_logit_soft_cap", OutputLogitSoftCap);
        faults.RequireNotNegative(("init_std", InitStd));
        faults.Require(Dropout is >= 0 and < 1, $"dropout is {Dropout}; expected a share from 0 to below 1");
        faults.RequireKnown(this);
        if (!Enum.IsDefined(BlockStyle))
        {
            faults.Throw(); // widths, which the rest speaks of, depend on it
        }

        _mlstm.CheckValues(faults);
        _slstm.CheckValues(faults, "slstm_");
        var given = Mixers.GivenSLstmAt;
        var hasSLstm = given.Count > 0 || Mixers.Contains(OwnMixer.SLstm);
        var hasMLstm = given.Count > 0 ? given.Count < BlockCount : Mixers.Contains(OwnMixer.MLstm);
        CheckMixers(faults, hasSLstm);
        CheckBlocks(faults, hasMLstm);
        if (hasSLstm)
        {
            SLstm.CheckWidths(faults, Site(SLstm, 0), "slstm_");
        }

        // What is left speaks of products of the values above.
        if (EmbeddingDim >= 1 && HeadCount >= 1 && FeedForwardRoundUpTo >= 1)
        {
            if (Mixers.IsOwn || hasMLstm)
            {
                CheckMLstmWidths(faults);
            }

            for (var at = 0; !faults.Any && at < Mixers.Count; at++)
            {
                CheckMixer(faults, at);
            }

            faults.Require(
                FeedForwardFactor > 0 && EmbeddingDim * FeedForwardFactor + FeedForwardRoundUpTo < int.MaxValue && FeedForwardDim >= 1,
                $"ffn_proj_factor is {FeedForwardFactor}; ",
                $"expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width of 1 to 2^31");
        }

        faults.Throw();
    }

    /// <summary>Which blocks have which mixer; an axis that would silently change nothing is a mistake, too.</summary>
    private void CheckMixers(ConfigFaults faults, bool hasSLstm)
    {
        var given = Mixers.GivenSLstmAt;
        faults.Require(
            given.All(block => block >= 0 && block < BlockCount) && given.Distinct().Count() == given.Count,
            $"slstm_at is {given}; expected different blocks from 0 to {BlockCount - 1}");
        faults.Require(
            BlockCount % Mixers.Count == 0,
            $"mixers has {Mixers.Count} mixers ({Mixers}), which are repeated over the blocks; ",
            $"expected a divisor of num_blocks {BlockCount}");
        faults.Require(
            hasSLstm || (SLstmHeadCount is null && SLstmConvKernelSize is null && SLstmGradientClip is null),
            $"slstm_num_heads, slstm_conv1d_kernel_size or slstm_gradient_clip is given and slstm_at is empty; ",
            $"expected a block with an sLSTM, or none of them");
    }

    /// <summary>What stands around the mixers: convolutions and projections.</summary>
    private void CheckBlocks(ConfigFaults faults, bool hasMLstm)
    {
        faults.Require(
            WeightMode != WeightMode.Fused || BlockStyle != BlockStyle.PreUp,
            $"weight_mode is fused and block_style is pre_up; ",
            $"expected single, because a pre-up block's q and k read the convolution and v does not, which leaves nothing to fuse");
        faults.Require(ConvKernelSize is null or >= 0, $"conv1d_kernel_size is {ConvKernelSize}; expected at least 0, or null");
        faults.Require(
            SLstmConvKernelSize is null or >= 0, $"slstm_conv1d_kernel_size is {SLstmConvKernelSize}; expected at least 0, or null");
        faults.Require(
            ConvTaps == 0 || WeightMode == WeightMode.Single || !hasMLstm || BlockStyle == BlockStyle.PreUp,
            $"conv1d_kernel_size is {ConvTaps} with weight_mode fused; ",
            $"expected 0, since q and k then look at something else than v, or single");
        foreach (var (name, factor) in new[] { ("proj_factor", UpFactor), ("slstm_ffn_proj_factor", SLstmFeedForwardFactor) })
        {
            faults.Require(
                BlockStyle == BlockStyle.PostUp || (factor > 0 && EmbeddingDim * factor < int.MaxValue / 4),
                $"{name} is {factor}; expected a number above 0 with which embedding_dim {EmbeddingDim} gives an inner width below 2^29");
        }
    }

    private void CheckMLstmWidths(ConfigFaults faults)
    {
        if (BlockStyle == BlockStyle.PreUp && (InnerDim < HeadCount || InnerDim % HeadCount != 0))
        {
            faults.Require(
                false,
                $"proj_factor is {UpFactor}, which with embedding_dim {EmbeddingDim} gives an inner width of {InnerDim}; ",
                $"expected a multiple of num_heads {HeadCount}");
        }
        else
        {
            MLstm.CheckWidths(faults, Site(MLstm, 0));
        }
    }

    private void CheckMixer(ConfigFaults faults, int at)
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
            faults.Require(false, $"mixers[{at}], {Mixers[at].Kind}: {e.Message.TrimEnd('.')}");
        }
    }
}
