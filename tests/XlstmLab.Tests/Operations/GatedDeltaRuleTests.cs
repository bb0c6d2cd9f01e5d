using CsCheck;
using TorchSharp;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class GatedDeltaRuleTests
{
    private const DeltaRuleForm Recurrent = DeltaRuleForm.Recurrent;
    private const DeltaRuleForm Chunkwise = DeltaRuleForm.Chunkwise;

    public static TheoryData<string, DeltaRuleForm, int> GoldenCases()
    {
        var data = new TheoryData<string, DeltaRuleForm, int>();
        foreach (var path in Directory.GetFiles(TestSetup.Golden(), "gated_delta_*.safetensors").Order(StringComparer.Ordinal))
        {
            var name = Path.GetFileNameWithoutExtension(path);
            data.Add(name, Recurrent, 1);
            foreach (var chunk in new[] { 1, 7, 16, 64, 1000 })
            {
                data.Add(name, Chunkwise, chunk);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(GoldenCases))]
    public void Forward_GoldenCase_EqualsPublishedImplementation(string name, DeltaRuleForm form, int chunk)
    {
        using var scope = NewDisposeScope();
        var golden = GoldenTensors.Read(TestSetup.Golden($"{name}.safetensors"));
        var inputs = new[] { "q", "k", "v", "beta", "g", "s0" }.Where(golden.ContainsKey)
            .ToDictionary(n => n, n => golden[n].requires_grad_());
        Tensor Heads(string input) => inputs[input].transpose(1, 2);

        // Without a decay the case has zeros, which are the same as none.
        var decay = (bool)GoldenTensors.About(TestSetup.Golden($"{name}.safetensors"))["decay"]! ? Heads("g") : null;
        var (o, last) = GatedDeltaRule.Forward(
            GatedDeltaRule.Normalize(Heads("q")), GatedDeltaRule.Normalize(Heads("k")), Heads("v"), Heads("beta"), decay,
            inputs.GetValueOrDefault("s0"), returnState: true, form: form, chunkSize: chunk);
        ((o.transpose(1, 2) * golden["do"]).sum() + (last! * golden["ds_last"]).sum()).backward();

        MLstmTests.Near(golden["o"], o.transpose(1, 2), 1e-9, "o");
        MLstmTests.Near(golden["s_last"], last!, 1e-9, "s_last");
        foreach (var (input, value) in inputs.Where(p => p.Key != "g" || decay is not null))
        {
            MLstmTests.Near(golden["d" + input], value.grad!, 1e-8, "d" + input);
        }
    }

    /// <summary>
    /// Random shapes, lengths, chunk sizes, eigenvalues of either sign, decays from none to all at once, documents, padding and states: the
    /// two forms are one function, with one gradient.
    /// </summary>
    [Fact]
    public void Forms_RandomCases_AreEqual() =>
        Gen.Select(
                Gen.Int[1, 3], Gen.Int[1, 3], Gen.Int[1, 70], Gen.Int[1, 9], Gen.Int[1, 9], Gen.Int[1, 75],
                Gen.Select(Gen.Bool, Gen.Bool, Gen.Bool, Gen.Int[0, 4]), Gen.Int[0, 1_000_000])
            .Sample(
                (batch, heads, length, dk, dv, chunk, flags, seed) =>
                {
                    var (withState, withStarts, withPadding, level) = flags;
                    var strength = new[] { 0, 0.05, 1, 30, 2000 }[level];
                    using var scope = NewDisposeScope();
                    var generator = new Generator((ulong)seed, CPU);
                    var inputs = new List<Tensor>
                    {
                        Random(generator, batch, heads, length, dk),
                        GatedDeltaRule.Normalize(Random(generator, batch, heads, length, dk)),
                        Random(generator, batch, heads, length, dv),
                        2 * rand([batch, heads, length], dtype: ScalarType.Float64, generator: generator),
                        -strength * rand([batch, heads, length], dtype: ScalarType.Float64, generator: generator).square(),
                        Random(generator, batch, heads, dk, dv),
                    };
                    var layout = new SequenceLayout(
                        withStarts ? rand(batch, length, generator: generator).lt(0.15) : null,
                        withPadding ? rand(batch, length, generator: generator).lt(0.2) : null);
                    var dO = Random(generator, batch, heads, length, dv);
                    var dS = Random(generator, batch, heads, dk, dv);

                    List<Tensor> Run(DeltaRuleForm form)
                    {
                        var leaves = inputs.Select(x => x.detach().clone().requires_grad_()).ToList();
                        var (o, last) = GatedDeltaRule.Forward(
                            leaves[0], leaves[1], leaves[2], leaves[3], strength == 0 ? null : leaves[4], withState ? leaves[5] : null,
                            layout, returnState: true, form: form, chunkSize: chunk);

                        // A padded position's output has no meaning, so it gets no weight.
                        var visible = layout.Padding is { } padding ? o.masked_fill(padding.unsqueeze(1).unsqueeze(3), 0.0) : o;
                        ((visible * dO).sum() + (last! * dS).sum()).backward();
                        return [visible, last!, .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
                    }

                    var (reference, chunkwise) = (Run(Recurrent), Run(Chunkwise));
                    string[] names = ["o", "s", "dq", "dk", "dv", "dbeta", "dg", "ds0"];
                    for (var i = 0; i < reference.Count; i++)
                    {
                        MLstmTests.Near(reference[i], chunkwise[i], 1e-9, names[i], 1e-11);
                    }
                },
                iter: LongTests.Cases(all: 200, few: 50));

    /// <summary>S_t = a_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T, in plain numbers.</summary>
    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void Forward_SmallCase_EqualsTheDefinition(DeltaRuleForm form)
    {
        const int Length = 9, Dk = 3, Dv = 2;
        using var scope = NewDisposeScope();
        using var generator = new Generator(21, CPU);
        var (q, k, v) = (Random(generator, 1, 1, Length, Dk), Random(generator, 1, 1, Length, Dk), Random(generator, 1, 1, Length, Dv));
        var (beta, log) = (Random(generator, 1, 1, Length).abs(), -Random(generator, 1, 1, Length).abs());
        double[] Values(Tensor x) => x.data<double>().ToArray();
        var (qs, ks, vs, betas, logs) = (Values(q), Values(k), Values(v), Values(beta), Values(log));

        var (o, last) = GatedDeltaRule.Forward(q, k, v, beta, log, returnState: true, form: form, chunkSize: 4);

        var state = new double[Dk, Dv];
        for (var t = 0; t < Length; t++)
        {
            var before = (double[,])state.Clone();
            for (var i = 0; i < Dk; i++)
            {
                for (var j = 0; j < Dv; j++)
                {
                    var kept = Enumerable.Range(0, Dk).Sum(
                        d => ((i == d ? 1 : 0) - betas[t] * ks[t * Dk + i] * ks[t * Dk + d]) * before[d, j]);
                    state[i, j] = Math.Exp(logs[t]) * kept + betas[t] * ks[t * Dk + i] * vs[t * Dv + j];
                }
            }

            for (var j = 0; j < Dv; j++)
            {
                var expected = Enumerable.Range(0, Dk).Sum(d => state[d, j] * qs[t * Dk + d]) / Math.Sqrt(Dk);
                Assert.Equal(expected, o[0, 0, t, j].item<double>(), 1e-12);
            }
        }

        Assert.Equal(state.Cast<double>(), Values(last!.contiguous()), (a, b) => Math.Abs(a - b) < 1e-12);
    }

    /// <summary>With beta 2 and one key, the state flips at each token: what tells an odd number of tokens from an even one.</summary>
    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void Forward_EigenvalueMinusOne_TellsParity(DeltaRuleForm form)
    {
        using var scope = NewDisposeScope();
        const int Length = 131;
        var key = zeros(1, 1, Length, 4, dtype: ScalarType.Float64);
        key.select(3, 1).fill_(1);
        var beta = full([1, 1, Length], 2.0, dtype: ScalarType.Float64);
        var initial = zeros(1, 1, 4, 1, dtype: ScalarType.Float64);
        initial[0, 0, 1, 0] = 1;

        var (o, _) = GatedDeltaRule.Forward(key, key, zeros(1, 1, Length, 1, dtype: ScalarType.Float64), beta, null, initial, form: form);

        for (var t = 0; t < Length; t++)
        {
            Assert.Equal(t % 2 == 0 ? -0.5 : 0.5, o[0, 0, t, 0].item<double>(), 1e-12);
        }
    }

    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void PackedDocuments_EqualSeparateDocuments(DeltaRuleForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(22, CPU);
        int[] lengths = [5, 1, 17, 9];
        var total = lengths.Sum();
        var x = Inputs(generator, 1, 2, total, 4, 6);
        var starts = zeros(1, total, dtype: ScalarType.Bool);
        var separate = new List<Tensor>();
        Tensor? last = null;
        for (int d = 0, at = 0; d < lengths.Length; at += lengths[d++])
        {
            starts[0, at] = tensor(true);
            (var o, last) = Forward([.. x.Select(input => input.narrow(2, at, lengths[d]))], form: Recurrent);
            separate.Add(o);
        }

        var garbage = Random(generator, 1, 2, 4, 6) * 1e6;
        var (packed, state) = Forward(x, garbage, new(starts), form, 7);

        MLstmTests.Near(cat(separate, 2), packed, 1e-12, "o");
        MLstmTests.Near(last!, state, 1e-12, "state");
    }

    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void Padding_LeavesTheState(DeltaRuleForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(23, CPU);
        var x = Inputs(generator, 1, 2, 20, 4, 6);
        var padding = zeros(1, 20, dtype: ScalarType.Bool);
        padding[0, 3] = tensor(true);
        padding.narrow(1, 11, 9).fill_(true);
        var kept = padding.logical_not().squeeze(0).nonzero().flatten();

        var (o, state) = Forward(x, null, new(Padding: padding), form, 6);
        var (expected, last) = Forward([.. x.Select(input => input.index_select(2, kept))], form: Recurrent);

        MLstmTests.Near(expected, o.index_select(2, kept), 1e-12, "o");
        MLstmTests.Near(last, state, 1e-12, "state");
        var (_, same) = Forward(
            [.. x.Select(input => input.narrow(2, 0, 5))], last, new(Padding: ones(1, 5, dtype: ScalarType.Bool)), form, 3);
        Assert.True(last.equal(same).all().item<bool>(), "padding alone changes the state");
    }

    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void Forward_InTwoParts_EqualsWhole(DeltaRuleForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(24, CPU);
        var x = Inputs(generator, 2, 3, 33, 8, 8);

        var (whole, end) = Forward(x, form: form, chunkSize: 8);
        var (first, middle) = Forward([.. x.Select(input => input.narrow(2, 0, 13))], form: form, chunkSize: 8);
        var (second, last) = Forward([.. x.Select(input => input.narrow(2, 13, 20))], middle, form: form, chunkSize: 8);

        MLstmTests.Near(whole, cat([first, second], 2), 1e-12, "o");
        MLstmTests.Near(end, last, 1e-12, "state");
    }

    /// <summary>A decay of nothing forgets all, as a document's start does, and no difference of infinities is taken.</summary>
    [Theory]
    [InlineData(Recurrent, ScalarType.Float64)]
    [InlineData(Chunkwise, ScalarType.Float64)]
    [InlineData(Recurrent, ScalarType.Float32)]
    [InlineData(Chunkwise, ScalarType.Float32)]
    public void Forward_DecayToNothing_EqualsADocumentStart(DeltaRuleForm form, ScalarType type)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(25, CPU);
        var x = Inputs(generator, 1, 2, 40, 4, 6).Select(input => input.to(type)).ToArray();
        var starts = zeros(1, 40, dtype: ScalarType.Bool);
        starts[0, 9] = starts[0, 10] = tensor(true);
        var log = x[4].masked_fill(starts.unsqueeze(1), double.NegativeInfinity).requires_grad_();

        var (o, state) = Forward([.. x[..4], log], null, null, form, 16);
        (o.sum() + state.sum()).backward();
        var (expected, last) = Forward(x, null, new(starts), Recurrent);

        MLstmTests.Near(expected, o, type == ScalarType.Float64 ? 1e-12 : 1e-5, "o");
        MLstmTests.Near(last, state, type == ScalarType.Float64 ? 1e-12 : 1e-5, "state");
        Assert.True(log.grad!.isfinite().all().item<bool>());
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.BFloat16, 2e-2)]
    public void Forward_NarrowTypes_KeepWideState(ScalarType type, double bound)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(26, CPU);
        var x = Inputs(generator, 2, 2, 300, 16, 16);
        var (expected, _) = Forward(x);

        var (o, state) = Forward([.. x.Select(input => input.to(type))]);

        Assert.Equal(type, o.dtype);
        Assert.Equal(ScalarType.Float32, state.dtype);
        MLstmTests.Near(expected, o, bound, type.ToString());
    }

    /// <summary>Long texts of eigenvalues between -1 and 1 in float32: what rounds does not grow.</summary>
    [Fact]
    public void Forward_LongFloat32_StaysNearFloat64()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(27, CPU);
        var x = Inputs(generator, 1, 2, 3000, 32, 32);
        x[4] = zeros_like(x[4]);
        var (expected, last) = Forward(x, form: Recurrent);

        foreach (var chunk in new[] { 16, 64, 256 })
        {
            var (o, state) = Forward([.. x.Select(input => input.to(ScalarType.Float32))], chunkSize: chunk);

            MLstmTests.Near(expected, o, 1e-5, $"o, chunks of {chunk}");
            MLstmTests.Near(last, state, 1e-5, $"state, chunks of {chunk}");
        }
    }

    [Theory]
    [InlineData(Recurrent)]
    [InlineData(Chunkwise)]
    public void ForwardAndBackward_Repeated_LeaveNoTensors(DeltaRuleForm form)
    {
        using var generator = new Generator(28, CPU);
        long before = 0;
        for (var step = 0; step < 20; step++)
        {
            using (NewDisposeScope())
            {
                var x = Inputs(generator, 2, 2, 30, 8, 8).Select(input => input.requires_grad_()).ToArray();
                var (o, _) = GatedDeltaRule.Forward(
                    x[0], x[1], x[2], x[3], x[4], layout: new(rand(2, 30).lt(0.1)), returnState: step % 2 == 0, form: form, chunkSize: 8);
                o.square().sum().backward();
            }

            if (step == 2)
            {
                before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
            }
        }

        Assert.Equal(before, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Normalize_AnyType_HasLengthOne()
    {
        using var scope = NewDisposeScope();
        var x = randn(5, 8);
        x[2] = 0;
        var unit = GatedDeltaRule.Normalize(x.to(ScalarType.BFloat16));

        Assert.Equal(ScalarType.BFloat16, unit.dtype);
        Assert.Equal([1, 1, 0, 1, 1], unit.to(ScalarType.Float32).norm(1).data<float>().ToArray(), (a, b) => Math.Abs(a - b) < 0.02);
    }

    [Fact]
    public void Forward_WrongShapes_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        var (q, v, beta) = (zeros(2, 3, 5, 4), zeros(2, 3, 5, 6), zeros(2, 3, 5));
        string Refused(Func<object> call) => Assert.ThrowsAny<ArgumentException>(call).Message;
        Assert.Contains("[2, 3, 5, 4]", Refused(() => GatedDeltaRule.Forward(q, v, v, beta)), StringComparison.Ordinal);
        Assert.Contains("beta", Refused(() => GatedDeltaRule.Forward(q, q, v, v)), StringComparison.Ordinal);
        Assert.Contains("logDecay", Refused(() => GatedDeltaRule.Forward(q, q, v, beta, v)), StringComparison.Ordinal);
        Assert.Contains("[2, 3, 4, 6]", Refused(() => GatedDeltaRule.Forward(q, q, v, beta, initial: v)), StringComparison.Ordinal);
        Assert.Contains("bool", Refused(() => GatedDeltaRule.Forward(q, q, v, beta, layout: new(zeros(2, 5)))), StringComparison.Ordinal);
        Assert.Contains(
            "Chunkwise", Refused(() => GatedDeltaRule.Forward(q, q, v, beta, form: (DeltaRuleForm)7)), StringComparison.Ordinal);
    }

    /// <summary>Not a test: times both forms, forward and backward, in float32.</summary>
    [Fact(Explicit = true)]
    public void Forward_BothForms_Timing()
    {
        using var generator = new Generator(29, CPU);
        using var scope = NewDisposeScope();
        var x = Inputs(generator, 1, 4, 1024, 64, 64).Select(input => input.to(ScalarType.Float32).detach().requires_grad_()).ToArray();
        foreach (var (form, chunk) in new[] { (Recurrent, 1), (Chunkwise, 16), (Chunkwise, 32), (Chunkwise, 64), (Chunkwise, 128) })
        {
            double Milliseconds()
            {
                using var step = NewDisposeScope();
                var watch = System.Diagnostics.Stopwatch.StartNew();
                var (o, _) = Forward(x, form: form, chunkSize: chunk);
                o.sum().backward();
                return watch.Elapsed.TotalMilliseconds;
            }

            var best = Enumerable.Range(0, 4).Min(_ => Milliseconds());
            TestContext.Current.TestOutputHelper!.WriteLine(FormattableString.Invariant($"{form} {chunk}: {best:F1} ms"));
        }
    }

    /// <summary>q, unit keys, v, beta in (0, 2) and decays near 1, float64.</summary>
    private static Tensor[] Inputs(Generator generator, long batch, long heads, long length, long dk, long dv) =>
    [
        Random(generator, batch, heads, length, dk),
        GatedDeltaRule.Normalize(Random(generator, batch, heads, length, dk)),
        Random(generator, batch, heads, length, dv),
        2 * rand([batch, heads, length], dtype: ScalarType.Float64, generator: generator),
        -rand([batch, heads, length], dtype: ScalarType.Float64, generator: generator),
    ];

    private static (Tensor Output, Tensor Last) Forward(
        Tensor[] x, Tensor? initial = null, SequenceLayout? layout = null, DeltaRuleForm form = Chunkwise, int chunkSize = 64)
    {
        var (output, last) = GatedDeltaRule.Forward(
            x[0], x[1], x[2], x[3], x[4], initial, layout, returnState: true, form: form, chunkSize: chunkSize);
        return (output, last!);
    }

    private static Tensor Random(Generator generator, params long[] shape) =>
        randn(shape, dtype: ScalarType.Float64, generator: generator);
}
