using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What loops over tensors' memory on the CPU have in common.</summary>
internal static class CpuMemory
{
    /// <summary>Where a contiguous tensor's elements begin; null for none. Valid while the tensor lives.</summary>
    public static unsafe T* Data<T>(Tensor? tensor)
        where T : unmanaged
    {
        if (tensor is null)
        {
            return null;
        }

        using var first = tensor.as_strided([1], [1], tensor.storage_offset()); // the span of a whole tensor ends at 2 GiB
        return (T*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(first.bytes));
    }

    /// <summary>The sum over the first dimension, whose rounding no number of threads changes.</summary>
    public static Tensor SumInOrder(Tensor parts) => parts.unbind(0).Aggregate((sum, part) => sum + part);
}
