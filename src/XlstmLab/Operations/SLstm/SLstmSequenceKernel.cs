using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The sLSTM over all tokens in one launch, with the recurrent weights in the registers of a cluster of blocks a head.</summary>
/// <remarks>The gradient is that of <see cref="SLstmRecurrent"/>, also through m; it cannot be differentiated again.</remarks>
internal static class SLstmSequenceKernel
{
    private const string Source = "SLstm.cu";
    private const int Rows = 8; // of a batch, that a cluster works on
    private const int ForwardStages = 8;
    private const int BackwardStages = 6;

    /// <summary>Whether there is a kernel for these gate pre-activations, [B, S, 4, NH, D].</summary>
    public static bool Serves(Tensor gatePreacts) => Kernel.Serve(gatePreacts) && Lack(gatePreacts.shape[4]) is null;

    /// <summary>Why there is no kernel for heads of so many units; null where there is.</summary>
    public static string? Lack(long size) => Clusters(size).Any()
        ? null
        : $"heads of {size} units: the sLSTM kernel serves multiples of 16 whose weights fit the registers of a cluster";

    /// <summary>Arguments and results as <see cref="SLstmCell.Forward"/>.</summary>
    public static (Tensor H, SLstmState Last) Forward(
        Tensor gatePreacts, Tensor recurrentKernel, Tensor bias, SLstmState? initial, SequenceLayout? layout, SLstmOptions? options)
    {
        using var scope = NewDisposeScope();
        var call = new Call(
            options?.ForgetGate == ForgetGate.Exponential, (float)(options?.RecurrentGradientClip ?? double.PositiveInfinity));
        Tensor?[] inputs =
        [
            gatePreacts.contiguous(), recurrentKernel.to(ScalarType.Float32).contiguous(), bias.to(ScalarType.Float32).contiguous(),
            initial is null ? null : stack([initial.H, initial.C, initial.N, initial.M]).to(ScalarType.Float32),
            layout?.DocumentStarts?.contiguous(), layout?.Padding?.contiguous(),
        ];
        var results = is_grad_enabled() && inputs.Any(t => t is not null && t.requires_grad)
            ? Function.apply([.. inputs, call])
            : [.. Run(new(inputs), call, keeps: false).Results];
        var last = results[1]; // (4, B, NH, D)
        return (
            results[0].transpose(1, 2).MoveToOuterDisposeScope(),
            new SLstmState(last[0], last[1], last[2], last[3]).MoveToOuterDisposeScope());
    }

    /// <summary>The numbers of blocks that can share a head of D units: whole tiles, and weights that fit the registers.</summary>
    private static IEnumerable<int> Clusters(long size) => Enumerable.Range(1, 8).Where(c =>
    {
        var units = size / c;
        return size % (16 * c) == 0 && size / 2 + 60 <= Math.Min(255, 65536 / (4 * units));
    });

    /// <summary>More blocks a head make a step shorter, as long as all clusters run at a time and each block has enough to do.</summary>
    private static int Cluster(Tensor gatePreacts)
    {
        var (size, slices) = (gatePreacts.shape[4], (gatePreacts.shape[0] + Rows - 1) / Rows * gatePreacts.shape[3]);
        var possible = Clusters(size).ToArray();
        return possible.Where(c => size / c >= 32 && slices * c <= Kernel.Multiprocessors(gatePreacts)).DefaultIfEmpty(possible[0]).Max();
    }

    private static string[] Defines(Inputs inputs, Call call, int cluster) =>
    [
        $"DIM={inputs.X.shape[4]}", $"CLUSTER={cluster}", $"ROWS={Rows}", $"THREADS={Shape(inputs.X, cluster, forward: true).Threads}",
        $"EXPONENTIAL_FORGET={(call.HasExponentialForgetGate ? 1 : 0)}",
        $"LAYOUT={(inputs.Starts is null && inputs.Padding is null ? 0 : 1)}",
        $"FORWARD_STAGES={ForwardStages}", $"FORWARD_BYTES={Shape(inputs.X, cluster, forward: true).SharedBytes}",
        $"BACKWARD_STAGES={BackwardStages}", $"BACKWARD_BYTES={Shape(inputs.X, cluster, forward: false).SharedBytes}",
    ];

