using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Models;

/// <summary>The xLSTM-7B architecture (Beck et al. 2025): embedding, mLSTM blocks, norm, head.</summary>
/// <remarks>The state dict has the names and shapes of transformers' <c>xLSTMForCausalLM</c>.</remarks>
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
    /// <exception cref="ArgumentException">The configuration makes no sense; the message says why.</exception>
    public XlstmLanguageModel(XlstmConfig config, int seed = 0)
        : base(nameof(XlstmLanguageModel), config)
    {
        NativeTorch.EnsureLoaded();
        _config = config;
        _backbone = new(config);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        Initialize(seed);
    }

    /// <inheritdoc/>
    public override Tensor Embed(Tensor tokens) => _backbone.Embedding.call(tokens);

    /// <inheritdoc/>
    public override (Tensor Hidden, ModelState? State) ForwardHidden(
        Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        using var scope = NewDisposeScope();
        var x = embedded; // (B, S, d)
        var last = new Dictionary<string, Tensor>();
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            var before = state is null ? null : new MLstmState(state[$"blocks.{b}.c"], state[$"blocks.{b}.n"], state[$"blocks.{b}.m"]);
            var block = b;
            Action<string, Tensor>? observe = Observer is { } observer ? (name, value) => observer(block, name, value) : null;
            (x, var after) = _backbone.Blocks[b].Forward(x, before, layout, observe, returnState);
            if (after is not null)
            {
                last.Add($"blocks.{b}.c", after.C);
                last.Add($"blocks.{b}.n", after.N);
                last.Add($"blocks.{b}.m", after.M);
            }
        }

        x = _backbone.OutNorm?.Forward(x) ?? x;
        return (x.MoveToOuterDisposeScope(), returnState ? new ModelState(last) : null);
    }

    /// <inheritdoc/>
    public override Tensor Logits(Tensor hidden)
    {
        var logits = _head?.Forward(hidden) ?? nn.functional.linear(hidden, _backbone.Embedding.weight!.to(hidden.dtype)); // (..., V)
        return SoftCap.Apply(logits.dtype == ScalarType.BFloat16 ? logits.to(ScalarType.Float32) : logits, _config.OutputLogitSoftCap);
    }

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

/// <summary>Embedding, blocks and last norm.</summary>
internal sealed class XlstmBackbone : nn.Module
{
    [ComponentName(Name = "embeddings")]
    private readonly Embedding _embeddings;

    [ComponentName(Name = "blocks")]
    private readonly ModuleList<XlstmBlock> _blocks;

    [ComponentName(Name = "out_norm")]
    private readonly StreamNorm? _outNorm;

    public XlstmBackbone(XlstmConfig config)
        : base(nameof(XlstmBackbone))
    {
        _embeddings = nn.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new XlstmBlock(config))]);
        _outNorm = config.AddOutNorm ? new(config.PreNorm, config.EmbeddingDim, config.NormEpsilon, config.UseBias) : null;
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<XlstmBlock> Blocks => _blocks;

    public StreamNorm? OutNorm => _outNorm;
}

/// <summary>x + mLSTM(norm(x)), then x + FFN(norm(x)): the post-up-projection block of the 7B model.</summary>
internal sealed class XlstmBlock : nn.Module
{
    [ComponentName(Name = "norm_mlstm")]
    private readonly StreamNorm _mixerNorm;

    [ComponentName(Name = "mlstm_layer")]
    private readonly MLstmLayer _mixer;

    [ComponentName(Name = "norm_mlstm_post")]
    private readonly StreamNorm _mixerPostNorm;

    [ComponentName(Name = "norm_ffn")]
    private readonly StreamNorm? _feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly FeedForward? _feedForward;

    [ComponentName(Name = "norm_ffn_post")]
    private readonly StreamNorm? _feedForwardPostNorm;

    private readonly double _dropout;

    public XlstmBlock(XlstmConfig config)
        : base(nameof(XlstmBlock))
    {
        StreamNorm Norm(NormKind kind) => new(kind, config.EmbeddingDim, config.NormEpsilon, config.UseBias);

        _mixerNorm = Norm(config.PreNorm);
        _mixer = new(config);
        _mixerPostNorm = Norm(config.PostNorm);
        if (config.FeedForward != FeedForwardKind.None)
        {
            _feedForwardNorm = Norm(config.PreNorm);
            _feedForward = new(config.FeedForward, config.EmbeddingDim, config.FeedForwardDim, config.UseBias, config.WeightMode);
            _feedForwardPostNorm = Norm(config.PostNorm);
        }

        _dropout = config.Dropout;
        RegisterComponents();
    }

    public (Tensor Y, MLstmState? State) Forward(
        Tensor x, MLstmState? state, SequenceLayout? layout, Action<string, Tensor>? observe, bool returnState)
    {
        var (mixed, last) = _mixer.Forward(_mixerNorm.Forward(x), state, layout, observe, returnState);
        x = x + Drop(_mixerPostNorm.Forward(mixed));
        return (_feedForward is null ? x : x + Drop(_feedForwardPostNorm!.Forward(_feedForward.Forward(_feedForwardNorm!.Forward(x)))), last);
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, outputStd, generator);
        _feedForward?.Initialize(inputStd, outputStd, generator);
    }

    private Tensor Drop(Tensor written) => _dropout > 0 && training ? nn.functional.dropout(written, _dropout) : written;
}
