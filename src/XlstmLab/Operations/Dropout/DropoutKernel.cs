using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What tells the places that are dropped: a number, or one in memory that a recorded graph reads anew at each start.</summary>
/// <param name="Value">The number, where none is kept.</param>
/// <param name="Kept">[] or [1] int64 on the tensor's device, or null.</param>
internal readonly record struct DropoutKey(long Value, Tensor? Kept = null)
{
    /// <summary>A number.</summary>
    public static implicit operator DropoutKey(long value) => new(value);
}

/// <summary>Dropout in one pass over memory, by places that follow from a key: nothing is kept for the backward pass.</summary>
internal static class DropoutKernel
{
    private const int Threads = 256;

    /// <summary>Whether there is a kernel for this tensor.</summary>
    public static bool Serves(Tensor x) => x.dtype is ScalarType.BFloat16 or ScalarType.Float32 && Kernel.Reaches(x);

    /// <summary>x / (1 - share) where an element is kept, else 0.</summary>
    /// <param name="x">[...] bfloat16 or float32.</param>
    /// <param name="share">The share that is dropped.</param>
    /// <param name="key">What tells which.</param>
    public static Tensor Forward(Tensor x, double share, DropoutKey key)
    {
        using var scope = NewDisposeScope();
        return Function.apply(x, share, key)[0].MoveToOuterDisposeScope();
    }

    /// <summary>The same by libtorch's operations on any device.</summary>
    public static Tensor ByOperations(Tensor x, double share, long key)
    {
        using var scope = NewDisposeScope();
        var z = arange(1, x.NumberOfElements + 1, ScalarType.Int64, x.device).mul_(unchecked((long)0x9E3779B97F4A7C15)).add_(key);
        z = Xor(z, 30).mul_(unchecked((long)0xBF58476D1CE4E5B9));
        z = Xor(z, 27).mul_(unchecked((long)0x94D049BB133111EB));
        var dropped = Right(Xor(z, 31), 32).lt(Threshold(share)).view(x.shape);
        return (x * (1 / (1 - share))).masked_fill(dropped, 0).MoveToOuterDisposeScope();
    }

    private static long Threshold(double share) => (long)(share * (1L << 32));

    private static Tensor Xor(Tensor z, int shift) => z.bitwise_xor(Right(z, shift));

    /// <summary>The shift of unsigned numbers: libtorch's keeps the sign.</summary>
    private static Tensor Right(Tensor z, int shift) =>
        z.bitwise_right_shift(tensor((long)shift, ScalarType.Int64, z.device)).bitwise_and(
            tensor((1L << (64 - shift)) - 1, ScalarType.Int64, z.device));

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (share, key) = ((double)vars[1], (DropoutKey)vars[2]);
            ctx.save_data("share", share);
            ctx.save_data("key", key);
            return [Run((Tensor)vars[0], share, key).MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var dx = Run(gradients[0], (double)ctx.get_data("share"), (DropoutKey)ctx.get_data("key"));
            return [dx, null, null];
        }

        private static Tensor Run(Tensor given, double share, DropoutKey key)
        {
            var x = given.contiguous();
            var y = empty(x.shape, x.dtype, x.device);
            var count = x.NumberOfElements;
            Kernel.Launch(
                "Dropout.cu", "dropout", [$"WIDE={(x.dtype == ScalarType.Float32 ? 1 : 0)}", $"THREADS={Threads}"],
                new((count * x.ElementSize + 16 * Threads - 1) / (16 * Threads), Threads), x,
                x, y, key.Value, key.Kept, Threshold(share), count, (float)(1 / (1 - share)));
            return y;
        }
    }
}
