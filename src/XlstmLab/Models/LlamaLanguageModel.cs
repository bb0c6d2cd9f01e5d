using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using XlstmLab.Native;
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
    private const string Visible = "visible";
    private const string Position = "position";

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
        var span = AttentionSpan.Of(
            x.shape[0],
            x.shape[1],
            state is null ? 0 : state["blocks.0.k"].shape[2],
            state?.Tensors.GetValueOrDefault(Visible),
            state?.Tensors.GetValueOrDefault(Position),
            layout,
            x.device);
        var wide = x.dtype == ScalarType.BFloat16 ? ScalarType.Float32 : x.dtype;
        var angles = RotaryEmbedding.Angles(span.Positions, _config.HeadDim, _config.RopeTheta, wide); // (S, D/2) or (B, 1, S, D/2)
        var last = new Dictionary<string, Tensor>();
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            (Tensor, Tensor)? before = state is null ? null : (state[$"blocks.{b}.k"], state[$"blocks.{b}.v"]);
            var block = b;
            Action<string, Tensor>? observe = Observer is { } observer ? (name, value) => observer(block, name, value) : null;
            (x, var after) = _backbone.Blocks[b].Forward(x, before, span, angles, observe);
            last.Add($"blocks.{b}.k", after.Keys);
            last.Add($"blocks.{b}.v", after.Values);
        }

        if (span is { Visible: { } visible, Next: { } next })
        {
            last.Add(Visible, visible);
            last.Add(Position, next);
        }

        return (_backbone.Norm.Forward(x).MoveToOuterDisposeScope(), returnState ? new ModelState(last) : null);
    }

    /// <inheritdoc/>
    public override LanguageHead Head => LanguageHead.Of(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);

    /// <inheritdoc/>
    /// <remarks>Shorter caches are filled up with keys that no token sees.</remarks>
    public override ModelState JoinStates(IReadOnlyList<ModelState> states)
    {
        ArgumentNullException.ThrowIfNull(states);
        static long Length(ModelState state) => state["blocks.0.k"].shape[2];
        var longest = states.Max(Length);
        if (states.All(s => Length(s) == longest && !s.Tensors.ContainsKey(Visible)))
        {
            return base.JoinStates(states);
        }

        using var scope = NewDisposeScope();
        var joined = states[0].Tensors.Keys.Where(name => name is not (Visible or Position)).ToDictionary(
            name => name, name => cat([.. states.Select(s => nn.functional.pad(s[name], [0, 0, 0, longest - Length(s)]))], 0));
        joined[Visible] = cat([.. states.Select(s => nn.functional.pad(SeenOf(s), [0, longest - Length(s)]))], 0);
        joined[Position] = cat([.. states.Select(NextOf)], 0);
        return new(joined);

        static Tensor SeenOf(ModelState s) =>
            s.Tensors.GetValueOrDefault(Visible) ?? ones(s.BatchSize, Length(s), dtype: ScalarType.Bool, device: s["blocks.0.k"].device);

        static Tensor NextOf(ModelState s) =>
            s.Tensors.GetValueOrDefault(Position) ?? full([s.BatchSize], Length(s), dtype: ScalarType.Int64, device: s["blocks.0.k"].device);
    }

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
    private readonly GroupedQueryAttention _mixer;

    [ComponentName(Name = "post_attention_layernorm")]
    private readonly RmsNorm _feedForwardNorm;

    [ComponentName(Name = "mlp")]
    private readonly LlamaFeedForward _feedForward;

    public LlamaBlock(LlamaConfig config)
        : base(nameof(LlamaBlock))
    {
        _mixerNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _mixer = new(config);
        _feedForwardNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _feedForward = new(config);
        RegisterComponents();
    }

    public (Tensor Y, (Tensor Keys, Tensor Values) Cache) Forward(
        Tensor x, (Tensor Keys, Tensor Values)? cache, AttentionSpan span, (Tensor Cos, Tensor Sin) angles, Action<string, Tensor>? observe)
    {
        var (mixed, last) = _mixer.Forward(_mixerNorm.Forward(x), cache, span, angles, observe);
        x = x + mixed;
        return (x + _feedForward.Forward(_feedForwardNorm.Forward(x)), last);
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
