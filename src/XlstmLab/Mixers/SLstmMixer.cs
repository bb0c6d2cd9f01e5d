using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The sLSTM (xLSTM, section 2.2): scalar memories with exponential gates, mixed within a head by recurrent weights.</summary>
public sealed record SLstmMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "slstm";

    /// <summary>The number of heads, NH, a divisor of d.</summary>
    [JsonPropertyName("num_heads")]
    public int HeadCount { get; init; } = 4;

    /// <summary>
    /// Whether each head's gates see their own part of the input alone and no projection follows: the first paper's. Otherwise they see all
    /// of it, as the 7B model's mLSTM does.
    /// </summary>
    [JsonPropertyName("headwise")]
    public bool Headwise { get; init; }

    /// <summary>Whether the output projection and norms have biases; the gates always have.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>The forget gate: sigmoid or exponential.</summary>
    [JsonPropertyName("forget_gate")]
    public ForgetGate ForgetGate { get; init; }

    /// <summary>What the recurrent weights R start as.</summary>
    [JsonPropertyName("recurrent_init")]
    public RecurrentInit RecurrentInit { get; init; }

    /// <summary>What the forget-gate biases start as.</summary>
    [JsonPropertyName("forget_bias_init")]
    public SLstmForgetBias ForgetBias { get; init; }

    /// <summary>The first unit's forget-gate bias of <see cref="SLstmForgetBias.Linear"/>.</summary>
    [JsonPropertyName("fgate_bias_init_first")]
    public double ForgetGateBiasFirst { get; init; } = 3;

    /// <summary>The last unit's.</summary>
    [JsonPropertyName("fgate_bias_init_last")]
    public double ForgetGateBiasLast { get; init; } = 6;

    /// <summary>The largest absolute value of the gradient that goes through R from a token to the one before; null for no clip.</summary>
    [JsonPropertyName("gradient_clip")]
    public double? GradientClip { get; init; }

    /// <summary>The norm of h.</summary>
    [JsonPropertyName("head_norm")]
    public HeadNormKind HeadNorm { get; init; }

    /// <summary>The number of groups of <see cref="HeadNormKind.Group"/>; null for one a head.</summary>
    [JsonPropertyName("head_norm_groups")]
    public int? HeadNormGroups { get; init; }

    /// <summary>The head norm's epsilon.</summary>
    [JsonPropertyName("head_norm_eps")]
    public double HeadNormEpsilon { get; init; } = 1e-6;

    /// <summary>The cell's part.</summary>
    [JsonIgnore]
    public SLstmOptions Cell => new() { ForgetGate = ForgetGate, RecurrentGradientClip = GradientClip };

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["slstm_gate_preacts", "h"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => Headwise ? new HeadwiseSLstmMixer(this, site) : new SLstmMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireKnown(this);
        CheckValues(faults, "");
        CheckWidths(faults, site, "");
        faults.Throw();
    }

    /// <summary>Notes what is wrong with the values by themselves.</summary>
    /// <param name="faults">The faults so far.</param>
    /// <param name="prefix">What stands before the values' names in a model's configuration.</param>
    internal void CheckValues(ConfigFaults faults, string prefix)
    {
        faults.Require(
            ForgetGate is ForgetGate.Sigmoid or ForgetGate.Exponential,
            $"{prefix}forget_gate is {ForgetGate}; expected sigmoid or exponential");
        faults.Require(
            GradientClip is not { } clip || clip > 0, $"{prefix}gradient_clip is {GradientClip}; expected a number above 0, or null");
    }

    /// <summary>Notes what is wrong with the heads that it has at a place.</summary>
    /// <inheritdoc cref="CheckValues"/>
    internal void CheckWidths(ConfigFaults faults, MixerSite site, string prefix)
    {
        var size = site.Width / Math.Max(1, HeadCount);
        faults.Require(
            HeadCount >= 1 && size * HeadCount == site.Width,
            $"{prefix}num_heads is {HeadCount}; expected a divisor of embedding_dim {site.Width}");
        faults.Require(
            size > 1 || HeadNorm is HeadNormKind.Rms or HeadNormKind.None,
            $"{prefix}num_heads is {HeadCount}, which leaves one unit a head, of which head_norm makes 0; ",
            $"expected fewer heads, or head_norm rms or none");
        faults.Require(
            HeadNorm != HeadNormKind.Group || HeadNormGroups is not { } groups || (groups >= 1 && site.Width % groups == 0),
            $"head_norm_groups is {HeadNormGroups}; expected a divisor of embedding_dim {site.Width}, which the sLSTM's output has");
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        BigInteger d = site.Width;
        var cell = 4 * d * (d / HeadCount) + 4 * d; // R and b
        return cell + MLstmMixerConfig.HeadNormParameters(HeadNorm, d, UseBias)
            + (Headwise ? 4 * d * (d / HeadCount) : 5 * d * d + (UseBias ? d : 0));
    }

    /// <inheritdoc/>
    /// <remarks>A unit counts 24 for its gates and states beside the products with R.</remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        double d = site.Width, size = site.Width / HeadCount;
        var cell = 8 * d * size + 24 * d;
        return Headwise ? cell + 8 * d * size : cell + 10 * d * d;
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) => (BigInteger)16 * site.Width;
}

