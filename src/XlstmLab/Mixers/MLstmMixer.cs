using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The mLSTM (xLSTM 7B, section 3.1; xLSTM, section 2.3): a matrix memory a head under an input and a forget gate.</summary>
public sealed record MLstmMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "mlstm";

    /// <summary>The number of heads, NH.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 8;

    /// <summary>The width of all heads' queries as a share of d, where it is not headwise.</summary>
    [JsonPropertyName("qk_dim_factor")]
    public double QkDimFactor { get; init; } = 0.5;

    /// <summary>The width of all heads' values as a share of d, where it is not headwise.</summary>
    [JsonPropertyName("v_dim_factor")]
    public double VDimFactor { get; init; } = 1;

    /// <summary>
    /// Whether q, k and v are block-diagonal projections of d to d, without output gate and projection: the first paper's, inside an
    /// up-projection.
    /// </summary>
    [JsonPropertyName("headwise")]
    public bool Headwise { get; init; }

    /// <summary>The size of the blocks on the diagonal of headwise q, k and v projections.</summary>
    [JsonPropertyName("qkv_proj_blocksize")]
    public int QkvBlockSize { get; init; } = 4;

    /// <summary>How projections are stored.</summary>
    [JsonPropertyName("weight_mode")]
    public WeightMode WeightMode { get; init; }

    /// <summary>Whether projections and norms have biases; the gates always have.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>The soft cap a of both gates' pre-activations, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("gate_soft_cap")]
    public double? GateSoftCap { get; init; } = 15;

    /// <summary>The input gate.</summary>
    [JsonPropertyName("input_gate")]
    public InputGate InputGate { get; init; }

    /// <summary>The forget gate.</summary>
    [JsonPropertyName("forget_gate")]
    public ForgetGate ForgetGate { get; init; }

    /// <summary>Whether a learned gate of each channel stands behind the head norm (eq. 9).</summary>
    [JsonPropertyName("output_gate")]
    public bool OutputGate { get; init; } = true;

    /// <summary>What the input gate's pre-activation is made of.</summary>
    [JsonPropertyName("igate_preactivation")]
    public GatePreactivation InputGatePreactivation { get; init; }

    /// <summary>What the forget gate's pre-activation is made of.</summary>
    [JsonPropertyName("fgate_preactivation")]
    public GatePreactivation ForgetGatePreactivation { get; init; }

    /// <summary>What the gates look at; null for x, or for q k v where it is headwise.</summary>
    [JsonPropertyName("gate_source")]
    public GateSource? GateSource { get; init; }

    /// <summary>The input gate's bias at the start, or for ever if the gate is fixed.</summary>
    [JsonPropertyName("igate_bias_init")]
    public double InputGateBias { get; init; } = -10;

    /// <summary>The standard deviation of the input gate's bias around its start.</summary>
    [JsonPropertyName("igate_bias_init_std")]
    public double InputGateBiasStd { get; init; }

    /// <summary>The first head's forget-gate bias at the start; the others' lie evenly up to the last head's.</summary>
    [JsonPropertyName("fgate_bias_init_first")]
    public double ForgetGateBiasFirst { get; init; } = 3;

    /// <summary>The last head's forget-gate bias at the start.</summary>
    [JsonPropertyName("fgate_bias_init_last")]
    public double ForgetGateBiasLast { get; init; } = 6;

    /// <summary>Whether q and k of each head go through an RMSNorm with a learned scale.</summary>
    [JsonPropertyName("qk_norm")]
    public bool QkNorm { get; init; }

    /// <summary>The epsilon of the norms of q and k.</summary>
    [JsonPropertyName("norm_eps")]
    public double NormEpsilon { get; init; } = 1e-6;

    /// <summary>The norm of h.</summary>
    [JsonPropertyName("head_norm")]
    public HeadNormKind HeadNorm { get; init; }

    /// <summary>The number of groups of <see cref="HeadNormKind.Group"/>; null for one a head.</summary>
    [JsonPropertyName("head_norm_groups")]
    public int? HeadNormGroups { get; init; }

    /// <summary>The head norm's epsilon; null for that of the norms of q and k.</summary>
    [JsonPropertyName("head_norm_eps")]
    public double? HeadNormEpsilon { get; init; }

    /// <summary>Whether h is divided by the normaliser.</summary>
    [JsonPropertyName("normalize")]
    public bool Normalize { get; init; } = true;

    /// <summary>The epsilon of the denominator.</summary>
    [JsonPropertyName("eps")]
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>The form that it is computed in.</summary>
    [JsonPropertyName("mlstm_form")]
    public MLstmForm Form { get; init; } = MLstmForm.Chunkwise;

    /// <summary>The number of tokens that the chunkwise form treats in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <summary>How gradients treat the denominator.</summary>
    [JsonPropertyName("normalizer_gradient")]
    public NormalizerGradient NormalizerGradient { get; init; }

    /// <summary>The cell's part.</summary>
    [JsonIgnore]
    public MLstmOptions Cell => new()
    {
        InputGate = InputGate,
        ForgetGate = ForgetGate,
        Normalize = Normalize,
        Epsilon = Epsilon,
        Form = Form,
        ChunkSize = ChunkSize,
        NormalizerGradient = NormalizerGradient,
    };

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => OutputGate && !Headwise
        ? ["q", "k", "v", "igate_preact", "fgate_preact", "ogate_preact", "h"]
        : ["q", "k", "v", "igate_preact", "fgate_preact", "h"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => Headwise ? new HeadwiseMLstmMixer(this, site) : new MLstmMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireKnown(this);
        CheckValues(faults);
        if (HeadCount >= 1)
        {
            CheckWidths(faults, site);
        }

        faults.Throw();
    }

    /// <summary>Notes what is wrong with the values by themselves; an axis that would silently change nothing is a mistake, too.</summary>
    internal void CheckValues(ConfigFaults faults)
    {
        faults.RequireAtLeastOne(("num_heads", HeadCount), ("chunk_size", ChunkSize), ("qkv_proj_blocksize", QkvBlockSize));
        faults.RequireNotNegative(("norm_eps", NormEpsilon), ("eps", Epsilon), ("igate_bias_init_std", InputGateBiasStd));
        faults.RequireFinite(
            ("igate_bias_init", InputGateBias), ("fgate_bias_init_first", ForgetGateBiasFirst),
            ("fgate_bias_init_last", ForgetGateBiasLast));
        faults.RequireSoftCap("gate_soft_cap", GateSoftCap);
        faults.Require(
            HeadNormEpsilon is not { } epsilon || (epsilon >= 0 && double.IsFinite(epsilon)),
            $"head_norm_eps is {HeadNormEpsilon}; expected a finite number of at least 0, or null for norm_eps");
        faults.Require(
            HeadNormGroups is null || HeadNorm == HeadNormKind.Group,
            $"head_norm_groups is {HeadNormGroups} and head_norm is not group; ",
            $"expected null, because a norm within each head has one group a head");

        var (hasInput, hasForget) = (InputGate != InputGate.None, ForgetGate != ForgetGate.None);
        faults.Require(
            hasInput || InputGatePreactivation == GatePreactivation.Learned,
            $"igate_preactivation is given and input_gate is none; expected an input gate, or no igate_preactivation");
        faults.Require(
            hasForget || ForgetGatePreactivation == GatePreactivation.Learned,
            $"fgate_preactivation is given and forget_gate is none; expected a forget gate, or no fgate_preactivation");
        faults.Require(
            GateSource != Mixers.GateSource.Qkv
                || (hasInput && InputGatePreactivation == GatePreactivation.Learned)
                || (hasForget && ForgetGatePreactivation == GatePreactivation.Learned),
            $"gate_source is qkv and no gate has weights that would look at q, k and v; ",
            $"expected a gate with a learned pre-activation, or no gate_source");
    }

    /// <summary>Notes what is wrong with the widths that it has at a place; there is at least one head.</summary>
    internal void CheckWidths(ConfigFaults faults, MixerSite site)
    {
        var (qk, v) = (QkDim(site.Width), VDim(site.Width));
        if (Headwise)
        {
            faults.Require(
                site.Width >= HeadCount && site.Width % HeadCount == 0,
                $"num_heads is {HeadCount}; expected a divisor of the inner width {site.Width}");
            faults.Require(
                QkvBlockSize < 1 || site.Width % QkvBlockSize == 0,
                $"qkv_proj_blocksize is {QkvBlockSize}; expected a divisor of the inner width {site.Width}");
        }
        else
        {
            RequireHeads("qk_dim_factor", QkDimFactor, qk);
            RequireHeads("v_dim_factor", VDimFactor, v);
        }

        if (faults.Any)
        {
            return; // what is left speaks of whole heads
        }

        var groups = HeadNormGroups ?? HeadCount;
        faults.Require(
            groups >= 1 && v % groups == 0, $"head_norm_groups is {groups}; expected a divisor of the {v} channels of all heads");
        var widest = HeadNorm == HeadNormKind.Group ? v / Math.Max(groups, 1) : v / HeadCount;
        faults.Require(
            HeadNorm is not (HeadNormKind.Layer or HeadNormKind.Group) || widest > 1,
            $"head_norm normalises a single channel at a time, which makes 0 of everything; ",
            $"expected wider heads or fewer groups, or head_norm rms or none");
        faults.Require(
            Normalize || !Cell.Stabilizes || (HeadNorm != HeadNormKind.None && groups % HeadCount == 0),
            $"normalize is false with an exponential gate: h then counts in units of exp(m), which changes from token to token and only a ",
            $"norm within each head takes out; expected a head_norm with a multiple of num_heads {HeadCount} groups, or sigmoid gates");
        faults.Require(
            !QkNorm || qk / HeadCount > 1,
            $"qk_norm is true with one channel a head, of which it leaves the sign alone; expected a greater qk_dim_factor");

        void RequireHeads(string name, double factor, int dim)
        {
            var of = site.Width == site.StreamWidth ? "embedding_dim" : "a width of";
            faults.Require(
                factor > 0 && site.Width * factor < int.MaxValue && dim >= HeadCount && dim % HeadCount == 0,
                $"{name} is {factor}, which with {of} {site.Width} gives a width of {dim}; expected a multiple of num_heads {HeadCount}");
        }
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger d = site.Width, qk = Fitting(QkDim(site.Width)), v = Fitting(VDim(site.Width));
        var (bias, gated) = (UseBias ? 1 : 0, OutputGate ? 1 : 0);
        var gates = GateParameters(InputGate.Known() != InputGate.None, InputGatePreactivation, site)
            + GateParameters(ForgetGate.Known() != ForgetGate.None, ForgetGatePreactivation, site);
        var norms = (QkNorm ? 2 * qk : 0) + HeadNormParameters(HeadNorm, v, UseBias);
        return Headwise
            ? 3 * v * ((long)QkvBlockSize + bias) + gates + norms
            : (d + bias) * (2 * qk + (1 + gated) * v) + gates + norms + (v + bias) * d;
    }

    /// <inheritdoc/>
    /// <remarks>The cell's part is <see cref="CellFlops"/> for a token.</remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double d = site.Width, qk = (double)Fitting(QkDim(site.Width)), v = (double)Fitting(VDim(site.Width));
        var gated = OutputGate ? 1 : 0;
        var gates = 0.0;
        foreach (var (exists, kind) in new[]
        {
            (InputGate.Known() != InputGate.None, InputGatePreactivation), (ForgetGate.Known() != ForgetGate.None, ForgetGatePreactivation),
        })
        {
            gates += exists && kind.Known() == GatePreactivation.Learned ? 2 * (double)GateInputDim(site) * HeadCount : 0;
        }

        var projections = Headwise ? 6 * v * QkvBlockSize + gates : 2 * d * (2 * qk + (1 + gated) * v) + gates + gated * v + 2 * d * v;
        return projections + CellFlops(site.Width, length) / length;
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        var (qk, v) = (Fitting(QkDim(site.Width)) / HeadCount, Fitting(VDim(site.Width)) / HeadCount);
        return 4 * HeadCount * (qk * v + qk + 1);
    }

    /// <summary>
    /// Floating-point operations of the cell over a sequence, forward, a multiply-add counting 2 and every other operation 1 (xLSTM 7B,
    /// appendix D).
    /// </summary>
    /// <param name="width">d.</param>
    /// <param name="length">The sequence's length S in tokens, a multiple of the chunk or counted as if.</param>
    public double CellFlops(int width, long length)
    {
        double k = (double)(Fitting(QkDim(width)) / HeadCount), v = (double)(Fitting(VDim(width)) / HeadCount);
        if (Form.Known() == MLstmForm.Recurrent)
        {
            return (double)HeadCount * length * (6 * k * v + 7 * k + v + 12);
        }

        double chunk = Form == MLstmForm.Parallel ? length : Math.Min(ChunkSize, length);
        var gates = 0.5 * chunk * (chunk + 1) + 2 * chunk;
        var stabiliser = 5 + 5 * chunk;
        var memory = 2 * k * v + 4 * chunk * k * v + 3 * chunk * k;
        var normalizer = 2 * k + 4 * chunk * k;
        var decays = 0.5 * chunk * (chunk + 1) + 6 * chunk * chunk + 2 * chunk;
        var scores = 2 * chunk * chunk * (1 + k);
        var values = 2 * chunk * chunk * v;
        var rowSums = 2 * chunk * chunk;
        var combine = 2 * chunk + chunk * (5 + 2 * v);
        var perChunk = gates + stabiliser + memory + normalizer + decays + scores + values + rowSums + combine;
        return HeadCount * (length / chunk) * perChunk;
    }

    /// <summary>The width of all heads' queries, NH dqk, at a width d.</summary>
    internal int QkDim(int width) => Headwise ? width : Counts.Width(width * QkDimFactor);

    /// <summary>The width of all heads' values, NH dhv, at a width d.</summary>
    internal int VDim(int width) => Headwise ? width : Counts.Width(width * VDimFactor);

    /// <summary>What the gates look at.</summary>
    internal GateSource LooksAt => (GateSource ?? (Headwise ? Mixers.GateSource.Qkv : Mixers.GateSource.Input)).Known();

    /// <summary>The parameters of a head norm over channels.</summary>
    internal static BigInteger HeadNormParameters(HeadNormKind kind, BigInteger width, bool bias) =>
        kind.Known() == HeadNormKind.None ? 0 : width * (bias ? 2 : 1);

    private static BigInteger Fitting(int width) => Counts.Fitting(width, "qk_dim_factor, v_dim_factor or proj_factor");

    private BigInteger GateParameters(bool exists, GatePreactivation kind, MixerSite site) => (exists, kind) switch
    {
        (false, _) or (_, GatePreactivation.Fixed) => 0,
        (_, GatePreactivation.BiasOnly) => HeadCount,
        (_, GatePreactivation.Learned) => (GateInputDim(site) + 1) * HeadCount,
        _ => throw UnknownValue.Of(kind),
    };

    private BigInteger GateInputDim(MixerSite site) =>
        LooksAt == Mixers.GateSource.Qkv ? 2 * Fitting(QkDim(site.Width)) + Fitting(VDim(site.Width)) : site.StreamWidth;
}

