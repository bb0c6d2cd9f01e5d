using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The norms of the residual stream in one pass over memory, with the addition before them if there is one.</summary>
internal static class NormKernel
{
    private const string Source = "RmsNorm.cu";

    /// <summary>Whether there is a kernel for a norm over the last dimension.</summary>
    public static bool Serves(Tensor x) => Kernel.Serve(x) && Fits(x);

    /// <summary>Whether there is a kernel for a norm of a stream in float32, with bfloat16 before and behind it.</summary>
    public static bool ServesWide(Tensor x) => x.dtype == ScalarType.Float32 && Kernel.Reaches(x) && Fits(x);

    /// <summary>y = weight norm(x) + bias.</summary>
    /// <param name="x">[..., d] bfloat16, or float32 where <see cref="ServesWide"/> says so; contiguous. y is bfloat16.</param>
    /// <param name="weight">[d] float32.</param>
    /// <param name="bias">[d] float32, or null.</param>
    /// <param name="epsilon">Added to the mean square or the variance.</param>
    /// <param name="center">Whether the mean is taken out: a LayerNorm.</param>
    public static Tensor Forward(Tensor x, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        using var scope = NewDisposeScope();
        return Function.apply(x, null!, weight, bias!, new Call((float)epsilon, center, bias is not null))[0].MoveToOuterDisposeScope();
    }

    /// <summary>s = x + delta in the type of x, and y = weight norm(s) + bias, as <see cref="Forward"/>; delta is bfloat16.</summary>
    public static (Tensor Sum, Tensor Y) AddForward(Tensor x, Tensor delta, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        using var scope = NewDisposeScope();
        var outputs = Function.apply(x, delta, weight, bias!, new Call((float)epsilon, center, bias is not null));
        return (outputs[1].MoveToOuterDisposeScope(), outputs[0].MoveToOuterDisposeScope());
    }

    private static bool Fits(Tensor x) => x.is_contiguous() && x.shape[^1] % 8 == 0 && x.shape[^1] <= 8192;

    private static bool IsWide(Tensor x) => x.dtype == ScalarType.Float32;

    private static string[] Defines(Tensor x, Call call) =>
    [
        $"DIM={x.shape[^1]}", $"LAYER_NORM={(call.Center ? 1 : 0)}", $"BIAS={(call.HasBias ? 1 : 0)}", $"WIDE={(IsWide(x) ? 1 : 0)}",
    ];

    /// <summary>Warps of a block, and the warps that share a row, as the source has them.</summary>
    private static (int PerRow, int Forward, int Backward) Warps(Tensor x)
    {
        var channels = IsWide(x) ? 768 : 1024; // of a warp
        var perRow = (int)((x.shape[^1] + channels - 1) / channels);
        return (perRow, perRow > 1 ? perRow : 8, perRow > 1 ? perRow : 12);
    }

    private sealed record Call(float Epsilon, bool Center, bool HasBias);

    private sealed class Function : autograd.MultiTensorFunction<Function>
    {
        public override string Name => nameof(NormKernel);

        public override List<Tensor> forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, delta, weight, bias, call) = ((Tensor)vars[0], (Tensor?)vars[1], (Tensor)vars[2], (Tensor?)vars[3], (Call)vars[4]);
            var dim = x.shape[^1];
            var rows = (int)(x.NumberOfElements / dim);
            var (perRow, warps, _) = Warps(x);
            var sum = delta is null ? null : empty_like(x);
            var y = empty(x.shape, ScalarType.BFloat16, x.device);
            var mean = call.Center ? empty(rows, ScalarType.Float32, x.device) : null;
            var rstd = empty(rows, ScalarType.Float32, x.device);
            var blocks = Math.Min((rows * (long)perRow + warps - 1) / warps, Kernel.Multiprocessors(x) * Math.Max(1, 16 / warps));
            Kernel.Launch(
                Source, "norm_forward", Defines(x, call), new(blocks, 32 * warps, 8 * perRow), x,
                x, delta, weight, bias, sum, y, mean, rstd, rows, call.Epsilon);
            ctx.Save(scope, sum is null ? x : sum.detach(), weight, rstd, mean);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            y.MoveToOuterDisposeScope();
            return sum is null ? [y] : [y, sum.MoveToOuterDisposeScope()];
        }

        public override List<Tensor> backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            using var scope = NewDisposeScope();
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (s, weight, rstd, mean) = (saved[0]!, saved[1]!, saved[2]!, saved[3]);
            var added = gradients.Count > 1;
            var past = added && !gradients[1].IsInvalid ? gradients[1].contiguous() : null;
            var dim = s.shape[^1];
            var rows = (int)(s.NumberOfElements / dim);
            var (perRow, _, warps) = Warps(s);
            var blocks = Math.Min((rows * (long)perRow + warps - 1) / warps, Kernel.Multiprocessors(s) * Math.Max(1, 12 / warps));
            var dy = gradients[0].IsInvalid ? zeros(s.shape, ScalarType.BFloat16, s.device) : gradients[0].contiguous();
            var ds = empty_like(s);
            var dDelta = !added ? null : IsWide(s) ? empty(s.shape, ScalarType.BFloat16, s.device) : ds.alias();
            var partials = empty(blocks, call.HasBias ? 2 * dim : dim, dtype: ScalarType.Float32, device: s.device);
            Kernel.Launch(
                Source, "norm_backward", Defines(s, call),
                new(blocks, 32 * warps, (int)(4 * dim * (warps / perRow)) + 8 * perRow), s,
                [dy, past, s, mean, rstd, weight, ds, partials, partials.shape[1], rows, .. IsWide(s) ? new KernelArgument[] { dDelta } : []]);
            var sums = Kernel.ColumnSums(partials);
            var (dWeight, dBias) = call.HasBias ? (sums.narrow(0, 0, dim), sums.narrow(0, dim, dim)) : (sums, null);
            return EngineThread.Return(scope, gradients, ds, dDelta, dWeight, dBias, null);
        }
    }
}
