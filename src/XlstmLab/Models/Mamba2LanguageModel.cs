using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Kernels;
using XlstmLab.Layers;
using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Mamba2 (Dao and Gu 2024): embedding, blocks with a state space of one decay a head, norm, head.</summary>
/// <remarks>
/// The state dict has the names and shapes of transformers' <c>Mamba2ForCausalLM</c>. The state is <c>blocks.N.conv</c>, the convolution's
/// last inputs [B, K - 1, E d + 2 G N], and <c>blocks.N.ssm</c>, [B, H, P, N]. An observer sees rows with their padding last.
/// </remarks>
public sealed class Mamba2LanguageModel : LanguageModel
{
    [ComponentName(Name = "backbone")]
    private readonly StateSpaceBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public Mamba2LanguageModel(Mamba2Config config, int seed = 0)
        : base(nameof(Mamba2LanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _backbone = new(config, config.NormEpsilon, () => new Mamba2Mixer(config));
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

/// <summary>
/// y = W_out(norm(SSM(x, B, C, dt) * SiLU(z))) with (z, x, B, C, dt) = W_in u and a convolution over x, B and C (Dao and Gu 2024, figure
/// 6).
/// </summary>
internal sealed class Mamba2Mixer : StateSpaceMixer
{
    [ComponentName(Name = "dt_bias")]
    private readonly Parameter _stepBias;

    [ComponentName(Name = "A_log")]
    private readonly Parameter _logRates;

    [ComponentName(Name = "D")]
    private readonly Parameter _skip;

    [ComponentName(Name = "conv1d")]
    private readonly CausalConvolution _convolution;

    [ComponentName(Name = "in_proj")]
    private readonly Dense _in;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    [ComponentName(Name = "out_proj")]
    private readonly Dense _out;

    private readonly Mamba2Config _config;

    public Mamba2Mixer(Mamba2Config config)
        : base(nameof(Mamba2Mixer))
    {
        _config = config;
        _stepBias = Parameters.Zeros(config.HeadCount);
        _logRates = Parameters.Zeros(config.HeadCount);
        _skip = Parameters.Zeros(config.HeadCount);
        _convolution = new(config.ConvDim, config.ConvKernelSize, config.UseConvBias);
        _in = new(config.EmbeddingDim, config.InnerDim + config.ConvDim + config.HeadCount, config.UseBias);
        _norm = new(config.InnerDim, config.NormEpsilon);
        _out = new(config.InnerDim, config.EmbeddingDim, config.UseBias);
        RegisterComponents();
    }

    public override (Tensor Y, StateSpaceState? Last) Forward(
        Tensor x, StateSpaceState? before, Tensor? starts, Tensor? real, Action<string, Tensor>? observe, bool returnState)
    {
        var parts = _in.Forward(x).split([_config.InnerDim, _config.ConvDim, _config.HeadCount], -1);
        var (mixed, conv) = _convolution.Forward(parts[1], before?.Conv, starts, real, activate: true, returnState); // (B, S, E d + 2 G N)
        long shared = _config.GroupCount * _config.StateSize;
        var inputs = mixed.split([_config.InnerDim, shared, shared], -1);
        var u = inputs[0].unflatten(2, [_config.HeadCount, _config.HeadDim]); // (B, S, H, P)
        var b = inputs[1].unflatten(2, [_config.GroupCount, _config.StateSize]); // (B, S, G, N)
        var c = inputs[2].unflatten(2, [_config.GroupCount, _config.StateSize]);
        if (!StateSpaceDual.Serves(u, b))
        {
            (u, b, c) = (Widen(u), Widen(b), Widen(c));
        }

        var dt = nn.functional.softplus(Widen(parts[2]) + _stepBias); // (B, S, H)
        if (_config.TimeStepLowest > 0 || double.IsFinite(_config.TimeStepHighest))
        {
            dt = dt.clamp(_config.TimeStepLowest, _config.TimeStepHighest);
        }

        dt = real is null ? dt : dt * real.unsqueeze(2);
        var (y, ssm) = StateSpaceDual.Forward(u, dt, -exp(_logRates), b, c, _config.ChunkSize, before?.Ssm, starts, returnState); // (B, S, H, P)
        y = addcmul(y, u, _skip.to(u.dtype).unsqueeze(1), 1).flatten(2); // (B, S, E d)
        if (observe is not null)
        {
            observe("dt", dt);
            observe("b", b);
            observe("c", c);
        }

        var gated = GluKernel.Serves(parts[0]) && GluKernel.Serves(y)
            ? GluKernel.Forward(parts[0], y, FeedForwardKind.SwiGlu) // SiLU(z) y
            : y * nn.functional.silu(Widen(parts[0]));
        return (_out.Forward(_norm.Forward(gated).to(x.dtype)), returnState ? new(conv!, ssm!) : null);
    }

    public override void Initialize(double outputScale, Generator generator)
    {
        DrawUniform(_in, generator);
        _convolution.Initialize(generator);
        DrawStepBias(_stepBias, _config.TimeStepMin, _config.TimeStepMax, _config.TimeStepFloor, generator);

        // A uniform between -16 and -1.
        _logRates.uniform_(1, 16, generator);
        _logRates.log_();
        _skip.fill_(1);
        DrawUniform(_out, generator);
        _out.Weight.mul_(outputScale);
    }
}