/// <summary>
/// The mLSTM of the 7B model between dense projections: y = W_out(sigmoid(W_o x) * HeadNorm(h)) (xLSTM 7B, section 3.1 and figure 8).
/// </summary>
internal sealed class MLstmMixer : Mixer
{
    private readonly Dense? _q;
    private readonly Dense? _k;
    private readonly Dense? _v;
    private readonly Dense? _outputGate;
    private readonly Dense? _qkvo;
    private readonly Dense _out;
    private readonly MLstmHeads _heads;
    private readonly MLstmMixerConfig _config;
    private readonly long _qkDim;
    private readonly long _vDim;

    public MLstmMixer(MLstmMixerConfig config, MixerSite site)
        : base(nameof(MLstmMixer))
    {
        var (d, qk, v, bias) = (site.Width, config.QkDim(site.Width), config.VDim(site.Width), config.UseBias);
        (_config, _qkDim, _vDim) = (config, qk, v);
        if (config.WeightMode.Known() == WeightMode.Single)
        {
            _q = new(d, qk, bias);
            _k = new(d, qk, bias);
            _v = new(d, v, bias);
            _outputGate = config.OutputGate ? new(d, v, bias) : null;
        }
        else
        {
            _qkvo = new(d, 2 * qk + (config.OutputGate ? 2 : 1) * v, bias);
        }

        _heads = new(config, qk, v, site.StreamWidth);
        _out = new(v, d, bias);

        // The order is that of all checkpoints' optimisers.
        _heads.Gates.Register(this);
        this.Register(("q", _q), ("k", _k), ("v", _v), ("ogate_preact", _outputGate), ("qkv_opreact", _qkvo));
        this.Register(("q_norm", _heads.QNorm), ("k_norm", _heads.KNorm), ("multihead_norm", _heads.HeadNorm), ("out_proj", _out));
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        (Tensor, Tensor)? gates = null;
        if (!_heads.GatesSeeHeads && (pass.Stream is null || ReferenceEquals(pass.Stream, x)))
        {
            var (igatePreact, fgatePreact, through) = _heads.Gates.ForwardThrough(x); // (B, NH, S)
            (gates, convolved, x) = ((igatePreact, fgatePreact), ReferenceEquals(convolved, x) ? through : convolved, through);
        }

        var (q, k, v, o) = ProjectInputs(x, convolved); // (B, S, NH DK), (B, S, NH DV)
        var h = _heads.Forward(q, k, v, o, pass.Stream ?? x, pass, gates); // (B, NH, S, DV)
        return _out.Forward(_heads.HeadNorm.ForwardGated(h.transpose(1, 2), o));
    }

