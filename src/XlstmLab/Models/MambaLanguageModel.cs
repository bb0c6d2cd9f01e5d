using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Kernels;
using XlstmLab.Layers;
using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Mamba (Gu and Dao 2023): embedding, blocks with a selective scan, norm, head.</summary>
/// <remarks>
/// The state dict has the names and shapes of transformers' <c>MambaForCausalLM</c>. The state is <c>blocks.N.conv</c>, the convolution's
/// last inputs [B, K - 1, E d], and <c>blocks.N.ssm</c>, [B, E d, N]. An observer sees rows with their padding last.
/// </remarks>
public sealed class MambaLanguageModel : LanguageModel
{
    [ComponentName(Name = "backbone")]
    private readonly StateSpaceBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public MambaLanguageModel(MambaConfig config, int seed = 0)
        : base(nameof(MambaLanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _backbone = new(config, config.NormEpsilon, () => new MambaMixer(config));
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();

        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        _backbone.Initialize(config.InitStd, config.RescaleOutput, generator);
        _head?.Weight.normal_(0, config.InitStd, generator);
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => Embed(_backbone.Embedding, tokens);

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false) =>
        _backbone.Forward(embedded, state, layout, returnState, Observer);

    /// <inheritdoc/>
    public override LanguageHead Head => LanguageHead.Of(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);
}

/// <summary>y = W_out(SSM(SiLU(conv(x))) * SiLU(z)) with (x, z) = W_in u (Gu and Dao 2023, figure 3).</summary>
internal sealed class MambaMixer : StateSpaceMixer
{
    [ComponentName(Name = "A_log")]
    private readonly Parameter _logRates;

    [ComponentName(Name = "D")]
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

    private readonly MambaConfig _config;

    public MambaMixer(MambaConfig config)
        : base(nameof(MambaMixer))
    {
        _config = config;
        var (d, inner) = (config.EmbeddingDim, config.InnerDim);
        _logRates = Parameters.Zeros(inner, config.StateSize);
        _skip = Parameters.Zeros(inner);
        _convolution = new(inner, config.ConvKernelSize, config.UseConvBias);
        _in = new(d, 2 * inner, config.UseBias);
        _select = new(inner, config.StepRank + 2 * config.StateSize);
        _step = new(config.StepRank, inner, bias: true);
        _out = new(inner, d, config.UseBias);
        RegisterComponents();
    }

    public override (Tensor Y, StateSpaceState? Last) Forward(
        Tensor x, StateSpaceState? before, Tensor? starts, Tensor? real, Action<string, Tensor>? observe, bool returnState)
    {
        var parts = new Halves(_in.Forward(x));
        var (u, conv) = _convolution.Forward(parts.First, before?.Conv, starts, real, activate: true, returnState, parts.FirstRoom); // (B, S, E d)
        var selected = _select.Forward(u).split([_config.StepRank, _config.StateSize, _config.StateSize], -1);
        if (observe is not null)
        {
            observe("dt", Steps(selected[0], real));
            observe("b", Widen(selected[1]));
            observe("c", Widen(selected[2]));
        }

        var (y, ssm) = Scan(u, selected, parts, before?.Ssm, starts, real, returnState); // (B, S, E d), (B, E d, N)
        return (_out.Forward(y.to(x.dtype)), returnState ? new(conv!, ssm!) : null);
    }

    /// <summary>(SSM(u) + D u) SiLU(z), where z is the second half, and the state behind the last token.</summary>
    private (Tensor Y, Tensor? Last) Scan(Tensor u, Tensor[] selected, Halves parts, Tensor? before, Tensor? starts, Tensor? real, bool returnState)
    {
        var a = -exp(_logRates);
        if (SelectiveScanSequenceKernel.Serves(u, _config.StateSize))
        {
            var delta = nn.functional.linear(selected[0], _step.Weight.to(u.dtype)); // the bias is added in float32
            return SelectiveScanSequenceKernel.Forward(
                u, delta, _step.Bias!, a, selected[1], selected[2], _skip, parts.Second, before, starts, real, returnState, parts.SecondRoom);
        }

        u = Widen(u);
        var (y, last) = SelectiveScan.Forward(u, Steps(selected[0], real), a, Widen(selected[1]), Widen(selected[2]), before, starts);
        return ((y + u * _skip) * nn.functional.silu(Widen(parts.Second)), last);
    }

    /// <summary>The step sizes dt, [B, S, E d], zero for padding.</summary>
    private Tensor Steps(Tensor selected, Tensor? real)
    {
        var dt = nn.functional.softplus(_step.Forward(Widen(selected)));
        return real is null ? dt : dt * real.unsqueeze(2);
    }

    public override void Initialize(double outputScale, Generator generator)
    {
        DrawUniform(_in, generator);
        _convolution.Initialize(generator);
        DrawUniform(_select, generator);
        var bound = Math.Pow(_config.StepRank, -0.5) * _config.TimeStepScale;
        _step.Weight.uniform_(-bound, bound, generator);
        DrawStepBias(_step.Bias!, _config.TimeStepMin, _config.TimeStepMax, _config.TimeStepFloor, generator);

        // A = -1, -2, ..., -N in every channel: S4D-Real.
        using var scope = NewDisposeScope();
        _logRates.copy_(arange(1, _config.StateSize + 1, dtype: ScalarType.Float64).log());
        _skip.fill_(1);
        DrawUniform(_out, generator);
        _out.Weight.mul_(outputScale);
    }
}
