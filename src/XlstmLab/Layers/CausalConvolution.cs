using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>A depthwise convolution over a token and the K - 1 before it in its document.</summary>
internal sealed class CausalConvolution : nn.Module
{
    [ComponentName(Name = "weight")]
    [Role(ParameterRole.Weight)]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _bias;

    private readonly int _size;

    /// <summary>A convolution of that many channels and taps, zero until it is initialised or loaded.</summary>
    public CausalConvolution(int channels, int size, bool bias)
        : base(nameof(CausalConvolution))
    {
        _size = size;
        _weight = Parameters.Zeros(channels, 1, size);
        _bias = bias ? Parameters.Zeros(channels) : null;
        RegisterComponents();
    }

    /// <summary>How many inputs each output sees, K.</summary>
    public int Taps => _size;

    /// <summary>Reads a piece.</summary>
    /// <param name="x">[B, S, C].</param>
    /// <param name="before">The inputs of the K - 1 tokens before, [B, K - 1, C], zero where a document had none; or null.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="real">[B, S] bool, true for tokens, which come first; or null.</param>
    /// <param name="activate">Whether SiLU follows.</param>
    /// <param name="returnLast">Whether the inputs that the next token follows are wanted.</param>
    /// <param name="room">Where a kernel should write the gradient of x; null is anywhere.</param>
    /// <returns>[B, S, C], and the K - 1 inputs that the next token follows.</returns>
    public (Tensor Y, Tensor? Last) Forward(
        Tensor x, Tensor? before, Tensor? starts, Tensor? real, bool activate, bool returnLast, Func<Tensor>? room = null)
    {
        var (length, past) = (x.shape[1], _size - 1L);
        if (ConvolutionKernel.Serves(x, _size))
        {
            var byKernel = ConvolutionKernel.Forward(x, before, _weight.squeeze(1), _bias, starts, activate, room);
            return (byKernel, returnLast ? PastTokens.Of(x, before, past, starts).Last(past, real) : null);
        }

        var tokens = PastTokens.Of(x, before, past, starts);
        var (all, documents, allDocuments) = tokens;
        var weight = _weight.to(x.dtype).squeeze(1); // (C, K)
        var y = x * weight.select(1, past);
        for (var tap = 0L; tap < past; tap++)
        {
            var term = all.narrow(1, tap, length) * weight.select(1, tap);
            y = y + (documents is null ? term : term * documents.eq(allDocuments!.narrow(1, tap, length)).unsqueeze(2));
        }

        if (_bias is not null)
        {
            y = y + _bias.to(x.dtype);
        }

        return (activate ? nn.functional.silu(y) : y, returnLast ? tokens.Last(past, real) : null);
    }

    /// <summary>Uniform between -1/sqrt(K) and 1/sqrt(K), as torch's own.</summary>
    public void Initialize(Generator generator)
    {
        using var grad = no_grad();
        var bound = Math.Pow(_size, -0.5);
        _weight.uniform_(-bound, bound, generator);
        _bias?.uniform_(-bound, bound, generator);
    }
}
