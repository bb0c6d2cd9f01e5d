using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What loops over tensors' memory on the CPU have in common.</summary>
internal static class CpuMemory
{
    private const long SmallestSharedWork = 1 << 16;

    private static readonly bool IsAllowed = Environment.GetEnvironmentVariable(Kernel.Variable) != "off";

    [ThreadStatic]
    private static bool _isOff;

    /// <summary>
    /// Whether loops of the library take the place of libtorch's operations in training: not with <see cref="Kernel.Variable"/> =
    /// <c>off</c>, nor on a thread where this was set to false.
    /// </summary>
    public static bool HasLoops
    {
        get => IsAllowed && !_isOff;
        set => _isOff = !value;
    }

    /// <summary>
    /// Whether there are loops for a tensor of this type and place, float32 on the CPU, while gradients are recorded: what they spare is
    /// mostly backward, and what is evaluated keeps libtorch's rounding.
    /// </summary>
    public static bool Serves(Tensor tensor) =>
        HasLoops && tensor.device_type == DeviceType.CPU && tensor.dtype == ScalarType.Float32 && is_grad_enabled();

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

    /// <summary>The tensor itself if it is rows at equal distances, each in one piece, else a copy that is.</summary>
    /// <param name="x">[..., C].</param>
    public static (Tensor Rows, int Count, int Width, nint Distance) Rows(Tensor x)
    {
        var rows = x.is_contiguous() ? x : x.dim() == 3 ? TokenRows.Of(x, 1) : x.contiguous();
        var width = (int)x.shape[^1];
        return (rows, (int)(x.NumberOfElements / width), width, x.dim() < 2 ? width : (nint)rows.stride()[^2]);
    }

    /// <summary>Shares units of work out to as many threads as libtorch uses; little work stays on this one.</summary>
    /// <param name="units">The units, each of which writes what no other reads or writes.</param>
    /// <param name="work">About the operations of all units.</param>
    /// <param name="body">Does a unit.</param>
    public static void Share(int units, long work, Action<int> body)
    {
        var threads = work < SmallestSharedWork || units == 1 ? 1 : get_num_threads();
        if (threads == 1)
        {
            for (var unit = 0; unit < units; unit++)
            {
                body(unit);
            }
        }
        else
        {
            Parallel.For(0, units, new ParallelOptions { MaxDegreeOfParallelism = threads }, body);
        }
    }

    /// <summary>The sum over the first dimension, whose rounding no number of threads changes.</summary>
    public static Tensor SumInOrder(Tensor parts) => parts.unbind(0).Aggregate((sum, part) => sum + part);
}

/// <summary>
/// Rows cut into pieces for threads, by their number alone: sums over the rows of a piece, added in the pieces' order, are always the same.
/// </summary>
/// <param name="Rows">The rows.</param>
/// <param name="Smallest">The rows of a piece at least.</param>
internal readonly record struct RowPieces(int Rows, int Smallest = 32)
{
    private const int Most = 64;

    /// <summary>The number of pieces.</summary>
    public int Count => (Rows + Size - 1) / Size;

    private int Size => Math.Max(Smallest, (Rows + Most - 1) / Most);

    /// <summary>The rows of a piece, from the first to before the end.</summary>
    public (int First, int End) this[int piece] => (piece * Size, Math.Min(Rows, (piece + 1) * Size));
}

/// <summary>Memory for floats, from a multiple of 64 bytes on, that is freed by hand.</summary>
internal readonly unsafe struct FloatBlock(nint floats) : IDisposable
{
    /// <summary>The first.</summary>
    public float* Data { get; } = (float*)NativeMemory.AlignedAlloc((nuint)floats * sizeof(float), 64);

    /// <summary>Frees it.</summary>
    public void Dispose() => NativeMemory.AlignedFree(Data);
}
