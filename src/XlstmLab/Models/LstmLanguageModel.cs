using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>A language model of LSTM layers: embedding, residual blocks or a plain stack, norm, head (xLSTM, table 2).</summary>
/// <remarks>
/// The layers are torch's own, in float32 or wider whatever the type of the activations. The state is <c>blocks.N.h</c> and
/// <c>blocks.N.c</c> [B, d].
/// </remarks>
public sealed class LstmLanguageModel : LanguageModel
{
    [ComponentName(Name = "model")]
    private readonly LstmBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    private readonly LstmConfig _config;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    public LstmLanguageModel(LstmConfig config, int seed = 0)
        : base(nameof(LstmLanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _config = config;
        _backbone = new(config);
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
        var x = embedded; // (B, S, d)
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var (work, memory) = (new LayoutWork(layout, scope), new BlockMemory(scope, last));
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            (x, _) = memory.Through(x, null, () => (_backbone.Blocks[b].Forward(x, PassThrough(b, work, state, last)), null));
        }

        return ((_backbone.Norm?.Forward(x) ?? x).MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden);

    /// <summary>
    /// The LSTM layers' weights are uniform between -1/sqrt(d) and 1/sqrt(d), as torch draws them, and their biases 0 but the forget
    /// gates'. Everything else is drawn as the first paper's code draws it around the cells.
    /// </summary>
    private void Initialize(int seed)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        var (dim, blocks) = (_config.EmbeddingDim, _config.BlockCount);
        var inputStd = WeightInits.StandardDeviation(WeightInit.Small, dim, blocks, 0);
        var outputStd = WeightInits.StandardDeviation(WeightInit.Wang, dim, blocks, 0);
        _backbone.Embedding.weight!.normal_(0, inputStd, generator);
        foreach (var block in _backbone.Blocks)
        {
            block.Initialize(inputStd, outputStd, generator);
        }

        _head?.Weight.normal_(0, inputStd, generator);
    }
}

/// <summary>Embedding, blocks and last norm.</summary>
internal sealed class LstmBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "layers")]
    private readonly ModuleList<LstmBlock> _blocks;

    [ComponentName(Name = "norm")]
    private readonly StreamNorm? _norm;

    public LstmBackbone(LstmConfig config)
        : base(nameof(LstmBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new LstmBlock(config))]);
        _norm = config.Residual ? new(NormKind.Layer, config.EmbeddingDim, config.NormEpsilon) : null;
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<LstmBlock> Blocks => _blocks;

    public StreamNorm? Norm => _norm;
}

/// <summary>x + LSTM(norm(x)), then x + FFN(norm(x)) where there is one; LSTM(x) in a plain stack.</summary>
internal sealed class LstmBlock : nn.Module
{
    private readonly StreamNorm? _norm;
    private readonly Mixer _mixer;
    private readonly StreamNorm? _feedForwardNorm;
    private readonly FeedForward? _feedForward;

    public LstmBlock(LstmConfig config)
        : base(nameof(LstmBlock))
    {
        var dim = config.EmbeddingDim;
        _norm = config.Residual ? new(NormKind.Layer, dim, config.NormEpsilon) : null;
        _mixer = config.Mixer.Create(config.Site);
        if (config.FeedForward != FeedForwardKind.None)
        {
            _feedForwardNorm = new(NormKind.Layer, dim, config.NormEpsilon);
            _feedForward = new(config.FeedForward, dim, config.FeedForwardDim);
        }

        this.Register(("lstm_norm", _norm));
        this.RegisterPartsOf(_mixer);
        this.Register(("ffn_norm", _feedForwardNorm), ("ffn", _feedForward));
    }

    public Tensor Forward(Tensor x, MixerPass pass)
    {
        var normed = _norm?.Forward(x) ?? x;
        var h = _mixer.Forward(normed, normed, pass);
        x = _norm is null ? h : x + h;
        return _feedForward is null ? x : x + _feedForward.Forward(_feedForwardNorm!.Forward(x));
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, outputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }

    /// <summary>Registered by hand, with the mixer's parts.</summary>
    protected override void RegisterComponents()
    {
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (disposing)
        {
            _mixer.Dispose();
        }
    }
}
