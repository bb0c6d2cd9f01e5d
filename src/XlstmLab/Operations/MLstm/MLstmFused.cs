using static TorchSharp.torch;
using static XlstmLab.Operations.CpuMemory;

namespace XlstmLab.Operations;

/// <summary>
/// The chunkwise mLSTM as one operation on the CPU, gates included, with a backward of its own; gradients are those of
/// <see cref="MLstmChunkwise"/>.
/// </summary>
internal static class MLstmFused
{
    /// <summary>Whether there are loops for these tensors.</summary>
    public static bool Serves(Tensor q, Tensor k, Tensor v, Tensor gate) => new[] { q, k, v, gate }.All(CpuMemory.Serves);

    /// <summary>Reads a sequence.</summary>
    /// <param name="q">[B, NH, S, DK] float32.</param>
    /// <param name="k">[B, NH, S, DK].</param>
    /// <param name="v">[B, NH, S, DV].</param>
    /// <param name="input">[B, NH, S] what <paramref name="inputGate"/> makes log i of.</param>
    /// <param name="forget">[B, NH, S] what <paramref name="forgetGate"/> makes log f of.</param>
    /// <param name="inputGate">The input gate of <paramref name="input"/>: the exponential one where that is the logarithm.</param>
    /// <param name="forgetGate">The same of the forget gate.</param>
    /// <param name="initial">The state to start from; null is the empty state.</param>
    /// <param name="starts">[B, S] bool, or null.</param>
    /// <param name="options">Whether there is a running maximum, the normaliser, and the size of a chunk.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <returns>H [B, NH, S, DV], a token's heads side by side, and the last state if it is asked for.</returns>
    public static (Tensor H, MLstmState? Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor input, Tensor forget, InputGate inputGate, ForgetGate forgetGate,
        MLstmState? initial, Tensor? starts, MLstmOptions options, bool returnState)
    {
        using var scope = NewDisposeScope();
        var (dk, dv) = (q.shape[3], v.shape[3]);
        var call = new Call(inputGate, forgetGate, options, returnState);
        var outputs = Function.apply(
            q, k, v, input, forget, initial?.C.to(ScalarType.Float32)!, initial?.N.to(ScalarType.Float32)!,
            initial?.M.to(ScalarType.Float64)!, starts!, call);
        var h = outputs[0].MoveToOuterDisposeScope();
        if (!returnState)
        {
            return (h, null);
        }

        var state = outputs[1].split([dk * dv, dk, 1], 2); // (B, NH, DK DV), (B, NH, DK), (B, NH, 1)
        var m = options.HasPathThroughScale ? state[2] : state[2].detach();
        return (h, new MLstmState(state[0].unflatten(2, [dk, dv]), state[1], m).MoveToOuterDisposeScope());
    }

    /// <summary>What a call needs beside tensors with gradients.</summary>
    private sealed record Call(InputGate InputGate, ForgetGate ForgetGate, MLstmOptions Options, bool ReturnState);

    /// <remarks>The last state is one tensor, C, n and m end to end: an unused one of several would count as alive for ever.</remarks>
    private sealed class Function : GradientFunction<Function>
    {
        protected override unsafe List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var inputs = vars.Take(9).Cast<Tensor?>().ToArray();
            var call = (Call)vars[9];
            Prepare(inputs);
            var (q, v) = (inputs[0]!, inputs[2]!);
            var (batch, heads, length, dk, dv) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3], v.shape[3]);
            var h = HeadsSideBySide(batch, heads, length, dv);
            var sums = empty([batch, heads, length]);
            var parts = call.ReturnState ? StateParts(batch, heads, dk, dv) : null;
            using (var loops = Loops(inputs, call))
            {
                loops.Forward(Where(h), Floats(sums), Addresses(parts));
            }

            ctx.Save(scope, [.. inputs, h.detach(), sums]);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false); // TorchSharp would make zeros after a tensor that its scope has freed.
            h.MoveToOuterDisposeScope();
            return parts is null ? [h] : [h, Joined(parts).MoveToOuterDisposeScope()];
        }

        protected override unsafe List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var saved = ctx.Load();
            var (inputs, h, sums) = (saved.Take(9).ToArray(), saved[9]!, saved[10]!);
            var call = (Call)ctx.get_data("call");
            var (q, v) = (inputs[0]!, inputs[2]!);
            var (batch, heads, length, dk, dv) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3], v.shape[3]);
            var dH = gradients[0].IsInvalid ? zeros_like(h) : HeadsInPieces(gradients[0]);
            var dLast = gradients.Count < 2 || gradients[1].IsInvalid
                ? null
                : gradients[1].split([dk * dv, dk, 1], 2).Select(part => part.contiguous()).ToArray();
            var dFirst = inputs[5] is null ? null : new[]
            {
                empty([batch, heads, dk, dv]), empty([batch, heads, dk]), empty([batch, heads, 1], ScalarType.Float64),
            };
            var (dQ, dK, dV) = (HeadsSideBySide(batch, heads, length, dk), HeadsSideBySide(batch, heads, length, dk),
                HeadsSideBySide(batch, heads, length, dv));
            var (dInput, dForget) = (empty([batch, heads, length]), empty([batch, heads, length]));
            using (var loops = Loops(inputs, call))
            {
                loops.Backward(
                    Where(h), Floats(sums), Where(dH), Addresses(dLast), Where(dQ), Where(dK), Where(dV), Floats(dInput), Floats(dForget),
                    Addresses(dFirst));
            }

            return [dQ, dK, dV, dInput, dForget, dFirst?[0], dFirst?[1], dFirst?[2], null, null];
        }

        /// <summary>Each head's channels in one piece, and all else contiguous.</summary>
        private static void Prepare(Tensor?[] inputs)
        {
            for (var k = 0; k < inputs.Length; k++)
            {
                inputs[k] = k < 3 ? HeadsInPieces(inputs[k]!) : inputs[k]?.contiguous();
            }
        }

        private static unsafe MLstmLoops Loops(Tensor?[] inputs, Call call)
        {
            var (q, v) = (inputs[0]!, inputs[2]!);
            return new(
                (int)q.shape[0], (int)q.shape[1], (int)q.shape[2], (int)q.shape[3], (int)v.shape[3], call.InputGate, call.ForgetGate,
                call.Options)
            {
                Q = Where(q),
                K = Where(inputs[1]!),
                V = Where(v),
                Input = Floats(inputs[3]),
                Forget = Floats(inputs[4]),
                C = Floats(inputs[5]),
                N = Floats(inputs[6]),
                M = (double*)Floats(inputs[7]),
                Starts = (bool*)Floats(inputs[8]),
            };
        }

        private static Tensor HeadsInPieces(Tensor x) => x.stride(3) == 1 ? x : x.contiguous();

        private static HeadRows Where(Tensor x) => new(Kernel.Address(x), (nint)x.stride(0), (nint)x.stride(1), (nint)x.stride(2));

        private static Tensor HeadsSideBySide(long batch, long heads, long length, long dim) =>
            empty([batch, length, heads, dim]).transpose(1, 2);

        private static Tensor[] StateParts(long batch, long heads, long dk, long dv) =>
            [empty([batch, heads, dk, dv]), empty([batch, heads, dk]), empty([batch, heads, 1])];

        private static Tensor Joined(Tensor[] parts) => cat([parts[0].flatten(2), parts[1], parts[2]], 2);

        private static (nint C, nint N, nint M)? Addresses(Tensor[]? parts) =>
            parts is null ? null : (Kernel.Address(parts[0]), Kernel.Address(parts[1]), Kernel.Address(parts[2]));
    }
}
