using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Several projections of one input as one product, forward and backward, however their weights are stored: y_i = x W_i^T are slices of one
/// result, and their gradients add up inside the products instead of one by one.
/// </summary>
/// <remarks>
/// Gradients that lie beside each other in memory, as kernels leave them that were given slices, go through one product together; others
/// through one each, whose sum the product makes.
/// </remarks>
internal static class JointProjection
{
    private const string Source = "JointWeights.cu";
    private const int Most = 8;
    private const int Threads = 256;

    /// <summary>
    /// Whether these projections can be joined: of bfloat16 activations on a GPU, by float32 weights in rows of whole 16 bytes.
    /// </summary>
    /// <param name="x">[..., d].</param>
    /// <param name="weights">Each [output, d].</param>
    public static bool Serves(Tensor x, params ReadOnlySpan<Tensor> weights)
    {
        if (!Kernel.Serve(x) || !x.is_contiguous() || x.size(-1) % 8 != 0 || weights.Length > Most)
        {
            return false;
        }

        foreach (var weight in weights)
        {
            if (weight.dtype != ScalarType.Float32 || !weight.is_contiguous())
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>The projections.</summary>
    /// <param name="x">[..., d] bfloat16, contiguous.</param>
    /// <param name="weights">Each [output, d] float32, contiguous.</param>
    /// <param name="widths">The widths of the results; together those of the weights.</param>
    /// <returns>Each [..., width] bfloat16, slices of one tensor.</returns>
    public static IReadOnlyList<Tensor> Forward(Tensor x, IReadOnlyList<Tensor> weights, params long[] widths)
    {
        using var scope = NewDisposeScope();
        var results = is_grad_enabled() && (x.requires_grad || weights.Any(w => w.requires_grad))
            ? Function.apply([x, new Call(widths, TrainedProducts.Of(weights)), .. weights])
            : Slices(Product(x, TrainedProducts.Of(weights)?.Joined ?? Joined(weights)), widths);
        results.ForEach(result => result.MoveToOuterDisposeScope());
        return results;
    }

    /// <summary>
    /// Memory for the gradients of tensors that lie beside each other as slices of one product, likewise; otherwise each its own.
    /// </summary>
    /// <param name="slices">[..., width] each, of one type.</param>
    public static IReadOnlyList<Tensor> EmptyLike(params IReadOnlyList<Tensor> slices)
    {
        var first = slices[0];
        if (slices.Count == 1 || !slices.Skip(1).Zip(slices, AreNeighbours).All(near => near))
        {
            return [.. slices.Select(slice => empty(slice.shape, slice.dtype, slice.device))];
        }

        var joint = empty([.. first.shape[..^1], slices.Sum(slice => slice.size(-1))], first.dtype, first.device);
        return Slices(joint, [.. slices.Select(slice => slice.size(-1))]);
    }

    /// <summary>Writes weights one below the other.</summary>
    /// <param name="weights">Each [output, d] float32, contiguous.</param>
    /// <param name="joined">[rows, d] bfloat16, contiguous, of at least as many rows as they have together.</param>
    public static void Join(IReadOnlyList<Tensor> weights, Tensor joined)
    {
        var arguments = new KernelArgument[2 * Most + 1];
        long end = 0;
        for (var k = 0; k < Most; k++)
        {
            end += k < weights.Count ? weights[k].NumberOfElements : 0;
            (arguments[k], arguments[Most + k]) = (k < weights.Count ? weights[k] : (Tensor?)null, end);
        }

        arguments[^1] = joined;
        Kernel.Launch(
            Source, "join_weights", [$"MOST={Most}", $"THREADS={Threads}"], new((end / 8 + Threads - 1) / Threads, Threads), joined,
            arguments);
    }

    private static Tensor Joined(IReadOnlyList<Tensor> weights)
    {
        var joined = empty(weights.Sum(w => w.size(0)), weights[0].size(1), dtype: ScalarType.BFloat16, device: weights[0].device);
        Join(weights, joined);
        return joined;
    }

    private static Tensor Product(Tensor x, Tensor joined) =>
        x.reshape(-1, x.size(-1)).mm(joined.t()).view([.. x.shape[..^1], joined.size(0)]); // (..., rows)

    private static List<Tensor> Slices(Tensor joint, IReadOnlyList<long> widths, long dim = -1)
    {
        var slices = new List<Tensor>();
        long first = 0;
        foreach (var width in widths)
        {
            slices.Add(joint.narrow(dim, first, width));
            first += width;
        }

        return slices;
    }

    /// <summary>Whether the rows of one tensor go on in another: both are slices of the same last dimension.</summary>
    private static bool AreNeighbours(Tensor next, Tensor tensor) =>
        Base(next) == Base(tensor)
        && next.storage_offset() == tensor.storage_offset() + tensor.size(-1)
        && next.stride(-1) == 1 && tensor.stride(-1) == 1
        && next.dim() == tensor.dim()
        && Enumerable.Range(0, (int)next.dim() - 1).All(d => next.size(d) == tensor.size(d) && next.stride(d) == tensor.stride(d))
        && tensor.stride(-2) >= tensor.size(-1) + next.size(-1);

    private static nint Base(Tensor tensor) => Kernel.Address(tensor) - (nint)(tensor.storage_offset() * tensor.ElementSize);

    private sealed record Call(long[] Widths, TrainedProduct? Kept);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, call) = ((Tensor)vars[0], (Call)vars[1]);
            var weights = vars.Skip(2).Cast<Tensor>().ToArray();
            var joined = call.Kept?.Joined ?? Joined(weights);
            ctx.Save(scope, x, call.Kept is null ? joined : null);
            ctx.save_data("call", call);
            ctx.save_data("outputs", weights.Select(w => w.size(0)).ToArray());
            ctx.set_materialize_grads(false);
            var results = Slices(Product(x, joined), call.Widths);
            results.ForEach(result => result.MoveToOuterDisposeScope());
            return results;
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call, outputs) = (ctx.Load(), (Call)ctx.get_data("call"), (long[])ctx.get_data("outputs"));
            var (x, joined) = (saved[0]!.reshape(-1, saved[0]!.size(-1)), call.Kept?.Joined ?? saved[1]!);
            var groups = Groups(gradients, call.Widths);
            Tensor? dx = null;
            foreach (var (rows, first, width) in groups)
            {
                if (rows is not null)
                {
                    var weights = joined.narrow(0, first, width);
                    dx = dx is null ? rows.mm(weights) : dx.addmm_(rows, weights, 1, 1);
                }
            }

