using TorchSharp;
using XlstmLab.Native;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Products of bfloat16 matrices in float32, as the GPU's units have them, where libtorch offers that; TorchSharp does not.
/// </summary>
internal static unsafe class MixedProduct
{
    private const string OutName = "_ZN2at4_ops12mm_dtype_out4callERKNS_6TensorES4_N3c1010ScalarTypeERS2_";

    private static readonly Lazy<nint> Out = new(() => NativeTorch.Function("torch_cpu", OutName).Address);

    /// <summary>target = a b, or target + a b.</summary>
    /// <param name="a">[m, n] bfloat16.</param>
    /// <param name="b">[n, k] bfloat16.</param>
    /// <param name="target">[m, k] float32, contiguous, written.</param>
    /// <param name="adds">Whether it is added to.</param>
    /// <exception cref="ArgumentException">The types or shapes are others.</exception>
    public static void Write(Tensor a, Tensor b, Tensor target, bool adds)
    {
        using var scope = NewDisposeScope();
        if (a.dtype != ScalarType.BFloat16 || b.dtype != ScalarType.BFloat16 || target.dtype != ScalarType.Float32
            || !target.is_contiguous()
            || a.dim() != 2 || b.dim() != 2 || a.size(1) != b.size(0) || target.size(0) != a.size(0) || target.size(1) != b.size(1))
        {
            // libtorch would say so by an exception, which no frame of this language may be in the way of.
            throw new ArgumentException(
                $"[{string.Join(", ", a.shape)}] {a.dtype} times [{string.Join(", ", b.shape)}] {b.dtype} is no "
                + $"[{string.Join(", ", target.shape)}] {target.dtype}.");
        }

        if (adds)
        {
            target.add_(a.mm(b));
        }
        else if (a.device_type == DeviceType.CUDA && Out.Value != 0)
        {
            var call = (delegate* unmanaged<nint, nint, sbyte, nint, nint>)Out.Value;
            call(a.Handle, b.Handle, (sbyte)ScalarType.Float32, target.Handle);
            GC.KeepAlive(a);
            GC.KeepAlive(b);
            GC.KeepAlive(target);
        }
        else
        {
            target.copy_(a.mm(b));
        }
    }
}
