using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The norms of the residual stream in one pass over memory, with the addition before them if there is one.</summary>
internal static class NormKernel
{
    /// <summary>The widest rows that are served.</summary>
    public const int WidestRow = 8192;

    private const string Source = "RmsNorm.cu";

    /// <summary>Whether there is a kernel for a norm over the last dimension.</summary>
    public static bool Serves(Tensor x) => Kernel.Serve(x) && Fits(x);

    /// <summary>Whether there is a kernel for a norm of a stream in float32, with bfloat16 before and behind it.</summary>
    public static bool ServesWide(Tensor x) => x.dtype == ScalarType.Float32 && Kernel.Reaches(x) && Fits(x);

    /// <summary>y = weight norm(x) + bias.</summary>
    /// <param name="x">[..., d] bfloat16, or float32 where <see cref="ServesWide"/> says so; contiguous. y is bfloat16.</param>
    /// <param name="weight">[d] float32 or bfloat16.</param>
    /// <param name="bias">[d] of either, or null.</param>
    /// <param name="epsilon">Added to the mean square or the variance.</param>
    /// <param name="center">Whether the mean is taken out: a LayerNorm.</param>
    public static Tensor Forward(Tensor x, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        using var scope = NewDisposeScope();
        return Apply(x, null, weight, bias, epsilon, center)[0].MoveToOuterDisposeScope();
    }

    /// <summary>s = x + delta in the type of x, and y = weight norm(s) + bias, as <see cref="Forward"/>; delta is bfloat16.</summary>
    public static (Tensor Sum, Tensor Y) AddForward(Tensor x, Tensor delta, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        using var scope = NewDisposeScope();
        var outputs = Apply(x, delta, weight, bias, epsilon, center);
        return (outputs[1].MoveToOuterDisposeScope(), outputs[0].MoveToOuterDisposeScope());
    }

    private static List<Tensor> Apply(Tensor x, Tensor? delta, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        // A model that was moved to bfloat16 as a whole has such norms, too.
        (weight, bias) = (weight.Widened(), bias?.Widened());
        return Function.apply(x, delta!, weight, bias!, new Call((float)epsilon, center, bias is not null, LeafGradients.Of(weight, bias)));
    }

    private static bool Fits(Tensor x) => x.is_contiguous() && x.size(-1) % 8 == 0 && x.size(-1) <= WidestRow;

    private static bool IsWide(Tensor x) => x.dtype == ScalarType.Float32;

    private static string[] Defines(Tensor x, Call call, Warps warps) =>
    [
        $"DIM={x.size(-1)}", $"LAYER_NORM={(call.Center ? 1 : 0)}", $"BIAS={(call.HasBias ? 1 : 0)}", $"WIDE={(IsWide(x) ? 1 : 0)}",
        $"WARPS_PER_ROW={warps.PerRow}", $"FORWARD_WARPS={warps.Forward}", $"FORWARD_BLOCKS={warps.ForwardBlocks}",
        $"BACKWARD_WARPS={warps.Backward}", $"BACKWARD_BLOCKS={warps.BackwardBlocks}",
    ];

    /// <summary>The warps that share a row of this tensor, and those of a block.</summary>
    private readonly record struct Warps(Tensor X)
    {
        public int PerRow { get; } = (int)Up(X.size(-1), IsWide(X) ? 768 : 1024);

        public int Forward => PerRow > 1 ? PerRow : 8;

        public int Backward => PerRow > 1 ? PerRow : IsNarrow ? 20 : 12;

        /// <summary>The blocks of a multiprocessor.</summary>
        public int ForwardBlocks => IsNarrow ? 4 : Math.Max(1, 16 / Forward);

        /// <inheritdoc cref="ForwardBlocks"/>
        public int BackwardBlocks => Math.Max(1, 12 / Backward);

        /// <summary>
        /// Whether rows are so short that it takes more warps to have enough of them on their way, and a warp's numbers leave room for
        /// that.
        /// </summary>
        private bool IsNarrow => X.shape[^1] <= (IsWide(X) ? 256 : 512);

        /// <summary>The blocks that share so many rows.</summary>
        public long Blocks(int rows, int warps, int atATime) => Math.Min(
            Up((long)rows * PerRow, warps), Kernel.Multiprocessors(X) * atATime);

        private static long Up(long count, long size) => (count + size - 1) / size;
    }

    private sealed record Call(float Epsilon, bool Center, bool HasBias, LeafGradients? Leaves);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, delta, weight, bias, call) = ((Tensor)vars[0], (Tensor?)vars[1], (Tensor)vars[2], (Tensor?)vars[3], (Call)vars[4]);
            var dim = x.size(-1);
            var rows = (int)(x.NumberOfElements / dim);
            var warps = new Warps(x);
            var sum = delta is null ? null : empty_like(x);
            var y = empty(x.shape, ScalarType.BFloat16, x.device);
            var mean = call.Center ? empty(rows, ScalarType.Float32, x.device) : null;
            var rstd = empty(rows, ScalarType.Float32, x.device);
            Kernel.Launch(
                Source, "norm_forward", Defines(x, call, warps),
                new(warps.Blocks(rows, warps.Forward, warps.ForwardBlocks), 32 * warps.Forward, 8 * warps.PerRow), x,
                x, delta, weight, bias, sum, y, mean, rstd, rows, call.Epsilon);
            ctx.Save(scope, sum is null ? x : sum.detach(), weight, rstd, mean);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            y.MoveToOuterDisposeScope();
            return sum is null ? [y] : [y, sum.MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (s, weight, rstd, mean) = (saved[0]!, saved[1]!, saved[2]!, saved[3]);
            var added = gradients.Count > 1;
            var past = added && !gradients[1].IsInvalid ? gradients[1].contiguous() : null;
            var dim = s.size(-1);
            var rows = (int)(s.NumberOfElements / dim);
            var warps = new Warps(s);
            var blocks = warps.Blocks(rows, warps.Backward, warps.BackwardBlocks);
            var dy = gradients[0].IsInvalid ? zeros(s.shape, ScalarType.BFloat16, s.device) : gradients[0].contiguous();
            var ds = empty_like(s);
            var dDelta = !added ? null : IsWide(s) ? empty(s.shape, ScalarType.BFloat16, s.device) : ds.alias();
            var partials = LeafGradients.Partials(call.Leaves, blocks, call.HasBias ? 2 * dim : dim, s.device);
            Kernel.Launch(
                Source, "norm_backward", Defines(s, call, warps),
                new(blocks, 32 * warps.Backward, (int)(4 * dim * (warps.Backward / warps.PerRow)) + 8 * warps.PerRow), s,
                [dy, past, s, mean, rstd, weight, ds, partials, rows, .. IsWide(s) ? new KernelArgument[] { dDelta } : []]);
            var sums = LeafGradients.GiveSums(call.Leaves, partials, new SumPart(0, dim), call.HasBias ? new SumPart(dim, dim) : null);
            return [ds, dDelta, .. sums, null];
        }
    }
}
