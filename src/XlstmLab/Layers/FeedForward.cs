using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>The feed-forward layer: gated, W_down(f(W_gate x) * W_up x), or plain, W_down f(W_up x).</summary>
public sealed class FeedForward : nn.Module
{
    private readonly Dense? _gate;
    private readonly Dense? _up;
    private readonly Dense? _gateAndUp;
    private readonly Dense _down;
    private readonly FeedForwardKind _kind;

    /// <summary>A layer whose weights are zero until they are initialised or loaded.</summary>
    /// <param name="kind">The layer, which is not <see cref="FeedForwardKind.None"/>: a block without one has no such module.</param>
    /// <param name="dim">The width of the stream, d.</param>
    /// <param name="innerDim">The inner width, d_ff; see <see cref="InnerDim"/>.</param>
    /// <param name="bias">Whether the projections have biases.</param>
    /// <param name="weightMode">Whether a gated layer stores the two matrices of its input side as one; a plain layer has only one.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer.</exception>
    public FeedForward(FeedForwardKind kind, int dim, int innerDim, bool bias = false, WeightMode weightMode = WeightMode.Single)
        : this(kind, dim, innerDim, bias, weightMode, new("proj_up_gate", "proj_up", "proj_down"))
    {
    }

    /// <summary>The same under names of other published models.</summary>
    internal FeedForward(FeedForwardKind kind, int dim, int innerDim, bool bias, WeightMode weightMode, FeedForwardNames names)
        : base(nameof(FeedForward))
    {
        if (kind == FeedForwardKind.None || !Enum.IsDefined(kind))
        {
            throw new ArgumentOutOfRangeException(nameof(kind), kind, "Expected a kind of feed-forward layer.");
        }

        _kind = kind;
        var gated = kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;
        if (weightMode.Known() == WeightMode.Fused && gated)
        {
            _gateAndUp = new(dim, 2 * innerDim, bias);
        }
        else
        {
            _gate = gated ? new(dim, innerDim, bias) : null;
            _up = new(dim, innerDim, bias);
        }

        _down = new(innerDim, dim, bias);
        foreach (var (name, part) in new[] { (names.Gate, _gate), (names.Up, _up), (names.Gate + "_z", _gateAndUp), (names.Down, _down) })
        {
            if (part is not null)
            {
                register_module(name, part);
            }
        }
    }

    /// <summary>The inner width d factor, rounded up to a multiple; with the integer division of the published code.</summary>
    /// <param name="dim">The width of the stream, d.</param>
    /// <param name="factor">The inner width as a multiple of d.</param>
    /// <param name="roundUpTo">What the inner width is a multiple of.</param>
    /// <returns>The width, at most 2^31 - 1.</returns>
    public static int InnerDim(int dim, double factor, int roundUpTo) =>
        Counts.Width(Math.Truncate((dim * factor + roundUpTo - 1) / roundUpTo) * roundUpTo);

    /// <summary>[B, S, d] to [B, S, d].</summary>
    public Tensor Forward(Tensor x)
    {
        if (_gateAndUp is not null)
        {
            var inner = _gateAndUp.Weight.shape[0] / 2;
            var both = _gateAndUp.ForwardSplit(x, inner, inner);
            return _down.Forward(Middle(_kind, both[0], both[1]));
        }

        var parts = _gate is null ? [_up!.Forward(x)] : Dense.ForwardTogether(x, _gate, _up!);
        return _down.Forward(Middle(_kind, parts[0], parts.Count > 1 ? parts[1] : null));
    }

    /// <summary>Draws fresh weights; biases stay zero.</summary>
    /// <param name="inputStd">The standard deviation of what reads the stream.</param>
    /// <param name="outputStd">The standard deviation of what writes into it.</param>
    /// <param name="generator">Where the numbers come from.</param>
    public void Initialize(double inputStd, double outputStd, Generator generator)
    {
        using var grad = no_grad();
        foreach (var projection in new[] { _gate, _up, _gateAndUp })
        {
            projection?.Weight.normal_(0, inputStd, generator);
        }

        _down.Weight.normal_(0, outputStd, generator);
    }

    /// <summary>f(g) u, or f(g) where there is no u.</summary>
    internal static Tensor Middle(FeedForwardKind kind, Tensor g, Tensor? u)
    {
        if (GluKernel.Serves(g) && (u is null || GluKernel.Serves(u)))
        {
            return GluKernel.Forward(g, u, kind);
        }

        if (CpuMemory.Serves(g) && (u is null || CpuMemory.Serves(u)))
        {
            return GluFused.Forward(g, u, kind);
        }

        return u is null ? Activate(kind, g) : Activate(kind, g) * u;
    }

    /// <summary>Nothing is registered by its field's name.</summary>
    protected override void RegisterComponents()
    {
    }

    /// <summary>The layer's nonlinearity f.</summary>
    internal static Tensor Activate(FeedForwardKind kind, Tensor x) => kind switch
    {
        FeedForwardKind.SwiGlu => nn.functional.silu(x),
        FeedForwardKind.ReluSquared => nn.functional.relu(x).square(),
        FeedForwardKind.GeGlu or FeedForwardKind.Mlp => nn.functional.gelu(x),
        _ => throw UnknownValue.Of(kind),
    };
}

/// <summary>What a published model calls the projections of a feed-forward layer.</summary>
/// <param name="Gate">That of the nonlinearity.</param>
/// <param name="Up">That of what is multiplied with it.</param>
/// <param name="Down">That back into the stream.</param>
internal sealed record FeedForwardNames(string Gate, string Up, string Down);
