using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The causal convolution of each channel, with SiLU behind it if wanted, in one pass over memory.</summary>
internal static class ConvolutionKernel
{
    private const string Source = "CausalConvolution.cu";
    private const int Vector = 4; // channels of a lane
    private const int Run = 32; // tokens of a warp
    private const int Warps = 8;

    /// <summary>Whether there is a kernel for these inputs and so many taps.</summary>
    public static bool Serves(Tensor x, int taps) => Kernel.Serve(x) && taps is >= 2 and <= 8 && x.shape[2] % Vector == 0;

    /// <summary>y_t = bias + sum over j below K of weight_(K-1-j) x_(t-j), or SiLU of it.</summary>
    /// <param name="x">[B, S, C] bfloat16.</param>
    /// <param name="before">The inputs of the K - 1 tokens before, [B, K - 1, C]; null is zeros.</param>
    /// <param name="weight">[C, K].</param>
    /// <param name="bias">[C], or null.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="activate">Whether SiLU follows.</param>
    /// <param name="room">Where the gradient of x should be written; null is a tensor of its own.</param>
    /// <returns>[B, S, C] bfloat16.</returns>
    public static Tensor Forward(
        Tensor x, Tensor? before, Tensor weight, Tensor? bias, Tensor? starts, bool activate, Func<Tensor>? room = null)
    {
        using var scope = NewDisposeScope();
        return Function.apply(
            TokenRows.Of(x, Vector), before?.to(x.dtype).contiguous()!, weight.to(ScalarType.Float32).contiguous(),
            bias?.to(ScalarType.Float32)!,
            starts?.contiguous()!, new Call(activate, room))[0].MoveToOuterDisposeScope();
    }

    private static string[] Defines(long taps, Call call, Tensor? starts) =>
    [
        $"TAPS={taps}", $"SILU={(call.Activates ? 1 : 0)}", $"LAYOUT={(starts is null ? 0 : 1)}", $"VECTOR={Vector}", $"RUN={Run}",
        $"WARPS={Warps}",
    ];

    private static LaunchShape Shape(Tensor x, int shared) => new((x.shape[2] + 32 * Vector - 1) / (32 * Vector), 32 * Warps, shared)
    {
        BlocksY = (int)((x.shape[1] + Warps * Run - 1) / (Warps * Run)),
        BlocksZ = (int)x.shape[0],
    };

    private sealed record Call(bool Activates, Func<Tensor>? Room);

    private sealed class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, before, weight, bias) = ((Tensor)vars[0], (Tensor?)vars[1], (Tensor)vars[2], (Tensor?)vars[3]);
            var (starts, call) = ((Tensor?)vars[4], (Call)vars[5]);
            var y = empty(x.shape, x.dtype, x.device);
            Kernel.Launch(
                Source, "convolution_forward", Defines(weight.shape[1], call, starts), Shape(x, 0), x,
                x, before, weight, bias, starts, y, TokenRows.Distance(x), (int)x.shape[1], (int)x.shape[2]);
            ctx.Save(scope, x, before, weight, bias, starts);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            return [y.MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (x, before, weight, bias, starts) = (saved[0]!, saved[1], saved[2]!, saved[3], saved[4]);
            var (channels, taps) = (x.shape[2], weight.shape[1]);
            var dy = gradients[0].contiguous();
            var dx = call.Room?.Invoke() ?? empty(x.shape, x.dtype, x.device);
            var dBefore = before is null ? null : empty_like(before);
            var shape = Shape(x, 128 * Vector * Warps);
            var partials = empty(shape.BlocksY * shape.BlocksZ, (taps + 1) * channels, dtype: ScalarType.Float32, device: x.device);
            Kernel.Launch(
                Source, "convolution_backward", Defines(taps, call, starts), shape, x,
                dy, x, before, weight, bias, starts, dx, dBefore, partials,
                TokenRows.Distance(x), TokenRows.Distance(dx), (int)x.shape[1], (int)channels);
            var sums = PartialSums.Of(partials).view(taps + 1, channels);
            return [dx, dBefore, sums.narrow(0, 0, taps).t().contiguous(), bias is null ? null : sums[taps], null, null];
        }
    }
}
