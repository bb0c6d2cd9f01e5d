using System.Globalization;
using XlstmLab.Cells;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Kernels;

/// <summary>The cross-entropy of bfloat16 logits under a soft cap, whose gradient takes the logits' place.</summary>
internal static class CrossEntropyKernel
{
    private const string Source = "CrossEntropy.cu";
    private const int Threads = 512;
    private const int LargestShared = 227 << 10;

    /// <summary>The target of a row that does not count.</summary>
    public const long Ignored = -100;

    /// <summary>Whether there is a kernel for these logits.</summary>
    public static bool Serves(Tensor logits) =>
        Kernel.Serve(logits) && logits.dim() == 2 && logits.stride(1) == 1 && logits.stride(0) % 8 == 0 && Shared(logits.shape[1]) <= LargestShared;

    /// <summary>The cross-entropy, summed over the rows that count, divided by <paramref name="divisor"/>.</summary>
    /// <param name="logits">
    /// [N, V] bfloat16, before the cap; their rows may be longer than V. Where they need a gradient they are gone afterwards: nothing else may
    /// read them.
    /// </param>
    /// <param name="targets">[N] int64, <see cref="Ignored"/> for rows that do not count. Another that is no column makes the loss NaN.</param>
    /// <param name="divisor">Such as the number of targets.</param>
    /// <param name="cap">The soft cap, or null.</param>
    /// <returns>[] float64.</returns>
    public static Tensor Forward(Tensor logits, Tensor targets, long divisor, double? cap)
    {
        using var scope = NewDisposeScope();
        var call = new Call(divisor, cap);
        return (logits.requires_grad && is_grad_enabled() ? Function.apply(logits, targets, call)[0] : Loss(logits, targets, call, gradient: false))
            .MoveToOuterDisposeScope();
    }

    private sealed record Call(long Divisor, double? Cap);

    private static long Shared(long vocabulary) => 16 * ((vocabulary + 7) / 8) + Threads / 2;

    private static string[] Defines(long vocabulary, double? cap) =>
        [$"VOCABULARY={vocabulary}", string.Create(CultureInfo.InvariantCulture, $"CAP={cap ?? 0:E9}f")];

    private static Tensor Loss(Tensor logits, Tensor targets, Call call, bool gradient)
    {
        var (rows, vocabulary) = ((int)logits.shape[0], logits.shape[1]);
        var losses = empty(rows, ScalarType.Float32, logits.device);
        var total = empty([], ScalarType.Float64, logits.device);
        var shape = new LaunchShape(Math.Min(rows, 2 * Kernel.Multiprocessors(logits)), Threads, (int)Shared(vocabulary));
        if (gradient)
        {
            Kernel.Launch(
                Source, "cross_entropy_backward", Defines(vocabulary, call.Cap), shape, logits,
                logits, targets, losses, (Tensor?)null, (float)(1.0 / call.Divisor), logits.stride(0), rows);
        }
        else
        {
            Kernel.Launch(
                Source, "cross_entropy_forward", Defines(vocabulary, call.Cap), shape, logits, logits, targets, losses, logits.stride(0), rows);
        }

        Kernel.Launch(Source, "sum_losses", Defines(vocabulary, call.Cap), new(1, 1024, 256), logits, losses, total, rows, call.Divisor, 0);
        losses.Dispose();
        return total;
    }

    private sealed class Function : autograd.MultiTensorFunction<Function>
    {
        public override string Name => nameof(CrossEntropyKernel);

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (logits, targets, call) = ((Tensor)vars[0], (Tensor)vars[1], (Call)vars[2]);
            var loss = Loss(logits, targets, call, gradient: true);
            ctx.save_for_backward([logits]);
            ctx.save_data("call", call);
            return [loss];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            using var scope = NewDisposeScope();
            var (logits, call) = (ctx.get_saved_variables()[0], (Call)ctx.get_data("call"));
            var (rows, vocabulary) = (logits.shape[0], logits.shape[1]);
            var factor = gradients[0].to(ScalarType.Float32);
            Kernel.Launch(
                Source, "scale_gradient", Defines(vocabulary, call.Cap), new(8 * Kernel.Multiprocessors(logits), 256), logits,
                logits, factor, rows * logits.stride(0));
            return EngineThread.Return(gradients, [logits.detach().MoveToOuterDisposeScope(), null!, null!]);
        }
    }
}
