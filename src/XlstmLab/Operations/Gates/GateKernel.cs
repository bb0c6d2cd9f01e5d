using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>An mLSTM's gate pre-activations, cap tanh((W x + b) / cap) in float32 from bfloat16 x, in one pass over x.</summary>
internal static class GateKernel
{
    /// <summary>The most heads that are served.</summary>
    public const int MostHeads = 32;

    private const string Source = "GatePreactivations.cu";
    private const int Warps = 8; // of 16 tokens
    private const int InputChannels = 128; // of a block that makes x's gradient
    private const int Step = 32; // tokens of which a block sums weight gradients at a time, one a lane

    /// <summary>Whether there is a kernel for what the gates look at.</summary>
    public static bool Serves(Tensor x, int heads) => Kernel.Serve(x) && x.is_contiguous() && x.size(-1) % 8 == 0 && heads <= MostHeads;

    /// <summary>Both gates' pre-activations.</summary>
    /// <param name="x">[B, S, d] bfloat16, contiguous.</param>
    /// <param name="input">
    /// The input gate's [NH, d] weight, null for zeros, and [NH] bias, null where there is no such gate; float32 or bfloat16.
    /// </param>
    /// <param name="forget">The same of the forget gate.</param>
    /// <param name="heads">NH.</param>
    /// <param name="cap">The soft cap, or null.</param>
    /// <returns>
    /// i~ and f~, [B, NH, S] float32; zeros for a gate that does not exist. And x for all else that reads it: its gradient and the gates'
    /// are added where theirs is made.
    /// </returns>
    public static (Tensor Input, Tensor Forget, Tensor X) Forward(
        Tensor x, (Tensor? Weight, Tensor? Bias) input, (Tensor? Weight, Tensor? Bias) forget, int heads, double? cap)
    {
        using var scope = NewDisposeScope();

        // A model that was moved to bfloat16 as a whole has such gates, too.
        (input, forget) = (Widened(input), Widened(forget));
        var leaves = LeafGradients.Of(input.Weight, forget.Weight, input.Bias, forget.Bias);
        var call = new Call(heads, (float)(cap ?? 0), [input.Bias is not null, forget.Bias is not null], leaves);
        var outputs = Function.apply(x, input.Weight!, forget.Weight!, input.Bias!, forget.Bias!, call);
        return (outputs[0].MoveToOuterDisposeScope(), outputs[1].MoveToOuterDisposeScope(), outputs[2].MoveToOuterDisposeScope());
    }

    private static (Tensor? Weight, Tensor? Bias) Widened((Tensor? Weight, Tensor? Bias) gate) =>
        (gate.Weight?.Widened(), gate.Bias?.Widened());

    /// <summary>What one call computes, beside its tensors; a gate without a bias does not exist.</summary>
    private sealed record Call(int Heads, float Cap, bool[] Exists, LeafGradients? Leaves);

