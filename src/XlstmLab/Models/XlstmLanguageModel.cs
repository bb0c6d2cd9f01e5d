using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models.Blocks;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>Embedding, blocks and last norm.</summary>
internal sealed class XlstmBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "blocks")]
    private readonly ModuleList<XlstmBlock> _blocks;

    [ComponentName(Name = "out_norm")]
    private readonly StreamNorm? _outNorm;

    public XlstmBackbone(XlstmConfig config, DropoutDraws dropout)
        : base(nameof(XlstmBackbone))
    {
        _embeddings = Parameters.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(block => Block(config, block, dropout))]);
        _outNorm = config.AddOutNorm ? new(config.PreNorm, config.EmbeddingDim, config.NormEpsilon, config.UseBias) : null;
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<XlstmBlock> Blocks => _blocks;

    public StreamNorm? OutNorm => _outNorm;

    private static XlstmBlock Block(XlstmConfig config, int block, DropoutDraws dropout) =>
        (config.BlockStyle, config.MixerAt(block)) switch
        {
            (BlockStyle.PostUp, var mixer) => new PostUpBlock(config, mixer, block, dropout),
            (BlockStyle.PreUp, SLstmMixerConfig mixer) => new PreUpSLstmBlock(config, mixer, block, dropout),
            (BlockStyle.PreUp, var mixer) => new PreUpBlock(config, mixer, block, dropout),
            var (style, _) => throw UnknownValue.Of(style),
        };
}

/// <summary>
/// An xLSTM: embedding, blocks of mLSTMs and sLSTMs, norm, head; as <see cref="XlstmConfig"/> is made, the 7B model (Beck et al. 2025).
/// </summary>
/// <remarks>
/// The state dict of the 7B architecture has the names and shapes of transformers' <c>xLSTMForCausalLM</c>. Below <c>backbone.blocks.N</c>,
/// the first paper's blocks have those of its published package.
/// </remarks>
public sealed class XlstmLanguageModel : LanguageModel
{
    [ComponentName(Name = "backbone")]
    private readonly XlstmBackbone _backbone;

    [ComponentName(Name = "lm_head")]
    private readonly Dense? _head;

    private readonly XlstmConfig _config;

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ConfigException">The configuration cannot be; the message says why.</exception>
    public XlstmLanguageModel(XlstmConfig config, int seed = 0)
        : base(nameof(XlstmLanguageModel), config)
    {
        config.ValidateToBuild();
        NativeTorch.EnsureLoaded();
        _config = config;
        _backbone = new(config, Dropout);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        Dropout.Seed(seed);
        if (Parameters.ToBeLoaded is null)
        {
            Initialize(seed);
        }
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => Embed(_backbone.Embedding, tokens); // (B, S) to (B, S, d)

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var x = embedded; // (B, S, d)
        Tensor? written = null; // (B, S, d): what a block leaves to the next norm to add
        var last = returnState ? new Dictionary<string, Tensor>() : null;
        var (work, memory) = (new LayoutWork(layout, scope), new BlockMemory(scope, last));
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            (x, written) = memory.Through(x, written, () => // both (B, S, d)
            {
                var (stream, toAdd) = _backbone.Blocks[b].Forward(x, written, PassThrough(b, work, state, last));
                Observer?.Invoke(b, "block_out", stream + toAdd);
                return (stream, toAdd);
            });
        }

        // Added by itself: of a sum and its norm from one operation, the sum would be left over and count as alive.
        x = written is null ? x : x + written; // (B, S, d)
        x = _backbone.OutNorm?.Forward(x) ?? x;
        return (x.MoveToOuterDisposeScope(), last is null ? null : new ModelState(last));
    }

    /// <inheritdoc/>
    public override LanguageHead Head => HeadOf(_head, _backbone.Embedding, _config.OutputLogitSoftCap);

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden) => Head.Logits(hidden); // (B, S, d) to (B, S, V)

    /// <inheritdoc/>
    public override ModelState JoinStates(IReadOnlyList<ModelState> states) => JoinStates(states, Mixers);

    /// <inheritdoc/>
    internal override IEnumerable<Mixer> Mixers => _backbone.Blocks.Select(block => block.Mixer);

    /// <summary>One deviation for what reads the stream, another for what writes into it.</summary>
    private void Initialize(int seed)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        _backbone.Embedding.weight!.normal_(0, _config.InputStd, generator);
        foreach (var block in _backbone.Blocks)
        {
            block.Initialize(_config.InputStd, _config.OutputStd, generator);
        }

        _head?.Weight.normal_(0, _config.InputStd, generator);
    }
}
