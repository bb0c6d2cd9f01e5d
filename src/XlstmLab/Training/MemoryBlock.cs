using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>A stretch of one tensor's elements: the share of work that one thread does at a time.</summary>
internal readonly record struct MemoryBlock(int Tensor, long Start, int Length)
{
    /// <summary>As many threads as libtorch uses.</summary>
    public static ParallelOptions Threads => new() { MaxDegreeOfParallelism = get_num_threads() };

    /// <summary>Cuts tensors into stretches of at most the given length.</summary>
    public static MemoryBlock[] Cut(IReadOnlyList<long> sizes, int length)
    {
        var blocks = new List<MemoryBlock>();
        for (var t = 0; t < sizes.Count; t++)
        {
            for (var start = 0L; start < sizes[t]; start += length)
            {
                blocks.Add(new(t, start, (int)Math.Min(length, sizes[t] - start)));
            }
        }

        return [.. blocks];
    }

    /// <summary>Where a contiguous tensor on the CPU begins; valid as long as the tensor lives.</summary>
    public static unsafe nint Pointer(Tensor tensor)
    {
        // A span holds at most 2 GB: a larger tensor shows its first element only, which is all that is needed.
        var shown = tensor.NumberOfElements * tensor.ElementSize <= int.MaxValue;
        using var head = shown ? null : tensor.view(-1).narrow(0, 0, 1);
        fixed (byte* start = (shown ? tensor : head!).bytes)
        {
            return (nint)start;
        }
    }
}