    /// <summary>Initialisation of the 7B model: an output gate of 1/2, and gates that see no token yet.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        if (_qkvo is not null)
        {
            _qkvo.Weight.normal_(0, inputStd, generator);
            if (_config.OutputGate)
            {
                _qkvo.Weight.narrow(0, 2 * _qkDim + _vDim, _vDim).zero_();
            }
        }
        else
        {
            foreach (var projection in new[] { _q!, _k!, _v! })
            {
                projection.Weight.normal_(0, inputStd, generator);
            }
        }

        _heads.Gates.Initialize(generator);
        _out.Weight.normal_(0, outputStd, generator);
    }

    /// <summary>Registered by hand, for their order.</summary>
    protected override void RegisterComponents()
    {
    }

    private (Tensor Q, Tensor K, Tensor V, Tensor? O) ProjectInputs(Tensor x, Tensor convolved)
    {
        if (_qkvo is null)
        {
            var all = Dense.ForwardTogether(convolved, [_q!, _k!], x, _outputGate is null ? [_v!] : [_v!, _outputGate]);
            return (all[0], all[1], all[2], _outputGate is null ? null : all[3]);
        }

        var parts = _qkvo.ForwardSplit(x, _config.OutputGate ? [_qkDim, _qkDim, _vDim, _vDim] : [_qkDim, _qkDim, _vDim]);
        return (parts[0], parts[1], parts[2], _config.OutputGate ? parts[3] : null);
    }
}

