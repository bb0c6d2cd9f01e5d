using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>Mamba's selective scan in one launch, with softplus before it and what follows it up to the gate.</summary>
/// <remarks>Some states are kept for the backward pass, which computes those between again; it cannot be differentiated twice.</remarks>
internal static class SelectiveScanSequenceKernel
{
    /// <summary>The states of a channel.</summary>
    public const int States = 16;

    private const string Source = "SelectiveScan.cu";
    private const int ChunkSize = 32; // tokens between kept states
    private const int Warp = 16; // channels
    private const int WarpBytes = (ChunkSize + 3) * 512; // of shared memory, backward
    private const int SumThreads = 256; // 8 a token

    /// <summary>Whether there is a kernel for such channels with so many states each.</summary>
    /// <param name="x">[B, S, D].</param>
    /// <param name="states">N.</param>
    public static bool Serves(Tensor x, long states) => Kernel.Serve(x) && states == States && x.shape[2] % 8 == 0;

    /// <summary>(y + D x) SiLU(z), where y is what <see cref="SelectiveScan"/> makes of x and dt = softplus(delta + bias).</summary>
    /// <param name="x">[B, S, D] bfloat16, as all that has tokens.</param>
    /// <param name="delta">[B, S, D].</param>
    /// <param name="bias">[D].</param>
    /// <param name="a">A, [D, N], at most 0.</param>
    /// <param name="b">B, [B, S, N].</param>
    /// <param name="c">C, [B, S, N].</param>
    /// <param name="skip">D, [D].</param>
    /// <param name="z">[B, S, D].</param>
    /// <param name="initial">The state before the first token, [B, D, N], left as it is; null is zero.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="real">[B, S] bool, false for padding, where dt is 0; or null.</param>
    /// <param name="returnLast">Whether the state after the last token is wanted.</param>
    /// <param name="room">Where the gradient of z should be written; null is a tensor of its own.</param>
    /// <returns>[B, S, D] bfloat16, and the state [B, D, N], float32.</returns>
    public static (Tensor Y, Tensor? Last) Forward(
        Tensor x, Tensor delta, Tensor bias, Tensor a, Tensor b, Tensor c, Tensor skip, Tensor z, Tensor? initial, Tensor? starts,
        Tensor? real,
        bool returnLast, Func<Tensor>? room = null)
    {
        using var scope = NewDisposeScope();
        Tensor Wide(Tensor t) => t.to(ScalarType.Float32).contiguous();
        Tensor?[] inputs =
        [
            TokenRows.Of(x, 2), TokenRows.Of(delta, 2), Wide(bias), Wide(a), TokenRows.Of(b, 4), TokenRows.Of(c, 4), Wide(skip),
            TokenRows.Of(z, 2),
            initial is null ? null : Wide(initial), starts?.contiguous(), real?.contiguous(),
        ];
        if (TokenRows.Distance(inputs[4]!) != TokenRows.Distance(inputs[5]!))
        {
            (inputs[4], inputs[5]) = (b.contiguous(), c.contiguous());
        }

        var call = new Call(returnLast, room);
        var results = is_grad_enabled() && inputs.Any(t => t is not null && t.requires_grad)
            ? Function.apply([.. inputs, call])
            : Run(inputs, call, keeps: false).Results;
        return (results[0].MoveToOuterDisposeScope(), returnLast ? results[1].MoveToOuterDisposeScope() : null);
    }

    private static string[] Defines(Tensor? starts, Tensor? real, int warps) =>
    [
        $"LAYOUT={(starts is null && real is null ? 0 : 1)}", $"STATES={States}", $"CHUNK={ChunkSize}", $"WARPS={warps}",
        $"WARP_CHANNELS={Warp}", $"WARP_BYTES={WarpBytes}", $"SUM_THREADS={SumThreads}",
    ];

    /// <summary>Wide blocks have fewer partial sums to write, narrow ones share work out evenly where there is little.</summary>
    private static int Warps(Tensor x)
    {
        var wanted = 2L * Kernel.Multiprocessors(x);
        return Blocks(x, 4) * x.shape[0] >= wanted ? 4 : Blocks(x, 2) * x.shape[0] >= wanted ? 2 : 1;
    }

    private static long Blocks(Tensor x, int warps) => (x.shape[2] + Warp * warps - 1) / (Warp * warps);

    private static LaunchShape Shape(Tensor x, int warps, int shared) =>
        new(Blocks(x, warps), 32 * warps, shared) { BlocksY = (int)x.shape[0] };

