using System.Numerics;
using System.Text.Json.Serialization;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Mixers;

/// <summary>The selective state space of Mamba (Gu and Dao 2023).</summary>
public sealed record MambaMixerConfig : MixerConfig
{
    /// <inheritdoc/>
    public override string Kind => "mamba";

    /// <summary>The states of each channel, N.</summary>
    [JsonPropertyName("state_size")]
    public int StateSize { get; init; } = 16;

    /// <summary>The inner width as a multiple of d, E.</summary>
    [JsonPropertyName("expand")]
    public int Expand { get; init; } = 2;

    /// <summary>The taps of the causal convolution.</summary>
    [JsonPropertyName("conv_kernel")]
    public int ConvKernelSize { get; init; } = 4;

    /// <summary>The rank of the step size's projection, R; null for d / 16, rounded up.</summary>
    [JsonPropertyName("time_step_rank")]
    public int? TimeStepRank { get; init; }

    /// <summary>Whether the projections in and out have biases.</summary>
    [JsonPropertyName("use_bias")]
    public bool UseBias { get; init; }

    /// <summary>Whether the convolution has a bias.</summary>
    [JsonPropertyName("use_conv_bias")]
    public bool UseConvBias { get; init; } = true;

    /// <summary>The smallest step size dt at the start (section 3.6).</summary>
    [JsonPropertyName("time_step_min")]
    public double TimeStepMin { get; init; } = 0.001;

    /// <summary>The largest step size dt at the start (section 3.6).</summary>
    [JsonPropertyName("time_step_max")]
    public double TimeStepMax { get; init; } = 0.1;

    /// <summary>What step sizes drawn below it are raised to.</summary>
    [JsonPropertyName("time_step_floor")]
    public double TimeStepFloor { get; init; } = 1e-4;

    /// <summary>The weights of the step size's projection start between plus and minus this over sqrt(R).</summary>
    [JsonPropertyName("time_step_scale")]
    public double TimeStepScale { get; init; } = 1;

    /// <summary>Whether the output projection starts divided by sqrt(L), as in the paper's code.</summary>
    [JsonPropertyName("rescale_prenorm_residual")]
    public bool RescaleOutput { get; init; } = true;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Observables => ["dt", "b", "c"];

    /// <inheritdoc/>
    public override Mixer Create(MixerSite site) => new MambaMixer(this, site);

    /// <inheritdoc/>
    public override void Validate(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        var faults = new ConfigFaults();
        faults.RequireAtLeastOne(
            ("state_size", StateSize), ("expand", Expand), ("conv_kernel", ConvKernelSize), ("time_step_rank", StepRank(site)));
        faults.Require(
            (long)Expand * site.Width < int.MaxValue, $"expand is {Expand}; expected an inner width below 2^31 at a width of {site.Width}");
        faults.RequireTimeSteps(TimeStepMin, TimeStepMax, TimeStepFloor);
        faults.Require(
            TimeStepScale >= 0 && double.IsFinite(TimeStepScale),
            $"time_step_scale is {TimeStepScale}; expected a finite number of at least 0");
        faults.Throw();
    }

    /// <inheritdoc/>
    public override BigInteger CountParameters(MixerSite site)
    {
        ArgumentNullException.ThrowIfNull(site);
        BigInteger d = site.Width, inner = (BigInteger)Expand * site.Width, rank = StepRank(site), states = StateSize;
        return 3 * d * inner + (UseBias ? 2 * inner + d : 0) // in, out
            + inner * (ConvKernelSize + (UseConvBias ? 1L : 0))
            + inner * (rank + 2 * states) + (rank + 1) * inner // x, dt
            + inner * (states + 1); // A, D
    }

    /// <inheritdoc/>
    /// <remarks>
    /// The scan counts 7 for each state and token: two for the decay, one for what is written, two each for the update and the output.
    /// </remarks>
    public override double ForwardFlopsPerToken(MixerSite site, long length)
    {
        ArgumentNullException.ThrowIfNull(site);
        double d = site.Width, inner = (double)Expand * site.Width, rank = StepRank(site);
        var projections = 2 * (3 * d * inner + inner * (rank + 2.0 * StateSize) + rank * inner);
        return projections + 2.0 * ConvKernelSize * inner + 7 * inner * StateSize + 2 * inner;
    }

    /// <inheritdoc/>
    public override BigInteger StateBytes(MixerSite site, long length) =>
        (BigInteger)4 * Expand * site.Width * ((long)StateSize + ConvKernelSize - 1);

    /// <summary>R.</summary>
    internal int StepRank(MixerSite site) => TimeStepRank ?? (int)((site.Width + 15L) / 16);
}

/// <summary>y = W_out(SSM(SiLU(conv(x))) * SiLU(z)) with (x, z) = W_in u (Gu and Dao 2023, figure 3).</summary>
/// <remarks>An observer sees rows with their padding last.</remarks>
internal sealed class MambaMixer : Mixer
{
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

    [ComponentName(Name = "x_proj")]
    private readonly Dense _select;

    [ComponentName(Name = "dt_proj")]
    private readonly Dense _step;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly MambaMixerConfig _config;
    private readonly int _rank;
    private readonly double _outputScale;

