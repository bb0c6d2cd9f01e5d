using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The middle of a feed-forward layer, f(g) u or f(g), in one pass over memory.</summary>
internal static class GluKernel
{
    private const string Source = "SwiGlu.cu";
    private const int Threads = 256;
    private const int ForwardPieces = 4; // of 8 channels, a thread
    private const int BackwardPieces = 2;

    /// <summary>Whether there is a kernel for these pre-activations.</summary>
    public static bool Serves(Tensor g) => Kernel.Serve(g) && g.size(-1) % 8 == 0 && IsRows(g);

    /// <summary>f(g) u, or f(g).</summary>
    /// <param name="g">[..., F] bfloat16: contiguous, or a slice of the last dimension of what is.</param>
    /// <param name="u">The same shape, or null.</param>
    /// <param name="kind">Which f.</param>
    public static Tensor Forward(Tensor g, Tensor? u, FeedForwardKind kind)
    {
        using var scope = NewDisposeScope();
        return Function.apply(g, u!, kind)[0].MoveToOuterDisposeScope();
    }

    private static string[] Defines(long inner, FeedForwardKind kind, bool gated) =>
    [
        $"INNER={inner}", $"GATED={(gated ? 1 : 0)}", $"ACTIVATION={Activation(kind)}",
        $"THREADS={Threads}", $"FORWARD_PIECES={ForwardPieces}", $"BACKWARD_PIECES={BackwardPieces}",
    ];

    /// <summary>The source's name of a layer's nonlinearity.</summary>
    private static string Activation(FeedForwardKind kind) => kind switch
    {
        FeedForwardKind.SwiGlu => "SILU",
        FeedForwardKind.GeGlu or FeedForwardKind.Mlp => "GELU",
        FeedForwardKind.ReluSquared => "RELU_SQUARED",
        _ => throw UnknownValue.Of(kind),
    };

    /// <summary>Whether a tensor is rows of equal distance, each in one piece.</summary>
    private static bool IsRows(Tensor x)
    {
        var last = (int)x.dim() - 1;
        return x.stride(last) == 1 && x.stride(last - 1) % 8 == 0
            && Enumerable.Range(1, last - 1).All(d => x.stride(d - 1) == x.size(d) * x.stride(d));
    }

    private static long RowStride(Tensor x) => x.stride(-2);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (g, u, kind) = ((Tensor)vars[0], (Tensor?)vars[1], (FeedForwardKind)vars[2]);
            var inner = g.size(-1);
            var rows = g.NumberOfElements / inner;
            var y = empty(g.shape, g.dtype, g.device);
            Kernel.Launch(
                Source, "glu_forward", Defines(inner, kind, u is not null), new(Blocks(rows * inner, ForwardPieces), Threads), g,
                g, u, y, RowStride(g), u is null ? 0 : RowStride(u), (int)rows);
            ctx.Save(null, g, u);
            ctx.save_data("kind", kind);
            ctx.set_materialize_grads(false);
            return [y];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.Load();
            var (g, u, kind) = (saved[0]!, saved[1], (FeedForwardKind)ctx.get_data("kind"));
            var inner = g.size(-1);
            var rows = g.NumberOfElements / inner;
            var dy = gradients[0].contiguous();

            // Where g and u are halves of one product, so are their gradients: what gathers them copies nothing.
            var halves = JointProjection.EmptyLike(u is null ? [g] : [g, u]);
            var (dg, du) = (halves[0], u is null ? null : halves[1]);
            Kernel.Launch(
                Source, "glu_backward", Defines(inner, kind, u is not null), new(Blocks(rows * inner, BackwardPieces), Threads), g,
                dy, g, u, dg, du, RowStride(g), u is null ? 0 : RowStride(u), RowStride(dg), (int)rows);
            return [dg, du, null];
        }

        private static long Blocks(long elements, int pieces) => (elements / 8 + Threads * pieces - 1) / (Threads * pieces);
    }
}
