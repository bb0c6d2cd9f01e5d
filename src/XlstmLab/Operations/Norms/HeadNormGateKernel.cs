using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What follows an mLSTM, sigmoid(o) (w norm(h) + b) with the norm taken within each head, in one pass over memory.</summary>
internal static class HeadNormGateKernel
{
    private const string Source = "HeadNormGate.cu";
    private const int Warps = 8;

    /// <summary>Whether there is a kernel for these heads.</summary>
    public static bool Serves(Tensor h, HeadNormKind kind, bool oneGroupAHead) =>
        Kernel.Serve(h) && h.size(3) % 8 == 0 && h.stride(3) == 1 && Enumerable.Range(0, 3).All(d => h.stride(d) % 8 == 0)
        && (kind is HeadNormKind.Layer or HeadNormKind.Rms || (kind == HeadNormKind.Group && oneGroupAHead));

    /// <summary>The gated, normed heads.</summary>
    /// <param name="h">[B, S, NH, DV] bfloat16, each head's channels in one piece.</param>
    /// <param name="o">
    /// [B, S, NH DV] bfloat16 pre-activation of the output gate: contiguous, or a slice of the last dimension of what is; null for no gate.
    /// </param>
    /// <param name="weight">[NH DV] float32 or bfloat16.</param>
    /// <param name="bias">[NH DV] of either, or null.</param>
    /// <param name="kind">The norm.</param>
    /// <param name="epsilon">Added to the variance or the mean square.</param>
    /// <returns>[B, S, NH DV] bfloat16.</returns>
    public static Tensor Forward(Tensor h, Tensor? o, Tensor weight, Tensor? bias, HeadNormKind kind, double epsilon)
    {
        using var scope = NewDisposeScope();

        // A model that was moved to bfloat16 as a whole has such norms, too.
        (weight, bias) = (weight.Widened(), bias?.Widened());
        return Function.apply(h, o!, weight, bias!, new Call(Norm(kind), (float)epsilon, LeafGradients.Of(weight, bias)))[0]
            .MoveToOuterDisposeScope();
    }

    /// <summary>The source's name of a norm; with one group a head, GroupNorm is LayerNorm within it.</summary>
    private static string Norm(HeadNormKind kind) => kind switch
    {
        HeadNormKind.Rms => "NORM_RMS",
        HeadNormKind.Layer or HeadNormKind.Group => "NORM_LAYER",
        _ => throw UnknownValue.Of(kind),
    };

    private sealed record Call(string Norm, float Epsilon, LeafGradients? Leaves);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (h, o, weight, bias, call) = ((Tensor)vars[0], (Tensor?)vars[1], (Tensor)vars[2], (Tensor?)vars[3], (Call)vars[4]);
            var (batch, length, heads, dim) = (h.size(0), h.size(1), h.size(2), h.size(3));
            var y = empty(batch, length, heads * dim, dtype: h.dtype, device: h.device);
            Kernel.Launch(
                Source, "head_norm_gate_forward", Defines(dim, call, o, bias), Shape(h, shared: 0), h,
                h, o, weight, bias, y, h.stride(0), h.stride(2), h.stride(1), o?.stride(1) ?? 0, (int)(batch * length), (int)length,
                call.Epsilon);
            ctx.Save(null, h, o, weight, bias);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            return [y];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (h, o, weight, bias) = (saved[0]!, saved[1], saved[2]!, saved[3]);
            var (batch, length, heads, dim) = (h.size(0), h.size(1), h.size(2), h.size(3));
            var channels = heads * dim;
            var dy = gradients[0].contiguous();
            var dh = empty(batch, length, heads, dim, dtype: h.dtype, device: h.device);
            var dO = o is null ? null : empty(batch, length, channels, dtype: h.dtype, device: h.device);
            var shape = Shape(h, shared: (int)(4 * Warps * dim));
            var partials = LeafGradients.Partials(call.Leaves, shape.Blocks, bias is null ? channels : 2 * channels, h.device);
            Kernel.Launch(
                Source, "head_norm_gate_backward", Defines(dim, call, o, bias), shape, h,
                dy, h, o, weight, bias, dh, dO, partials, h.stride(0), h.stride(2), h.stride(1), o?.stride(1) ?? 0,
                (int)(batch * length), (int)length, call.Epsilon);
            var sums = LeafGradients.GiveSums(
                call.Leaves, partials, new SumPart(0, channels), bias is null ? null : new SumPart(channels, channels));
            return [dh, dO, .. sums, null];
        }

        private static string[] Defines(long dim, Call call, Tensor? o, Tensor? bias) =>
        [
            $"HEAD_DIM={dim}", $"NORM={call.Norm}", $"GATED={(o is null ? 0 : 1)}", $"BIAS={(bias is null ? 0 : 1)}",
            $"WARPS={Warps}", $"BLOCKS={BlocksAtATime(dim)}",
        ];

        /// <summary>The blocks of a multiprocessor.</summary>
        private static int BlocksAtATime(long dim) => dim > 512 ? 1 : dim > 256 ? 2 : 4;

        /// <summary>As many blocks as run at a time, in one row a head.</summary>
        private static Native.Cuda.LaunchShape Shape(Tensor h, int shared)
        {
            var (tokens, heads, dim) = (h.size(0) * h.size(1), h.size(2), h.size(3));
            var atATime = Kernel.Multiprocessors(h) * BlocksAtATime(dim) / heads;
            return new(Math.Clamp(atATime, 1, (tokens + Warps - 1) / Warps), 32 * Warps, shared) { BlocksY = (int)heads };
        }
    }
}
