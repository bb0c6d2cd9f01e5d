using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The state space of Mamba2, with one decay a head (Dao and Gu 2024).</summary>
public sealed record Mamba2MixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "mamba2";

    /// <summary>The number of heads, H; together they have the inner width. Null for that of the model.</summary>
    [JsonPropertyName("num_heads")]
    public int? HeadCount { get; init; }

    /// <summary>The states of each channel, N.</summary>
    [JsonPropertyName("state_size")]
    public int StateSize { get; init; } = 128;

    /// <summary>The groups of heads that share B and C, G.</summary>
    [JsonPropertyName("n_groups")]
    public int GroupCount { get; init; } = 1;

    /// <summary>The inner width as a multiple of d, E.</summary>
    [JsonPropertyName("expand")]
    public int Expand { get; init; } = 2;

    /// <summary>The taps of the causal convolution.</summary>
    [JsonPropertyName("conv_kernel")]
    public int ConvKernelSize { get; init; } = 4;

    /// <summary>The number of tokens that are treated in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 256;

    /// <summary>Whether the projections in and out have biases.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>Whether the convolution has a bias.</summary>
    [JsonPropertyName("use_conv_bias")]
    public bool UseConvBias { get; init; } = true;

    /// <summary>The epsilon of the norm; null for that of the model.</summary>
    [JsonPropertyName("layer_norm_epsilon")]
    public double? NormEpsilon { get; init; }

    /// <summary>The smallest step size dt at the start.</summary>
    [JsonPropertyName("time_step_min")]
    public double TimeStepMin { get; init; } = 0.001;

    /// <summary>The largest step size dt at the start.</summary>
    [JsonPropertyName("time_step_max")]
    public double TimeStepMax { get; init; } = 0.1;

    /// <summary>What step sizes drawn below it are raised to.</summary>
    [JsonPropertyName("time_step_floor")]
    public double TimeStepFloor { get; init; } = 1e-4;

    /// <summary>The least that a token's step size can be.</summary>
    [JsonPropertyName("time_step_lowest")]
    public double TimeStepLowest { get; init; }

    /// <summary>The most that a token's step size can be; null for no bound.</summary>
    [JsonPropertyName("time_step_highest")]
    public double? TimeStepHighest { get; init; }

    /// <summary>Whether the output projection starts divided by sqrt(L), as in the paper's code.</summary>
    [JsonPropertyName("rescale_prenorm_residual")]
    public bool RescaleOutput { get; init; } = true;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["dt", "b", "c"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new Mamba2Mixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("num_heads", Heads(site)), ("state_size", StateSize), ("n_groups", GroupCount), ("expand", Expand),
            ("conv_kernel", ConvKernelSize),
            ("chunk_size", ChunkSize));
        faults.Require(
            Heads(site) < 1 || (long)Expand * site.Width % Heads(site) == 0,
            $"num_heads is {Heads(site)}; expected a divisor of expand times the width, {(long)Expand * site.Width}");
        faults.Require(
            InnerDim(site) + ConvDim(site) + Heads(site) < int.MaxValue,
            $"expand is {Expand}, n_groups {GroupCount}, state_size {StateSize}; expected an input projection of fewer than 2^31 - 1 rows");
        faults.Require(
            GroupCount < 1 || Heads(site) % GroupCount == 0, $"n_groups is {GroupCount}; expected a divisor of num_heads {Heads(site)}");
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
        faults.Require(
            TimeStepLowest >= 0 && double.IsFinite(TimeStepLowest) && (TimeStepHighest ?? double.PositiveInfinity) >= TimeStepLowest,
            $"time_step_lowest is {TimeStepLowest} and time_step_highest {TimeStepHighest}; ",
            $"expected two numbers of at least 0, the smaller first");
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger d = site.Width, inner = InnerDim(site), input = inner + ConvDim(site) + Heads(site);
        return d * (input + inner) + (UseBias ? input + d : 0) // in, out
            + ConvDim(site) * (ConvKernelSize + (UseConvBias ? 1L : 0))
            + 3L * Heads(site) // A, D, bias of dt
            + inner; // norm
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The chunkwise form: all pairs of a chunk's tokens, written states and read states; the decays count 3 for each pair and head.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double d = site.Width, inner = (double)InnerDim(site), convolved = (double)ConvDim(site), chunk = Math.Min(ChunkSize, length);
        var projections = 2 * d * (inner + convolved + Heads(site) + inner);
        var mixing = 2 * chunk * ((double)GroupCount * StateSize + inner) + 3 * chunk * Heads(site) + 4 * inner * StateSize;
        return projections + 2.0 * ConvKernelSize * convolved + mixing + 2 * inner;
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) =>
        4 * (InnerDim(site) * StateSize + (ConvKernelSize - 1L) * ConvDim(site));

    /// <summary>H.</summary>
    internal int Heads(MixerSite site) => HeadCount ?? site.HeadCount;

    /// <summary>E d.</summary>
    internal BigInteger InnerDim(MixerSite site) => (BigInteger)Expand * site.Width;

    /// <summary>The width of what the convolution reads: x, B and C.</summary>
    internal BigInteger ConvDim(MixerSite site) => InnerDim(site) + (BigInteger)2 * GroupCount * StateSize;
}

