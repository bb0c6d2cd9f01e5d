using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The forms' gradients where gates are extreme, denominators small or sequences long.</summary>
public sealed class MLstmGradientTests
{
    private static readonly double[] Extremes = [-1e4, -100, -88, -50, -15, -1, 0, 1, 15, 50, 88, 100, 1e4];

    public static TheoryData<InputGate, ForgetGate, bool, NormalizerGradient> Cells()
    {
        var data = new TheoryData<InputGate, ForgetGate, bool, NormalizerGradient>();
        foreach (var input in Enum.GetValues<InputGate>())
        {
            foreach (var forget in Enum.GetValues<ForgetGate>())
            {
                data.Add(input, forget, true, NormalizerGradient.Exact);
                data.Add(input, forget, true, NormalizerGradient.Constant);
                data.Add(input, forget, false, NormalizerGradient.Exact);
            }
        }

        return data;
    }

    /// <summary>Every pair of extreme gates is a head.</summary>
    [Theory]
    [MemberData(nameof(Cells))]
    public void Gradients_ExtremeGates_EqualTheRecurrentFormInFloat64(
        InputGate input, ForgetGate forget, bool normalize, NormalizerGradient rule)
    {
        const int Dk = 3, Dv = 2;
        var options = new MLstmOptions
        {
            InputGate = input,
            ForgetGate = forget,
            Normalize = normalize,
            NormalizerGradient = rule,
            ChunkSize = 2,
        };
        var heads = Extremes.Length * Extremes.Length;
        var texts = LongTests.Cases(all: new[] { (1, false), (1, true), (2, false), (5, true) }, few: [(1, false), (5, true)]);
        foreach (var (length, withState) in texts)
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)(length + 1), CPU);
            Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float64, generator: generator);
            Tensor Gate(Func<int, double> value) =>
                tensor(Enumerable.Range(0, heads).Select(value).ToArray(), ScalarType.Float64).view(1, heads, 1).expand(1, heads, length);
            // Keys that queries are not orthogonal to, as small denominators have tests of their own.
            Tensor[] inputs =
            [
                Draw(1, heads, length, Dk).abs() + 0.1, Draw(1, heads, length, Dk).abs() + 0.1, Draw(1, heads, length, Dv),
                Gate(h => Extremes[h / Extremes.Length]), Gate(h => Extremes[h % Extremes.Length]),
                Draw(1, heads, Dk, Dv), Draw(1, heads, Dk).abs() + 0.1,
                options.Stabilizes ? Draw(1, heads, 1).round() + 0.25 : zeros(1, heads, 1, dtype: ScalarType.Float64),
            ];
            Tensor[] weights = [Draw(1, heads, length, Dv), Draw(1, heads, Dk, Dv), Draw(1, heads, Dk)];

            Tensor[] Run(MLstmForm form, ScalarType type)
            {
                var leaves = inputs.Take(withState ? 8 : 5).Select(x => x.to(type).detach().clone().requires_grad_()).ToArray();
                var initial = withState ? new MLstmState(leaves[5], leaves[6], leaves[7]) : null;
                var (h, last) = MLstmCell.Forward(
                    leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], initial, null, options with { Form = form });

                // The memory as it is, exp(m) C, up to a factor: which of two equal gates made m is a matter of rounding.
                var unit = (last.M - last.M.detach()).exp();
                Tensor[] results = [h, last.C * unit.unsqueeze(3), last.N * unit];
                results.Zip(weights, (result, weight) => (result * weight.to(type)).sum()).Aggregate((sum, part) => sum + part).backward();
                return [.. results, last.M, .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
            }

            var expected = Run(MLstmForm.Recurrent, ScalarType.Float64);
            Assert.All(expected, value => Assert.True(value.isfinite().all().item<bool>()));
            string[] names = ["h", "c", "n", "m", "dq", "dk", "dv", "di", "df", "dc0", "dn0", "dm0"];
            foreach (var form in Enum.GetValues<MLstmForm>())
            {
                foreach (var (type, bound) in new[] { (ScalarType.Float64, 1e-9), (ScalarType.Float32, 1e-4) })
                {
                    var actual = Run(form, type);
                    for (var n = 0; n < expected.Length; n++)
                    {
                        var (e, a) = (expected[n].flatten(2), actual[n].to(ScalarType.Float64).flatten(2));
                        var errors = (a - e).abs().amax([2]) / (e.abs().amax([2]) + 1); // (1, NH)
                        var worst = (int)errors.nan_to_num(nan: double.MaxValue).argmax().item<long>();
                        var error = errors[0, worst].item<double>();
                        Assert.True(
                            error <= bound,
                            $"{form} {type} {names[n]}, S = {length}, i~ = {Extremes[worst / Extremes.Length]}, "
                            + $"f~ = {Extremes[worst % Extremes.Length]}: error {error:E1}");
                    }
                }
            }
        }
    }

    /// <summary>Denominators about epsilon, in units of exp(m): h depends on m, and so on the gates that made it.</summary>
    [Theory]
    [InlineData(MLstmForm.Parallel)]
    [InlineData(MLstmForm.Chunkwise)]
    public void Gradients_DenominatorsNearEpsilon_EqualTheRecurrentForm(MLstmForm form)
    {
        // Four have every layout, forget gate and rate of decay.
        for (var seed = 1; seed <= LongTests.Cases(all: 12, few: 4); seed++)
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)seed, CPU);
            Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float64, generator: generator);
            const int Batch = 2, Heads = 2, Length = 41, Dk = 3, Dv = 4;
            Tensor[] inputs =
            [
                Draw(Batch, Heads, Length, Dk), Draw(Batch, Heads, Length, Dk) * 1e-5, Draw(Batch, Heads, Length, Dv),
                Draw(Batch, Heads, Length) * 3 + 15, Draw(Batch, Heads, Length) * 2 + (seed % 3 * 2),
                Draw(Batch, Heads, Dk, Dv), Draw(Batch, Heads, Dk) * 1e-5, Draw(Batch, Heads, 1) + 12,
            ];
            var layout = seed % 2 == 0
                ? new SequenceLayout(rand(Batch, Length, generator: generator).lt(0.1), rand(Batch, Length, generator: generator).lt(0.1))
                : null;
            Tensor[] weights = [Draw(Batch, Heads, Length, Dv), Draw(Batch, Heads, Dk, Dv), Draw(Batch, Heads, Dk), Draw(Batch, Heads, 1)];

            Tensor[] Run(MLstmForm of)
            {
                var leaves = inputs.Select(x => x.detach().clone().requires_grad_()).ToArray();
                var (h, last) = MLstmCell.Forward(
                    leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], new(leaves[5], leaves[6], leaves[7]), layout,
                    new() { Form = of, ChunkSize = 7, ForgetGate = seed % 4 == 3 ? ForgetGate.Exponential : ForgetGate.Sigmoid });
                Tensor[] results = [h, last.C, last.N, last.M];
                results.Zip(weights, (result, weight) => (result * weight).sum()).Aggregate((sum, part) => sum + part).backward();
                return [.. leaves.Select(leaf => leaf.grad!)];
            }

            var (expected, actual) = (Run(MLstmForm.Recurrent), Run(form));
            string[] names = ["dq", "dk", "dv", "di", "df", "dc0", "dn0", "dm0"];
            for (var n = 0; n < names.Length; n++)
            {
                MLstmTests.Near(expected[n], actual[n], 1e-8, $"seed {seed} {names[n]}", 1e-12);
            }
        }
    }

    /// <summary>h is (q k) v over (q k + epsilon), whatever the gates.</summary>
    [Theory]
    [InlineData(MLstmForm.Recurrent)]
    [InlineData(MLstmForm.Parallel)]
    [InlineData(MLstmForm.Chunkwise)]
    public void Gradients_OneScaleForAllTokens_AreZero(MLstmForm form)
    {
        using var scope = NewDisposeScope();
        Tensor Numbers(double first, double second, params long[] shape) =>
            tensor(new[] { first, second }, ScalarType.Float64).view(shape).requires_grad_();
        var (q, k, v) = (Numbers(0, 1, 1, 1, 2, 1), Numbers(0, 1e-5, 1, 1, 2, 1), Numbers(0, 1, 1, 1, 2, 1));
        var (i, f) = (Numbers(15, 15, 1, 1, 2), Numbers(0, 0, 1, 1, 2));
        MLstmCell.ForwardOutput(q, k, v, i, f, options: new() { Form = form }).sum().backward();
        Assert.Equal(0, i.grad!.abs().max().item<double>(), 1e-15);
        Assert.Equal(0, f.grad!.abs().max().item<double>(), 1e-15);
    }

    /// <summary>Sums of thousands of log gates in float32, and denominators that amplify what is wrong with them.</summary>
    [Theory]
    [InlineData(MLstmForm.Parallel, 1)]
    [InlineData(MLstmForm.Chunkwise, 64)]
    [InlineData(MLstmForm.Chunkwise, 256)]
    public void Forward_LongSequenceWithSmallDenominators_KeepsItsDigits(MLstmForm form, int chunk)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5, CPU);
        const int Length = 2048;
        Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float32, generator: generator);
        Tensor[] inputs =
        [
            Draw(1, 1, Length, 16), Draw(1, 1, Length, 16), Draw(1, 1, Length, 16), Draw(1, 1, Length) + 10, Draw(1, 1, Length) * 2,
        ];
        Tensor[] Run(MLstmOptions options, ScalarType type)
        {
            var leaves = inputs.Select(x => x.to(type).detach().clone().requires_grad_()).ToArray();
            var h = MLstmCell.ForwardOutput(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], options: options);
            h.sum().backward();
            return [h, .. leaves.Select(leaf => leaf.grad!)];
        }

        var expected = Run(new() { Form = MLstmForm.Chunkwise, ChunkSize = 16 }, ScalarType.Float64);
        var actual = Run(new() { Form = form, ChunkSize = chunk }, ScalarType.Float32);
        string[] names = ["h", "dq", "dk", "dv", "di", "df"];
        for (var n = 0; n < names.Length; n++)
        {
            MLstmTests.Near(expected[n], actual[n], n is 0 or 3 ? 1e-4 : 2e-3, names[n]);
        }
    }

    [Fact]
    public void StateSpaceDual_ChunksThatForgetMuch_KeepTheirDigits()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(7, CPU);
        const int Length = 512, Heads = 2;
        Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float32, generator: generator);
        var (x, b, c) = (Draw(1, Length, Heads, 8), Draw(1, Length, 1, 8), Draw(1, Length, 1, 8));
        var (dt, a) = (Draw(1, Length, Heads).abs(), tensor(new[] { -1f, -8f }));
        Tensor Run(ScalarType type) =>
            StateSpaceDual.Forward(x.to(type), dt.to(type), a.to(type), b.to(type), c.to(type), chunkSize: 256).Y;
        MLstmTests.Near(Run(ScalarType.Float64), Run(ScalarType.Float32), 1e-6, "y");
    }

    /// <summary>Steps and rates from nothing to far beyond float32's exponentials.</summary>
    [Fact]
    public void SelectiveScan_ExtremeSteps_EveryFormHasTheRecurrencesGradients()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(8, CPU);
        double[] steps = [0, 1e-30, 1e-4, 1, 88, 1e4], rates = [0, -1e-4, -1, -88, -1e4];
        const int Length = 5;
        var dim = steps.Length * rates.Length;
        Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float64, generator: generator);
        Tensor[] inputs =
        [
            Draw(1, Length, dim),
            tensor(Enumerable.Range(0, dim).Select(d => steps[d / rates.Length]).ToArray(), ScalarType.Float64).expand(1, Length, dim),
            tensor(Enumerable.Range(0, dim).Select(d => rates[d % rates.Length]).ToArray(), ScalarType.Float64).view(dim, 1).expand(dim, 2),
            Draw(1, Length, 2), Draw(1, Length, 2),
        ];
        Tensor[] Run(Func<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> form, ScalarType type)
        {
            var leaves = inputs.Select(t => t.to(type).detach().clone().requires_grad_()).ToArray();
            var y = form(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4]);
            y.sum().backward();
            return [y, .. leaves.Select(leaf => leaf.grad!)];
        }

        var expected = Run((x, dt, a, b, c) => SelectiveScan.Recurrent(x, dt, a, b, c).Y, ScalarType.Float64);
        foreach (var (type, bound) in new[] { (ScalarType.Float64, 1e-12), (ScalarType.Float32, 1e-4) })
        {
            foreach (var actual in new[]
            {
                Run((x, dt, a, b, c) => SelectiveScan.Recurrent(x, dt, a, b, c).Y, type),
                Run((x, dt, a, b, c) => SelectiveScanFused.Forward(x, dt, a, b, c).Y, type),
                Run((x, dt, a, b, c) => SelectiveScanChunked.Forward(x, dt, a, b, c).Y, type),
            })
            {
                for (var n = 0; n < expected.Length; n++)
                {
                    MLstmTests.Near(expected[n], actual[n], bound, $"{type} {n}");
                }
            }
        }
    }

    /// <summary>Every pair of extreme gates is a unit; where both exponents are equal, the memory's scale is the past's.</summary>
    [Theory]
    [InlineData(ForgetGate.Sigmoid)]
    [InlineData(ForgetGate.Exponential)]
    public void SLstm_ExtremeGates_FusedAndSingleEqualTheRecurrenceInFloat64(ForgetGate forget)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(9, CPU);
        const int Length = 4;
        var units = Extremes.Length * Extremes.Length;
        Tensor Draw(params long[] shape) => randn(shape, ScalarType.Float64, generator: generator);
        Tensor Gate(Func<int, double> value) =>
            tensor(Enumerable.Range(0, units).Select(value).ToArray(), ScalarType.Float64).expand(1, Length, 1, 1, units);
        Tensor[] inputs =
        [
            cat([Gate(u => Extremes[u / Extremes.Length]), Gate(u => Extremes[u % Extremes.Length]), Draw(1, Length, 2, 1, units)], 2),
            zeros(1, 4, units, units, dtype: ScalarType.Float64), zeros(4, 1, units, dtype: ScalarType.Float64),
        ];
        Tensor[] weights = [Draw(1, 1, Length, units), Draw(1, 1, units), Draw(1, 1, units), Draw(1, 1, units)];
        Tensor[] Run(bool fused, ScalarType type, int tokens)
        {
            Tensor[] read = [inputs[0].narrow(1, 0, tokens), inputs[1], inputs[2]];
            var leaves = read.Select(t => t.to(type).detach().clone().requires_grad_()).ToArray();
            var options = new SLstmOptions { ForgetGate = forget };
            var (h, last) = fused
                ? SLstmFused.Forward(leaves[0], leaves[1], leaves[2], options: options)
                : SLstmRecurrent.Forward(leaves[0], leaves[1], leaves[2], options: options);
            Tensor[] results = [h, last.C, last.N, last.M];
            Tensor[] weighed = [weights[0].narrow(2, 0, tokens), .. weights[1..]];
            results.Zip(weighed, (result, weight) => (result * weight.to(type)).sum()).Aggregate((sum, part) => sum + part).backward();
            return [.. results, leaves[0].grad!, leaves[2].grad!];
        }

        foreach (var tokens in new[] { 1, Length })
        {
            var expected = Run(false, ScalarType.Float64, tokens);
            foreach (var (fused, type, bound) in new[]
            {
                (true, ScalarType.Float64, 1e-12), (false, ScalarType.Float32, 1e-4), (true, ScalarType.Float32, 1e-4),
            })
            {
                var actual = Run(fused, type, tokens);
                for (var n = 0; n < expected.Length; n++)
                {
                    MLstmTests.Near(expected[n], actual[n], bound, $"{(fused ? "fused" : "recurrent")} {type} {n}");
                }
            }
        }
    }
}
