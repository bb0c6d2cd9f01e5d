using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>
/// An mLSTM and an attention to a sliding window with sinks side by side, of the same queries, keys and values, mixed by a gate a head
/// (Hauzenberger et al. 2026, "Effective Distillation to Hybrid xLSTM Architectures", eq. 11).
/// </summary>
/// <remarks>
/// <code>
/// h_t = o_t (phi(q_t) S_t) / (phi(q_t) z_t) + (1 - o_t) SWA(q_t)
/// S_t = f_t S_(t-1) + i_t phi(k_t) v_t^T,   z_t = f_t z_(t-1) + i_t phi(k_t)
/// i_t = exp(w_i x_t + b_i),   f_t = sigmoid(w_f x_t + b_f),   o_t = sigmoid(w_o [q_t k_t v_t])
/// </code>
/// (eqs. 8 to 11), with phi(x) = softmax(W_phi x) over the channels of a head and no norm behind (section 3.1). Where the paper leaves a
/// choice it is read to the letter: the denominator has no lower bound as the first paper's mLSTM has, and o sees the q, k and v of its own
/// head, before they are rotated, since its weights can be merged into one projection of x. Biases and soft cap are those of the 7B model.
/// </remarks>
public sealed record MLstmWindowMixerConfig : SlidingWindowMixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "mlstm_window";

    /// <summary>
    /// Whether phi sees the rotated q and k, as the text has it. Figure 2 merges W_phi into the projections of q and k, which needs them as
    /// they are.
    /// </summary>
    [JsonPropertyName("rotate_features")]
    public bool RotateFeatures { get; init; } = true;

    /// <summary>The soft cap of the input and forget gates' pre-activations, a tanh(x / a); null for none.</summary>
    [JsonPropertyName("gate_soft_cap")]
    public double? GateSoftCap { get; init; } = 15;

    /// <summary>The input gate's bias at the start, which the denominator takes out.</summary>
    [JsonPropertyName("igate_bias_init")]
    public double InputGateBias { get; init; }

    /// <summary>The first head's forget-gate bias at the start; the others' lie evenly up to the last head's.</summary>
    [JsonPropertyName("fgate_bias_init_first")]
    public double ForgetGateBiasFirst { get; init; } = 3;

    /// <summary>The last head's forget-gate bias at the start.</summary>
    [JsonPropertyName("fgate_bias_init_last")]
    public double ForgetGateBiasLast { get; init; } = 6;

    /// <summary>The number of tokens that the mLSTM treats in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables =>
        ["q", "k", "v", "attention", "igate_preact", "fgate_preact", "ogate_preact", "h_mlstm", "h_window"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new MLstmWindowMixer(this, site);

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger heads = Heads(site), dim = HeadDim(site);
        return base.CountParameters(site) + heads * (2 * dim * dim + 3 * dim + 2 * (site.StreamWidth + 1));
    }

    /// <inheritdoc/>
    /// <remarks>The window counts as an attention's does, and the cell as <see cref="MLstmMixerConfig.CellFlops"/>.</remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double heads = Heads(site), dim = HeadDim(site);
        var weights = 2 * heads * (2 * dim * dim + 3 * dim + 2.0 * site.StreamWidth);
        var cell = MLstm(site).CellFlops(Heads(site) * HeadDim(site), length) / length;
        return base.ForwardFlopsPerToken(site, length) + weights + cell + 3 * heads * dim;
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length)
    {
        BigInteger dim = HeadDim(site);
        return base.StateBytes(site, length) + 4 * Heads(site) * (dim * (dim + 1) + 1);
    }

    /// <summary>The mLSTM's part.</summary>
    internal MLstmMixerConfig MLstm(MixerSite site) => new()
    {
        HeadCount = Heads(site),
        QkDimFactor = 1,
        GateSoftCap = GateSoftCap,
        InputGateBias = InputGateBias,
        ForgetGateBiasFirst = ForgetGateBiasFirst,
        ForgetGateBiasLast = ForgetGateBiasLast,
        Normalize = false, // the mixer divides
        ChunkSize = ChunkSize,
    };

    /// <inheritdoc/>
    private protected override void Check(MixerSite site, ConfigFaults faults)
    {
        base.Check(site, faults);
        faults.RequireAtLeastOne(("chunk_size", ChunkSize));
        faults.Require(GateSoftCap is not { } cap || cap > 0, $"gate_soft_cap is {GateSoftCap}; expected a number above 0, or null");
    }
}

/// <summary>W_out(o mLSTM + (1 - o) SWA): see <see cref="MLstmWindowMixerConfig"/>.</summary>
internal sealed class MLstmWindowMixer : Mixer
{
    /// <summary>Below any denominator that a token has; a padded position without a token before it has 0 / 0.</summary>
    private const double Nothing = 1e-30;

    /// <summary>The widths of values that kernels read are multiples of it.</summary>
    private const long KernelWidth = 32;

    [ComponentName(Name = "q_proj")]
    private readonly Dense _q;

    [ComponentName(Name = "k_proj")]
    private readonly Dense _k;

    [ComponentName(Name = "v_proj")]
    private readonly Dense _v;

    [ComponentName(Name = "q_feature_map")]
    private readonly HeadwiseDense _qFeatures;

    [ComponentName(Name = "k_feature_map")]
    private readonly HeadwiseDense _kFeatures;

    [ComponentName(Name = "ogate_weight")]
    [Role(ParameterRole.Weight)]
    private readonly Parameter _mix;

    [ComponentName(Name = "o_proj")]
    private readonly Dense _out;

