using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The mLSTM: a matrix memory written by keys and values and read by queries, with one input and one forget gate a head.</summary>
/// <remarks>
/// xLSTM 7B, eqs. 2-9. <see cref="MLstmRecurrent"/> is written as the paper's equations; <see cref="MLstmParallel"/> and
/// <see cref="MLstmChunkwise"/> compute the same. Queries are scaled by DK^-1/2.
/// </remarks>
public static class MLstmCell
{
    /// <summary>Reads a sequence in the form that the options name; a single token is always a recurrent step.</summary>
    /// <param name="q">[B, NH, S, DK] queries: float32, float64 or bfloat16, S at least 1.</param>
    /// <param name="k">[B, NH, S, DK] keys.</param>
    /// <param name="v">[B, NH, S, DV] values.</param>
    /// <param name="igatePreact">[B, NH, S] pre-activation of the input gate, i~; of no effect if there is none.</param>
    /// <param name="fgatePreact">[B, NH, S] pre-activation of the forget gate, f~; of no effect if there is none.</param>
    /// <param name="initial">The state to start from; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="options">What to compute, and how.</param>
    /// <returns>H [B, NH, S, DV] in the values' type, and the last state, float32 or wider.</returns>
    /// <exception cref="ArgumentException">Shapes or types do not fit, or an option is none of its enum's.</exception>
    public static (Tensor H, MLstmState Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor igatePreact, Tensor fgatePreact,
        MLstmState? initial = null, SequenceLayout? layout = null, MLstmOptions? options = null)
    {
        var (h, last) = Run(q, k, v, igatePreact, fgatePreact, initial, layout, options, returnState: true);
        return (h, last!);
    }

    /// <summary>As <see cref="Forward"/>, for callers that drop the state: training needs no gradient through it.</summary>
    public static Tensor ForwardOutput(
        Tensor q, Tensor k, Tensor v, Tensor igatePreact, Tensor fgatePreact,
        MLstmState? initial = null, SequenceLayout? layout = null, MLstmOptions? options = null) =>
        Run(q, k, v, igatePreact, fgatePreact, initial, layout, options, returnState: false).H;

    private static (Tensor H, MLstmState? Last) Run(
        Tensor q, Tensor k, Tensor v, Tensor igatePreact, Tensor fgatePreact,
        MLstmState? initial, SequenceLayout? layout, MLstmOptions? options, bool returnState)
    {
        options ??= new();
        Check(q, k, v, igatePreact, fgatePreact, initial, layout, options);
        using var scope = NewDisposeScope();

        var type = q.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var (input, forget) = (igatePreact.to(type), fgatePreact.to(type));
        var (h, last) = options.Form == MLstmForm.Chunkwise && MLstmSequenceKernel.Serves(q, v)
            ? MLstmSequenceKernel.Forward(
                q, k, v, input, forget, options.InputGate, options.ForgetGate, initial, layout, options, returnState)
            : options.Form == MLstmForm.Chunkwise && q.size(2) > 1 && layout?.Padding is null && MLstmFused.Serves(q, k, v, input)
            ? MLstmFused.Forward(
                q, k, v, input, forget, options.InputGate, options.ForgetGate, initial, layout?.StartsIfAny(), options, returnState)
            : FromLogGates(q, k, v, options.InputGate.Log(input), options.ForgetGate.Log(forget), initial, layout, options, returnState);
        return (h.MoveToOuterDisposeScope(), last?.MoveToOuterDisposeScope());
    }