/// <summary>The sLSTM between dense projections, as the 7B model has its mLSTM: y = W_out HeadNorm(sLSTM(W x)).</summary>
internal sealed class SLstmMixer : Mixer
{
    [ComponentName(Name = "igate_preact")]
    private readonly Dense _inputGate;

    [ComponentName(Name = "fgate_preact")]
    private readonly Dense _forgetGate;

    [ComponentName(Name = "zgate_preact")]
    private readonly Dense _cellInput;

    [ComponentName(Name = "ogate_preact")]
    private readonly Dense _outputGate;

    [ComponentName(Name = "slstm_cell")]
    private readonly SLstmWeights _cell;

    [ComponentName(Name = "multihead_norm")]
    private readonly HeadNorm _headNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    public SLstmMixer(SLstmMixerConfig config, MixerSite site)
        : base(nameof(SLstmMixer))
    {
        var (d, heads) = (site.Width, config.HeadCount);
        _inputGate = new(d, d);
        _forgetGate = new(d, d);
        _cellInput = new(d, d);
        _outputGate = new(d, d);
        _cell = new(config, site);
        _headNorm = new(config.HeadNorm, heads, d / heads, config.HeadNormEpsilon, config.UseBias, config.HeadNormGroups);
        _out = new(d, d, config.UseBias);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var gates = Dense.ForwardTogether(convolved, [_inputGate, _forgetGate], x, [_cellInput, _outputGate]); // (B, S, d) each
        var h = _cell.Forward(gates[0], gates[1], gates[2], gates[3], pass);
        return _out.Forward(_headNorm.Forward(h));
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var gate in new[] { _inputGate, _forgetGate, _cellInput, _outputGate })
        {
            gate.Weight.normal_(0, inputStd, generator);
        }

        _cell.Initialize(generator);
        _out.Weight.normal_(0, outputStd, generator);
    }
}

/// <summary>
/// The sLSTM of the first paper: i and f look at SiLU(conv(x)), z and o at x, each head at its own part; y = HeadNorm(h).
/// </summary>
internal sealed class HeadwiseSLstmMixer : Mixer
{
    [ComponentName(Name = "igate")]
    private readonly HeadwiseDense _inputGate;

    [ComponentName(Name = "fgate")]
    private readonly HeadwiseDense _forgetGate;

    [ComponentName(Name = "zgate")]
    private readonly HeadwiseDense _cellInput;

    [ComponentName(Name = "ogate")]
    private readonly HeadwiseDense _outputGate;

    [ComponentName(Name = "slstm_cell")]
    private readonly SLstmWeights _cell;

    [ComponentName(Name = "group_norm")]
    private readonly HeadNorm _headNorm;