    /// <summary>What follows from widths. Forward, W is in shared memory as far as about 110 KiB go.</summary>
    private readonly record struct Sizes(long Dim, int Heads)
    {
        public int Tiles => (2 * Heads + 7) / 8; // of eight outputs

        public string[] Defines =>
        [
            $"DIM={Dim}", $"HEADS={Heads}", $"TILES={Tiles}", $"WARPS={Warps}",
            $"FORWARD_CHANNELS={ForwardChannels}", $"FORWARD_BYTES={ForwardShared}", $"INPUT_CHANNELS={InputChannels}",
            $"INPUT_BYTES={InputShared}",
            $"WEIGHT_WARPS={WeightWarps}", $"WEIGHT_BLOCKS={WeightBlocks}", $"WEIGHT_TOKENS={Step}",
        ];

        public int WeightWarps => Dim > 960 ? 16 : (int)((Dim + 63) / 64);

        public int WeightBlocks => WeightWarps > 12 || (Tiles > 1 && WeightWarps > 6) ? 1 : 2; // a multiprocessor

        public int ForwardShared => 24 * Tiles * (2 * ForwardChannels + 64);

        public int InputShared => 32 * Tiles * InputChannels;

        private int ForwardChannels => Math.Min((18773 / (8 * Tiles) - 32) / 128 * 128, (int)((Dim + 127) / 128 * 128));
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            var (x, call) = ((Tensor)vars[0], (Call)vars[5]);
            var (weights, biases) = (new[] { (Tensor?)vars[1], (Tensor?)vars[2] }, new[] { (Tensor?)vars[3], (Tensor?)vars[4] });
            var (batch, length) = (x.size(0), x.size(1));
            var sizes = new Sizes(x.size(2), call.Heads);
            var tokens = (int)(batch * length);
            var outputs = biases.Select(b => b is null
                ? zeros(batch, call.Heads, length, dtype: ScalarType.Float32, device: x.device)
                : empty(batch, call.Heads, length, dtype: ScalarType.Float32, device: x.device)).ToList();
            Kernel.Launch(
                Source, "gate_forward", sizes.Defines, new(Blocks(x, tokens), 32 * Warps, sizes.ForwardShared), x,
                x, weights[0], weights[1], biases[0], biases[1], biases[0] is null ? null : outputs[0],
                biases[1] is null ? null : outputs[1],
                tokens, (int)length, call.Cap);
            ctx.Save(null, x, outputs[0].detach(), outputs[1].detach(), weights[0], weights[1]);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            return [.. outputs, x.detach()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (x, input, forget, inputWeight, forgetWeight) = (saved[0]!, saved[1]!, saved[2]!, saved[3], saved[4]);
            var (batch, length, dim) = (x.size(0), x.size(1), x.size(2));
            var (sizes, heads, tokens) = (new Sizes(dim, call.Heads), call.Heads, (int)(batch * length));
            var dp = gradients.Take(2).Select((g, k) => g.IsInvalid || !call.Exists[k] ? null : g.contiguous()).ToArray();

            var past = gradients[2].IsInvalid ? null : gradients[2].contiguous();
            var dx = empty_like(x);
            Kernel.Launch(
                Source, "gate_backward_input", sizes.Defines,
                new(Blocks(x, tokens), 32 * Warps, sizes.InputShared)
                {
                    BlocksY = (int)((dim + InputChannels - 1) / InputChannels),
                },
                x, dp[0], dp[1], input, forget, inputWeight, forgetWeight, past, dx, tokens, (int)length, call.Cap);

            // A row of the partial sums has both weights' gradients, then both biases', each from a multiple of 4 on.
            var (weight, bias) = (heads * dim, (heads + 3) / 4 * 4);
            var blocks = Math.Min((tokens + Step - 1) / Step, sizes.WeightBlocks * Kernel.Multiprocessors(x));
            var partials = LeafGradients.Partials(call.Leaves, blocks, 2 * (weight + bias), x.device);
            var channels = 64 * sizes.WeightWarps;
            Kernel.Launch(
                Source, "gate_backward_weight", sizes.Defines,
                new(blocks, 32 * sizes.WeightWarps, 160 * Step)
                {
                    BlocksY = (int)((dim + channels - 1) / channels),
                    BlocksZ = (2 * heads + 15) / 16,
                },
                x, dp[0], dp[1], input, forget, x, partials, partials.size(1),
                0, (int)weight, (int)(2 * weight), (int)(2 * weight) + bias, tokens, (int)length, call.Cap);
            var sums = LeafGradients.GiveSums(
                call.Leaves, partials,
                inputWeight is null ? null : new SumPart(0, heads, dim), forgetWeight is null ? null : new SumPart(weight, heads, dim),
                call.Exists[0] ? new SumPart(2 * weight, heads) : null, call.Exists[1] ? new SumPart(2 * weight + bias, heads) : null);
            return [dx, .. sums, null];
        }

        private static long Blocks(Tensor x, int tokens) => Math.Min(
            (tokens + 16 * Warps - 1) / (16 * Warps), 2 * Kernel.Multiprocessors(x));
    }
}