            // Behind the input's product, by which libtorch has found room to work in.
            List<Tensor?> ofWeights = [.. outputs.Select(_ => (Tensor?)null)];
            if (call.Kept is { } kept)
            {
                kept.AddGradients(groups, x);
            }
            else
            {
                ofWeights = OfWeights(groups, x, joined, outputs);
            }

            return [dx?.view(saved[0]!.shape), null, .. ofWeights];
        }

        /// <summary>The weights' gradients; of their own type the engine makes them, which then are theirs alone.</summary>
        private static List<Tensor?> OfWeights(List<ProductRows> groups, Tensor x, Tensor joined, long[] outputs)
        {
            var dJoined = empty_like(joined);
            foreach (var (rows, first, width) in groups)
            {
                var target = dJoined.narrow(0, first, width);
                _ = rows is not null ? target.addmm_(rows.t(), x, 0, 1) : target.zero_();
            }

            return [.. Slices(dJoined, outputs, 0)];
        }

        /// <summary>Gradients that lie beside each other as one.</summary>
        private static List<ProductRows> Groups(List<Tensor> gradients, long[] widths)
        {
            var groups = new List<ProductRows>();
            long begin = 0;
            for (var k = 0; k < widths.Length; begin += groups[^1].Width)
            {
                if (gradients[k].IsInvalid)
                {
                    groups.Add(new(null, begin, widths[k++]));
                    continue;
                }

                var (first, width) = (gradients[k], widths[k]);
                for (k++; k < widths.Length && !gradients[k].IsInvalid && AreNeighbours(gradients[k], gradients[k - 1]); k++)
                {
                    width += widths[k];
                }

                var rows = width == first.size(-1) ? first : first.as_strided(
                    [.. first.shape[..^1], width], first.stride(), first.storage_offset());
                // of a sum, all are one number
                groups.Add(new((rows.stride(-1) == 1 ? rows : rows.contiguous()).reshape(-1, width), begin, width));
            }

            return groups;
        }
    }
}

/// <summary>The gradient of some consecutive outputs of a product.</summary>
/// <param name="Value">dy [N, width] bfloat16; null for zeros.</param>
/// <param name="First">The first of the outputs.</param>
/// <param name="Width">How many there are.</param>
internal readonly record struct ProductRows(Tensor? Value, long First, long Width);