    public MambaMixer(MambaMixerConfig config, MixerSite site)
        : base(nameof(MambaMixer))
    {
        (_config, _rank) = (config, config.StepRank(site));
        _outputScale = config.RescaleOutput ? Math.Pow(site.BlockCount, -0.5) : 1;
        var (d, inner) = (site.Width, config.Expand * site.Width);
        _logRates = Parameters.Zeros(inner, config.StateSize);
        _skip = Parameters.Zeros(inner);
        _convolution = new(inner, config.ConvKernelSize, config.UseConvBias);
        _in = new(d, 2 * inner, config.UseBias);
        _select = new(inner, _rank + 2 * config.StateSize);
        _step = new(_rank, inner, bias: true);
        _out = new(inner, d, config.UseBias);
        RegisterComponents();
    }

    public override Tensor Forward(Tensor x, Tensor convolved, MixerPass pass)
    {
        var rows = pass.Work.Rows(convolved);
        var (starts, real) = (rows.DocumentStarts, rows.Real);
        var parts = new Halves(_in.Forward(rows.X));
        var (u, conv) = _convolution.Forward(
            parts.First, pass.Before("conv"), starts, real, activate: true, pass.ReturnState, parts.FirstRoom); // (B, S, E d)
        var selected = _select.Forward(u).split([_rank, _config.StateSize, _config.StateSize], -1);
        if (pass.Observe is { } observe)
        {
            observe("dt", Steps(selected[0], real));
            observe("b", selected[1].Widened());
            observe("c", selected[2].Widened());
        }

        var (y, ssm) = Scan(u, selected, parts, pass.Before("ssm"), starts, real, pass.ReturnState); // (B, S, E d), (B, E d, N)
        if (pass.ReturnState)
        {
            pass.Keep("conv", conv!);
            pass.Keep("ssm", ssm!);
        }

        return rows.Restore(_out.Forward(y.to(x.dtype)));
    }

    /// <summary>(SSM(u) + D u) SiLU(z), where z is the second half, and the state behind the last token.</summary>
    private (Tensor Y, Tensor? Last) Scan(
        Tensor u, Tensor[] selected, Halves parts, Tensor? before, Tensor? starts, Tensor? real, bool returnState)
    {
        var a = -exp(_logRates);
        if (SelectiveScanSequenceKernel.Serves(u, _config.StateSize))
        {
            var delta = nn.functional.linear(selected[0], _step.Weight.to(u.dtype)); // the bias is added in float32
            return SelectiveScanSequenceKernel.Forward(
                u, delta, _step.Bias!, a, selected[1], selected[2], _skip, parts.Second, before, starts, real, returnState,
                parts.SecondRoom);
        }

        u = u.Widened();
        var (y, last) = SelectiveScan.Forward(u, Steps(selected[0], real), a, selected[1].Widened(), selected[2].Widened(), before, starts);
        return ((y + u * _skip) * nn.functional.silu(parts.Second.Widened()), last);
    }

    /// <summary>The step sizes dt, [B, S, E d], zero for padding.</summary>
    private Tensor Steps(Tensor selected, Tensor? real)
    {
        var dt = nn.functional.softplus(_step.Forward(selected.Widened()));
        return real is null ? dt : dt * real.unsqueeze(2);
    }

    /// <summary>Mamba's own, whatever the standard deviations.</summary>
    public override void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        StateSpaceWeights.DrawUniform(_in, generator);
        _convolution.Initialize(generator);
        StateSpaceWeights.DrawUniform(_select, generator);
        var bound = Math.Pow(_rank, -0.5) * _config.TimeStepScale;
        _step.Weight.uniform_(-bound, bound, generator);
        StateSpaceWeights.DrawStepBias(_step.Bias!, _config.TimeStepMin, _config.TimeStepMax, _config.TimeStepFloor, generator);

        // A = -1, -2, ..., -N in every channel: S4D-Real.
        using var scope = NewDisposeScope();
        _logRates.copy_(arange(1, _config.StateSize + 1, dtype: ScalarType.Float64).log());
        _skip.fill_(1);
        StateSpaceWeights.DrawUniform(_out, generator);
        _out.Weight.mul_(_outputScale);
    }
}

/// <summary>How both Mambas draw their weights.</summary>
internal static class StateSpaceWeights
{
    /// <summary>
    /// Weights uniform between plus and minus 1 / sqrt(fan-in), torch's own for linear layers, and biases zero as in Mamba's code.
    /// </summary>
    public static void DrawUniform(Dense dense, Generator generator)
    {
        var bound = Math.Pow(dense.Weight.shape[1], -0.5);
        dense.Weight.uniform_(-bound, bound, generator);
        dense.Bias?.zero_();
    }

    /// <summary>Biases b with softplus(b) log-uniform between two step sizes (Gu and Dao 2023, section 3.6).</summary>
    public static void DrawStepBias(Tensor bias, double min, double max, double floor, Generator generator)
    {
        using var scope = NewDisposeScope();
        var steps = exp(rand(bias.shape, generator: generator) * (Math.Log(max) - Math.Log(min)) + Math.Log(min)).clamp_min(floor);
        bias.copy_(steps + log(-expm1(-steps)));
    }
}
