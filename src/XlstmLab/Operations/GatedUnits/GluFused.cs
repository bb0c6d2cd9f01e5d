using System.Numerics;
using System.Runtime.CompilerServices;
using static TorchSharp.torch;
using static XlstmLab.Operations.CpuMemory;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>The middle of a feed-forward layer on the CPU, f(g) u or f(g), in one pass over memory.</summary>
internal static class GluFused
{
    /// <summary>f(g) u, or f(g).</summary>
    /// <param name="g">[..., F] float32.</param>
    /// <param name="u">The same shape, or null.</param>
    /// <param name="kind">Which f.</param>
    public static Tensor Forward(Tensor g, Tensor? u, FeedForwardKind kind)
    {
        using var scope = NewDisposeScope();
        return Function.apply(g, u!, Unit(kind))[0].MoveToOuterDisposeScope();
    }

    /// <summary>f(g) u, or f(g), of numbers in one piece.</summary>
    internal static unsafe void Apply(FeedForwardKind kind, float* g, float* u, float* y, int count) => Apply(Unit(kind), g, u, y, count);

    private static unsafe void Apply(Nonlinearity unit, float* g, float* u, float* y, int count)
    {
        for (var c = 0; c < count; c += Vector<float>.Count)
        {
            var value = Evaluate(unit, LoadPart(g + c, count - c)).Value;
            StorePart(u is null ? value : value * LoadPart(u + c, count - c), y + c, count - c);
        }
    }

    private enum Nonlinearity
    {
        Silu,
        Gelu,
        ReluSquared,
    }

    private static Nonlinearity Unit(FeedForwardKind kind) => kind switch
    {
        FeedForwardKind.SwiGlu => Nonlinearity.Silu,
        FeedForwardKind.GeGlu or FeedForwardKind.Mlp => Nonlinearity.Gelu,
        FeedForwardKind.ReluSquared => Nonlinearity.ReluSquared,
        _ => throw UnknownValue.Of(kind),
    };

    /// <summary>f(x) and f'(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector<float> Value, Vector<float> Slope) Evaluate(Nonlinearity unit, Vector<float> x)
    {
        switch (unit)
        {
            case Nonlinearity.Silu:
                var open = Sigmoid(x);
                var value = x * open;
                return (value, MultiplyAdd(value, Vector<float>.One - open, open));
            case Nonlinearity.Gelu:
                var (share, density) = Normal(x);
                return (x * share, MultiplyAdd(x, density, share));
            case Nonlinearity.ReluSquared:
                var positive = Vector.ConditionalSelect(Vector.LessThan(x, Vector<float>.Zero), Vector<float>.Zero, x);
                return (positive * positive, positive + positive);
            default:
                throw UnknownValue.Of(unit);
        }
    }

    /// <summary>The share of a normal distribution below x, and its density there.</summary>
    private static (Vector<float> Share, Vector<float> Density) Normal(Vector<float> x)
    {
        // 1 - erf(z) = (a1 t + ... + a5 t^5) e^(-z^2) with t = 1 / (1 + p z) for z >= 0, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
        var magnitude = Vector.Abs(x) * 0.707106781f;
        var t = Vector<float>.One / MultiplyAdd(magnitude, new Vector<float>(0.3275911f), Vector<float>.One);
        var p = MultiplyAdd(t, new Vector<float>(1.061405429f), new Vector<float>(-1.453152027f));
        p = MultiplyAdd(p, t, new Vector<float>(1.421413741f));
        p = MultiplyAdd(p, t, new Vector<float>(-0.284496736f));
        p = MultiplyAdd(p, t, new Vector<float>(0.254829592f));
        var e = ExpOfNegative<float>(-(magnitude * magnitude));
        var tail = p * t * e * 0.5f;
        var isNegative = Vector.LessThan(x, Vector<float>.Zero);
        return (Vector.ConditionalSelect(isNegative, tail, Vector<float>.One - tail), e * 0.39894228f);
    }

    private sealed unsafe class Function : GradientFunction<Function>
    {
        protected override List<Tensor> Forward(autograd.AutogradContext ctx, params object[] vars)
        {
            using var scope = NewDisposeScope();
            var (g, count, width, gRow) = Rows((Tensor)vars[0]);
            var u = vars[1] is Tensor given ? Rows(given).Rows : null;
            var uRow = u is null ? 0 : Rows(u).Distance;
            var unit = (Nonlinearity)vars[2];
            var y = empty(g.shape);
            var gData = Floats(g);
            var uData = Floats(u);
            var yData = Floats(y);
            var pieces = new RowPieces(count);
            Share(pieces.Count, (long)count * width * 32, piece =>
            {
                var (first, end) = pieces[piece];
                for (var row = first; row < end; row++)
                {
                    Apply(unit, gData + row * gRow, uData is null ? null : uData + row * uRow, yData + (nint)row * width, width);
                }
            });
            ctx.Save(scope, g, u);
            ctx.save_data("unit", unit);
            ctx.set_materialize_grads(false);
            return [y.MoveToOuterDisposeScope()];
        }

        protected override List<Tensor?> Backward(autograd.AutogradContext ctx, List<Tensor> gradients)
        {
            var (saved, unit) = (ctx.Load(), (Nonlinearity)ctx.get_data("unit"));
            var (g, count, width, gRow) = Rows(saved[0]!);
            var u = saved[1];
            var uRow = u is null ? 0 : Rows(u).Distance;
            var dY = gradients[0].contiguous();
            var (dG, dU) = (empty(g.shape), u is null ? null : empty(g.shape));
            var gData = Floats(g);
            var uData = Floats(u);
            var dYData = Floats(dY);
            var dGData = Floats(dG);
            var dUData = Floats(dU);
            var pieces = new RowPieces(count);
            Share(pieces.Count, (long)count * width * 32, piece =>
            {
                var (first, end) = pieces[piece];
                for (var row = first; row < end; row++)
                {
                    var at = (nint)row * width;
                    var gAt = gData + row * gRow;
                    var uAt = uData is null ? null : uData + row * uRow;
                    for (var c = 0; c < width; c += Vector<float>.Count)
                    {
                        var (value, slope) = Evaluate(unit, LoadPart(gAt + c, width - c));
                        var d = LoadPart(dYData + at + c, width - c);
                        if (uAt is null)
                        {
                            StorePart(d * slope, dGData + at + c, width - c);
                            continue;
                        }

                        StorePart(d * slope * LoadPart(uAt + c, width - c), dGData + at + c, width - c);
                        StorePart(d * value, dUData + at + c, width - c);
                    }
                }
            });
            return [dG, dU, null];
        }
    }
}
