using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>A depthwise convolution over a token and the K - 1 before it in its document.</summary>
internal sealed class CausalConvolution : nn.Module
{
    [ComponentName(Name = "weight")]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
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
        if (ConvolutionKernel.Serves(x, _size))
        {
            var byKernel = ConvolutionKernel.Forward(x, before, _weight.squeeze(1), _bias, starts, activate, room);
            return (byKernel, returnLast ? Last(Pieces(x, before, starts), real) : null);
        }

        var (length, past) = (x.shape[1], _size - 1L);
        var pieces = Pieces(x, before, starts);
        var (all, documents, allDocuments) = pieces;
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

        return (activate ? nn.functional.silu(y) : y, returnLast ? Last(pieces, real) : null);
    }

    /// <summary>The inputs with those before them, [B, K - 1 + S, C], and the numbers of documents, [B, S] and [B, K - 1 + S], or nulls.</summary>
    private (Tensor All, Tensor? Documents, Tensor? AllDocuments) Pieces(Tensor x, Tensor? before, Tensor? starts)
    {
        var (batch, past) = (x.shape[0], _size - 1L);
        var all = cat([before?.to(x.dtype) ?? zeros(batch, past, x.shape[2], dtype: x.dtype, device: x.device), x], 1);
        if (starts is null)
        {
            return (all, null, null);
        }

        var documents = starts.to(ScalarType.Int64).cumsum(1);
        return (all, documents, cat([zeros(batch, past, dtype: ScalarType.Int64, device: x.device), documents], 1));
    }

    /// <summary>The inputs of the last K - 1 tokens, zero where they are another document's.</summary>
    private Tensor Last((Tensor All, Tensor? Documents, Tensor? AllDocuments) pieces, Tensor? real)
    {
        var (all, documents, allDocuments) = pieces;
        var (batch, past, device) = (all.shape[0], _size - 1L, all.device);
        var length = all.shape[1] - past;
        var count = real?.to(ScalarType.Int64).sum(1, keepdim: true) ?? full([batch, 1], length, dtype: ScalarType.Int64, device: device);
        var index = count + arange(past, device: device); // (B, K - 1)
        var last = all.gather(1, index.unsqueeze(2).expand(-1, -1, all.shape[2]));
        return documents is null ? last : last * allDocuments!.gather(1, index).eq(documents.narrow(1, length - 1, 1)).unsqueeze(2);
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
