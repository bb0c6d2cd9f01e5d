using CsCheck;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class MLstmTests
{
    public static TheoryData<string, MLstmForm, int> GoldenCases()
    {
        var data = new TheoryData<string, MLstmForm, int>();
        foreach (var path in Directory.GetFiles(TestSetup.Golden(), "mlstm_*.safetensors").Order(StringComparer.Ordinal))
        {
            var name = Path.GetFileNameWithoutExtension(path);
            data.Add(name, MLstmForm.Recurrent, 1);
            data.Add(name, MLstmForm.Parallel, 1);
            foreach (var chunk in new[] { 1, 7, 16, 64, 1000 })
            {
                data.Add(name, MLstmForm.Chunkwise, chunk);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(GoldenCases))]
    public void Forward_GoldenCase_EqualsPublishedImplementation(string name, MLstmForm form, int chunk)
    {
        using var scope = NewDisposeScope();
        var golden = GoldenTensors.Read(TestSetup.Golden($"{name}.safetensors"));
        var options = new MLstmOptions
        {
            InputGate = name.Contains("_sig_", StringComparison.Ordinal) ? InputGate.Sigmoid : InputGate.Exponential,
            Normalize = !name.EndsWith("_nonorm", StringComparison.Ordinal),
            Form = form,
            ChunkSize = chunk,
        };
        var inputs = new[] { "q", "k", "v", "i", "f", "c0", "n0" }.Where(golden.ContainsKey)
            .ToDictionary(n => n, n => golden[n].requires_grad_());
        var initial = golden.ContainsKey("c0") ? new MLstmState(inputs["c0"], inputs["n0"], golden["m0"]) : null;

        var (h, last) = MLstmCell.Forward(inputs["q"], inputs["k"], inputs["v"], inputs["i"], inputs["f"], initial, null, options);
        (h * golden["dh"]).sum().backward();

        Near(golden["h"], h, 1e-9, "h");
        if (golden.TryGetValue("c_last", out var cLast))
        {
            Near(cLast, last.C, 1e-9, "c_last");
            Near(golden["n_last"], last.N, 1e-9, "n_last");
            Near(golden["m_last"], last.M, 1e-9, "m_last");
        }

        foreach (var (input, value) in inputs)
        {
            Near(golden["d" + input], value.grad!, 1e-8, "d" + input);
        }
    }

    /// <summary>Random shapes, lengths, chunk sizes, gates and boundaries: the three forms are one function, with one gradient.</summary>
    [Fact]
    public void Forms_RandomCases_AreEqual() =>
        Gen.Select(
                Gen.Int[1, 3], Gen.Int[1, 3], Gen.Int[1, 45], Gen.Int[1, 9], Gen.Int[1, 9], Gen.Int[1, 50],
                Gen.Select(Gen.Enum<InputGate>(), Gen.Enum<ForgetGate>(), Gen.Bool, Gen.Bool, Gen.Bool, Gen.Bool), Gen.Int[0, 1_000_000])
            .Sample(
                (batch, heads, length, dk, dv, chunk, flags, seed) =>
                {
                    var (inputGate, forgetGate, normalize, withState, withStarts, withPadding) = flags;
                    using var scope = NewDisposeScope();
                    var generator = new Generator((ulong)seed, CPU);
                    var options = new MLstmOptions
                    {
                        InputGate = inputGate,
                        ForgetGate = forgetGate,
                        Normalize = normalize,
                        ChunkSize = chunk,
                        Epsilon = seed % 2 == 0 ? 1e-6 : 1e-2,
                    };
                    var gateScale = 1 + seed % 7;
                    var inputs = new List<Tensor>
                    {
                        Random(generator, batch, heads, length, dk),
                        Random(generator, batch, heads, length, dk),
                        Random(generator, batch, heads, length, dv),
                        Random(generator, batch, heads, length) * gateScale - seed % 11,
                        Random(generator, batch, heads, length) * gateScale + seed % 5,
                    };
                    if (withState)
                    {
                        inputs.Add(Random(generator, batch, heads, dk, dv));
                        inputs.Add(Random(generator, batch, heads, dk));
                    }

                    var m0 = options.Stabilizes ? Random(generator, batch, heads, 1) : zeros(batch, heads, 1, dtype: ScalarType.Float64);
                    var layout = new SequenceLayout(
                        withStarts ? rand(batch, length, generator: generator).lt(0.15) : null,
                        withPadding ? rand(batch, length, generator: generator).lt(0.2) : null);
                    var dh = Random(generator, batch, heads, length, dv);
                    var dc = Random(generator, batch, heads, dk, dv);

                    List<Tensor> Run(MLstmForm form)
                    {
                        var leaves = inputs.Select(x => x.detach().clone().requires_grad_()).ToList();
                        var initial = withState ? new MLstmState(leaves[5], leaves[6], m0) : null;
                        var (h, last) = MLstmCell.Forward(
                            leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], initial, layout, options with { Form = form });
                        // A padded position's output has no meaning, so it gets no weight.
                        var weight = layout.Padding is { } padding ? dh.masked_fill(padding.unsqueeze(1).unsqueeze(3), 0.0) : dh;
                        ((h * weight).sum() + (last.C * dc).sum() + last.M.sum()).backward();
                        var visible = layout.Padding is { } absent ? h.masked_fill(absent.unsqueeze(1).unsqueeze(3), 0.0) : h;
                        return [visible, last.C, last.N, last.M, .. leaves.Select(leaf => leaf.grad ?? zeros_like(leaf))];
                    }

                    var reference = Run(MLstmForm.Recurrent);
                    var parallel = Run(MLstmForm.Parallel);
                    var chunkwise = Run(MLstmForm.Chunkwise);
                    string[] names = ["h", "c", "n", "m", "dq", "dk", "dv", "di", "df", "dc0", "dn0"];
                    for (var i = 0; i < reference.Count; i++)
                    {
                        Near(reference[i], parallel[i], 1e-7, $"parallel {names[i]}", 1e-8);
                        Near(reference[i], chunkwise[i], 1e-7, $"chunkwise {names[i]}", 1e-8);
                    }
                },
                iter: LongTests.Cases(all: 300, few: 50));

    public static TheoryData<InputGate, ForgetGate, bool> Gates()
    {
        var data = new TheoryData<InputGate, ForgetGate, bool>();
        foreach (var input in Enum.GetValues<InputGate>())
        {
            foreach (var forget in Enum.GetValues<ForgetGate>())
            {
                data.Add(input, forget, true);
                data.Add(input, forget, false);
            }
        }

        return data;
    }

    /// <summary>
    /// h_t = sum_j i_j f_(j+1) ... f_t (k_j q_t) v_j over max(|the same of 1 for v|, 1), in numbers without stabiliser or state.
    /// </summary>
    [Theory]
    [MemberData(nameof(Gates))]
    public void Forward_EveryGate_EqualsTheDefinition(InputGate input, ForgetGate forget, bool normalize)
    {
        const int Length = 12, Dk = 3, Dv = 2;
        using var scope = NewDisposeScope();
        using var generator = new Generator(11, CPU);
        var (q, k, v) = (Random(generator, 1, 1, Length, Dk), Random(generator, 1, 1, Length, Dk), Random(generator, 1, 1, Length, Dv));
        var (i, f) = (Random(generator, 1, 1, Length), Random(generator, 1, 1, Length));
        double[] Values(Tensor x) => x.data<double>().ToArray();
        var (qs, ks, vs, it, ft) = (Values(q), Values(k), Values(v), Values(i), Values(f));
        static double Sigmoid(double x) => 1 / (1 + Math.Exp(-x));
        double InputOf(int t) => input switch { InputGate.Exponential => Math.Exp(it[t]), InputGate.Sigmoid => Sigmoid(it[t]), _ => 1 };
        double ForgetOf(int t) => forget switch { ForgetGate.Exponential => Math.Exp(ft[t]), ForgetGate.Sigmoid => Sigmoid(ft[t]), _ => 1 };
        var options = new MLstmOptions { InputGate = input, ForgetGate = forget, Normalize = normalize, Epsilon = 0, ChunkSize = 5 };
        foreach (var form in Enum.GetValues<MLstmForm>())
        {
            for (var t = 0; t < Length; t++)
            {
                var (h, last) = MLstmCell.Forward(
                    q.narrow(2, 0, t + 1), k.narrow(2, 0, t + 1), v.narrow(2, 0, t + 1), i.narrow(2, 0, t + 1), f.narrow(2, 0, t + 1),
                    options: options with { Form = form });
                var expected = new double[Dv];
                var sum = 0.0;
                for (var j = 0; j <= t; j++)
                {
                    var weight = InputOf(j) * Enumerable.Range(j + 1, t - j).Aggregate(1.0, (product, s) => product * ForgetOf(s))
                        * Enumerable.Range(0, Dk).Sum(d => ks[j * Dk + d] * qs[t * Dk + d]) / Math.Sqrt(Dk);
                    sum += weight;
                    for (var d = 0; d < Dv; d++)
                    {
                        expected[d] += weight * vs[j * Dv + d];
                    }
                }

                var scale = normalize ? Math.Max(Math.Abs(sum), 1) : Math.Exp(last.M.item<double>());
                for (var d = 0; d < Dv; d++)
                {
                    Assert.Equal(expected[d] / scale, h[0, 0, t, d].item<double>(), 1e-9);
                }

                Assert.True(options.Stabilizes || last.M.item<double>() == 0);
            }
        }
    }

    [Theory]
    [InlineData(MLstmForm.Recurrent)]
    [InlineData(MLstmForm.Parallel)]
    [InlineData(MLstmForm.Chunkwise)]
    public void Forward_NoGates_EqualSigmoidGatesThatAreFullyOpen(MLstmForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(12, CPU);
        var x = Random(generator, 3, 1, 2, 19, 4);
        var gates = Random(generator, 2, 1, 2, 19);
        var options = new MLstmOptions { InputGate = InputGate.Sigmoid, Form = form, ChunkSize = 6 };

        var (open, state) = MLstmCell.Forward(x[0], x[1], x[2], full_like(gates[0], 1e3), full_like(gates[1], 1e3), options: options);
        var (none, last) = MLstmCell.Forward(
            x[0], x[1], x[2], gates[0], gates[1], options: options with { InputGate = InputGate.None, ForgetGate = ForgetGate.None });

        Near(open, none, 1e-14, "h");
        Near(state.C, last.C, 1e-14, "c");
    }

    /// <summary>The memory grows by exp(15) a token: only its logarithm can be held, across chunks and documents.</summary>
    [Theory]
    [InlineData(MLstmForm.Recurrent, false)]
    [InlineData(MLstmForm.Parallel, false)]
    [InlineData(MLstmForm.Chunkwise, false)]
    [InlineData(MLstmForm.Parallel, true)]
    [InlineData(MLstmForm.Chunkwise, true)]
    public void ExponentialForgetGate_LongGrowth_StaysFinite(MLstmForm form, bool packed)
    {
        LongTests.SkipUnless(packed);
        using var scope = NewDisposeScope();
        using var generator = new Generator(13, CPU);
        const int Length = 700;
        var x = randn([3, 1, 1, Length, 4], generator: generator).requires_grad_();
        var starts = zeros(1, Length, dtype: ScalarType.Bool);
        foreach (var at in packed ? new[] { 0, 40, 41, 300 } : [])
        {
            starts[0, at] = tensor(true);
        }

        foreach (var input in LongTests.Cases(all: Enum.GetValues<InputGate>(), few: [InputGate.Exponential]))
        {
            var gates = randn([1, 1, Length], generator: generator).requires_grad_();
            var options = new MLstmOptions { InputGate = input, ForgetGate = ForgetGate.Exponential, Form = form };
            var (h, last) = MLstmCell.Forward(x[0], x[1], x[2], gates, gates * 0 + 15, layout: new(starts), options: options);
            h.square().sum().backward();

            Assert.Equal(15f * (packed ? 400 : Length), last.M.item<float>(), 20f);
            Assert.All([h, last.C, last.N, x.grad!], value => Assert.True(value.isfinite().all().item<bool>()));
            Assert.True(input == InputGate.None || gates.grad!.isfinite().all().item<bool>());
            var (expected, _) = MLstmCell.Forward(
                x[0].to(ScalarType.Float64), x[1].to(ScalarType.Float64), x[2].to(ScalarType.Float64), gates.to(ScalarType.Float64),
                zeros_like(gates).to(ScalarType.Float64) + 15,
                layout: new(starts), options: options with { Form = MLstmForm.Recurrent });
            Near(expected, h, 1e-3, $"{input}");
        }
    }

    [Fact]
    public void PackedDocuments_EveryForm_EqualSeparateDocuments()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3, CPU);
        int[] lengths = [5, 1, 17, 9];
        var total = lengths.Sum();
        var (q, k, v) = (Random(generator, 1, 2, total, 4), Random(generator, 1, 2, total, 4), Random(generator, 1, 2, total, 6));
        var (i, f) = (Random(generator, 1, 2, total), Random(generator, 1, 2, total) + 2);
        var starts = zeros(1, total, dtype: ScalarType.Bool);
        var separate = new List<Tensor>();
        MLstmState? last = null;
        for (int d = 0, at = 0; d < lengths.Length; at += lengths[d++])
        {
            starts[0, at] = tensor(true);
            (var h, last) = MLstmCell.Forward(
                q.narrow(2, at, lengths[d]), k.narrow(2, at, lengths[d]), v.narrow(2, at, lengths[d]),
                i.narrow(2, at, lengths[d]), f.narrow(2, at, lengths[d]), options: new() { Form = MLstmForm.Recurrent });
            separate.Add(h);
        }

        foreach (var form in Enum.GetValues<MLstmForm>())
        {
            var (h, state) = MLstmCell.Forward(q, k, v, i, f, layout: new(starts), options: new() { Form = form, ChunkSize = 7 });
            Near(cat(separate, 2), h, 1e-12, $"{form} h");
            Near(last!.C, state.C, 1e-12, $"{form} c");
            Near(last.M, state.M, 1e-12, $"{form} m");
        }
    }

    [Theory]
    [InlineData(MLstmForm.Recurrent)]
    [InlineData(MLstmForm.Parallel)]
    [InlineData(MLstmForm.Chunkwise)]
    public void Forward_InTwoParts_EqualsWhole(MLstmForm form)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(4, CPU);
        var x = Random(generator, 5, 2, 3, 33, 8);
        var options = new MLstmOptions { Form = form, ChunkSize = 8 };
        (Tensor, MLstmState) Read(long from, long count, MLstmState? state) =>
            MLstmCell.Forward(
                x[0].narrow(2, from, count), x[1].narrow(2, from, count), x[2].narrow(2, from, count),
                x[3].narrow(2, from, count).select(3, 0), x[4].narrow(2, from, count).select(3, 0), state, null, options);

        var (whole, end) = Read(0, 33, null);
        var (first, middle) = Read(0, 13, null);
        var (second, last) = Read(13, 20, middle);

        Near(whole, cat([first, second], 2), 1e-12, "h");
        Near(end.C, last.C, 1e-12, "c");
        Near(end.N, last.N, 1e-12, "n");
    }

    [Fact]
    public void ConstantNormalizerGradient_AllForms_AgreeAndDifferFromExact()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5, CPU);
        var x = Random(generator, 5, 1, 2, 20, 6) * 2;
        Tensor Gradient(MLstmForm form, NormalizerGradient rule)
        {
            var leaf = x.detach().clone().requires_grad_();
            var (h, _) = MLstmCell.Forward(
                leaf[0], leaf[1], leaf[2], leaf[3].select(3, 0), leaf[4].select(3, 0),
                options: new() { Form = form, ChunkSize = 6, NormalizerGradient = rule });
            h.pow(2).sum().backward();
            return leaf.grad!;
        }

        var reference = Gradient(MLstmForm.Recurrent, NormalizerGradient.Constant);
        Near(reference, Gradient(MLstmForm.Parallel, NormalizerGradient.Constant), 1e-10, "parallel");
        Near(reference, Gradient(MLstmForm.Chunkwise, NormalizerGradient.Constant), 1e-10, "chunkwise");
        var difference = (reference - Gradient(MLstmForm.Recurrent, NormalizerGradient.Exact)).abs().max().item<double>();
        Assert.True(difference > 1e-2, $"the two rules differ by {difference} only");
    }

    [Theory]
    [InlineData(ScalarType.Float32, 1e-5)]
    [InlineData(ScalarType.BFloat16, 1e-2)]
    public void Forward_NarrowTypes_KeepWideState(ScalarType type, double bound)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(6, CPU);
        var x = Random(generator, 3, 2, 2, 70, 16);
        var gates = Random(generator, 2, 2, 2, 70);
        var (expected, _) = MLstmCell.Forward(x[0], x[1], x[2], gates[0], gates[1]);

        var (h, state) = MLstmCell.Forward(x[0].to(type), x[1].to(type), x[2].to(type), gates[0].to(type), gates[1].to(type));

        Assert.Equal(type, h.dtype);
        Assert.Equal(ScalarType.Float32, state.C.dtype);
        Near(expected, h, bound, type.ToString());
    }

    [Fact]
    public void ForwardAndBackward_Repeated_LeaveNoTensors()
    {
        using var generator = new Generator(7, CPU);
        long before = 0;
        for (var step = 0; step < 20; step++)
        {
            using (NewDisposeScope())
            {
                var x = Random(generator, 5, 2, 2, 30, 8).requires_grad_();
                var h = MLstmCell.ForwardOutput(
                    x[0], x[1], x[2], x[3].select(3, 0), x[4].select(3, 0), layout: new(rand(2, 30).lt(0.1)),
                    options: new() { ChunkSize = 8 });
                h.pow(2).sum().backward();
            }

            if (step == 2)
            {
                before = TorchSharp.DisposeScopeManager.Statistics.ThreadTotalLiveCount;
            }
        }

        Assert.Equal(before, TorchSharp.DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    [Fact]
    public void Forward_WrongShapes_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        var (q, v, g) = (zeros(2, 3, 5, 4), zeros(2, 3, 5, 6), zeros(2, 3, 5));
        Assert.Contains(
            "[2, 3, 5, 4]", Assert.Throws<ArgumentException>(() => MLstmCell.Forward(q, zeros(2, 3, 5, 3), v, g, g)).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "igatePreact", Assert.Throws<ArgumentException>(() => MLstmCell.Forward(q, q, v, zeros(2, 3, 4), g)).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "at least one token",
            Assert.Throws<ArgumentException>(() => MLstmCell.Forward(zeros(2, 3, 0, 4), q, v, g, g)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "bool", Assert.Throws<ArgumentException>(() => MLstmCell.Forward(q, q, v, g, g, layout: new(zeros(2, 5)))).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "initial.C",
            Assert.Throws<ArgumentException>(() =>
                MLstmCell.Forward(q, q, v, g, g, MLstmState.Empty(2, 3, 4, 5, ScalarType.Float32))).Message, StringComparison.Ordinal);
    }

    private static Tensor Random(Generator generator, params long[] shape) =>
        randn(shape, dtype: ScalarType.Float64, generator: generator);

    internal static void Near(Tensor expected, Tensor actual, double bound, string what, double floor = 0)
    {
        Assert.Equal(expected.shape, actual.shape);
        var error = ((actual.to(ScalarType.Float64) - expected.to(ScalarType.Float64)).pow(2).mean().sqrt()
            / (expected.to(ScalarType.Float64).pow(2).mean().sqrt() + floor / bound + 1e-30)).item<double>();
        Assert.True(error <= bound, $"{what}: relative RMS error {error:E2}, bound {bound:E1}");
    }
}