    private static (List<Tensor> Results, Tensor? Kept) Run(Tensor?[] inputs, Call call, bool keeps)
    {
        var (x, delta, b, z) = (inputs[0]!, inputs[1]!, inputs[4]!, inputs[7]!);
        var (batch, length, dim) = (x.shape[0], x.shape[1], x.shape[2]);
        var warps = Warps(x);
        var y = empty(x.shape, x.dtype, x.device);
        var last = call.ReturnsLast ? empty(batch, dim, States, dtype: ScalarType.Float32, device: x.device) : null;
        var kept = keeps ? empty(batch, (length + ChunkSize - 1) / ChunkSize, dim, States, dtype: ScalarType.Float32, device: x.device)
            : null;
        Kernel.Launch(
            Source, "selective_scan_forward", Defines(inputs[9], inputs[10], warps), Shape(x, warps, 0), x,
            x, delta, inputs[2], inputs[3], b, inputs[5], inputs[6], z, inputs[9], inputs[10], inputs[8], y, kept, last,
            TokenRows.Distance(x), TokenRows.Distance(delta), TokenRows.Distance(b), TokenRows.Distance(z), (int)length, (int)dim);
        return (last is null ? [y] : [y, last], kept);
    }

    private sealed record Call(bool ReturnsLast, Func<Tensor>? Room);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (inputs, call) = (vars.Take(11).Cast<Tensor?>().ToArray(), (Call)vars[11]);
            var (results, kept) = Run(inputs, call, keeps: true);
            ctx.Save(scope, [.. inputs.Take(8), inputs[9], inputs[10], kept]);
            ctx.save_data("call", call);
            ctx.save_data("hasInitial", inputs[8] is not null);
            ctx.set_materialize_grads(false);
            return [.. results.Select(t => t.MoveToOuterDisposeScope())];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (inputs, call, hasInitial) = (ctx.Load(), (Call)ctx.get_data("call"), (bool)ctx.get_data("hasInitial"));
            var (x, delta, b, z) = (inputs[0]!, inputs[1]!, inputs[4]!, inputs[7]!);
            var (starts, real, kept) = (inputs[8], inputs[9], inputs[10]!);
            var (batch, length, dim) = (x.shape[0], x.shape[1], x.shape[2]);
            var warps = Warps(x);
            var blocks = Blocks(x, warps);
            var dy = gradients[0].IsInvalid ? zeros(x.shape, x.dtype, x.device) : gradients[0].contiguous();
            var dLast = gradients.Count < 2 || gradients[1].IsInvalid ? null : gradients[1].contiguous();
            var (dx, dDelta) = (empty(x.shape, x.dtype, x.device), empty(x.shape, x.dtype, x.device));
            var dz = call.Room?.Invoke() ?? empty(x.shape, x.dtype, x.device);
            var dInitial = hasInitial ? empty(batch, dim, States, dtype: ScalarType.Float32, device: x.device) : null;
            var tokenSums = empty(blocks, batch, length, 2 * States, dtype: ScalarType.Float32, device: x.device);
            var channelSums = empty(batch, (States + 2) * dim, dtype: ScalarType.Float32, device: x.device);
            Kernel.Launch(
                Source, "selective_scan_backward", Defines(starts, real, warps), Shape(x, warps, warps * WarpBytes), x,
                x, delta, inputs[2], inputs[3], b, inputs[5], inputs[6], z, starts, real, dy, kept, dLast,
                dx, dDelta, dz, dInitial, tokenSums, channelSums,
                TokenRows.Distance(x), TokenRows.Distance(delta), TokenRows.Distance(b), TokenRows.Distance(z), TokenRows.Distance(dz),
                (int)length, (int)dim);
            var dBC = empty(batch, length, 2 * States, dtype: x.dtype, device: x.device);
            Kernel.Launch(
                Source, "selective_scan_sums", Defines(starts, real, warps),
                new((8 * batch * length + SumThreads - 1) / SumThreads, SumThreads), x,
                tokenSums, dBC, (int)blocks, (int)(batch * length));
            var sums = PartialSums.Of(channelSums);
            return
            [
                dx, dDelta, sums.narrow(0, States * dim, dim), sums.narrow(0, 0, States * dim).view(dim, States), dBC.narrow(2, 0, States),
                dBC.narrow(2, States, States), sums.narrow(0, (States + 1) * dim, dim), dz, dInitial, null, null, null,
            ];
        }
    }
}
