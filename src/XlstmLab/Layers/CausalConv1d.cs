using TorchSharp;
using TorchSharp.Modules;
using TorchSharp.Utils;
using XlstmLab.Cells;
using static TorchSharp.torch;

namespace XlstmLab.Layers;

/// <summary>A causal convolution of each channel by itself: y_t = b + sum over j below K of w_(K-1-j) x_(t-j).</summary>
/// <remarks>
/// Inputs before the first token are those of the state, or zero. No token sees another document's inputs; padding is passed over as
/// if it were not there.
/// </remarks>
public sealed class CausalConv1d : nn.Module
{
    [ComponentName(Name = "conv")]
    private readonly Conv1d _conv;

    private readonly int _channels;
    private readonly int _taps;

    /// <summary>A convolution whose weights are to be initialised or loaded.</summary>
    /// <param name="channels">The width of x, C.</param>
    /// <param name="taps">How many inputs each output sees, K, at least 1.</param>
    public CausalConv1d(int channels, int taps)
        : base(nameof(CausalConv1d))
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(taps, 1);
        (_channels, _taps) = (channels, taps);
        _conv = nn.Conv1d(channels, channels, taps, groups: channels);
        RegisterComponents();
    }

    /// <summary>How many inputs each output sees, K.</summary>
    public int Taps => _taps;

    /// <summary>w, [C, 1, K]: the last tap is that of the present token.</summary>
    public Tensor Weight => _conv.weight!;

    /// <summary>b, [C].</summary>
    public Tensor Bias => _conv.bias!;

    /// <summary>Convolves a sequence.</summary>
    /// <param name="x">[B, S, C].</param>
    /// <param name="state">[B, K-1, C], the inputs of the last tokens read, the latest last; null is none, which counts as zeros.</param>
    /// <param name="layout">Document starts and padding; what lies under padding may be anything, and so is what comes out there.</param>
    /// <param name="returnState">Whether the state after the last token is wanted; with K = 1 there is none.</param>
    /// <returns>[B, S, C] in the type of x, and the state, float32 or wider.</returns>
    /// <exception cref="ArgumentException">The state's shape does not fit.</exception>
    public (Tensor Y, Tensor? State) Forward(Tensor x, Tensor? state, SequenceLayout? layout, bool returnState)
    {
        var (batch, length, memory) = (x.shape[0], x.shape[1], _taps - 1L);
        if (state is not null && !state.shape.AsSpan().SequenceEqual([batch, memory, _channels]))
        {
            throw new ArgumentException(
                $"Expected a convolution's state of shape [{batch}, {memory}, {_channels}], got [{string.Join(", ", state.shape)}].", nameof(state));
        }

        using var scope = NewDisposeScope();
        var documents = Documents(layout?.DocumentStarts);                                     // (B, S), or null where all is one
        var order = layout?.Padding is { } padding ? Compaction.Of(padding) : null;
        if (order is not null)
        {
            x = order.TokensFirst(x.masked_fill(layout!.Padding!.unsqueeze(-1), 0));
            documents = documents is null ? null : order.TokensFirst(documents.unsqueeze(-1)).squeeze(-1);
        }

        var before = state?.to(x.dtype) ?? x.new_zeros(batch, memory, _channels);
        var inputs = memory == 0 ? x : cat([before, x], 1);                                    // (B, K-1+S, C)
        var origins = documents is null ? null : cat([documents.new_zeros(batch, memory), documents], 1);
        var weight = _conv.weight!.to(x.dtype).squeeze(1);                                     // (C, K)
        var y = _conv.bias!.to(x.dtype) + x * weight.select(1, memory);
        for (var tap = memory - 1; tap >= 0; tap--)
        {
            var seen = inputs.narrow(1, tap, length);
            if (origins is not null)
            {
                seen = seen.masked_fill(origins.narrow(1, tap, length).ne(documents!).unsqueeze(-1), 0);
            }

            y = y + seen * weight.select(1, tap);
        }

        y = (order?.Back(y) ?? y).MoveToOuterDisposeScope();
        return (y, returnState && memory > 0 ? Last(inputs, origins, order, layout).MoveToOuterDisposeScope() : null);
    }

    /// <summary>Draws fresh weights: uniform between -1/sqrt(K) and 1/sqrt(K), as PyTorch's convolutions are, which the first paper's code leaves as they are.</summary>
    internal void Initialize(Generator generator)
    {
        using var grad = no_grad();
        var bound = 1 / Math.Sqrt(_taps);
        _conv.weight!.uniform_(-bound, bound, generator);
        _conv.bias!.uniform_(-bound, bound, generator);
    }

    /// <summary>The last K-1 inputs of each row, those of earlier documents forgotten.</summary>
    private Tensor Last(Tensor inputs, Tensor? origins, Compaction? order, SequenceLayout? layout)
    {
        var memory = _taps - 1;
        var type = inputs.dtype == ScalarType.BFloat16 ? ScalarType.Float32 : inputs.dtype;
        var (batch, length) = (inputs.shape[0], inputs.shape[1] - memory);
        Tensor last;
        Tensor? from = null;
        if (order is null)
        {
            last = inputs.narrow(1, length, memory).alias();
            from = origins?.narrow(1, length, memory);
        }
        else
        {
            var places = order.TokenCount.unsqueeze(1) + arange(memory, ScalarType.Int64, inputs.device); // (B, K-1)
            last = inputs.gather(1, places.unsqueeze(-1).expand(batch, memory, _channels));
            from = origins?.gather(1, places);
        }

        if (from is not null)
        {
            var present = layout!.DocumentStarts!.to(ScalarType.Int64).sum(1, keepdim: true);  // (B, 1)
            last = last.masked_fill(from.ne(present).unsqueeze(-1), 0);
        }

        return last.to(type);
    }

    /// <summary>How many documents have started before or at each position; null where none starts.</summary>
    private static Tensor? Documents(Tensor? starts) =>
        starts is null || (starts.device_type == DeviceType.CPU && !starts.any().item<bool>()) ? null : starts.to(ScalarType.Int64).cumsum(1);

    /// <summary>The order of a row's positions in which all tokens come first and padding last.</summary>
    /// <param name="Places">[B, S], where each position goes to.</param>
    /// <param name="TokenCount">[B], the number of tokens.</param>
    private sealed record Compaction(Tensor Places, Tensor TokenCount)
    {
        public static Compaction Of(Tensor padding)
        {
            var absent = padding.to(ScalarType.Int64);
            var tokens = (1 - absent).cumsum(1);                                               // (B, S)
            var count = tokens.select(1, -1);
            return new(where(padding, count.unsqueeze(1) + absent.cumsum(1), tokens) - 1, count);
        }

        public Tensor TokensFirst(Tensor x) => zeros_like(x).scatter(1, Places.unsqueeze(-1).expand(x.shape), x);

        public Tensor Back(Tensor x) => x.gather(1, Places.unsqueeze(-1).expand(x.shape));
    }
}
