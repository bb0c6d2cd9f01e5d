using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>A Llama-style Transformer: embedding, blocks of attention and SwiGLU, norm, head.</summary>
/// <remarks>
/// The state dict has the names and shapes of transformers' <c>LlamaForCausalLM</c>. The state is the cache of all keys and values,
/// <c>blocks.N.k</c> and <c>blocks.N.v</c> [B, NKV, T, D], and once documents or padding were seen <c>visible</c> [B, T] and
/// <c>position</c> [B] as <see cref="AttentionSpan"/> has them.
/// </remarks>
public sealed class LlamaLanguageModel : LanguageModel
{
    [ComponentName(Name = "model")]
    private readonly LlamaBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    private readonly LlamaConfig _config;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public LlamaLanguageModel(LlamaConfig config, int seed = 0)
        : base(nameof(LlamaLanguageModel), config)
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
        var x = embedded; // (B, S, d)
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var work = new LayoutWork(layout);
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            x = _backbone.Blocks[b].Forward(x, PassThrough(b, work, state, last));
        }

        return (_backbone.Norm.Forward(x).MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);

    /// <inheritdoc/>
    /// <remarks>Shorter caches are filled up with keys that no token sees.</remarks>
    public override ModelState JoinStates(IReadOnlyList<ModelState> states) => JoinStates(states, _backbone.Blocks.Select(block => block.Mixer));

    /// <summary>
    /// Normal weights, those that write into the stream scaled down by sqrt(2 L), the number of additions to it (GPT-2, Radford et al.
    /// 2019, section 2.3; std 0.02 in transformers' Llama too).
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

/// <summary>Embedding, blocks and last norm.</summary>
internal sealed class LlamaBackbone : nn.Module
{
    [ComponentName(Name = "embed_tokens")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<LlamaBlock> _blocks;

    [ComponentName(Name = "norm")]
    private readonly RmsNorm _norm;

    public LlamaBackbone(LlamaConfig config)
        : base(nameof(LlamaBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new LlamaBlock(config))]);
        _norm = new(config.EmbeddingDim, config.NormEpsilon);
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<LlamaBlock> Blocks => _blocks;

    public RmsNorm Norm => _norm;
}

/// <summary>x + Attention(norm(x)), then x + SwiGLU(norm(x)).</summary>
internal sealed class LlamaBlock : nn.Module
{
    [ComponentName(Name = "input_layernorm")]
    private readonly RmsNorm _mixerNorm;

    [ComponentName(Name = "self_attn")]
    private readonly Mixer _mixer;

    [ComponentName(Name = "post_attention_layernorm")]
    private readonly RmsNorm _feedForwardNorm;

    [ComponentName(Name = "mlp")]
    private readonly LlamaFeedForward _feedForward;

    public LlamaBlock(LlamaConfig config)
        : base(nameof(LlamaBlock))
    {
        _mixerNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _mixer = config.Mixer.Create(config.Site);
        _feedForwardNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _feedForward = new(config);
        RegisterComponents();
    }

    public Mixer Mixer => _mixer;

    public Tensor Forward(Tensor x, MixerPass pass)
    {
        var normed = _mixerNorm.Forward(x);
        x = x + _mixer.Forward(normed, normed, pass);
        return x + _feedForward.Forward(_feedForwardNorm.Forward(x));
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, outputStd, generator);
        _feedForward.Initialize(inputStd, outputStd, generator);
    }
}

/// <summary>The SwiGLU (Shazeer 2020, eq. 6), W_down(SiLU(W_gate x) * W_up x).</summary>
internal sealed class LlamaFeedForward : nn.Module
{
    [ComponentName(Name = "gate_proj")]
    private readonly Dense _gate;

    [ComponentName(Name = "up_proj")]
    private readonly Dense _up;

    [ComponentName(Name = "down_proj")]
    private readonly Dense _down;

    public LlamaFeedForward(LlamaConfig config)
        : base(nameof(LlamaFeedForward))
    {
        _gate = new(config.EmbeddingDim, config.FeedForwardDim, config.FeedForwardBias);
        _up = new(config.EmbeddingDim, config.FeedForwardDim, config.FeedForwardBias);
        _down = new(config.FeedForwardDim, config.EmbeddingDim, config.FeedForwardBias);
        RegisterComponents();
    }

    /// <summary>[B, S, d] to [B, S, d].</summary>
    public Tensor Forward(Tensor x) => _down.Forward(nn.functional.silu(_gate.Forward(x)) * _up.Forward(x));

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        _gate.Weight.normal_(0, inputStd, generator);
        _up.Weight.normal_(0, inputStd, generator);
        _down.Weight.normal_(0, outputStd, generator);
    }
}
