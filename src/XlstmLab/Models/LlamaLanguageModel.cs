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
/// <c>position</c> [B] as <see cref="AttentionSpan"/> has them. Outside of training they are parts of larger tensors, with room for further
/// tokens behind them (<see cref="TokenRoom"/>).
/// </remarks>
public sealed class LlamaLanguageModel : LanguageModel
{
    private static readonly PreNormNames Names = new("embed_tokens", "input_layernorm", "self_attn", "post_attention_layernorm");

    [ComponentName(Name = "model")]
    private readonly PreNormBackbone _backbone;

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
        _backbone = new(
            Names,
            Parameters.Embedding(config.VocabularySize, config.EmbeddingDim),
            Enumerable.Range(0, config.BlockCount).Select(_ => new PreNormBlock(
                Names, config.Mixer.Create(config.Site), FeedForwardOf(config), config.EmbeddingDim, config.NormEpsilon)),
            config.NormEpsilon);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        if (Parameters.ToBeLoaded is null)
        {
            Initialize(seed);
        }
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => Embed(_backbone.Embedding, tokens);

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var (work, memory) = (new LayoutWork(layout, scope), new BlockMemory(scope, last));
        return (_backbone.Forward(embedded, memory, b => PassThrough(b, work, state, last)).MoveToOuterDisposeScope(), last is null ? null
            : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);

    /// <inheritdoc/>
    /// <remarks>Shorter caches are filled up with keys that no token sees.</remarks>
    public override ModelState JoinStates(IReadOnlyList<ModelState> states) => JoinStates(states, Mixers);

    /// <inheritdoc/>
    internal override IEnumerable<Mixer> Mixers => _backbone.Blocks.Select(block => block.Mixer);

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
        _backbone.Initialize(std, generator);
        _head?.Weight.normal_(0, std, generator);
    }

    /// <summary>The SwiGLU (Shazeer 2020, eq. 6), W_down(SiLU(W_gate x) * W_up x).</summary>
    private static FeedForward FeedForwardOf(LlamaConfig config) => new(
        FeedForwardKind.SwiGlu, config.EmbeddingDim, config.FeedForwardDim, config.FeedForwardBias, WeightMode.Single,
        new("gate_proj", "up_proj", "down_proj"));
}
