using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>Gated linear attention with one data-dependent decay a head: simple GLA (Yang et al. 2023, section 4.4).</summary>
public sealed record GlaMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "gla";

    /// <summary>The number of heads, NH; null for that of the model.</summary>
    [JsonPropertyName("num_heads")]
    public int? HeadCount { get; init; }

    /// <summary>The width of all queries, and of all keys, as a multiple of d.</summary>
    [JsonPropertyName("expand_k")]
    public double KeyFactor { get; init; } = 0.5;

    /// <summary>The width of all values as a multiple of d.</summary>
    [JsonPropertyName("expand_v")]
    public double ValueFactor { get; init; } = 1;

    /// <summary>How many tokens a convolution before queries, keys and values sees, K; 0 for none, as in the GLA paper.</summary>
    [JsonPropertyName("conv_size")]
    public int ConvTaps { get; init; } = 4;

    /// <summary>What divides log sigmoid of a decay's pre-activation, tau: the greater, the longer a fresh model remembers.</summary>
    [JsonPropertyName("gate_logit_normalizer")]
    public double GateNormalizer { get; init; } = 16;

    /// <summary>The epsilon of the head norm; null for that of the model.</summary>
    [JsonPropertyName("norm_eps")]
    public double? NormEpsilon { get; init; }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["q", "k", "v", "log_decay", "ogate_preact", "h"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new GlaMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(("num_heads", Heads(site)));
        faults.Require(ConvTaps >= 0, $"conv_size is {ConvTaps}; expected at least 0");
        faults.Require(
            GateNormalizer > 0 && double.IsFinite(GateNormalizer),
            $"gate_logit_normalizer is {GateNormalizer}; expected a finite number above 0");
        foreach (var (name, factor, width) in new[] { ("expand_k", KeyFactor, QkDim(site)), ("expand_v", ValueFactor, VDim(site)) })
        {
            faults.Require(
                width >= 1 && Heads(site) >= 1 && width % Heads(site) == 0,
                $"{name} is {factor}, which makes a width of {width}; expected a multiple of num_heads {Heads(site)}");
        }

        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger d = site.Width, qk = Counts.Fitting(QkDim(site), "expand_k"), v = Counts.Fitting(VDim(site), "expand_v");
        return d * (2 * qk + 3 * v) + (d + 1) * Heads(site) + ConvTaps * (2 * qk + v) + v / Heads(site);
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The attention counts what the chunkwise form computes for a token of a chunk of 64: 2 L (DK + DV) for what it sees of its chunk, and
    /// 4 DK DV for reading the state and writing into it.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double d = site.Width, qk = (double)Counts.Fitting(QkDim(site), "expand_k"), v = (double)Counts.Fitting(VDim(site), "expand_v");
        double chunk = Math.Min(GlaMixer.ChunkSize, length);
        var projections = 2 * d * (2 * qk + 3 * v + Heads(site)) + 2.0 * ConvTaps * (2 * qk + v);
        return projections + (2 * chunk * (qk + v) + 4 * qk * v / Heads(site));
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger qk = Counts.Fitting(QkDim(site), "expand_k"), v = Counts.Fitting(VDim(site), "expand_v");
        return 4 * (qk * v / Heads(site) + Math.Max(ConvTaps - 1, 0) * (2 * qk + v));
    }

    /// <summary>NH.</summary>
    internal int Heads(MixerSite site) => HeadCount ?? site.HeadCount;

    /// <summary>NH DK.</summary>
    internal int QkDim(MixerSite site) => (int)(site.Width * KeyFactor);

    /// <summary>NH DV.</summary>
    internal int VDim(MixerSite site) => (int)(site.Width * ValueFactor);
}

/// <summary>
/// W_o(SiLU(W_g x) * norm(o)), where o is the gated linear attention of q, k and v with log a = log sigmoid(W_a x + b) / tau
/// (Yang et al. 2023, section 4.4).
/// </summary>
internal sealed class GlaMixer : Mixer
{
    /// <summary>The tokens of a chunk, L.</summary>
    public const int ChunkSize = 64;

