using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>
/// DeltaNet (Yang et al. 2024): a matrix memory a head, in which a token replaces a share of what its key reads by its value.
/// </summary>
public record DeltaMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "delta";

    /// <summary>The number of heads, NH; null for that of the model.</summary>
    [JsonPropertyName("num_heads")]
    public int? HeadCount { get; init; }

    /// <summary>The width of all queries, and of all keys, as a multiple of d.</summary>
    [JsonPropertyName("expand_k")]
    public double KeyFactor { get; init; } = 1;

    /// <summary>The width of all values as a multiple of d.</summary>
    [JsonPropertyName("expand_v")]
    public double ValueFactor { get; init; } = 1;

    /// <summary>How many tokens a convolution before queries, keys and values sees, K; 0 for none: SiLU follows either way.</summary>
    [JsonPropertyName("conv_size")]
    public int ConvTaps { get; init; } = 4;

    /// <summary>
    /// Whether the share is 2 sigmoid instead of sigmoid: the state's transition then has eigenvalues in [-1, 1] instead of [0, 1], as
    /// tracking of states needs (Grazzi et al. 2024, section 4).
    /// </summary>
    [JsonPropertyName("allow_neg_eigval")]
    public bool NegativeEigenvalues { get; init; }

    /// <summary>Whether a gate SiLU(W_g x) of each channel stands behind the head norm.</summary>
    [JsonPropertyName("use_gate")]
    public bool OutputGate { get; init; }

    /// <summary>The number of tokens that are treated in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <summary>The epsilon of the head norm; null for that of the model.</summary>
    [JsonPropertyName("norm_eps")]
    public double? NormEpsilon { get; init; }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables =>
    [
        "q", "k", "v", "beta", .. Decays ? ["log_decay"] : Array.Empty<string>(), "h",
        .. OutputGate ? ["ogate_preact"] : Array.Empty<string>(),
    ];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new DeltaMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        var faults = new ConfigFaults();
        Check(site, faults);
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        var (d, qk, v) = Widths(site);
        var (values, gates) = (OutputGate ? 3 : 2, Decays ? 2 : 1); // v, out and the output gate; beta and the decay
        var decay = Decays ? 2 * Heads(site) : 0; // A_log, dt_bias
        return d * (2 * qk + values * v + gates * Heads(site)) + decay + ConvTaps * (2 * qk + v) + v / Heads(site);
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The memory counts what the chunkwise form computes for a token of a chunk of L tokens, of each head: 4 L DK + 2 L DV for what it
    /// sees of its chunk, L (DK + DV) for the triangular system, and 2 DK^2 + 6 DK DV + 2 DK^2 DV / L for the state.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        var (d, qk, v) = ((double)Widths(site).D, (double)Widths(site).Qk, (double)Widths(site).V);
        double heads = Heads(site), chunk = Math.Min(ChunkSize, length);
        var (dk, dv) = (qk / heads, v / heads);
        var projections = 2 * d * (2 * qk + (OutputGate ? 3 : 2) * v + (Decays ? 2 : 1) * heads) + 2.0 * ConvTaps * (2 * qk + v);
        var inChunk = chunk * (5 * dk + 3 * dv);
        var state = 2 * dk * dk + 6 * dk * dv + 2 * dk * dk * dv / chunk;
        return projections + heads * (inChunk + state);
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length)
    {
        var (_, qk, v) = Widths(site);
        return 4 * (qk * v / Heads(site) + Math.Max(ConvTaps - 1, 0) * (2 * qk + v));
    }

    /// <summary>Whether the state decays.</summary>
    internal virtual bool Decays => false;

    /// <summary>NH.</summary>
    internal int Heads(MixerSite site) => HeadCount ?? site.HeadCount;

    /// <summary>NH DK.</summary>
    internal int QkDim(MixerSite site) => Counts.Width(site.Width * KeyFactor);

    /// <summary>NH DV.</summary>
    internal int VDim(MixerSite site) => Counts.Width(site.Width * ValueFactor);

    /// <summary>Notes what is wrong.</summary>
    private protected virtual void Check(MixerSite site, ConfigFaults faults)
    {
        ArgumentNullException.ThrowIfNull(site);
        faults.RequireAtLeastOne(("num_heads", Heads(site)), ("chunk_size", ChunkSize));
        faults.Require(ConvTaps >= 0, $"conv_size is {ConvTaps}; expected at least 0");
        foreach (var (name, factor, width) in new[] { ("expand_k", KeyFactor, QkDim(site)), ("expand_v", ValueFactor, VDim(site)) })
        {
            faults.Require(
                width >= 1 && Heads(site) >= 1 && width % Heads(site) == 0,
                $"{name} is {factor}, which makes a width of {width}; expected a multiple of num_heads {Heads(site)}");
        }
    }

    /// <summary>The widths of the stream, of all queries and of all values.</summary>
    private (BigInteger D, BigInteger Qk, BigInteger V) Widths(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        return (site.Width, Counts.Fitting(QkDim(site), "expand_k"), Counts.Fitting(VDim(site), "expand_v"));
    }
}

