using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What loops over tensors' memory on the CPU have in common.</summary>
internal static class CpuMemory
{
    /// <summary>Whether loops can read a tensor as it lies: float32 on the CPU, in one piece.</summary>
    public static bool IsFloats(Tensor tensor) =>
        tensor.device_type == DeviceType.CPU && tensor.dtype == ScalarType.Float32 && tensor.is_contiguous();

    /// <summary>Where the elements of such a tensor begin; null for none. Valid while the tensor lives.</summary>
    public static unsafe float* Floats(Tensor? tensor) => tensor is null ? null : (float*)Kernel.Address(tensor);

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

/// <summary>Memory for floats, from a multiple of 64 bytes on, that is freed by hand.</summary>
internal readonly unsafe struct FloatBlock(nint floats) : IDisposable
{
    /// <summary>The first.</summary>
    public float* Data { get; } = (float*)NativeMemory.AlignedAlloc((nuint)floats * sizeof(float), 64);

    /// <summary>Frees it.</summary>
    public void Dispose() => NativeMemory.AlignedFree(Data);
}
