using TorchSharp.Modules;
using TorchSharp.Utils;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>y = W x + b with a block-diagonal W: each head of x is projected by a matrix of its own, in the type of x.</summary>
public sealed class HeadwiseDense : nn.Module
{
    [ComponentName(Name = "weight")]
    [Role(ParameterRole.Weight)]
    private readonly Parameter _weight;

    [ComponentName(Name = "bias")]
    [Role(ParameterRole.Vector)]
    private readonly Parameter? _bias;

    private readonly int _heads;

    /// <summary>A projection whose weights are zero until they are initialised or loaded.</summary>
    /// <param name="dim">The width of x and of y.</param>
    /// <param name="heads">The number of blocks on the diagonal; it divides the width.</param>
    /// <param name="bias">Whether there is a bias.</param>
    /// <exception cref="ArgumentException">The number of blocks does not divide the width.</exception>
    public HeadwiseDense(int dim, int heads, bool bias = false)
        : base(nameof(HeadwiseDense))
    {
        if (heads < 1 || dim % heads != 0)
        {
            throw new ArgumentException($"Expected a number of blocks that divides the width {dim}, got {heads}.", nameof(heads));
        }

        _heads = heads;
        _weight = Parameters.Projection(heads, dim / heads, dim / heads);
        _bias = bias ? Parameters.Zeros(dim) : null;
        RegisterComponents();
    }

    /// <summary>The blocks of W, [heads, output, input].</summary>
    public Tensor Weight => _weight;

    /// <summary>b, [dim], or null.</summary>
    public Tensor? Bias => _bias;

    /// <summary>[..., dim] to [..., dim].</summary>
    public Tensor Forward(Tensor x)
    {
        var blocks = x.reshape(-1, _heads, x.shape[^1] / _heads).transpose(0, 1);           // (H, N, D)
        var y = blocks.bmm(_weight.to(x.dtype).transpose(1, 2)).transpose(0, 1).reshape(x.shape); // (..., H D)
        return _bias is null ? y : y + _bias.to(x.dtype);
    }
}
