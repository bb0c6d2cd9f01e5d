using System.Numerics;
using TorchSharp;
using static TorchSharp.torch;
using static XlstmLab.Operations.CpuMemory;

namespace XlstmLab.Operations;

/// <summary>The sLSTM as one operation on the CPU: all tokens in a loop over the tensors' memory, with a backward of its own.</summary>
/// <remarks>
/// Results do not depend on the number of threads, which is torch's. The gradient is that of <see cref="SLstmRecurrent"/>,
/// also through m; it cannot be differentiated again.
/// </remarks>
public static class SLstmFused
{
    /// <summary>Reads the tokens, on the CPU. Arguments, results and exceptions are those of <see cref="SLstmCell.Forward"/>.</summary>
    /// <inheritdoc cref="SLstmCell.Forward"/>
    public static (Tensor H, SLstmState Last) Forward(
        Tensor gatePreacts,
        Tensor recurrentKernel,
        Tensor bias,
        SLstmState? initial = null,
        SequenceLayout? layout = null,
        SLstmOptions? options = null)
    {
        SLstmCell.Check(gatePreacts, recurrentKernel, bias, initial, layout, options);
        if (gatePreacts.device_type != DeviceType.CPU)
        {
            throw new ArgumentException(
                $"The fused sLSTM runs on the CPU, but the tensors lie on {gatePreacts.device}. Use SLstmCell or SLstmRecurrent there.",
                nameof(gatePreacts));
        }

        using var scope = NewDisposeScope();
        var type = SLstmCell.StateType(gatePreacts);
        var size = gatePreacts.shape[4];

        // The kernel reads whole vectors; further units with zero inputs stay zero and are cut off again.
        var step = type == ScalarType.Float64 ? SLstmKernel<double>.Panel : SLstmKernel<float>.Panel;
        var missing = (size + step - 1) / step * step - size;
        Tensor Fit(Tensor t, params long[] padding) =>
            (missing == 0 ? t : nn.functional.pad(t, padding)).to(type).contiguous();

        var inputs = new List<Tensor?>
        {
            Fit(gatePreacts, 0, missing),
            Fit(recurrentKernel, 0, missing, 0, missing),
            Fit(bias, 0, missing),
        };
        inputs.AddRange(new[] { initial?.H, initial?.C, initial?.N, initial?.M }.Select(t => t is null ? null : Fit(t, 0, missing)));

        var shape = inputs[0]!.shape;
        var call = new Call(
            (int)shape[0],
            (int)shape[1],
            (int)shape[3],
            (int)shape[4],
            Predecessors(shape[0], shape[1], initial is not null, layout),
            options?.ForgetGate == ForgetGate.Exponential,
            options?.RecurrentGradientClip ?? double.PositiveInfinity,
            is_grad_enabled() && inputs.Any(t => t is not null && t.requires_grad));
        var results = call.KeepsActivations ? Function.apply([.. inputs, call])[0] : Function.Run(call, inputs).Results;

        var stateCount = (long)call.Batch * call.Heads * call.Size;
        var cut = results.split([stateCount * call.Length, stateCount, stateCount, stateCount, stateCount])
            .Select((t, index) =>
                index == 0 ? t.view(call.Batch, call.Heads, call.Length, call.Size) : t.view(call.Batch, call.Heads, call.Size))
            .Select(t => missing == 0 ? t : t.narrow(-1, 0, size))
            .ToArray();
        var h = cut[0].to(gatePreacts.dtype);
        return (h.MoveToOuterDisposeScope(), new SLstmState(cut[1], cut[2], cut[3], cut[4]).MoveToOuterDisposeScope());
    }

    /// <summary>For each position [B, S], the position in its row whose state it continues, or one of <see cref="Predecessor"/>.</summary>
    private static int[] Predecessors(long batch, long length, bool hasInitial, SequenceLayout? layout)
    {
        var starts = Bools(layout?.DocumentStarts);
        var padding = Bools(layout?.Padding);
        var predecessors = new int[batch * length];
        for (var row = 0; row < batch; row++)
        {
            var last = hasInitial ? Predecessor.Initial : Predecessor.Empty;
            for (var t = 0; t < length; t++)
            {
                var at = row * length + t;
                var isStart = starts is not null && starts[at];
                last = isStart ? Predecessor.Empty : last;
                if (padding is not null && padding[at])
                {
                    predecessors[at] = isStart ? Predecessor.EmptyPadding : Predecessor.Padding;
                }
                else
                {
                    predecessors[at] = last;
                    last = t;
                }
            }
        }

        return predecessors;

        static bool[]? Bools(Tensor? mask) => mask?.contiguous().data<bool>().ToArray();
    }

    /// <summary>What one call computes, beside its tensors.</summary>
    private sealed record Call(
        int Batch, int Length, int Heads, int Size, int[] Predecessors, bool HasExponentialForgetGate, double Clip, bool KeepsActivations);

