using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Rotary positions of queries and keys in one pass over memory, values beside them.</summary>
/// <remarks>
/// Values are copied so that gradients of all three come back beside each other: the projections that made them then go through one
/// product, which costs less than the copy.
/// </remarks>
internal static class RotaryKernel
{
    private const int Threads = 256;

    /// <summary>Whether there is a kernel for heads of this width in rows of one joint projection.</summary>
    /// <param name="q">[B, S, NH D].</param>
    /// <param name="cos">[S, D/2], or [B, 1, S, D/2].</param>
    /// <param name="headDim">D.</param>
    public static bool Serves(Tensor q, Tensor cos, int headDim) =>
        Kernel.Serve(q) && headDim % 16 == 0 && cos.dtype == ScalarType.Float32 && cos.is_contiguous() && IsRows(q, headDim)
        && (cos.NumberOfElements == q.size(1) * headDim / 2 || cos.NumberOfElements == q.size(0) * q.size(1) * headDim / 2);

    /// <summary>Turns queries and keys.</summary>
    /// <param name="q">[B, S, NH D] bfloat16.</param>
    /// <param name="k">[B, S, NKV D].</param>
    /// <param name="v">[B, S, NKV D].</param>
    /// <param name="cos">[S, D/2], or [B, 1, S, D/2], float32.</param>
    /// <param name="sin">The same shape.</param>
    /// <param name="headDim">D.</param>
    /// <returns>[B, NH, S, D] and twice [B, NKV, S, D], parts of one tensor.</returns>
    public static (Tensor Q, Tensor K, Tensor V) Forward(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, int headDim)
    {
        using var scope = NewDisposeScope();
        var all = Function.apply(q, k, v, cos, sin, headDim);
        return (all[0].MoveToOuterDisposeScope(), all[1].MoveToOuterDisposeScope(), all[2].MoveToOuterDisposeScope());
    }

    private static bool IsRows(Tensor x, int headDim) =>
        x.stride(-1) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.size(2) % headDim == 0 && x.storage_offset() % 8 == 0;

    /// <summary>[B, S, N, D] each, with channels in one piece, to [B, S, all N, D], of which the last ones only move.</summary>
    private static Tensor Turned(Tensor[] parts, Tensor cos, Tensor sin, bool back)
    {
        var (batch, length, dim) = (parts[0].size(0), parts[0].size(1), parts[0].size(3));
        var heads = parts.Sum(p => p.size(2));
        var turned = empty([batch, length, heads, dim], parts[0].dtype, parts[0].device);
        var threads = batch * length * heads * dim / 16;
        Kernel.Launch(
            "Rotary.cu", "rotate_heads", [$"HEAD_DIM={dim}", $"BACK={(back ? 1 : 0)}", $"THREADS={Threads}"],
            new((threads + Threads - 1) / Threads, Threads), turned,
            [
                .. parts.Select(p => (KernelArgument)p),
                .. parts.SelectMany(p => new KernelArgument[] { p.stride(0), p.stride(1), p.stride(2) }),
                cos, sin, cos.NumberOfElements == length * dim / 2 ? 0L : length * dim / 2, turned,
                (int)batch, (int)length, (int)parts[0].size(2), (int)(parts[0].size(2) + parts[1].size(2)), (int)heads,
            ]);
        return turned;
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (cos, sin, dim) = ((Tensor)vars[3], (Tensor)vars[4], (int)vars[5]);
            var parts = vars.Take(3).Select(x => ((Tensor)x).unflatten(2, [-1, dim])).ToArray(); // (B, S, N, D)
            var turned = Turned(parts, cos, sin, back: false);
            ctx.Save(scope, cos, sin);
            ctx.save_data("heads", parts.Select(p => p.size(2)).ToArray());
            var results = new List<Tensor>();
            long first = 0;
            foreach (var part in parts)
            {
                results.Add(turned.narrow(2, first, part.size(2)).transpose(1, 2).MoveToOuterDisposeScope()); // (B, N, S, D)
                first += part.size(2);
            }

            return results;
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, heads) = (ctx.Load(), (long[])ctx.get_data("heads"));
            var parts = gradients.Select(g => InPieces(g.transpose(1, 2))).ToArray(); // (B, S, N, D)
            var joint = Turned(parts, saved[0]!, saved[1]!, back: true).flatten(2); // (B, S, all N D)
            var dim = parts[0].size(3);
            var slices = new List<Tensor?>();
            long first = 0;
            foreach (var count in heads)
            {
                slices.Add(joint.narrow(2, first, count * dim));
                first += count * dim;
            }

            return [.. slices, null, null, null];
        }

        /// <summary>A head's channels in one piece, in whole 16 bytes.</summary>
        private static Tensor InPieces(Tensor x) =>
            x.stride(3) == 1 && Enumerable.Range(0, 3).All(d => x.stride(d) % 8 == 0) && x.storage_offset() % 8 == 0 ? x : x.contiguous();
    }
}