/// <summary>
/// The mLSTM of the first paper, inside an up-projection: block-diagonal q, k and v, and HeadNorm(h) as it is (xLSTM, figure 11).
/// </summary>
internal sealed class HeadwiseMLstmMixer : Mixer
{
    [ComponentName(Name = "q_proj")]
    private readonly HeadwiseDense _q;

    [ComponentName(Name = "k_proj")]
    private readonly HeadwiseDense _k;

    [ComponentName(Name = "v_proj")]
    private readonly HeadwiseDense _v;

    [ComponentName(Name = "mlstm_cell")]
    private readonly MLstmCellModule _cell;

    public HeadwiseMLstmMixer(MLstmMixerConfig config, MixerSite site)
        : base(nameof(HeadwiseMLstmMixer))
    {
        var blocks = site.Width / config.QkvBlockSize;
        _q = new(site.Width, blocks, config.UseBias);
        _k = new(site.Width, blocks, config.UseBias);
        _v = new(site.Width, blocks, config.UseBias);
        _cell = new(new(config, site.Width, site.Width, site.StreamWidth));
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var h = _cell.Heads.Forward(_q.Forward(convolved), _k.Forward(convolved), _v.Forward(x), null, pass.Stream ?? x, pass);
        return _cell.Heads.HeadNorm.Forward(h.transpose(1, 2)); // (B, S, d)
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v })
        {
            projection.Weight.normal_(0, inputStd, generator); // as for the stream's width, though they read blocks
        }

        _cell.Heads.Gates.Initialize(generator);
    }
}