    private readonly MLstmGates _gates;
    private readonly AttentionHeads _window;
    private readonly MLstmOptions _cell;
    private readonly bool _rotate;

    public MLstmWindowMixer(MLstmWindowMixerConfig config, MixerSite site)
        : base(nameof(MLstmWindowMixer))
    {
        var (d, heads, dim, kv) = (site.Width, config.Heads(site), config.HeadDim(site), config.KvHeads(site) * config.HeadDim(site));
        var mlstm = config.MLstm(site);
        _window = new(config, site);
        _gates = new(mlstm, site.StreamWidth);
        (_cell, _rotate) = (mlstm.Cell, config.RotateFeatures);
        _q = new(d, heads * dim, config.UseBias);
        _k = new(d, kv, config.UseBias);
        _v = new(d, kv, config.UseBias);
        _qFeatures = new(heads * dim, heads);
        _kFeatures = new(heads * dim, heads);
        _mix = Parameters.Zeros(heads, 3 * dim);
        _out = new(heads * dim, d, config.UseBias);
        RegisterComponents();
        _gates.Register(this);
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var all = Dense.ForwardTogether(convolved, [_q, _k], x, [_v]); // (B, S, NH D), twice (B, S, NKV D)
        var (q, k, v) = (all[0], all[1], all[2]);
        var (window, rotatedQ, rotatedK, _) = _window.Forward(q, k, v, pass); // (B, NH, S, D)
        var (plainQ, plainK, values) = (_window.SplitHeads(q), ForEachHead(k), ForEachHead(v)); // (B, NH, S, D)
        var mixPreact = (cat([plainQ, plainK, values], 3) * _mix.to(x.dtype).unsqueeze(1)).sum(-1).Widened(); // (B, NH, S)
        var queries = Features(_qFeatures, _rotate ? rotatedQ : plainQ);
        var keys = Features(_kFeatures, _rotate ? _window.ForEachHead(rotatedK) : plainK);
        var mlstm = Remembered(queries, keys, values, pass.Stream ?? x, pass); // (B, NH, S, D)
        if (pass.Observe is { } observe)
        {
            observe("ogate_preact", mixPreact);
            observe("h_mlstm", mlstm);
            observe("h_window", window);
        }

        var o = sigmoid(mixPreact).unsqueeze(3).to(x.dtype); // (B, NH, S, 1)
        return _out.Forward((o * mlstm + (1 - o) * window).transpose(1, 2).flatten(2));

        Tensor ForEachHead(Tensor shared) => _window.ForEachHead(_window.SplitHeads(shared));
    }

    /// <summary>Normal projections, feature maps that leave q and k as they are, and a gate of 1/2.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        foreach (var projection in new[] { _q, _k, _v })
        {
            projection.Weight.normal_(0, inputStd, generator);
        }

        foreach (var map in new[] { _qFeatures, _kFeatures })
        {
            map.Weight.copy_(eye(map.Weight.shape[1]).expand_as(map.Weight));
        }

        _mix.zero_();
        _gates.Initialize(generator);
        _out.Weight.normal_(0, outputStd, generator);
    }

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, Tensor> JoinStates(IReadOnlyList<IReadOnlyDictionary<string, Tensor>> states) =>
        _window.JoinCaches(states) ?? base.JoinStates(states);

    /// <summary>phi: a projection of each head and a softmax over its channels, [B, NH, S, D] to [B, NH, S, D].</summary>
    private Tensor Features(HeadwiseDense map, Tensor x) =>
        _window.SplitHeads(map.Forward(x.transpose(1, 2).flatten(2))).Widened().softmax(-1).to(x.dtype);

    /// <summary>(phi(q) S) / (phi(q) z), [B, NH, S, D], where z is the column of S whose values are 1.</summary>
    private Tensor Remembered(Tensor q, Tensor k, Tensor v, Tensor stream, MixerPass pass)
    {
        var columns = v.shape[3] + 1;
        var filling = v.dtype == ScalarType.BFloat16 && v.shape[3] % KernelWidth == 0 ? KernelWidth - 1 : 0;
        var (igatePreact, fgatePreact) = _gates.Forward(stream); // (B, NH, S)
        var written = Filled(cat([v, ones_like(v.narrow(3, 0, 1), requires_grad: false)], 3)); // (B, NH, S, D + 1)
        MLstmState? before = null;
        if (pass.HasState)
        {
            var c = pass.Before("c")!; // (B, NH, D, D + 1)
            before = new(Filled(c), zeros_like(c.select(3, 0), requires_grad: false), pass.Before("m")!);
        }

        Tensor read;
        if (pass.ReturnState)
        {
            (read, var last) = MLstmCell.Forward(q, k, written, igatePreact, fgatePreact, before, pass.Layout, _cell);
            pass.Keep("c", last.C.narrow(3, 0, columns).contiguous());
            pass.Keep("m", last.M);
        }
        else
        {
            read = MLstmCell.ForwardOutput(q, k, written, igatePreact, fgatePreact, before, pass.Layout, _cell);
        }

        if (pass.Observe is { } observe)
        {
            observe("igate_preact", igatePreact);
            observe("fgate_preact", fgatePreact);
        }

        var wide = read.Widened(); // in units of exp(m), which the quotient is not
        return (wide.narrow(3, 0, columns - 1) / wide.narrow(3, columns - 1, 1).clamp_min(Nothing)).to(v.dtype);

        Tensor Filled(Tensor x) => filling == 0 ? x : nn.functional.pad(x, [0, filling]);
    }
}
