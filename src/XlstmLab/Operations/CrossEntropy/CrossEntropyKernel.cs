using System.Globalization;
using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// The cross-entropy of bfloat16 logits under a soft cap, whose gradient takes the logits' place; <see cref="HeadLossKernel"/> is its user.
/// </summary>
internal static class CrossEntropyKernel
{
    private const string Source = "CrossEntropy.cu";
    private const int Threads = 512;
    private const int Blocks = 2; // a multiprocessor
    private const int SumThreads = 1024;
    private const int LargestShared = 227 << 10;

    /// <summary>The target of a row that does not count.</summary>
    public const long Ignored = -100;

    /// <summary>Whether a row of logits fits a block's shared memory.</summary>
    public static bool Fits(long vocabulary) => Shared(vocabulary) <= LargestShared;

    private static long Shared(long vocabulary) => 16 * ((vocabulary + 7) / 8) + Threads / 2;

    private static string[] Defines(long vocabulary, double? cap) =>
    [
        $"VOCABULARY={vocabulary}", string.Create(CultureInfo.InvariantCulture, $"CAP={cap ?? 0:E9}f"), $"IGNORED=({Ignored})",
        $"THREADS={Threads}", $"BLOCKS={Blocks}", $"SHARED_BYTES={Shared(vocabulary)}", $"SUM_THREADS={SumThreads}",
    ];

    /// <summary>Each row's cross-entropy, undivided; with a divisor, the gradient of the divided sum takes the logits' place.</summary>
    /// <param name="logits">[N, V] bfloat16, before the cap; their rows may be longer than V, a multiple of 8.</param>
    /// <param name="targets">
    /// [N] int64, <see cref="Ignored"/> for rows that do not count. Another that is no column makes the loss NaN.
    /// </param>
    /// <param name="losses">[N] float32, written; 0 where a row does not count.</param>
    /// <param name="divisor">What the sum is divided by, if gradients are wanted.</param>
    /// <param name="cap">The soft cap, or null.</param>
    public static void Run(Tensor logits, Tensor targets, Tensor losses, LossDivisor? divisor, double? cap)
    {
        var (rows, vocabulary) = ((int)logits.size(0), logits.size(1));
        var shape = new LaunchShape(Math.Min(rows, Blocks * Kernel.Multiprocessors(logits)), Threads, (int)Shared(vocabulary));
        if (divisor is { } by)
        {
            Kernel.Launch(
                Source, "cross_entropy_backward", Defines(vocabulary, cap), shape, logits,
                logits, targets, losses, by.Value, by.Kept, logits.stride(0), rows);
        }
        else
        {
            Kernel.Launch(
                Source, "cross_entropy_forward", Defines(vocabulary, cap), shape, logits, logits, targets, losses, logits.stride(0), rows);
        }
    }

    /// <summary>The rows' sum, divided, always in the same order: [] float64.</summary>
    public static Tensor Sum(Tensor losses, LossDivisor divisor, long vocabulary, double? cap)
    {
        var total = empty([], ScalarType.Float64, losses.device);
        Kernel.Launch(
            Source, "sum_losses", Defines(vocabulary, cap), new(1, SumThreads, SumThreads / 4), losses,
            losses, total, (int)losses.size(0), divisor.Value, divisor.Kept);
        return total;
    }
}
