using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The state space of Mamba-3 with one input and output, SISO (Lahoti et al. 2026).</summary>
/// <remarks>
/// <see cref="TrapezoidalStateSpace"/> has the equations. What the paper leaves open is as in its authors' first published code: A is
/// -softplus of a projection, theta pi tanh of one that all heads share, lambda the sigmoid of one, and half of the channels turn.
/// </remarks>
public sealed record Mamba3MixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "mamba3";

    /// <summary>The number of heads, H; together they have the inner width. Null for that of the model.</summary>
    [JsonPropertyName("num_heads")]
    public int? HeadCount { get; init; }

    /// <summary>The states of each channel, N.</summary>
    [JsonPropertyName("state_size")]
    public int StateSize { get; init; } = 128;

    /// <summary>The groups of heads that share B and C before their biases, G.</summary>
    [JsonPropertyName("n_groups")]
    public int GroupCount { get; init; } = 1;

    /// <summary>The inner width as a multiple of d, E.</summary>
    [JsonPropertyName("expand")]
    public int Expand { get; init; } = 2;

    /// <summary>The share of the states that turn, in pairs; 0 for none: a real state.</summary>
    [JsonPropertyName("rope_fraction")]
    public double RotatedShare { get; init; } = 0.5;

    /// <summary>The least that -A is.</summary>
    [JsonPropertyName("a_floor")]
    public double RateFloor { get; init; } = 1e-4;

    /// <summary>The number of tokens that are treated in parallel.</summary>
    [JsonPropertyName("chunk_size")]
    public int ChunkSize { get; init; } = 64;

    /// <summary>The epsilon of the norms of B and C; null for that of the model.</summary>
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

    /// <summary>Whether the output projection starts divided by sqrt(L), as Mamba's.</summary>
    [JsonPropertyName("rescale_prenorm_residual")]
    public bool RescaleOutput { get; init; } = true;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables =>
        Pairs > 0 ? ["dt", "log_decay", "lambda", "angle", "b", "c"] : ["dt", "log_decay", "lambda", "b", "c"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new Mamba3Mixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("num_heads", Heads(site)), ("state_size", StateSize), ("n_groups", GroupCount), ("expand", Expand), ("chunk_size", ChunkSize));
        faults.Require(
            Heads(site) < 1 || (long)Expand * site.Width % Heads(site) == 0,
            $"num_heads is {Heads(site)}; expected a divisor of expand times the width, {(long)Expand * site.Width}");
        faults.Require(
            InputDim(site) < int.MaxValue,
            $"expand is {Expand}, n_groups {GroupCount}, state_size {StateSize}; expected an input projection of fewer than 2^31 - 1 rows");
        faults.Require(
            GroupCount < 1 || Heads(site) % GroupCount == 0, $"n_groups is {GroupCount}; expected a divisor of num_heads {Heads(site)}");
        faults.Require(RotatedShare is >= 0 and <= 1, $"rope_fraction is {RotatedShare}; expected a number from 0 to 1");
        faults.Require(RateFloor >= 0 && double.IsFinite(RateFloor), $"a_floor is {RateFloor}; expected a finite number of at least 0");
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        return site.Width * (InputDim(site) + InnerDim(site)) // in, out
            + 2L * StateSize // norms
            + Heads(site) * (2L * StateSize + 2); // biases of B and C, of dt, and D
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The memory counts as the chunkwise form of a linear attention: 2 L (N + P) for what a token sees of its chunk, and 4 N P for the
    /// state, of each head; a pair that turns, of B and of C, counts 12.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double d = site.Width, inner = (double)InnerDim(site), heads = Heads(site), chunk = Math.Min(ChunkSize, length);
        var projections = 2 * d * ((double)InputDim(site) + inner);
        var memory = 2 * chunk * (heads * StateSize + inner) + 4 * inner * StateSize + 12 * heads * Pairs;
        return projections + memory + 6 * inner; // the correction, D and the gate
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) =>
        4 * (InnerDim(site) * StateSize + (BigInteger)Heads(site) * StateSize + InnerDim(site));

    /// <summary>H.</summary>
    internal int Heads(MixerSite site) => HeadCount ?? site.HeadCount;

    /// <summary>E d.</summary>
    internal BigInteger InnerDim(MixerSite site) => (BigInteger)Expand * site.Width;

    /// <summary>The rows of the input projection: z, x, B, C, dt, A, lambda and theta.</summary>
    internal BigInteger InputDim(MixerSite site) =>
        2 * InnerDim(site) + (BigInteger)2 * GroupCount * StateSize + (BigInteger)3 * Heads(site) + Pairs;

    /// <summary>The pairs of channels that turn, R.</summary>
    internal int Pairs => (int)(StateSize * RotatedShare / 2);
}

