using System.Runtime.InteropServices;
using XlstmLab.Operations;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Collectives;

/// <summary>The numbers of a tensor in the host's memory, for threads that have nothing to do with tensors.</summary>
/// <param name="Address">Where they begin.</param>
/// <param name="Bytes">How many bytes they take.</param>
/// <param name="Type">What they are.</param>
internal readonly unsafe record struct RawMemory(nint Address, long Bytes, ScalarType Type)
{
    /// <summary>A tensor's; it is to be kept alive.</summary>
    /// <exception cref="ArgumentException">It is on a device, or not contiguous.</exception>
    public static RawMemory Of(Tensor tensor) =>
        tensor.device_type == TorchSharp.DeviceType.CPU && tensor.is_contiguous()
            ? new(Kernel.Address(tensor), tensor.NumberOfElements * tensor.element_size(), tensor.dtype)
            : throw new ArgumentException(
                $"The loopback collective moves contiguous tensors of the host's memory; this one is on {tensor.device}.");

    /// <summary>All of it, where it is short enough.</summary>
    public Span<byte> Span => new((void*)Address, checked((int)Bytes));

    /// <summary>It in pieces.</summary>
    public IEnumerable<RawMemory> Pieces(int bytes)
    {
        for (long at = 0; at < Bytes; at += bytes)
        {
            yield return this with { Address = Address + (nint)at, Bytes = Math.Min(bytes, Bytes - at) };
        }
    }

    /// <summary>Adds numbers of the same type; bfloat16 in float32, rounded to the nearest.</summary>
    /// <param name="others">As many bytes at least.</param>
    /// <exception cref="ArgumentException">There is no addition of this type.</exception>
    public void Add(ReadOnlySpan<byte> others)
    {
        others = others[..(int)Bytes];
        switch (Type)
        {
            case ScalarType.Float32:
                var singles = MemoryMarshal.Cast<byte, float>(Span);
                TensorPrimitives.Add(singles, MemoryMarshal.Cast<byte, float>(others), singles);
                break;
            case ScalarType.Float64:
                var doubles = MemoryMarshal.Cast<byte, double>(Span);
                TensorPrimitives.Add(doubles, MemoryMarshal.Cast<byte, double>(others), doubles);
                break;
            case ScalarType.BFloat16:
                var halves = MemoryMarshal.Cast<byte, ushort>(Span);
                var added = MemoryMarshal.Cast<byte, ushort>(others);
                for (var k = 0; k < halves.Length; k++)
                {
                    halves[k] = UpperHalves.Of(UpperHalves.Widen(halves[k]) + UpperHalves.Widen(added[k]));
                }

                break;
            default:
                throw new ArgumentException($"Sums over ranks are of float32, float64 or bfloat16; this tensor is {Type}.");
        }
    }
}
