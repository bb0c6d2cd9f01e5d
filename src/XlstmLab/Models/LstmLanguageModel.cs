using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using XlstmLab.Layers;
using XlstmLab.Native;
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
        var wide = x.dtype == ScalarType.BFloat16 ? ScalarType.Float32 : x.dtype;
        var pieces = LstmPiece.Cut(layout, x.shape[1]);
        var last = new Dictionary<string, Tensor>();
        for (var b = 0; b < _backbone.Blocks.Count; b++)
        {
            var before = state is null
                ? (zeros(x.shape[0], x.shape[2], dtype: wide, device: x.device), zeros(x.shape[0], x.shape[2], dtype: wide, device: x.device))
                : (state[$"blocks.{b}.h"].to(wide), state[$"blocks.{b}.c"].to(wide));
            (x, var after) = _backbone.Blocks[b].Forward(x, before, pieces, h => Observer?.Invoke(b, "h", h));
            last.Add($"blocks.{b}.h", after.H);
            last.Add($"blocks.{b}.c", after.C);
        }

        return ((_backbone.Norm?.Forward(x) ?? x).MoveToOuterDisposeScope(), returnState ? new ModelState(last) : null);
    }

    /// <inheritdoc/>
    public override LanguageHead Head => LanguageHead.Of(_head, _backbone.Embedding);

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
            block.Initialize(inputStd, outputStd, _config.ForgetGateBias, generator);
        }

        _head?.Weight.normal_(0, inputStd, generator);
    }
}

/// <summary>A stretch of a batch in which no document starts but at its beginning, and each row is all tokens or all padding.</summary>
/// <param name="Start">Its first position.</param>
/// <param name="Length">Its number of positions.</param>
/// <param name="Starts">[B, 1] bool, the rows where a document starts at its beginning; null for none.</param>
/// <param name="Absent">[B, 1] bool, the rows that are padding; null for none.</param>
internal sealed record LstmPiece(long Start, long Length, Tensor? Starts, Tensor? Absent)
{
    /// <summary>Cuts a batch, which takes one look at the layout wherever it is; tensors are in the caller's dispose scope.</summary>
    public static List<LstmPiece> Cut(SequenceLayout? layout, long length)
    {
        var (starts, padding) = (Columns(layout?.DocumentStarts), Columns(layout?.Padding));
        var cuts = new List<long>();
        for (var t = 0; t < length; t++)
        {
            if (t == 0 || starts?[t].Contains(true) == true || (padding is not null && !padding[t].AsSpan().SequenceEqual(padding[t - 1])))
            {
                cuts.Add(t);
            }
        }

        cuts.Add(length);
        return
        [
            .. cuts.Zip(cuts.Skip(1), (from, to) => new LstmPiece(
                from,
                to - from,
                starts?[from].Contains(true) == true ? layout!.DocumentStarts!.narrow(1, from, 1) : null,
                padding?[from].Contains(true) == true ? layout!.Padding!.narrow(1, from, 1) : null)),
        ];
    }

    /// <summary>The mask of all rows at each position.</summary>
    private static bool[][]? Columns(Tensor? mask)
    {
        if (mask is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var rows = (int)mask.shape[0];
        var values = mask.t().contiguous().cpu().data<bool>().ToArray();
        return [.. Enumerable.Range(0, (int)mask.shape[1]).Select(t => values.AsSpan(t * rows, rows).ToArray())];
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
    [ComponentName(Name = "lstm_norm")]
    private readonly StreamNorm? _norm;

    [ComponentName(Name = "lstm")]
    private readonly LSTM _lstm;

    [ComponentName(Name = "ffn_norm")]
    private readonly StreamNorm? _feedForwardNorm;

    [ComponentName(Name = "ffn")]
    private readonly FeedForward? _feedForward;

    private readonly int _dim;

    public LstmBlock(LstmConfig config)
        : base(nameof(LstmBlock))
    {
        _dim = config.EmbeddingDim;
        _norm = config.Residual ? new(NormKind.Layer, _dim, config.NormEpsilon) : null;
        _lstm = Parameters.Undrawn(() => nn.LSTM(_dim, _dim, batchFirst: true));
        if (config.FeedForward != FeedForwardKind.None)
        {
            _feedForwardNorm = new(NormKind.Layer, _dim, config.NormEpsilon);
            _feedForward = new(config.FeedForward, _dim, config.FeedForwardDim);
        }

        RegisterComponents();
    }

    public (Tensor Y, (Tensor H, Tensor C) Last) Forward(Tensor x, (Tensor H, Tensor C) before, List<LstmPiece> pieces, Action<Tensor> observe)
    {
        var (h, last) = Read(_norm?.Forward(x) ?? x, before, pieces);
        observe(h);
        x = _norm is null ? h : x + h;
        return (_feedForward is null ? x : x + _feedForward.Forward(_feedForwardNorm!.Forward(x)), last);
    }

    public void Initialize(double inputStd, double outputStd, double forgetGateBias, Generator generator)
    {
        using var grad = no_grad();
        var bound = 1 / Math.Sqrt(_dim);
        foreach (var (name, parameter) in _lstm.named_parameters())
        {
            if (name.StartsWith("weight", StringComparison.Ordinal))
            {
                parameter.uniform_(-bound, bound, generator);
            }
            else
            {
                // There are two, which are added: gates are in the order i, f, g, o.
                parameter.zero_();
                if (name.StartsWith("bias_ih", StringComparison.Ordinal))
                {
                    parameter.narrow(0, _dim, _dim).fill_(forgetGateBias);
                }
            }
        }

        _feedForward?.Initialize(inputStd, outputStd, generator);
    }

    /// <summary>The LSTM's h at each position, [B, S, d] in the type of x, and its last h and c, [B, d].</summary>
    private (Tensor H, (Tensor H, Tensor C) Last) Read(Tensor x, (Tensor H, Tensor C) state, List<LstmPiece> pieces)
    {
        var wide = x.to(state.H.dtype);
        var (h, c) = state;
        var outputs = new List<Tensor>();
        foreach (var piece in pieces)
        {
            if (piece.Starts is { } starts)
            {
                (h, c) = (h.masked_fill(starts, 0.0), c.masked_fill(starts, 0.0));
            }

            var (y, nextH, nextC) = _lstm.call(
                wide.narrow(1, piece.Start, piece.Length).contiguous(), (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()));
            (nextH, nextC) = (nextH.squeeze(0), nextC.squeeze(0));
            (h, c) = piece.Absent is { } absent ? (where(absent, h, nextH), where(absent, c, nextC)) : (nextH, nextC);
            outputs.Add(y);
        }

        return ((outputs.Count == 1 ? outputs[0] : cat(outputs, 1)).to(x.dtype), (h.alias(), c.alias()));
    }
}