/// <summary>
/// Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024): a DeltaNet whose state decays by a = exp(-A softplus(W_a x + b)) at each token, with
/// an output gate.
/// </summary>
public sealed record GatedDeltaMixerConfig : DeltaMixerConfig
{
    /// <summary>The paper's widths: of keys 3/4 d, of values 3/2 d.</summary>
    public GatedDeltaMixerConfig() => (KeyFactor, ValueFactor, OutputGate) = (0.75, 1.5, true);

    /// <inheritdoc/>
    public override string Kind => "gated_delta";

    /// <summary>The smallest softplus(b) at the start.</summary>
    [JsonPropertyName("time_step_min")]
    public double TimeStepMin { get; init; } = 0.001;

    /// <summary>The largest softplus(b) at the start.</summary>
    [JsonPropertyName("time_step_max")]
    public double TimeStepMax { get; init; } = 0.1;

    /// <summary>What values drawn below it are raised to.</summary>
    [JsonPropertyName("time_step_floor")]
    public double TimeStepFloor { get; init; } = 1e-4;

    /// <inheritdoc/>
    internal override bool Decays => true;

    /// <inheritdoc/>
    private protected override void Check(MixerSite site, ConfigFaults faults)
    {
        base.Check(site, faults);
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
    }
}

/// <summary>
/// W_o(SiLU(W_g x) * norm(o)), where o is the gated delta rule (<see cref="GatedDeltaRule"/>) of v = SiLU(conv(W_v x)), of q and k alike
/// but brought to length 1 in each head, of beta = sigmoid(W_b x), or twice that, and of log a = -exp(A_log) softplus(W_a x + dt_bias)
/// (Yang, Kautz and Hatamizadeh 2024, section 3.4); without a and W_g it is DeltaNet's (Yang et al. 2024, section 3.3).
/// </summary>
internal sealed class DeltaMixer : Mixer
{
    [ComponentName(Name = "q_proj")]
    private readonly Dense _q;

    [ComponentName(Name = "k_proj")]
    private readonly Dense _k;

    [ComponentName(Name = "v_proj")]
    private readonly Dense _v;

    [ComponentName(Name = "b_proj")]
    private readonly Dense _share;

    [ComponentName(Name = "a_proj")]
    private readonly Dense? _step;

