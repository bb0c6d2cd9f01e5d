using TorchSharp;
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

    /// <summary>A model with fresh weights.</summary>
    /// <param name="config">The architecture.</param>
    /// <param name="seed">Two models of one configuration and seed are equal.</param>
    /// <exception cref="ArgumentException">The configuration makes no sense; the message says why.</exception>
    public XlstmLanguageModel(XlstmConfig config, int seed = 0)
        : base(nameof(XlstmLanguageModel))
    {
        NativeTorch.EnsureLoaded();
        Config = config;
        _backbone = new(config);
        _head = config.TieWordEmbeddings ? null : new(config.EmbeddingDim, config.VocabularySize);
        RegisterComponents();
        Initialize(seed);
    }

    /// <summary>The architecture.</summary>
    public XlstmConfig Config { get; }

    /// <inheritdoc/>
    public override int VocabularySize => Config.VocabularySize;

    /// <inheritdoc/>
    public override int BlockCount => Config.BlockCount;

    /// <inheritdoc/>
    public override ModelOutput Forward(
        Tensor tokens, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
    {
        CheckTokens(tokens);
        using var scope = NewDisposeScope();
        var x = _backbone.Embedding.call(tokens); // (B, S, d)
        if (ComputeType is { } type)
        {
            x = x.to(type);
        }

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
        var logits = _head?.Forward(x) ?? nn.functional.linear(x, _backbone.Embedding.weight!.to(x.dtype)); // (B, S, V)
        if (logits.dtype == ScalarType.BFloat16)
        {
            logits = logits.to(ScalarType.Float32);
        }

        logits = SoftCap.Apply(logits, Config.OutputLogitSoftCap);
        return new(logits.MoveToOuterDisposeScope(), returnState ? new ModelState(last) : null);
    }

    private void CheckTokens(Tensor tokens)
    {
        if (tokens.dim() != 2 || tokens.shape[1] < 1 || tokens.dtype != ScalarType.Int64)
        {
            throw new ArgumentException(
                $"Expected tokens of shape [B, S] with S at least 1 and type int64, got [{string.Join(", ", tokens.shape)}] {tokens.dtype}.", nameof(tokens));
        }

        // On a device the look would wait for it.
        if (tokens.device_type == DeviceType.CPU && tokens.NumberOfElements > 0)
        {
            using var scope = NewDisposeScope();
            var (least, greatest) = (tokens.min().item<long>(), tokens.max().item<long>());
            if (least < 0 || greatest >= VocabularySize)
            {
                throw new ArgumentOutOfRangeException(
                    nameof(tokens), $"Expected token ids from 0 to {VocabularySize - 1}, got {(least < 0 ? least : greatest)}: the tokenizer is another model's.");
            }
        }
    }

    /// <summary>The 7B model's initialisation: small init for what reads the stream, wang init for what writes into it.</summary>
    private void Initialize(int seed)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        var small = Math.Sqrt(2.0 / (5 * Config.EmbeddingDim));
        var wang = 2.0 / (Config.BlockCount * Math.Sqrt(Config.EmbeddingDim));
        _backbone.Embedding.weight!.normal_(0, small, generator);
        foreach (var block in _backbone.Blocks)
        {
            block.Initialize(small, wang, generator);
        }

        _head?.Weight.normal_(0, small, generator);
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
    private readonly RmsNorm? _outNorm;

    public XlstmBackbone(XlstmConfig config)
        : base(nameof(XlstmBackbone))
    {
        _embeddings = nn.Embedding(config.VocabularySize, config.EmbeddingDim);
        _blocks = new([.. Enumerable.Range(0, config.BlockCount).Select(_ => new XlstmBlock(config))]);
        _outNorm = config.AddOutNorm ? new(config.EmbeddingDim, config.NormEpsilon, config.UseBias) : null;
        RegisterComponents();
    }

    public Embedding Embedding => _embeddings;

    public ModuleList<XlstmBlock> Blocks => _blocks;

    public RmsNorm? OutNorm => _outNorm;
}

/// <summary>x + mLSTM(norm(x)), then x + SwiGLU(norm(x)): the post-up-projection block of the 7B model.</summary>
internal sealed class XlstmBlock : nn.Module
{
    [ComponentName(Name = "norm_mlstm")]
    private readonly RmsNorm _mixerNorm;

    [ComponentName(Name = "mlstm_layer")]
    private readonly MLstmLayer _mixer;

    [ComponentName(Name = "norm_ffn")]
    private readonly RmsNorm _feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly SwiGlu _feedForward;

    public XlstmBlock(XlstmConfig config)
        : base(nameof(XlstmBlock))
    {
        _mixerNorm = new(config.EmbeddingDim, config.NormEpsilon, config.UseBias);
        _mixer = new(config);
        _feedForwardNorm = new(config.EmbeddingDim, config.NormEpsilon, config.UseBias);
        _feedForward = new(config);
        RegisterComponents();
    }

    public (Tensor Y, MLstmState? State) Forward(
        Tensor x, MLstmState? state, SequenceLayout? layout, Action<string, Tensor>? observe, bool returnState)
    {
        var (mixed, last) = _mixer.Forward(_mixerNorm.Forward(x), state, layout, observe, returnState);
        x = x + mixed;
        return (x + _feedForward.Forward(_feedForwardNorm.Forward(x)), last);
    }

    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        _mixer.Initialize(inputStd, outputStd, generator);
        _feedForward.Initialize(inputStd, outputStd, generator);
    }
}