    /// <remarks>
    /// The results are one tensor: of several, those that a loss does not use would come back as tensors without a handle,
    /// which TorchSharp counts as alive for ever.
    /// </remarks>
    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object?[] vars)
        {
            var call = (Call)vars[7]!;
            var inputs = vars.Take(7).Cast<Tensor?>().ToList();
            var (results, activations) = Run(call, inputs);
            ctx.save_data("call", call);

            // A saved result would hold the graph that saves it: its alias outside the graph does not.
            ctx.Save(null, activations, results.detach(), inputs[1], inputs[3], inputs[4], inputs[5]);
            return [results];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var call = (Call)ctx.get_data("call");
            var saved = ctx.Load();
            return saved[0]!.dtype == ScalarType.Float64
                ? Backward<double>(call, saved, gradients[0].contiguous())
                : Backward<float>(call, saved, gradients[0].contiguous());
        }

        /// <summary>
        /// h [B, NH, S, D] and the last H, C, N, M [B, NH, D] one after the other; and what backward needs, if the call says so.
        /// </summary>
        public static (Tensor Results, Tensor? Activations) Run(Call call, List<Tensor?> inputs) =>
            inputs[0]!.dtype == ScalarType.Float64 ? Run<double>(call, inputs) : Run<float>(call, inputs);

        private static unsafe (Tensor Results, Tensor? Activations) Run<T>(Call call, List<Tensor?> inputs)
            where T : unmanaged, IBinaryFloatingPointIeee754<T>
        {
            var (type, panel) = (inputs[0]!.dtype, SLstmKernel<T>.Panel);
            var stateCount = (long)call.Batch * call.Heads * call.Size;
            var results = empty([stateCount * (call.Length + 4)], type);
            for (var index = 0; index < 4; index++)
            {
                var state = results.narrow(0, stateCount * (call.Length + index), stateCount);
                _ = inputs[3 + index] is { } given ? state.copy_(given.view(-1)) : state.zero_();
            }

            var activations = call.KeepsActivations ? empty([stateCount * call.Length, SLstmKernel<T>.ActivationCount], type) : null;
            var raw = empty([4 * stateCount], type);

            // [NH, 4*D/panel, D (read), panel (written)]
            var panels = inputs[1]!.reshape(call.Heads, 4 * call.Size / panel, panel, call.Size).transpose(2, 3).contiguous();
            var h = Data<T>(results);
            var last = h + stateCount * call.Length;
            Kernel<T>(call).Forward(
                Data<T>(inputs[0]), Data<T>(panels), Data<T>(inputs[2]), Data<T>(raw), h, Data<T>(activations),
                last, last + stateCount, last + 2 * stateCount, last + 3 * stateCount);
            return (results, activations);
        }

        private static unsafe List<Tensor?> Backward<T>(Call call, IReadOnlyList<Tensor?> saved, Tensor gradResults)
            where T : unmanaged, IBinaryFloatingPointIeee754<T>
        {
            var (activations, results, recurrentKernel) = (saved[0]!, saved[1]!, saved[2]!);
            var (initialH, initialC, initialN) = (saved[3], saved[4], saved[5]);
            var (type, panel) = (activations.dtype, SLstmKernel<T>.Panel);
            var stateCount = (long)call.Batch * call.Heads * call.Size;
            long[] stateShape = [call.Batch, call.Heads, call.Size];
            var gradState = Enumerable.Range(0, 4)
                .Select(index => gradResults.narrow(0, stateCount * (call.Length + index), stateCount).view(stateShape).clone())
                .ToArray();
            var gradInputs = empty([call.Batch, call.Length, 4, call.Heads, call.Size], type);
            var kernel = Kernel<T>(call);
            var gradRecurrentKernel = zeros([kernel.Pieces, .. recurrentKernel.shape], type);
            var gradBias = zeros([kernel.Pieces, 4, call.Heads, call.Size], type);
            var raw = empty([4 * stateCount], type);
            var blocks = empty([kernel.Pieces, call.Heads, 5, SLstmKernel<T>.TokenBlock, call.Size], type);

            // [NH, D/panel, 4*D (written), panel (read)]
            var panels = recurrentKernel.reshape(call.Heads, 4 * call.Size, call.Size / panel, panel).transpose(1, 2).contiguous();
            kernel.Backward(
                Data<T>(activations), Data<T>(results), Data<T>(panels),
                Data<T>(initialH), Data<T>(initialC), Data<T>(initialN),
                Data<T>(gradResults), Data<T>(raw), Data<T>(blocks), Data<T>(gradInputs), Data<T>(gradRecurrentKernel), Data<T>(gradBias),
                Data<T>(gradState[0]), Data<T>(gradState[1]), Data<T>(gradState[2]), Data<T>(gradState[3]));
            return [gradInputs, SumInOrder(gradRecurrentKernel), SumInOrder(gradBias),
                .. initialH is null ? new Tensor?[4] : gradState, null];
        }

        private static SLstmKernel<T> Kernel<T>(Call call)
            where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
            new(
                call.Batch, call.Length, call.Heads, call.Size, call.Predecessors,
                call.HasExponentialForgetGate, T.CreateChecked(call.Clip), get_num_threads());
    }
}
