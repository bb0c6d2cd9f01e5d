using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>A Transformer with simple gated linear attention: embedding, blocks of attention and SwiGLU, norm, head.</summary>
/// <remarks>
/// The state is <c>blocks.N.s</c> [B, NH, DK, DV], the attention's memory, and with convolutions their last inputs,
/// <c>blocks.N.conv_q</c>, <c>conv_k</c> and <c>conv_v</c> [B, K - 1, C].
/// </remarks>
public sealed class GlaLanguageModel : LanguageModel
{
    [ComponentName(Name = "model")]
    private readonly GlaBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    private readonly GlaConfig _config;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public GlaLanguageModel(GlaConfig config, int seed = 0)
        : base(nameof(GlaLanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _config = config;
        _backbone = new(config);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        Initialize(seed);
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => Embed(_backbone.Embedding, tokens);

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var rows = PaddingLast.Of(embedded, layout);
        var x = rows.X; // (B, S, d)
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            var block = b;
            Action<string, Tensor>? observe = Observer is { } observer ? (name, value) => observer(block, name, value) : null;
            x = _backbone.Blocks[b].Forward(x, new(b, state, rows, last), observe);
        }

        return (rows.Restore(_backbone.Norm.Forward(x)).MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => LanguageHead.Of(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);

    /// <summary>
    /// Normal weights and biases of 0, as flash-linear-attention draws them; what writes into the stream is scaled down by sqrt(2 L), its
    /// strategy for pre-norm residuals. The convolutions stay as torch draws its own.
    /// </summary>
    private void Initialize(int seed)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        var std = _config.InitStd;
        _backbone.Embedding.weight!.normal_(0, std, generator);
        foreach (var block in _backbone.Blocks)
        {
            block.Initialize(std, std / Math.Sqrt(2 * _config.BlockCount), generator);
        }

        _head?.Weight.normal_(0, std, generator);
    }
}

/// <summary>Where a block is in a forward pass.</summary>
/// <param name="Block">The index of the block, from 0.</param>
/// <param name="State">The state to start from, or null.</param>
/// <param name="Rows">The rows, padding last.</param>
/// <param name="Last">Takes the last state; null if it is not wanted.</param>
internal sealed record GlaPass(int Block, ModelState? State, PaddingLast Rows, Dictionary<string, Tensor>? Last)
{
    public Tensor? Before(string name) => State?[$"blocks.{Block}.{name}"];

    public void Keep(string name, Tensor value) =>
        Last?.Add($"blocks.{Block}.{name}", value.Widened());
}

/// <summary>Embedding, blocks and last norm.</summary>
internal sealed class GlaBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<GlaBlock> _blocks;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    public GlaBackbone(GlaConfig config)
        : base(nameof(GlaBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new GlaBlock(config))]);
        _norm = new(config.EmbeddingDim, config.NormEpsilon);
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<GlaBlock> Blocks => _blocks;

    public RmsNorm Norm => _norm;
}

/// <summary>x + GLA(norm(x)), then x + SwiGLU(norm(x)).</summary>
internal sealed class GlaBlock : nn.Module
{
    [ComponentName(Name = "attn_norm")]
    private readonly RmsNorm _mixerNorm;

    [ComponentName(Name = "attn")]
    private readonly GlaMixer _mixer;

    [ComponentName(Name = "mlp_norm")]
    private readonly RmsNorm _feedForwardNorm;

    [ComponentName(Name = "mlp")]
    private readonly FeedForward _feedForward;

    public GlaBlock(GlaConfig config)
        : base(nameof(GlaBlock))
    {
        _mixerNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _mixer = new(config);
        _feedForwardNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _feedForward = new(FeedForwardKind.SwiGlu, config.EmbeddingDim, config.FeedForwardDim);
        RegisterComponents();
    }

    public Tensor Forward(Tensor x, GlaPass pass, Action<string, Tensor>? observe)
    {
        x = x + _mixer.Forward(_mixerNorm.Forward(x), pass, observe);
        return x + _feedForward.Forward(_feedForwardNorm.Forward(x));
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, outputStd, generator);
        _feedForward.Initialize(inputStd, outputStd, generator);
    }
}

/// <summary>
/// W_o(SiLU(W_g x) * norm(o)), where o is the gated linear attention of q, k and v with log a = log sigmoid(W_a x + b) / tau
/// (Yang et al. 2023, section 4.4).
/// </summary>
internal sealed class GlaMixer : nn.Module
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

    private readonly GlaConfig _config;

    public GlaMixer(GlaConfig config)
        : base(nameof(GlaMixer))
    {
        var (d, qk, v, taps) = (config.EmbeddingDim, config.QkDim, config.VDim, config.ConvTaps);
        _config = config;
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

        _decay = new(d, config.HeadCount, bias: true);
        _headNorm = new(v / config.HeadCount, config.NormEpsilon);
        _out = new(v, d);
        RegisterComponents();
    }

    /// <summary>[B, S, d] to [B, S, d].</summary>
    public Tensor Forward(Tensor x, GlaPass pass, Action<string, Tensor>? observe)
    {
        var q = PerHead(Convolve(_qConv, _q.Forward(x), "conv_q", pass)); // (B, NH, S, DK)
        var k = PerHead(Convolve(_kConv, _k.Forward(x), "conv_k", pass));
        var v = PerHead(Convolve(_vConv, _v.Forward(x), "conv_v", pass)); // (B, NH, S, DV)
        var preact = _decay.Forward(x).transpose(1, 2); // (B, NH, S)
        var wide = preact.Widened();
        var logDecay = nn.functional.logsigmoid(wide) / _config.GateNormalizer;
        var layout = new SequenceLayout(pass.Rows.DocumentStarts, pass.Rows.Real?.logical_not());
        var (o, last) = GatedLinearAttention.Forward(
            q, k, v, logDecay, pass.Before("s"), layout, returnState: pass.Last is not null, chunkSize: ChunkSize);
        if (last is not null)
        {
            pass.Keep("s", last);
        }

        var gate = _outputGate.Forward(x); // (B, S, NH DV)
        if (observe is not null)
        {
            observe("q", q);
            observe("k", k);
            observe("v", v);
            observe("log_decay", logDecay);
            observe("ogate_preact", gate);
            observe("h", o);
        }

        return _out.Forward(nn.functional.silu(gate) * _headNorm.Forward(o.transpose(1, 2)).flatten(2));
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
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

    private Tensor Convolve(CausalConvolution? convolution, Tensor x, string name, GlaPass pass)
    {
        if (convolution is null)
        {
            return x;
        }

        var keeps = _config.ConvTaps > 1;
        var (y, last) = convolution.Forward(x, keeps ? pass.Before(name) : null, pass.Rows.DocumentStarts, pass.Rows.Real, activate: true, keeps && pass.Last is not null);
        if (last is not null)
        {
            pass.Keep(name, last);
        }

        return y;
    }

    /// <summary>[B, S, NH D] to [B, NH, S, D].</summary>
    private Tensor PerHead(Tensor x) => x.unflatten(2, [_config.HeadCount, -1]).transpose(1, 2);
}
