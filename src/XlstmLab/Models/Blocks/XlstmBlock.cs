using XlstmLab.Cells;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>A block of an xLSTM: what it adds to the residual stream, and what it remembers.</summary>
/// <param name="name">The module's name.</param>
/// <param name="config">The architecture.</param>
/// <param name="dropout">The model's.</param>
internal abstract class XlstmBlock(string name, XlstmConfig config, DropoutDraws dropout) : nn.Module(name)
{
    private readonly double _dropout = config.Dropout;

    /// <summary>[B, S, d] to [B, S, d].</summary>
    public abstract Tensor Forward(Tensor x, BlockPass pass);

    /// <summary>Draws fresh weights.</summary>
    /// <param name="inputStd">The standard deviation of what reads the stream.</param>
    /// <param name="outputStd">That of what writes into it.</param>
    /// <param name="generator">Where chance comes from.</param>
    public abstract void Initialize(double inputStd, double outputStd, Generator generator);

    /// <summary>The stream with what a layer writes into it, some of which is dropped in training.</summary>
    protected Tensor Add(Tensor stream, Tensor written) => stream + Drop(written);

    /// <summary>As <see cref="Add"/>, with the norm of the sum, which the next layer reads.</summary>
    protected (Tensor Stream, Tensor Normed) AddAndNorm(Tensor stream, Tensor written, StreamNorm norm) => norm.AddForward(stream, Drop(written));

    private Tensor Drop(Tensor written) => training ? dropout.Apply(written, _dropout) : written;

    /// <summary>A norm of the stream as the configuration has them.</summary>
    protected static StreamNorm Norm(XlstmConfig config, NormKind kind) => new(kind, config.EmbeddingDim, config.NormEpsilon, config.UseBias);
}

/// <summary>One pass through a block: where its state comes from and goes to, where documents start, and who looks on.</summary>
/// <param name="Block">The block's index.</param>
/// <param name="Before">The model's state before the first token; null is the empty state.</param>
/// <param name="Layout">Document starts and padding.</param>
/// <param name="Observer">Shown activations, or null.</param>
/// <param name="After">Is given the block's state after the last token, if it is wanted.</param>
internal sealed record BlockPass(
    int Block, ModelState? Before, SequenceLayout? Layout, ActivationObserver? Observer, Dictionary<string, Tensor>? After)
{
    /// <summary>Whether the state after the last token is wanted.</summary>
    public bool ReturnState => After is not null;

    /// <summary>Shows an activation, or null where nobody looks.</summary>
    public Action<string, Tensor>? Observe => Observer is { } observer ? (name, value) => observer(Block, name, value) : null;

    /// <summary>The mLSTM's state before the first token.</summary>
    public MLstmState? MLstmBefore => Before is null ? null : new(Read("c"), Read("n"), Read("m"));

    /// <summary>The sLSTM's state before the first token.</summary>
    public SLstmState? SLstmBefore => Before is null ? null : new(Read("h"), Read("c"), Read("n"), Read("m"));

    /// <summary>Keeps the mLSTM's state after the last token.</summary>
    public void Keep(MLstmState? state)
    {
        if (state is not null)
        {
            (this["c"], this["n"], this["m"]) = (state.C, state.N, state.M);
        }
    }

    /// <summary>Keeps the sLSTM's state after the last token.</summary>
    public void Keep(SLstmState? state)
    {
        if (state is not null)
        {
            (this["h"], this["c"], this["n"], this["m"]) = (state.H, state.C, state.N, state.M);
        }
    }

    /// <summary>SiLU(conv(x)), with the convolution's state read and kept; x itself where there is no convolution.</summary>
    public Tensor Convolve(CausalConv1d? conv, Tensor x)
    {
        if (conv is null)
        {
            return x;
        }

        var before = Before is null || conv.Taps == 1 ? null : Read("conv");
        var (y, last) = conv.Forward(x, before, Layout, ReturnState, activate: true);
        if (last is not null)
        {
            this["conv"] = last;
        }

        return y;
    }

    private Tensor this[string name]
    {
        set => After?.Add($"blocks.{Block}.{name}", value);
    }

    private Tensor Read(string name) => Before![$"blocks.{Block}.{name}"];
}
