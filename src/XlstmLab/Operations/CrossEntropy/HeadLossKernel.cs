using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The head and its cross-entropy together, some rows at a time: no more than <see cref="LargestLogits"/> exist at once.</summary>
/// <remarks>
/// Logits are bfloat16 and their sums float32. The gradients of the stream and of the head's weights are made with the loss, while the
/// logits are there; the backward pass only scales them.
/// </remarks>
internal static class HeadLossKernel
{
    /// <summary>
    /// Bytes of logits at a time, a twentieth of a device's memory: of each part after the first a gradient is added to the head's.
    /// </summary>
    public static long LargestLogits(double deviceBytes) => (long)(deviceBytes / 20);

    /// <summary>Whether there are kernels for this head behind activations of this type.</summary>
    public static bool Serves(LanguageHead? head, ScalarType? computeType) =>
        computeType == ScalarType.BFloat16 && head is { Bias: null } && Kernel.Reaches(head.Weight) && head.Weight.size(1) % 8 == 0
        && CrossEntropyKernel.Fits(head.Weight.size(0));

    /// <summary>The cross-entropy in nats, summed over the rows that count and divided.</summary>
    /// <param name="hidden">[N, d] bfloat16.</param>
    /// <param name="head">The head, without a bias.</param>
    /// <param name="targets">[N] int64, <see cref="CrossEntropyKernel.Ignored"/> for rows that do not count.</param>
    /// <param name="divisor">Such as the number of targets.</param>
    /// <returns>[] float64.</returns>
    public static Tensor Forward(Tensor hidden, LanguageHead head, Tensor targets, LossDivisor divisor)
    {
        using var scope = NewDisposeScope();
        var weight = head.Weight;
        var call = new Call(divisor, head.LogitSoftCap, LeafGradients.Of(weight));
        return (is_grad_enabled() && (hidden.requires_grad || weight.requires_grad)
            ? Function.apply(hidden, weight, targets, call)[0]
            : Run(hidden, weight, targets, call, gradient: false).Loss).MoveToOuterDisposeScope();
    }

    private sealed record Call(LossDivisor Divisor, double? Cap, LeafGradients? Leaves);

    private static (Tensor Loss, Tensor? DHidden, Tensor? DWeight) Run(
        Tensor hidden, Tensor weight, Tensor targets, Call call, bool gradient)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var (rows, dim, vocabulary) = (hidden.size(0), hidden.size(1), weight.size(0));
        var padded = (vocabulary + 7) / 8 * 8;

        var narrow = TrainedProducts.Of([weight])?.Padded ?? Padded(weight, padded);
        var largest = LargestLogits(Kernel.Memory(hidden));
        var chunks = Math.Max(1, (2 * rows * padded + largest - 1) / largest);
        var size = (rows + chunks - 1) / chunks;
        var losses = empty(rows, ScalarType.Float32, hidden.device);
        var dHidden = gradient ? empty_like(hidden) : null;
        Tensor? dWeight = null;
        for (var first = 0L; first < rows; first += size)
        {
            using var chunk = NewDisposeScope();
            var count = Math.Min(size, rows - first);
            var x = hidden.narrow(0, first, count);
            var logits = x.matmul(narrow.t()); // (n, V)
            CrossEntropyKernel.Run(
                logits.narrow(1, 0, vocabulary), targets.narrow(0, first, count), losses.narrow(0, first, count),
                gradient ? call.Divisor : null, call.Cap);
            if (gradient)
            {
                dHidden!.narrow(0, first, count).addmm_(logits, narrow, 0, 1);
                var isFirst = dWeight is null;
                dWeight ??= empty(padded, dim, ScalarType.Float32, hidden.device).MoveToOuterDisposeScope();
                MixedProduct.Write(logits.t(), x, dWeight, adds: !isFirst); // (V, d)
            }
        }

        var loss = CrossEntropyKernel.Sum(losses, call.Divisor, vocabulary, call.Cap);
        return (loss.MoveToOuterDisposeScope(), dHidden?.MoveToOuterDisposeScope(),
            dWeight?.narrow(0, 0, vocabulary).MoveToOuterDisposeScope());
    }

    /// <summary>The kernel wants rows of whole 16 bytes; logits behind the vocabulary are zero, and stay it.</summary>
    private static Tensor Padded(Tensor weight, long padded)
    {
        var (vocabulary, dim) = (weight.size(0), weight.size(1));
        var narrow = empty(padded, dim, dtype: ScalarType.BFloat16, device: weight.device);
        narrow.narrow(0, 0, vocabulary).copy_(weight);
        narrow.narrow(0, vocabulary, padded - vocabulary).zero_();
        return narrow;
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var call = (Call)vars[3];
            var (loss, dHidden, dWeight) = Run((Tensor)vars[0], (Tensor)vars[1], (Tensor)vars[2], call, gradient: true);
            ctx.save_data("call", call);
            ctx.save_for_backward([dHidden!, dWeight!]);
            return [loss];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.get_saved_variables();
            var dWeight = LeafGradients.Give(((Call)ctx.get_data("call")).Leaves, 0, saved[1] * gradients[0]);
            return [saved[0] * gradients[0], dWeight, null, null];
        }
    }
}