    /// <summary>The cell behind the gates: as <see cref="Forward"/>, with [B, NH, S] logarithms of the gates, float32 or wider.</summary>
    internal static (Tensor H, MLstmState? Last) FromLogGates(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF,
        MLstmState? initial, SequenceLayout? layout, MLstmOptions options, bool returnState)
    {
        using var scope = NewDisposeScope();
        if (options.Form == MLstmForm.Chunkwise && MLstmSequenceKernel.Serves(q, v))
        {
            var (output, state) = MLstmSequenceKernel.Forward(
                q, k, v, logI, logF, InputGate.Exponential, ForgetGate.Exponential, initial, layout, options, returnState);
            return (output.MoveToOuterDisposeScope(), state?.MoveToOuterDisposeScope());
        }

        var type = logF.dtype;
        if (layout?.Padding is { } padding)
        {
            // A forget gate of 1 and an input gate of 0 keep the state.
            var absent = padding.unsqueeze(1);
            logF = logF.masked_fill(absent, 0.0);
            logI = logI.masked_fill(absent, double.NegativeInfinity);
        }

        if (options.Form == MLstmForm.Chunkwise && q.size(2) > 1 && MLstmFused.Serves(q, k, v, logI))
        {
            var (output, state) = MLstmFused.Forward(
                q, k, v, logI, logF, InputGate.Exponential, ForgetGate.Exponential, initial, layout?.StartsIfAny(), options, returnState);
            return (output.MoveToOuterDisposeScope(), state?.MoveToOuterDisposeScope());
        }

        initial ??= MLstmState.Empty(q.size(0), q.size(1), q.size(3), v.size(3), type, q.device);
        var starts = layout?.StartsIfAny();
        var form = q.size(2) == 1 ? MLstmForm.Recurrent : options.Form;
        (Tensor h, MLstmState? last) = form switch
        {
            MLstmForm.Recurrent => MLstmRecurrent.Forward(q.to(type), k.to(type), v.to(type), logI, logF, initial, starts, options),
            MLstmForm.Parallel => MLstmParallel.Forward(q.to(type), k.to(type), v.to(type), logI, logF, initial, starts, options),
            MLstmForm.Chunkwise => MLstmChunkwise.Forward(
                q.to(type), k.to(type), v.to(type), logI, logF, initial, starts, options, returnState),
            _ => throw UnknownValue.Of(form),
        };
        h = h.to(v.dtype).MoveToOuterDisposeScope();
        if (!returnState || last is null)
        {
            return (h, null);
        }

        // A state outlives the call even where nothing was computed: an alias never dies with its source.
        return (h, new(
            last.C.alias().MoveToOuterDisposeScope(), last.N.alias().MoveToOuterDisposeScope(), last.M.alias().MoveToOuterDisposeScope()));
    }

    internal static void Check(
        Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, MLstmState? initial, SequenceLayout? layout, MLstmOptions options)
    {
        _ = (options.InputGate.Known(), options.ForgetGate.Known(), options.Form.Known(), options.NormalizerGradient.Known());
        CheckSequence(q, k, v, layout, options.ChunkSize);
        var (batch, heads, length, dk, dv) = (q.size(0), q.size(1), q.size(2), q.size(3), v.size(3));
        Require(i, "igatePreact", batch, heads, length);
        Require(f, "fgatePreact", batch, heads, length);
        if (initial is not null)
        {
            Require(initial.C, "initial.C", batch, heads, dk, dv);
            Require(initial.N, "initial.N", batch, heads, dk);
            Require(initial.M, "initial.M", batch, heads, 1);
        }
    }

    /// <summary>Refuses q, k [B, NH, S, DK], v [B, NH, S, DV], a layout [B, S] or a chunk size that no cell can read.</summary>
    internal static void CheckSequence(Tensor q, Tensor k, Tensor v, SequenceLayout? layout, int chunkSize)
    {
        if (q.dim() != 4)
        {
            throw new ArgumentException($"Expected q of shape [B, NH, S, DK], got {Shape(q)}.", nameof(q));
        }

        var (batch, heads, length, dk) = (q.size(0), q.size(1), q.size(2), q.size(3));
        if (length < 1)
        {
            throw new ArgumentException($"Expected at least one token, got q of shape {Shape(q)}.", nameof(q));
        }

        if (q.dtype is not (ScalarType.Float32 or ScalarType.Float64 or ScalarType.BFloat16))
        {
            throw new ArgumentException($"Expected float32, float64 or bfloat16, got {q.dtype}.", nameof(q));
        }

        if (chunkSize < 1)
        {
            throw new ArgumentException($"Expected a chunk of at least one token, got {chunkSize}.", nameof(chunkSize));
        }

        if (v.dim() != 4)
        {
            throw new ArgumentException($"Expected v of shape [{batch}, {heads}, {length}, DV], got {Shape(v)}.", nameof(v));
        }

        Require(k, "k", batch, heads, length, dk);
        Require(v, "v", batch, heads, length, v.size(3));
        foreach (var (mask, name) in new[] { (layout?.DocumentStarts, "layout.DocumentStarts"), (layout?.Padding, "layout.Padding") })
        {
            if (mask is not null)
            {
                Require(mask, name, batch, length);
                if (mask.dtype != ScalarType.Bool)
                {
                    throw new ArgumentException($"Expected {name} to be bool, got {mask.dtype}.");
                }
            }
        }
    }

    /// <summary>Refuses a tensor of another shape.</summary>
    internal static void Require(Tensor tensor, string name, params long[] shape)
    {
        if (tensor.dim() != shape.Length || shape.Index().Any(size => tensor.size(size.Index) != size.Item))
        {
            throw new ArgumentException($"Expected {name} of shape [{string.Join(", ", shape)}], as q and v have it, got {Shape(tensor)}.");
        }
    }

    private static string Shape(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}]";
}
