using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// The norm of what a layer reads of the residual stream, of what it writes into it, or of what the head reads (xLSTM 7B, figure 9).
/// </summary>
public sealed class StreamNorm : AffineNorm
{
    private readonly NormKind _kind;

    /// <summary>A norm over the last dimension, with scale 1; <see cref="NormKind.None"/> has no parameters.</summary>
    /// <param name="kind">The norm.</param>
    /// <param name="dim">The width of the stream, d.</param>
    /// <param name="epsilon">Added to the mean square or the variance.</param>
    /// <param name="bias">Whether there is a bias.</param>
    public StreamNorm(NormKind kind, int dim, double epsilon, bool bias = false)
        : base(nameof(StreamNorm), kind.Known() == NormKind.None ? null : dim, epsilon, bias)
    {
        _kind = kind;
        RegisterComponents();
    }

    /// <summary>
    /// The sum of the stream and what a layer writes into it, both [..., d], and the sum's norm; in one pass where there is a kernel.
    /// </summary>
    /// <param name="stream">The stream.</param>
    /// <param name="written">What is added; null is nothing.</param>
    public (Tensor Sum, Tensor Normed) AddForward(Tensor stream, Tensor? written)
    {
        if (written is null)
        {
            return (stream, Forward(stream));
        }

        if (_kind != NormKind.None && NormKernel.Serves(stream) && written.dtype == stream.dtype && written.is_contiguous())
        {
            return NormKernel.AddForward(stream, written, Weight!, Bias, Epsilon, center: _kind == NormKind.Layer);
        }

        if (HasLoops(stream) && CpuMemory.Serves(written))
        {
            return NormFused.AddForward(stream, written, Weight!, Bias, Epsilon, center: _kind == NormKind.Layer);
        }

        var sum = stream + written;
        return (sum, Forward(sum));
    }

    /// <summary>[..., d] to [..., d], in the type of x.</summary>
    public Tensor Forward(Tensor x) => _kind switch
    {
        NormKind.Rms => ByKernel(x, center: false) ?? Scale(DivideByRootMeanSquare(x)),
        NormKind.Layer => ByKernel(x, center: true) ?? Scale(Standardize(x)),
        NormKind.None => x.alias(),
        _ => throw UnknownValue.Of(_kind),
    };
}