    public HeadwiseSLstmMixer(SLstmMixerConfig config, MixerSite site)
        : base(nameof(HeadwiseSLstmMixer))
    {
        var (d, heads) = (site.Width, config.HeadCount);
        _inputGate = new(d, heads);
        _forgetGate = new(d, heads);
        _cellInput = new(d, heads);
        _outputGate = new(d, heads);
        _cell = new(config, site);
        _headNorm = new(config.HeadNorm, heads, d / heads, config.HeadNormEpsilon, config.UseBias, config.HeadNormGroups);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var h = _cell.Forward(
            _inputGate.Forward(convolved), _forgetGate.Forward(convolved), _cellInput.Forward(x), _outputGate.Forward(x),
            pass); // (B, S, NH, D)
        return _headNorm.Forward(h); // (B, S, d)
    }

    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var gate in new[] { _inputGate, _forgetGate, _cellInput, _outputGate })
        {
            gate.Weight.normal_(0, inputStd, generator);
        }

        _cell.Initialize(generator);
    }
}

/// <summary>The sLSTM's own weights: the recurrent kernel R and the gates' biases, with the cell between four gates and h.</summary>
internal sealed class SLstmWeights : nn.Module
{
    [ComponentName(Name = "_recurrent_kernel_")]
    [Role(ParameterRole.Weight)]
    private readonly Parameter _recurrentKernel;

    [ComponentName(Name = "_bias_")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _bias;

    private readonly SLstmMixerConfig _config;
    private readonly MixerSite _site;
    private readonly SLstmOptions _options;
    private readonly int _heads;
    private readonly int _size;

    public SLstmWeights(SLstmMixerConfig config, MixerSite site)
        : base(nameof(SLstmWeights))
    {
        (_config, _site, _options, _heads) = (config, site, config.Cell, config.HeadCount);
        _size = site.Width / _heads;
        _recurrentKernel = Parameters.Zeros(_heads, 4 * _size, _size); // (head, gate and unit written, unit read)
        _bias = Parameters.Zeros(4 * site.Width);                      // gate, head, unit
        RegisterComponents();
    }

    /// <summary>Four [B, S, d] to h [B, S, NH, D].</summary>
    public Tensor Forward(Tensor igate, Tensor fgate, Tensor zgate, Tensor ogate, MixerPass pass)
    {
        var before = pass.HasState ? new SLstmState(pass.Before("h")!, pass.Before("c")!, pass.Before("n")!, pass.Before("m")!) : null;
        var gates = stack([igate, fgate, zgate, ogate], 2).unflatten(3, [_heads, _size]);       // (B, S, 4, NH, D)
        var (h, last) = SLstmCell.Forward(
            gates, _recurrentKernel.view(_heads, 4, _size, _size), _bias.view(4, _heads, _size), before, pass.Layout, _options);
        if (pass.ReturnState)
        {
            pass.Keep("h", last.H);
            pass.Keep("c", last.C);
            pass.Keep("n", last.N);
            pass.Keep("m", last.M);
        }

        pass.Observe?.Invoke("slstm_gate_preacts", gates);
        pass.Observe?.Invoke("h", h);
        return h.transpose(1, 2); // (B, S, NH, D)
    }

    public void Initialize(Generator generator)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var bound = 1 / Math.Sqrt(_size);
        _ = _config.RecurrentInit switch
        {
            RecurrentInit.Uniform => _recurrentKernel.uniform_(-bound, bound, generator),
            RecurrentInit.Normal => _recurrentKernel.normal_(0, bound, generator),
            RecurrentInit.Zeros => _recurrentKernel.zero_(),
            _ => throw UnknownValue.Of(_config.RecurrentInit),
        };

        _bias.zero_();
        _bias.view(4, _heads, _size)[1].copy_(ForgetBias()); // the same in every head
    }

    private Tensor ForgetBias()
    {
        if (_config.ForgetBias.Known() == SLstmForgetBias.Linear)
        {
            return linspace(_config.ForgetGateBiasFirst, _config.ForgetGateBiasLast, _size);
        }

        var depth = _site.Block / Math.Max(1.0, _site.BlockCount - 1);
        return 5 - 12 * (arange(_size, ScalarType.Float32) / Math.Max(1, _size - 1)).pow(0.3 + 1.3 * depth);
    }
}