/// <summary>
/// y = W_out(SSM(x, B, C) * SiLU(z)) with (z, x, B, C, dt, A, lambda, theta) = W_in u, B and C through an RMSNorm and a bias of each head,
/// and no convolution (Lahoti et al. 2026, section 3.4).
/// </summary>
internal sealed class Mamba3Mixer : Mixer
{
    [ComponentName(Name = "dt_bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _stepBias;

    [ComponentName(Name = "B_bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _keyBias;

    [ComponentName(Name = "C_bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _queryBias;

    [ComponentName(Name = "D")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter _skip;

    [ComponentName(Name = "in_proj")]
    private readonly Dense _in;

    [ComponentName(Name = "B_norm")]
    private readonly RmsNorm _keyNorm;

    [ComponentName(Name = "C_norm")]
    private readonly RmsNorm _queryNorm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly Mamba3MixerConfig _config;
    private readonly int _heads;
    private readonly int _inner;
    private readonly double _outputScale;

    public Mamba3Mixer(Mamba3MixerConfig config, MixerSite site)
        : base(nameof(Mamba3Mixer))
    {
        (_config, _heads, _inner) = (config, config.Heads(site), (int)config.InnerDim(site));
        _outputScale = config.RescaleOutput ? Math.Pow(site.BlockCount, -0.5) : 1;
        _stepBias = Parameters.Zeros(_heads);
        _keyBias = Parameters.Ones(_heads, config.StateSize);
        _queryBias = Parameters.Ones(_heads, config.StateSize);
        _skip = Parameters.Ones(_heads);
        _in = new(site.Width, (int)config.InputDim(site));
        _keyNorm = new(config.StateSize, config.NormEpsilon ?? site.NormEpsilon);
        _queryNorm = new(config.StateSize, config.NormEpsilon ?? site.NormEpsilon);
        _out = new(_inner, site.Width);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var rows = pass.Work.Rows(convolved);
        long shared = _config.GroupCount * _config.StateSize;
        var parts = _in.Forward(rows.X).split([_inner, _inner, shared, shared, _heads, _heads, _heads, _config.Pairs], -1);
        var values = parts[1].unflatten(2, [_heads, -1]); // (B, S, H, P)
        var b = PerHead(parts[2], _keyNorm, _keyBias); // (B, S, H, N)
        var c = PerHead(parts[3], _queryNorm, _queryBias);
        var dt = nn.functional.softplus(parts[4].Widened() + _stepBias); // (B, S, H)
        dt = rows.Real is null ? dt : dt * rows.Real.unsqueeze(2);
        var logDecay = -nn.functional.softplus(parts[5].Widened()).clamp_min(_config.RateFloor) * dt;
        var lambda = sigmoid(parts[6].Widened());
        var angles = _config.Pairs == 0 ? null : dt.unsqueeze(3) * (Math.PI * tanh(parts[7].Widened())).unsqueeze(2); // (B, S, H, R)
        var before = pass.HasState ? new TrapezoidalState(pass.Before("ssm")!, pass.Before("b")!, pass.Before("x")!) : null;
        var (y, last) = TrapezoidalStateSpace.Forward(
            values, dt, logDecay, lambda, angles, b, c, before, rows.DocumentStarts, rows.Real, pass.ReturnState,
            chunkSize: _config.ChunkSize);
        if (last is not null)
        {
            pass.Keep("ssm", last.H);
            pass.Keep("b", last.Key);
            pass.Keep("x", last.Value);
        }

        if (pass.Observe is { } observe)
        {
            observe("dt", dt);
            observe("log_decay", logDecay);
            observe("lambda", lambda);
            observe("b", b);
            observe("c", c);
            if (angles is not null)
            {
                observe("angle", angles);
            }
        }

        y = addcmul(y, values, _skip.to(values.dtype).unsqueeze(1), 1).flatten(2); // (B, S, E d)
        return rows.Restore(_out.Forward(FeedForward.Middle(FeedForwardKind.SwiGlu, parts[0], y)));
    }

    /// <summary>As Mamba2's, with biases of B and C of 1 (Lahoti et al. 2026, appendix F), whatever the standard deviations.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        StateSpaceWeights.DrawUniform(_in, generator);
        StateSpaceWeights.DrawStepBias(_stepBias, _config.TimeStepMin, _config.TimeStepMax, _config.TimeStepFloor, generator);
        _keyBias.fill_(1);
        _queryBias.fill_(1);
        _skip.fill_(1);
        StateSpaceWeights.DrawUniform(_out, generator);
        _out.Weight.mul_(_outputScale);
    }

    /// <summary>B or C of every head, [B, S, H, N] of [B, S, G N]: normed, and shifted by the head's bias.</summary>
    private Tensor PerHead(Tensor x, RmsNorm norm, Parameter bias)
    {
        var normed = norm.Forward(x.unflatten(2, [_config.GroupCount, _config.StateSize])); // (B, S, G, N)
        var heads = normed.unsqueeze(3).expand(-1, -1, -1, _heads / _config.GroupCount, -1).flatten(2, 3);
        return heads + bias.to(x.dtype);
    }
}