    [ComponentName(Name = "q_proj")]
    private readonly Dense _q;

    [ComponentName(Name = "k_proj")]
    private readonly Dense _k;

    [ComponentName(Name = "v_proj")]
    private readonly Dense _v;

    [ComponentName(Name = "g_proj")]
    private readonly Dense _outputGate;

    [ComponentName(Name = "q_conv1d")]
    private readonly CausalConvolution? _qConv;

    [ComponentName(Name = "k_conv1d")]
    private readonly CausalConvolution? _kConv;

    [ComponentName(Name = "v_conv1d")]
    private readonly CausalConvolution? _vConv;

    [ComponentName(Name = "gk_proj")]
    private readonly Dense _decay;

    [ComponentName(Name = "g_norm")]
    private readonly RmsNorm _headNorm;

    [ComponentName(Name = "o_proj")]
    private readonly Dense _out;

    private readonly GlaMixerConfig _config;
    private readonly int _heads;

    public GlaMixer(GlaMixerConfig config, MixerSite site)
        : base(nameof(GlaMixer))
    {
        var (d, qk, v, taps) = (site.Width, config.QkDim(site), config.VDim(site), config.ConvTaps);
        (_config, _heads) = (config, config.Heads(site));
        _q = new(d, qk);
        _k = new(d, qk);
        _v = new(d, v);
        _outputGate = new(d, v);
        if (taps > 0)
        {
            _qConv = new(qk, taps, bias: false);
            _kConv = new(qk, taps, bias: false);
            _vConv = new(v, taps, bias: false);
        }

        _decay = new(d, _heads, bias: true);
        _headNorm = new(v / _heads, config.NormEpsilon ?? site.NormEpsilon);
        _out = new(v, d);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var rows = pass.Work.Rows(x);
        var asking = ReferenceEquals(x, convolved) ? rows.X : rows.Of(convolved).X;
        var all = Dense.ForwardTogether(asking, [_q, _k], rows.X, [_v, _outputGate]);
        var q = PerHead(pass.Convolve(_qConv, all[0], "conv_q", rows)); // (B, NH, S, DK)
        var k = PerHead(pass.Convolve(_kConv, all[1], "conv_k", rows));
        var v = PerHead(pass.Convolve(_vConv, all[2], "conv_v", rows)); // (B, NH, S, DV)
        var gate = all[3]; // (B, S, NH DV)
        var preact = _decay.Forward(rows.X).transpose(1, 2); // (B, NH, S)
        var logDecay = nn.functional.logsigmoid(preact.Widened()) / _config.GateNormalizer;
        var layout = new SequenceLayout(rows.DocumentStarts, rows.Real?.logical_not());
        var (o, last) = GatedLinearAttention.Forward(
            q, k, v, logDecay, pass.Before("s"), layout, returnState: pass.ReturnState, chunkSize: ChunkSize);
        if (last is not null)
        {
            pass.Keep("s", last.Widened());
        }

        if (pass.Observe is { } observe)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("log_decay", logDecay);
            observe("ogate_preact", gate);
            observe("h", o);
        }

        return rows.Restore(
            _out.Forward(FeedForward.Middle(FeedForwardKind.SwiGlu, gate, _headNorm.Forward(o.transpose(1, 2)).flatten(2))));
    }

    /// <summary>Normal weights; the convolutions stay as torch draws its own.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v, _outputGate, _decay })
        {
            projection.Weight.normal_(0, inputStd, generator);
        }

        foreach (var convolution in new[] { _qConv, _kConv, _vConv })
        {
            convolution?.Initialize(generator);
        }

        _out.Weight.normal_(0, outputStd, generator);
    }

    /// <summary>[B, S, NH D] to [B, NH, S, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_heads, -1]).transpose(1, 2);
}
