using XlstmLab.Layers;
using XlstmLab.Mixers;
using static TorchSharp.torch;

namespace XlstmLab.Models.Blocks;

/// <summary>A block of an xLSTM: what it adds to the residual stream, and what it remembers.</summary>
/// <remarks>Its parts are registered by hand: what they are called depends on the mixer.</remarks>
/// <param name="name">The module's name.</param>
/// <param name="config">The architecture.</param>
/// <param name="mixer">The block's mixer.</param>
/// <param name="dropout">The model's.</param>
internal abstract class XlstmBlock(string name, XlstmConfig config, Mixer mixer, DropoutDraws dropout) : nn.Module(name)
{
    private readonly double _dropout = config.Dropout;

    /// <summary>What mixes the tokens.</summary>
    public Mixer Mixer { get; } = mixer;

    /// <summary>Reads the stream; what the last layer writes into it is added by the next norm, in one pass with it.</summary>
    /// <param name="stream">[B, S, d].</param>
    /// <param name="written">[B, S, d] what is still to be added to it; null is nothing.</param>
    /// <param name="pass">The memory, and where documents start.</param>
    /// <returns>The same two behind the block.</returns>
    public abstract (Tensor Stream, Tensor Written) Forward(Tensor stream, Tensor? written, MixerPass pass);

    /// <summary>Draws fresh weights.</summary>
    /// <param name="inputStd">The standard deviation of what reads the stream.</param>
    /// <param name="outputStd">That of what writes into it.</param>
    /// <param name="generator">Where chance comes from.</param>
    public abstract void Initialize(double inputStd, double outputStd, Generator generator);

    /// <summary>The name of a convolution's memory: in a block of the xLSTM papers' that of all checkpoints.</summary>
    public static string ConvolutionName(MixerConfig mixer) => mixer is MLstmMixerConfig or SLstmMixerConfig ? "conv" : "block_conv";

    /// <summary>What a layer writes into the stream, some of which is dropped in training.</summary>
    protected Tensor Drop(Tensor written) => training ? dropout.Apply(written, _dropout) : written;

    /// <summary>A norm of the stream as the configuration has them.</summary>
    protected static StreamNorm Norm(XlstmConfig config, NormKind kind) => new(
        kind, config.EmbeddingDim, config.NormEpsilon, config.UseBias);

    /// <summary>Nothing is registered by its field's name.</summary>
    protected override void RegisterComponents()
    {
    }
}
