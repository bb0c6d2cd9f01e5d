using TorchSharp.Modules;
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
        var work = LayoutWork.Of(rows);
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            x = _backbone.Blocks[b].Forward(x, PassThrough(b, work, state, last));
        }

        return (rows.Restore(_backbone.Norm.Forward(x)).MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
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
        _backbone.Embedding.weight!.normal_(0, std, generator);
        foreach (var block in _backbone.Blocks)
        {
            block.Initialize(std, std / Math.Sqrt(2 * _config.BlockCount), generator);
        }

        _head?.Weight.normal_(0, std, generator);
    }
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
    private readonly Mixer _mixer;

    [ComponentName(Name = "mlp_norm")]
    private readonly RmsNorm _feedForwardNorm;

    [ComponentName(Name = "mlp")]
    private readonly FeedForward _feedForward;

    public GlaBlock(GlaConfig config)
        : base(nameof(GlaBlock))
    {
        _mixerNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _mixer = config.Mixer.Create(config.Site);
        _feedForwardNorm = new(config.EmbeddingDim, config.NormEpsilon);
        _feedForward = new(FeedForwardKind.SwiGlu, config.EmbeddingDim, config.FeedForwardDim);
        RegisterComponents();
    }

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