/// <summary>
/// y = W_out(norm(SSM(x, B, C, dt) * SiLU(z))) with (z, x, B, C, dt) = W_in u and a convolution over x, B and C (Dao and Gu 2024, figure
/// 6).
/// </summary>
/// <remarks>An observer sees rows with their padding last.</remarks>
internal sealed class Mamba2Mixer : Mixer
{
    [ComponentName(Name = "dt_bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _stepBias;

    [ComponentName(Name = "A_log")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _logRates;

    [ComponentName(Name = "D")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _skip;

    [ComponentName(Name = "conv1d")]
    private readonly CausalConvolution _convolution;

    [ComponentName(Name = "in_proj")]
    private readonly Dense _in;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly Mamba2MixerConfig _config;
    private readonly int _heads;
    private readonly int _inner;
    private readonly int _convDim;
    private readonly double _outputScale;

    public Mamba2Mixer(Mamba2MixerConfig config, MixerSite site)
        : base(nameof(Mamba2Mixer))
    {
        (_config, _heads, _inner, _convDim) = (config, config.Heads(site), (int)config.InnerDim(site), (int)config.ConvDim(site));
        _outputScale = config.RescaleOutput ? Math.Pow(site.BlockCount, -0.5) : 1;
        _stepBias = Parameters.Zeros(_heads);
        _logRates = Parameters.Zeros(_heads);
        _skip = Parameters.Zeros(_heads);
        _convolution = new(_convDim, config.ConvKernelSize, config.UseConvBias);
        _in = new(site.Width, _inner + _convDim + _heads, config.UseBias);
        _norm = new(_inner, config.NormEpsilon ?? site.NormEpsilon);
        _out = new(_inner, site.Width, config.UseBias);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var rows = pass.Work.Rows(convolved);
        var (starts, real) = (rows.DocumentStarts, rows.Real);
        var parts = _in.Forward(rows.X).split([_inner, _convDim, _heads], -1);
        var (mixed, conv) = _convolution.Forward(
            parts[1], pass.Before("conv"), starts, real, activate: true, pass.ReturnState); // (B, S, E d + 2 G N)
        long shared = _config.GroupCount * _config.StateSize;
        var inputs = mixed.split([_inner, shared, shared], -1);
        var u = inputs[0].unflatten(2, [_heads, -1]); // (B, S, H, P)
        var b = inputs[1].unflatten(2, [_config.GroupCount, _config.StateSize]); // (B, S, G, N)
        var c = inputs[2].unflatten(2, [_config.GroupCount, _config.StateSize]);
        if (!StateSpaceDual.Serves(u, b))
        {
            (u, b, c) = (u.Widened(), b.Widened(), c.Widened());
        }

        var dt = nn.functional.softplus(parts[2].Widened() + _stepBias); // (B, S, H)
        if (_config.TimeStepLowest > 0 || _config.TimeStepHighest is not null)
        {
            dt = dt.clamp(_config.TimeStepLowest, _config.TimeStepHighest ?? double.PositiveInfinity);
        }

        dt = real is null ? dt : dt * real.unsqueeze(2);
        var (y, ssm) = StateSpaceDual.Forward(
            u, dt, -exp(_logRates), b, c, _config.ChunkSize, pass.Before("ssm"), starts, pass.ReturnState); // (B, S, H, P)
        y = addcmul(y, u, _skip.to(u.dtype).unsqueeze(1), 1).flatten(2); // (B, S, E d)
        if (pass.Observe is { } observe)
        {
            observe("dt", dt);
            observe("b", b);
            observe("c", c);
        }

        if (pass.ReturnState)
        {
            pass.Keep("conv", conv!);
            pass.Keep("ssm", ssm!);
        }

        var gated = GluKernel.Serves(parts[0]) && GluKernel.Serves(y)
            ? GluKernel.Forward(parts[0], y, FeedForwardKind.SwiGlu) // SiLU(z) y
            : y * nn.functional.silu(parts[0].Widened());
        return rows.Restore(_out.Forward(_norm.Forward(gated).to(x.dtype)));
    }

    /// <summary>Mamba2's own, whatever the standard deviations.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        StateSpaceWeights.DrawUniform(_in, generator);
        _convolution.Initialize(generator);
        StateSpaceWeights.DrawStepBias(_stepBias, _config.TimeStepMin, _config.TimeStepMax, _config.TimeStepFloor, generator);

        // A uniform between -16 and -1.
        _logRates.uniform_(1, 16, generator);
        _logRates.log_();
        _skip.fill_(1);
        StateSpaceWeights.DrawUniform(_out, generator);
        _out.Weight.mul_(_outputScale);
    }
}
