using TorchSharp.Utils;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>
/// The causal convolution of an xLSTM block: of each channel by itself, y_t = b + sum over j below K of w_(K-1-j) x_(t-j).
/// </summary>
/// <remarks>
/// Inputs before the first token are those of the state, or zero. No token sees another document's inputs; padding is passed over as
/// if it were not there.
/// </remarks>
public sealed class CausalConv1d : nn.Module
{
    [ComponentName(Name = "conv")]
    private readonly CausalConvolution _conv;

    private readonly int _channels;

    /// <summary>A convolution whose weights are zero until they are initialised or loaded.</summary>
    /// <param name="channels">The width of x, C.</param>
    /// <param name="taps">How many inputs each output sees, K, at least 1.</param>
    public CausalConv1d(int channels, int taps)
        : base(nameof(CausalConv1d))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(taps, 1);
        (_channels, Taps) = (channels, taps);
        _conv = new(channels, taps, bias: true);
        RegisterComponents();
    }

    /// <summary>How many inputs each output sees, K.</summary>
    public int Taps { get; }

    /// <summary>Convolves a sequence.</summary>
    /// <param name="x">[B, S, C].</param>
    /// <param name="state">[B, K-1, C], the inputs of the last tokens read, the latest last; null is none, which counts as zeros.</param>
    /// <param name="layout">
    /// Document starts and padding; what lies under padding may be anything, and what comes out there has no meaning.
    /// </param>
    /// <param name="returnState">Whether the state after the last token is wanted; with K = 1 there is none.</param>
    /// <param name="activate">Whether SiLU follows.</param>
    /// <returns>[B, S, C] in the type of x, and the state, float32 or wider.</returns>
    /// <exception cref="ArgumentException">The state's shape does not fit.</exception>
    public (Tensor Y, Tensor? State) Forward(Tensor x, Tensor? state, SequenceLayout? layout, bool returnState, bool activate = false)
    {
        if (state is not null && !state.shape.AsSpan().SequenceEqual([x.shape[0], Taps - 1, _channels]))
        {
            throw new ArgumentException(
                $"Expected a convolution's state of shape [{x.shape[0]}, {Taps - 1}, {_channels}], got [{string.Join(", ", state.shape)}].",
                nameof(state));
        }

        using var scope = NewDisposeScope();
        if (layout?.Padding is { } padding)
        {
            x = x.masked_fill(padding.unsqueeze(2), 0); // what lies there must not reach a gradient
        }

        var tokens = PaddingLast.Of(x, layout);
        var (convolved, last) = _conv.Forward(tokens.X, state, tokens.DocumentStarts, tokens.Real, activate, returnState && Taps > 1);
        return (tokens.Restore(convolved).MoveToOuterDisposeScope(), last?.Widened().MoveToOuterDisposeScope());
    }

    /// <summary>Draws fresh weights as torch's own convolutions have them, which the first paper's code leaves as they are.</summary>
    internal void Initialize(Generator generator) => _conv.Initialize(generator);
}
