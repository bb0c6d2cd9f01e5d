using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>A Transformer with simple gated linear attention: embedding, blocks of attention and SwiGLU, norm, head.</summary>
/// <remarks>
/// The state is <c>blocks.N.s</c> [B, NH, DK, DV], the attention's memory, and with convolutions their last inputs,
/// <c>blocks.N.conv_q</c>, <c>conv_k</c> and <c>conv_v</c> [B, K - 1, C].
/// </remarks>
public sealed class GlaLanguageModel : LanguageModel
{
    private static readonly PreNormNames Names = new("embeddings", "attn_norm", "attn", "mlp_norm");

    [ComponentName(Name = "model")]
    private readonly PreNormBackbone _backbone;

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
        var rows = PaddingLast.Of(embedded, layout);
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var (work, memory) = (LayoutWork.Of(rows, scope), new BlockMemory(scope, last));
        var hidden = rows.Restore(_backbone.Forward(rows.X, memory, b => PassThrough(b, work, state, last)));
        return (hidden.MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding);

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
        _backbone.Initialize(std, generator);
        _head?.Weight.normal_(0, std, generator);
    }

    /// <summary>The SwiGLU (Shazeer 2020, eq. 6), W_down(SiLU(W_gate x) * W_up x).</summary>
    private static FeedForward FeedForwardOf(GlaConfig config) => new(FeedForwardKind.SwiGlu, config.EmbeddingDim, config.FeedForwardDim);
}
