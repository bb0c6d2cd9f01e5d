using static TorchSharp.torch;
using static XlstmLab.Operations.CpuMemory;

namespace XlstmLab.Operations;

/// <summary>
/// Norms on the CPU in one pass over memory: of the residual stream with the addition before them, and of heads under their output gate.
/// </summary>
internal static class NormFused
{
    /// <summary>y = sigmoid(o) (weight norm(x) + bias), the norm over groups of neighbouring channels.</summary>
    /// <param name="x">[..., C] float32.</param>
    /// <param name="weight">[C].</param>
    /// <param name="bias">[C], or null.</param>
    /// <param name="epsilon">Added to the mean square or the variance.</param>
    /// <param name="center">Whether the mean is taken out.</param>
    /// <param name="groups">The number of groups, a divisor of C.</param>
    /// <param name="o">[..., C] pre-activation of a gate, or null.</param>
    public static Tensor Forward(Tensor x, Tensor weight, Tensor? bias, double epsilon, bool center, int groups = 1, Tensor? o = null)
    {
        using var scope = NewDisposeScope();
        var call = new Call((int)x.shape[^1] / groups, center, (float)epsilon);
        return Function.apply(x, null!, weight, bias!, o!, call)[0].MoveToOuterDisposeScope();
    }

    /// <summary>x + delta, both [..., C], and its norm.</summary>
    /// <inheritdoc cref="Forward"/>
    public static (Tensor Sum, Tensor Y) AddForward(Tensor x, Tensor delta, Tensor weight, Tensor? bias, double epsilon, bool center)
    {
        using var scope = NewDisposeScope();
        var outputs = Function.apply(x, delta, weight, bias!, null!, new Call((int)x.shape[^1], center, (float)epsilon));
        return (outputs[1].MoveToOuterDisposeScope(), outputs[0].MoveToOuterDisposeScope());
    }

    private sealed record Call(int Group, bool Center, float Epsilon)
    {
        public NormLoops Loops(Tensor x) => new((int)(x.NumberOfElements / x.shape[^1]), (int)x.shape[^1], Group, Center, Epsilon);
    }

    private sealed class Function : GradientFunction<Function>
    {
        protected override unsafe List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (x, delta, call) = (((Tensor)vars[0]).contiguous(), ((Tensor?)vars[1])?.contiguous(), (Call)vars[5]);
            var (weight, bias, o) = (((Tensor)vars[2]).contiguous(), ((Tensor?)vars[3])?.contiguous(), (Tensor?)vars[4]);
            var (gate, distance) = Gate(o);
            var sum = delta is null ? null : empty(x.shape);
            var y = empty(x.shape);
            call.Loops(x).Forward(
                Floats(x), Floats(delta), Floats(weight), Floats(bias), Floats(gate), distance, Floats(sum), Floats(y));
            ctx.Save(scope, sum is null ? x : sum.detach(), weight, bias, gate);
            ctx.save_data("call", call);
            ctx.set_materialize_grads(false);
            y.MoveToOuterDisposeScope();
            return sum is null ? [y] : [y, sum.MoveToOuterDisposeScope()];
        }

        protected override unsafe List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, call) = (ctx.Load(), (Call)ctx.get_data("call"));
            var (x, weight, bias) = (saved[0]!, saved[1]!, saved[2]);
            var (gate, distance) = Gate(saved[3]);
            var added = gradients.Count > 1;
            var past = added && !gradients[1].IsInvalid ? gradients[1].contiguous() : null;
            var dY = gradients[0].IsInvalid ? zeros_like(x) : gradients[0].contiguous();
            var loops = call.Loops(x);
            var (dX, dO) = (empty(x.shape), gate is null ? null : empty(x.shape));
            var dWeight = empty([loops.Pieces.Count, x.shape[^1]]);
            var dBias = bias is null ? null : empty_like(dWeight);
            loops.Backward(
                Floats(x), Floats(weight), Floats(bias), Floats(gate), distance, Floats(dY), Floats(past),
                Floats(dX), Floats(dO), Floats(dWeight), Floats(dBias));
            return
            [
                dX, added ? dX.alias() : null, SumInOrder(dWeight), dBias is null ? null : SumInOrder(dBias), dO, null,
            ];
        }

        private static (Tensor? Gate, nint Distance) Gate(Tensor? o)
        {
            if (o is null)
            {
                return (null, 0);
            }

            var (rows, _, _, distance) = Rows(o);
            return (rows, distance);
        }
    }
}