    private static LaunchShape Shape(Tensor gatePreacts, int cluster, bool forward)
    {
        var size = (int)gatePreacts.shape[4];
        var units = size / cluster;
        var warps = units / 8;
        var sources = cluster % 2 == 1 ? 2 * cluster : cluster;
        var shared = forward
            ? 32 * size + warps * ForwardStages * 512 + 16
            : 128 * units + 64 * sources * units + BackwardStages * (1024 + 128) * warps + 512 * warps + 16;
        var slices = (gatePreacts.shape[0] + Rows - 1) / Rows;
        return new(slices * gatePreacts.shape[3] * cluster, 4 * units, shared) { Cluster = cluster };
    }

    private static (Tensor[] Results, Tensor? Before, Tensor? Records) Run(Inputs inputs, Call call, bool keeps)
    {
        var x = inputs.X;
        var (batch, length, heads, size) = (x.shape[0], x.shape[1], x.shape[3], x.shape[4]);
        var cluster = Cluster(x);
        var h = empty(batch, length, heads, size, dtype: x.dtype, device: x.device);
        var last = empty(4, batch, heads, size, dtype: ScalarType.Float32, device: x.device);
        var before = keeps ? empty_like(h) : null;
        var records = keeps
            ? empty([(batch + Rows - 1) / Rows * heads, length, size / 8 * 2 * 32, 16], ScalarType.Byte, x.device)
            : null;
        var gates = Enumerable.Range(0, 4).Select(g => x.select(2, g)).ToArray();
        Kernel.Launch(
            Source, "slstm_forward", Defines(inputs, call, cluster), Shape(x, cluster, forward: true), x,
            gates[0], gates[1], gates[2], gates[3], (int)(4 * heads * size), (int)size, inputs.RecurrentKernel, inputs.Bias, inputs.Initial,
            inputs.Starts, inputs.Padding, h, before, records, last, (int)batch, (int)length, (int)heads);
        return ([h, last], before, records);
    }

    private sealed record Call(bool HasExponentialForgetGate, float Clip);

    /// <summary>The tensors as the kernels take them.</summary>
    private sealed class Inputs(IReadOnlyList<Tensor?> all)
    {
        public Tensor X { get; } = all[0]!;

        public Tensor RecurrentKernel { get; } = all[1]!;

        public Tensor? Bias { get; } = all[2]; // of which backward needs nothing

        public Tensor? Initial { get; } = all[3];

        public Tensor? Starts { get; } = all[4];

        public Tensor? Padding { get; } = all[5];
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (inputs, call) = (vars.Take(6).Cast<Tensor?>().ToArray(), (Call)vars[6]);
            var (results, before, records) = Run(new(inputs), call, keeps: true);
            ctx.Save(scope, inputs[0], inputs[1], null, inputs[3], inputs[4], inputs[5], before, records);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            return [.. results.Select(t => t.MoveToOuterDisposeScope())];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var inputs = new Inputs(saved);
            var (x, before, records) = (inputs.X, saved[6]!, saved[7]!);
            var (batch, length, heads, size) = (x.shape[0], x.shape[1], x.shape[3], x.shape[4]);
            var cluster = Cluster(x);
            var dh = gradients[0].IsInvalid ? zeros(batch, length, heads, size, dtype: x.dtype, device: x.device)
                : gradients[0].contiguous();
            var dLast = gradients[1].IsInvalid ? null : gradients[1].contiguous();
            var dx = empty([batch, length, heads, 4, size], x.dtype, x.device); // a head's gates side by side: one product makes dR
            var dBias = empty((batch + Rows - 1) / Rows, 4, heads, size, dtype: ScalarType.Float32, device: x.device);
            var dInitial = inputs.Initial is null ? null : empty_like(inputs.Initial);
            var gates = Enumerable.Range(0, 4).Select(g => dx.select(3, g)).ToArray();
            Kernel.Launch(
                Source, "slstm_backward", Defines(inputs, call, cluster), Shape(x, cluster, forward: false), x,
                records, dh, dLast, inputs.RecurrentKernel, inputs.Initial, inputs.Starts, inputs.Padding,
                gates[0], gates[1], gates[2], gates[3], (int)(4 * heads * size), (int)(4 * size), dBias, dInitial, call.Clip,
                (int)batch, (int)length, (int)heads);
            var dR = dx.flatten(0, 1).flatten(2).permute(1, 2, 0).bmm(before.flatten(0, 1).transpose(0, 1)); // (NH, 4 D, D)
            return
            [
                dx.transpose(2, 3), dR.to(ScalarType.Float32).view(heads, 4, size, size), dBias.sum([0L]), dInitial, null, null, null,
            ];
        }
    }
}