/// <summary>The heads under the first paper's names.</summary>
internal sealed class MLstmCellModule : nn.Module
{
    public MLstmCellModule(MLstmHeads heads)
        : base(nameof(MLstmCellModule))
    {
        Heads = heads;
        heads.Gates.Register(this, suffix: "");
        this.Register(("q_norm", heads.QNorm), ("k_norm", heads.KNorm), ("outnorm", heads.HeadNorm));
    }

    public MLstmHeads Heads { get; }

    /// <summary>Registered by hand.</summary>
    protected override void RegisterComponents()
    {
    }
}

/// <summary>What every mLSTM is between its projections: norms of q and k, gates, the cell and the head norm behind it.</summary>
/// <remarks>It is no module itself: its parts are modules of the one that has it.</remarks>
#pragma warning disable CA1001 // The module that they are registered with disposes the parts.
internal sealed class MLstmHeads
#pragma warning restore CA1001
{
    private readonly MLstmOptions _cell;
    private readonly int _heads;

    public MLstmHeads(MLstmMixerConfig config, int qkDim, int vDim, int streamWidth)
    {
        _heads = config.HeadCount;
        _cell = config.Cell;
        GatesSeeHeads = config.LooksAt == GateSource.Qkv;
        if (config.QkNorm)
        {
            QNorm = new(HeadNormKind.Rms, _heads, qkDim / _heads, config.NormEpsilon);
            KNorm = new(HeadNormKind.Rms, _heads, qkDim / _heads, config.NormEpsilon);
        }

        Gates = new(config, GatesSeeHeads ? 2 * qkDim + vDim : streamWidth);
        HeadNorm = new(
            config.HeadNorm, _heads, vDim / _heads, config.HeadNormEpsilon ?? config.NormEpsilon, config.UseBias, config.HeadNormGroups);
    }

    public MLstmGates Gates { get; }

    /// <summary>Whether the gates look at q, k and v.</summary>
    public bool GatesSeeHeads { get; }

    public HeadNorm? QNorm { get; }

    public HeadNorm? KNorm { get; }

    public HeadNorm HeadNorm { get; }

    /// <summary>Mixes a sequence.</summary>
    /// <param name="q">[B, S, NH DK].</param>
    /// <param name="k">[B, S, NH DK].</param>
    /// <param name="v">[B, S, NH DV].</param>
    /// <param name="o">The output gate's pre-activation, to be shown; or null.</param>
    /// <param name="stream">[B, S, d] what the block reads, for gates that look at it.</param>
    /// <param name="pass">The memory, and where documents start.</param>
    /// <param name="gates">The gates' pre-activations, if they have been made.</param>
    /// <returns>h, [B, NH, S, DV].</returns>
    public Tensor Forward(
        Tensor q, Tensor k, Tensor v, Tensor? o, Tensor stream, MixerPass pass, (Tensor Input, Tensor Forget)? gates = null)
    {
        q = QNorm?.Forward(PerHead(q)) ?? q;
        k = KNorm?.Forward(PerHead(k)) ?? k;
        var (igatePreact, fgatePreact) = gates ?? Gates.Forward(GatesSeeHeads ? cat([q, k, v], -1) : stream); // (B, NH, S)
        // (B, NH, S, DK) and (B, NH, S, DV)
        (q, k, v) = (PerHead(q).transpose(1, 2), PerHead(k).transpose(1, 2), PerHead(v).transpose(1, 2));

        var before = pass.HasState ? new MLstmState(pass.Before("c")!, pass.Before("n")!, pass.Before("m")!) : null;
        Tensor h;
        if (pass.ReturnState)
        {
            (h, var last) = MLstmCell.Forward(q, k, v, igatePreact, fgatePreact, before, pass.Layout, _cell);
            pass.Keep("c", last.C);
            pass.Keep("n", last.N);
            pass.Keep("m", last.M);
        }
        else
        {
            h = MLstmCell.ForwardOutput(q, k, v, igatePreact, fgatePreact, before, pass.Layout, _cell);
        }

        if (pass.Observe is { } observe)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("igate_preact", igatePreact);
            observe("fgate_preact", fgatePreact);
            if (o is not null)
            {
                observe("ogate_preact", o);
            }

            observe("h", h);
        }

        return h;
    }

    /// <summary>[B, S, NH D] to [B, S, NH, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_heads, -1]);
}
