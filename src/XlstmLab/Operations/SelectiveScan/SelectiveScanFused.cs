using System.Numerics;
using TorchSharp;
using static TorchSharp.torch;
using static XlstmLab.Operations.CpuMemory;

namespace XlstmLab.Operations;

/// <summary>The selective scan as one operation on the CPU: a loop over the tensors' memory, with a backward of its own.</summary>
/// <remarks>
/// Every few tokens' state is kept for the backward pass, which computes those between again. Results do not depend on the number of
/// threads, which is torch's. It cannot be differentiated twice.
/// </remarks>
public static class SelectiveScanFused
{
    /// <inheritdoc cref="SelectiveScan.Forward"/>
    public static (Tensor Y, Tensor Last) Forward(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial = null, Tensor? starts = null)
    {
        SelectiveScan.Check(x, dt, a, b, c, initial, starts);
        if (x.device_type != DeviceType.CPU)
        {
            throw new ArgumentException(
                $"The fused scan runs on the CPU, but the tensors lie on {x.device}. Use SelectiveScan there.", nameof(x));
        }

        using var scope = NewDisposeScope();
        var (batch, length, dim, states) = (x.shape[0], x.shape[1], x.shape[2], a.shape[1]);

        // The kernel reads whole vectors; further channels with zero inputs stay zero and are cut off again.
        var step = SelectiveScanKernel<float>.Panel;
        var missing = (dim + step - 1) / step * step - dim;
        var wide = dim + missing;
        Tensor Fit(Tensor t) => (missing == 0 ? t : nn.functional.pad(t, [0, missing])).contiguous();
        Tensor?[] inputs =
            [Fit(x), Fit(dt), Fit(a.t()), b.contiguous(), c.contiguous(), initial is null ? null : Fit(initial.transpose(1, 2))];
        var call = new Call(
            (int)batch,
            (int)length,
            (int)wide,
            (int)states,
            starts?.contiguous().data<bool>().ToArray(),
            initial is not null,
            is_grad_enabled() && inputs.Any(t => t is not null && t.requires_grad));
        var results = call.KeepsStates ? Function.apply([.. inputs, call])[0] : Function.Run(call, inputs).Results;
        var split = results.split([batch * length * wide, batch * states * wide]);
        var y = split[0].view(batch, length, wide).narrow(2, 0, dim);
        var last = split[1].view(batch, states, wide).narrow(2, 0, dim).transpose(1, 2);
        return (y.MoveToOuterDisposeScope(), last.MoveToOuterDisposeScope());
    }

    /// <summary>What one call computes, beside its tensors.</summary>
    private sealed record Call(int Batch, int Length, int Dim, int States, bool[]? Starts, bool HasInitial, bool KeepsStates);

    /// <remarks>
    /// The result is one tensor, y and the last state end to end: an unused one of several would count as alive for ever.
    /// </remarks>
    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object?[] vars)
        {
            var call = (Call)vars[6]!;
            var inputs = vars.Take(6).Cast<Tensor?>().ToArray();
            var (results, kept) = Run(call, inputs);
            ctx.save_data("call", call);
            ctx.save_for_backward([kept!, .. inputs.Take(5).Cast<Tensor>()]);
            return [results];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var call = (Call)ctx.get_data("call");
            var saved = ctx.get_saved_variables();
            var all = saved[0].dtype == ScalarType.Float64
                ? Backward<double>(call, saved, gradients[0].contiguous())
                : Backward<float>(call, saved, gradients[0].contiguous());
            return [.. all.Take(5), call.HasInitial ? all[5] : null, null];
        }

        /// <summary>
        /// y [B, S, D] and the last state [B, N, D] end to end; and the states [B, NC, N, D] that backward begins from, if it will.
        /// </summary>
        public static (Tensor Results, Tensor? Kept) Run(Call call, Tensor?[] inputs) =>
            inputs[0]!.dtype == ScalarType.Float64 ? Run<double>(call, inputs) : Run<float>(call, inputs);

        private static unsafe (Tensor Results, Tensor? Kept) Run<T>(Call call, Tensor?[] inputs)
            where T : unmanaged, IBinaryFloatingPointIeee754<T>
        {
            var kernel = Kernel<T>(call);
            var type = inputs[0]!.dtype;
            var (outputCount, stateCount) = ((long)call.Batch * call.Length * call.Dim, (long)call.Batch * call.States * call.Dim);
            var results = empty([outputCount + stateCount], type);
            var last = results.narrow(0, outputCount, stateCount);
            _ = inputs[5] is { } initial ? last.copy_(initial.view(-1)) : last.zero_();
            var kept = call.KeepsStates ? empty([call.Batch, kernel.Chunks, call.States, call.Dim], type) : null;
            kernel.Forward(
                Data<T>(inputs[0]), Data<T>(inputs[1]), Data<T>(inputs[2]), Data<T>(inputs[3]), Data<T>(inputs[4]),
                Data<T>(results), Data<T>(results) + outputCount, Data<T>(kept));
            return (results, kept);
        }

        private static unsafe List<Tensor> Backward<T>(Call call, List<Tensor> saved, Tensor gradResults)
            where T : unmanaged, IBinaryFloatingPointIeee754<T>
        {
            var kernel = Kernel<T>(call);
            var (kept, x, dt, a, b, c) = (saved[0], saved[1], saved[2], saved[3], saved[4], saved[5]);
            var outputCount = x.NumberOfElements;
            var dState = gradResults.narrow(0, outputCount, gradResults.NumberOfElements - outputCount).clone()
                .view(call.Batch, call.States, call.Dim);
            var (dX, dDt) = (empty_like(x), empty_like(dt));
            var dA = zeros([call.Batch, call.States, call.Dim], x.dtype);
            var dB = zeros([kernel.Groups, .. b.shape], x.dtype);
            var dC = zeros([kernel.Groups, .. c.shape], x.dtype);
            var room = empty([call.Batch * kernel.Groups, kernel.Room], x.dtype);
            kernel.Backward(
                Data<T>(x), Data<T>(dt), Data<T>(a), Data<T>(b), Data<T>(c), Data<T>(kept), Data<T>(gradResults), Data<T>(room),
                Data<T>(dX), Data<T>(dDt), Data<T>(dA), Data<T>(dB), Data<T>(dC), Data<T>(dState));
            return [dX, dDt, SumInOrder(dA), SumInOrder(dB), SumInOrder(dC), dState];
        }

        private static SelectiveScanKernel<T> Kernel<T>(Call call)
            where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
            new(call.Batch, call.Length, call.Dim, call.States, call.Starts, get_num_threads());
    }
}