    [ComponentName(Name = "A_log")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _logRates;

    [ComponentName(Name = "dt_bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _stepBias;

    [ComponentName(Name = "q_conv1d")]
    private readonly CausalConvolution? _qConv;

    [ComponentName(Name = "k_conv1d")]
    private readonly CausalConvolution? _kConv;

    [ComponentName(Name = "v_conv1d")]
    private readonly CausalConvolution? _vConv;

    [ComponentName(Name = "g_proj")]
    private readonly Dense? _outputGate;

    [ComponentName(Name = "o_norm")]
    private readonly RmsNorm _headNorm;

    [ComponentName(Name = "o_proj")]
    private readonly Dense _out;

    private readonly DeltaMixerConfig _config;
    private readonly int _heads;

    public DeltaMixer(DeltaMixerConfig config, MixerSite site)
        : base(nameof(DeltaMixer))
    {
        var (d, qk, v, taps) = (site.Width, config.QkDim(site), config.VDim(site), config.ConvTaps);
        (_config, _heads) = (config, config.Heads(site));
        _q = new(d, qk);
        _k = new(d, qk);
        _v = new(d, v);
        _share = new(d, _heads);
        if (config.Decays)
        {
            _step = new(d, _heads);
            _logRates = Parameters.Zeros(_heads);
            _stepBias = Parameters.Zeros(_heads);
        }

        if (taps > 0)
        {
            _qConv = new(qk, taps, bias: false);
            _kConv = new(qk, taps, bias: false);
            _vConv = new(v, taps, bias: false);
        }

        _outputGate = config.OutputGate ? new(d, v) : null;
        _headNorm = new(v / _heads, config.NormEpsilon ?? site.NormEpsilon);
        _out = new(v, d);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var rows = pass.Work.Rows(x);
        var asking = ReferenceEquals(x, convolved) ? rows.X : rows.Of(convolved).X;
        var all = Dense.ForwardTogether(asking, [_q, _k], rows.X, _outputGate is null ? [_v] : [_v, _outputGate]);
        var q = GatedDeltaRule.Normalize(PerHead(Activate(_qConv, all[0], "conv_q", pass, rows))); // (B, NH, S, DK)
        var k = GatedDeltaRule.Normalize(PerHead(Activate(_kConv, all[1], "conv_k", pass, rows)));
        var v = PerHead(Activate(_vConv, all[2], "conv_v", pass, rows)); // (B, NH, S, DV)
        var gate = _outputGate is null ? null : all[3]; // (B, S, NH DV)
        var share = sigmoid(_share.Forward(rows.X).Widened().transpose(1, 2)); // (B, NH, S)
        var beta = _config.NegativeEigenvalues ? 2 * share : share;
        var logDecay = LogDecay(rows.X);
        var layout = new SequenceLayout(rows.DocumentStarts, rows.Real?.logical_not());
        var (o, last) = GatedDeltaRule.Forward(
            q, k, v, beta, logDecay, pass.Before("s"), layout, pass.ReturnState, chunkSize: _config.ChunkSize); // (B, NH, S, DV)
        if (last is not null)
        {
            pass.Keep("s", last);
        }

        if (pass.Observe is { } observe)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("beta", beta);
            observe("h", o);
            if (logDecay is not null)
            {
                observe("log_decay", logDecay);
            }

            if (gate is not null)
            {
                observe("ogate_preact", gate);
            }
        }

        var normed = _headNorm.Forward(o.transpose(1, 2)).flatten(2); // (B, S, NH DV)
        return rows.Restore(_out.Forward(gate is null ? normed : FeedForward.Middle(FeedForwardKind.SwiGlu, gate, normed)));
    }

    /// <summary>Normal weights; decays as the authors' code draws them, and convolutions as torch does.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v, _share, _step, _outputGate })
        {
            projection?.Weight.normal_(0, inputStd, generator);
        }

        foreach (var convolution in new[] { _qConv, _kConv, _vConv })
        {
            convolution?.Initialize(generator);
        }

        if (_config is GatedDeltaMixerConfig gated)
        {
            // A uniform between 0 and 16; a rate of 0 itself would have no gradient and stay.
            _logRates!.uniform_(1e-3, 16, generator);
            _logRates.log_();
            StateSpaceWeights.DrawStepBias(_stepBias!, gated.TimeStepMin, gated.TimeStepMax, gated.TimeStepFloor, generator);
        }

        _out.Weight.normal_(0, outputStd, generator);
    }

    /// <summary>log a, [B, NH, S] of [B, S, d]; null without a decay.</summary>
    private Tensor? LogDecay(Tensor x) => _step is null
        ? null
        : (-exp(_logRates!.Widened()) * nn.functional.softplus(_step.Forward(x).Widened() + _stepBias!)).transpose(1, 2);

    private static Tensor Activate(CausalConvolution? convolution, Tensor x, string name, MixerPass pass, PaddingLast rows) =>
        convolution is null ? nn.functional.silu(x) : pass.Convolve(convolution, x, name, rows);

    /// <summary>[B, S, NH D] to [B, NH, S, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_heads, -1]).transpose(1, 2);
}
