using System.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>The Euclidean norm over all elements of many tensors, as clipping by the global norm needs it.</summary>
/// <remarks>
/// Sums are double precision and taken in an order that depends on the shapes only, not on the number of threads, so that a run repeats bit
/// for bit.
/// </remarks>
public static class GlobalNorm
{
    private const int BlockLength = 1 << 15;

    /// <summary>The norm of all tensors together; NaN or infinite exactly if an element is.</summary>
    /// <param name="tensors">Tensors of one device, of any shapes.</param>
    public static double Of(IReadOnlyList<Tensor> tensors)
    {
        if (tensors.Count == 0)
        {
            return 0;
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        return Math.Sqrt(tensors.All(t => t.device_type == DeviceType.CPU && t.dtype == ScalarType.Float32)
            ? SquaredSumOnCpu([.. tensors.Select(t => t.contiguous())])
            : SquaredSum(tensors));
    }

    /// <summary>The same with libtorch's operations, on any device.</summary>
    internal static double SquaredSum(IReadOnlyList<Tensor> tensors)
    {
        using var scope = NewDisposeScope();
        return stack(tensors.Select(t => t.detach().to(ScalarType.Float64).square().sum())).sum().item<double>();
    }

    internal static unsafe double SquaredSumOnCpu(IReadOnlyList<Tensor> tensors)
    {
        var blocks = MemoryBlock.Cut([.. tensors.Select(t => t.NumberOfElements)], BlockLength);
        var pointers = tensors.Select(MemoryBlock.Pointer).ToArray();
        var sums = new double[blocks.Length];
        Parallel.For(0, blocks.Length, MemoryBlock.Threads, b =>
            sums[b] = SquaredSum(new ReadOnlySpan<float>((float*)pointers[blocks[b].Tensor] + blocks[b].Start, blocks[b].Length)));
        return sums.Sum();
    }

    private static double SquaredSum(ReadOnlySpan<float> values)
    {
        var low = Vector<double>.Zero;
        var high = Vector<double>.Zero;
        var i = 0;
        for (; i <= values.Length - Vector<float>.Count; i += Vector<float>.Count)
        {
            Vector.Widen(new Vector<float>(values[i..]), out var l, out var h);
            low += l * l;
            high += h * h;
        }

        var sum = Vector.Sum(low + high);
        for (; i < values.Length; i++)
        {
            sum += (double)values[i] * values[i];
        }

        return sum;
    }
}
