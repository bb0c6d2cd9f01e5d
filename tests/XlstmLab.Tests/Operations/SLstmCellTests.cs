using CsCheck;
using TorchSharp;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

[CollectionDefinition(nameof(SLstmCellTests), DisableParallelization = true)]
[Collection(nameof(SLstmCellTests))]
public sealed class SLstmCellTests : IDisposable
{
    private readonly int _threads = get_num_threads();

    // Threads that wait for each other over a few numbers are slow where other work runs.
    public SLstmCellTests() => set_num_threads(1);

    public void Dispose() => set_num_threads(_threads);

    private delegate (Tensor H, SLstmState Last) Implementation(
        Tensor gatePreacts, Tensor recurrentKernel, Tensor bias, SLstmState? initial = null, SequenceLayout? layout = null,
        SLstmOptions? options = null);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_PublishedCase_GivesItsOutputsStateAndGradients(bool fused)
    {
        using var scope = NewDisposeScope();
        var golden = GoldenTensors.Read(TestSetup.Golden("slstm_cell.safetensors"));
        var x = golden["x"].requires_grad_();
        var kernel = golden["param._recurrent_kernel_"].requires_grad_();
        var bias = golden["param._bias_"].requires_grad_();

        var (h, last) = Select(fused)(x.view(2, 37, 4, 4, 8), kernel.view(4, 4, 8, 8), bias.view(4, 4, 8));
        (h * golden["dy"]).sum().backward();

        AssertClose(golden["y"], h, 1e-5);
        var state = golden["state_last"].view(4, 2, 4, 8).unbind(0);
        AssertClose(state[0], last.H, 1e-5);
        AssertClose(state[1], last.C, 1e-5);
        AssertClose(state[2], last.N, 1e-5);
        AssertClose(state[3], last.M, 1e-5);
        AssertClose(golden["dx"], x.grad!, 1e-5);
        AssertClose(golden["grad._recurrent_kernel_"], kernel.grad!, 1e-5);
        AssertClose(golden["grad._bias_"], bias.grad!, 1e-5);
    }

    [Theory]
    [InlineData(ForgetGate.Sigmoid)]
    [InlineData(ForgetGate.Exponential)]
    public void Forward_AnyCase_FusedEqualsRecurrentInFloat64(ForgetGate forgetGate) =>
        Cases.Sample(
            c =>
            {
                var options = new SLstmOptions { ForgetGate = forgetGate };
                var expected = RunWithGradients(SLstmRecurrent.Forward, c, ScalarType.Float64, options);
                var exact = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float64, options);
                var single = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float32, options);
                var recurrent = RunWithGradients(SLstmRecurrent.Forward, c, ScalarType.Float32, options);
                foreach (var (name, value) in expected)
                {
                    AssertClose(value, exact[name], 1e-11, $"{name} of {c} in float64");

                    // Where terms of a few numbers cancel, no way of computing in float32 is nearer than float32 allows.
                    AssertClose(value, single[name], 2e-5 + (4 * RelativeError(value, recurrent[name])), $"{name} of {c} in float32");
                }
            },
            iter: LongTests.Cases(all: 60, few: 15));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_PackedDocuments_EqualsDocumentsApart(bool fused)
    {
        using var scope = NewDisposeScope();
        var run = Select(fused);
        var (x, kernel, bias, _) = Inputs(new Case(1, 17, 2, 5, 3));
        var starts = zeros(1, 17, dtype: ScalarType.Bool);
        starts[0, 0] = true;
        starts[0, 6] = true;
        starts[0, 7] = true;

        var (packed, packedLast) = run(x, kernel, bias, layout: new(starts));
        var parts = new[] { (0, 6), (6, 1), (7, 10) }.Select(p => run(x.narrow(1, p.Item1, p.Item2), kernel, bias)).ToArray();

        Assert.True(packed.allclose(cat([.. parts.Select(p => p.H)], 2), rtol: 0, atol: 1e-14));
        Assert.True(packedLast.M.allclose(parts[2].Last.M, rtol: 0, atol: 1e-14));

        // Exactly as if it stood alone: nothing flows back over the border.
        packed.narrow(2, 7, 10).sum().backward();
        Assert.Equal(0, x.grad!.narrow(1, 0, 7).abs().sum().ToDouble());
        Assert.NotEqual(0, x.grad!.narrow(1, 7, 1).abs().sum().ToDouble());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_SplitSequenceWithCarriedState_EqualsWhole(bool fused)
    {
        using var scope = NewDisposeScope();
        var run = Select(fused);
        var c = new Case(2, 11, 3, 4, 5);
        var (x, kernel, bias, _) = Inputs(c);
        var weights = randn([2, 3, 11, 4], ScalarType.Float64);

        var (whole, wholeLast) = run(x, kernel, bias);
        (whole * weights).sum().backward();
        var expectedGradient = x.grad!.clone();
        x.grad!.zero_();

        SLstmState? state = null;
        var parts = new List<Tensor>();
        foreach (var (start, length) in new[] { (0, 1), (1, 4), (5, 6) })
        {
            (var part, state) = run(x.narrow(1, start, length), kernel, bias, state);
            parts.Add(part);
        }

        var joined = cat(parts, 2);
        (joined * weights).sum().backward();
        AssertClose(whole, joined, 1e-13);
        AssertClose(wholeLast.C, state!.C, 1e-13);
        AssertClose(wholeLast.H, state.H, 1e-13);
        AssertClose(expectedGradient, x.grad!, 1e-12);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_Padding_KeepsStateAndIgnoresItsInputs(bool fused)
    {
        using var scope = NewDisposeScope();
        var run = Select(fused);
        var (x, kernel, bias, _) = Inputs(new Case(1, 9, 2, 3, 7));
        var padding = tensor(new[] { true, true, false, false, true, false, false, false, true }).unsqueeze(0);
        var garbage = x.detach().masked_fill(padding.view(1, 9, 1, 1, 1), double.NaN).requires_grad_();
        var tokens = x.detach().index_select(1, tensor(new long[] { 2, 3, 5, 6, 7 }));

        var (h, last) = run(garbage, kernel, bias, layout: new(Padding: padding));
        var (expected, expectedLast) = run(tokens, kernel, bias);
        AssertClose(expected, h.index_select(2, tensor(new long[] { 2, 3, 5, 6, 7 })), 1e-14);
        AssertClose(expectedLast.M, last.M, 1e-14);
        h.sum().backward();
        Assert.True(garbage.grad!.isfinite().all().ToBoolean());
        Assert.True(kernel.grad!.isfinite().all().ToBoolean());
        Assert.Equal(0, garbage.grad![0, 4].abs().sum().ToDouble());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_ExtremeGates_StaysFinite(bool fused)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, _) = Inputs(new Case(2, 30, 1, 8, 1));
        var wild = (x.detach().to(ScalarType.Float32) * 300).requires_grad_();
        var (h, last) = Select(fused)(wild, kernel.to(ScalarType.Float32), bias.to(ScalarType.Float32));
        (h.sum() + last.C.sum()).backward();
        Assert.True(h.abs().max().ToDouble() <= 1 + 1e-6);
        Assert.True(wild.grad!.isfinite().all().ToBoolean());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_SmallInputs_KeepRelativePrecisionInFloat32(bool fused)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, _) = Inputs(new Case(1, 6, 1, 16, 2));
        x = x.detach() * 1e-4;
        x[.., .., 1] += 8; // forget gates near one, where log(1 + e) rounds away
        var (expected, _) = SLstmRecurrent.Forward(x, kernel.detach(), zeros_like(bias).detach());
        var (h, _) = Select(fused)(
            x.to(ScalarType.Float32), kernel.detach().to(ScalarType.Float32), zeros_like(bias).detach().to(ScalarType.Float32));
        AssertClose(expected, h, 1e-6);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_BFloat16Input_ComputesInFloat32(bool fused)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, initial) = Inputs(new Case(2, 12, 2, 6, 4));
        var half = x.detach().to(ScalarType.BFloat16).requires_grad_();
        var (h, last) = Select(fused)(half, kernel.to(ScalarType.BFloat16), bias, initial);
        Assert.Equal(ScalarType.BFloat16, h.dtype);
        Assert.Equal(ScalarType.Float32, last.C.dtype);

        var (expected, expectedLast) = SLstmRecurrent.Forward(
            half.to(ScalarType.Float64), kernel.to(ScalarType.BFloat16).to(ScalarType.Float64), bias, initial);
        AssertClose(expectedLast.C, last.C, 1e-5);
        AssertClose(expected, h, 4e-3);
        h.sum().backward();
        Assert.Equal(ScalarType.BFloat16, half.grad!.dtype);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_ExponentialForgetGate_EqualsUnstabilisedEquations(bool fused)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, _) = Inputs(new Case(2, 7, 2, 4, 3));
        var (expectedH, c, n) = (zeros(2, 2, 4, ScalarType.Float64), zeros(2, 2, 4, ScalarType.Float64),
            zeros(2, 2, 4, ScalarType.Float64));
        var (h, _) = Select(fused)(x, kernel, bias, options: new() { ForgetGate = ForgetGate.Exponential });
        for (var t = 0; t < 7; t++)
        {
            var raw = (x[.., t] + einsum("hgij,bhj->bghi", kernel, expectedH) + bias).unbind(1);
            (c, n) = (raw[1].exp() * c + raw[0].exp() * raw[2].tanh(), raw[1].exp() * n + raw[0].exp());
            expectedH = raw[3].sigmoid() * c / n;
            AssertClose(expectedH, h.select(2, t), 1e-12);
        }
    }

    [Fact]
    public void Forward_RecurrentGradientClip_IsTheSameInBothAndBites()
    {
        using var scope = NewDisposeScope();
        var c = new Case(2, 9, 2, 7, 6, HasInitial: true, Padding: true);
        var options = new SLstmOptions { RecurrentGradientClip = 0.05 };
        var expected = RunWithGradients(SLstmRecurrent.Forward, c, ScalarType.Float64, options);
        var clipped = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float64, options);
        var free = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float64);
        foreach (var (name, value) in expected)
        {
            AssertClose(value, clipped[name], 1e-11, name);
        }

        Assert.False(free["dx"].allclose(clipped["dx"]));
        Assert.True(free["h"].allclose(clipped["h"]));
    }

    [Fact]
    public void Forward_AnyNumberOfThreads_SameBits()
    {
        using var scope = NewDisposeScope();
        var c = new Case(7, 33, 3, 16, 8, HasInitial: true, Starts: true, Padding: true);
        var one = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float32);
        set_num_threads(4);
        var four = RunWithGradients(SLstmFused.Forward, c, ScalarType.Float32);
        Assert.All(one, pair => Assert.True(pair.Value.eq(four[pair.Key]).all().ToBoolean(), pair.Key));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_RepeatedSteps_KeepTheNumberOfTensors(bool fused)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, initial) = Inputs(new Case(2, 5, 2, 6, 9));
        void Step()
        {
            using var step = NewDisposeScope();
            var (h, last) = Select(fused)(x, kernel, bias, initial);
            (h.sum() + last.C.sum()).backward();
            using (no_grad())
            {
                _ = Select(fused)(x, kernel, bias, last);
            }
        }

        Step();
        var scoped = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        for (var i = 0; i < 20; i++)
        {
            Step();
        }

        Assert.Equal(scoped, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Forward_OfTheCell_EqualsTheReference(int length)
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, initial) = Inputs(new Case(2, length, 2, 6, 9));
        AssertClose(SLstmRecurrent.Forward(x, kernel, bias, initial).H, SLstmCell.Forward(x, kernel, bias, initial).H, 1e-13);
    }

    [Fact]
    public void Forward_Results_BelongToTheCallersScope()
    {
        using var outer = NewDisposeScope();
        var (x, kernel, bias, initial) = Inputs(new Case(2, 5, 2, 6, 9));
        foreach (var fused in new[] { false, true })
        {
            var before = outer.DisposablesCount;
            var (h, last) = Select(fused)(x, kernel, bias, initial);
            Assert.Equal(before + 5, outer.DisposablesCount);
            h.Dispose();
            last.Dispose();
            Assert.Equal(before, outer.DisposablesCount);
            Assert.False(initial.H.IsInvalid);
        }
    }

    [Fact]
    public void Forward_WhatDoesNotFit_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        var (x, kernel, bias, initial) = Inputs(new Case(2, 5, 3, 6, 9));
        Throws(
            "[B, S, 4 (i, f, z, o), NH, D] with no size zero, but are [2, 5, 72]",
            () => SLstmCell.Forward(x.reshape(2, 5, 72), kernel, bias));
        Throws("no size zero", () => SLstmCell.Forward(x.narrow(1, 0, 0), kernel, bias));
        Throws("float32, float64 or bfloat16, but are Int64", () => SLstmCell.Forward(x.to(ScalarType.Int64), kernel, bias));
        Throws("recurrent kernel must be [NH, 4, D, D] = [3, 4, 6, 6]", () => SLstmCell.Forward(x, kernel.reshape(3, 24, 6), bias));
        Throws("bias must be [4, NH, D] = [4, 3, 6]", () => SLstmCell.Forward(x, kernel, bias.transpose(0, 1)));
        Throws("initial state's M must be [B, NH, D] = [2, 3, 6]", () => SLstmCell.Forward(
            x, kernel, bias, initial with { M = initial.M[0] }));
        Throws("document starts must be [B, S] = [2, 5]", () => SLstmCell.Forward(
            x, kernel, bias, layout: new(zeros(2, 4, dtype: ScalarType.Bool))));
        Throws("padding must be bool, but are Float32", () => SLstmCell.Forward(x, kernel, bias, layout: new(Padding: zeros(2, 5))));
        Throws("must be sigmoid or exponential, but is None", () => SLstmCell.Forward(
            x, kernel, bias, options: new() { ForgetGate = ForgetGate.None }));
        Throws("must be positive", () => SLstmCell.Forward(x, kernel, bias, options: new() { RecurrentGradientClip = 0 }));

        static void Throws(string part, Action action) => Assert.Contains(
            part, Assert.Throws<ArgumentException>(action).Message, StringComparison.Ordinal);
    }

    private static readonly Gen<Case> Cases =
        Gen.Select(Gen.Int[1, 9], Gen.Int[1, 40], Gen.Int[1, 3], Gen.Int[1, 20], Gen.Int[0, 1 << 20], Gen.Bool, Gen.Bool, Gen.Bool)
            .Select((batch, length, heads, size, seed, hasInitial, starts, padding) => new Case(
                batch, length, heads, size, seed, hasInitial, starts, padding));

    private sealed record Case(
        int Batch, int Length, int Heads, int Size, int Seed, bool HasInitial = false, bool Starts = false, bool Padding = false);

    private static Implementation Select(bool fused) => fused ? SLstmFused.Forward : SLstmRecurrent.Forward;

    /// <summary>float64 leaves that gather gradients.</summary>
    private static (Tensor X, Tensor Kernel, Tensor Bias, SLstmState Initial) Inputs(Case c)
    {
        manual_seed(c.Seed);
        Tensor Leaf(double scale, params long[] shape) => (randn(shape, ScalarType.Float64) * scale).detach().requires_grad_();
        var state = (c.Batch, c.Heads, c.Size);
        return (
            Leaf(1.5, c.Batch, c.Length, 4, c.Heads, c.Size),
            Leaf(0.7 / Math.Sqrt(c.Size), c.Heads, 4, c.Size, c.Size),
            Leaf(0.5, 4, c.Heads, c.Size),
            new(
                Leaf(0.5, state.Batch, state.Heads, state.Size),
                Leaf(0.5, state.Batch, state.Heads, state.Size),
                (rand([state.Batch, state.Heads, state.Size], ScalarType.Float64) + 1).detach().requires_grad_(),
                Leaf(0.5, state.Batch, state.Heads, state.Size)));
    }

    /// <summary>Outputs, last state and all gradients of a random linear function of them.</summary>
    private static Dictionary<string, Tensor> RunWithGradients(Implementation run, Case c, ScalarType type, SLstmOptions? options = null)
    {
        var (x, kernel, bias, initial) = Inputs(c);
        Tensor Mask(double rate) => rand([c.Batch, c.Length]).lt(rate);
        var layout = new SequenceLayout(c.Starts ? Mask(0.2) : null, c.Padding ? Mask(0.3) : null);
        Tensor Weigh(Tensor t) => (t.to(ScalarType.Float64) * randn(t.shape, ScalarType.Float64)).sum();

        var (h, last) = run(
            x.to(type), kernel.to(type), bias.to(type), c.HasInitial
                ? new(initial.H.to(type), initial.C.to(type), initial.N.to(type), initial.M.to(type)) : null,
            layout, options);
        (Weigh(h) + Weigh(last.H) + Weigh(last.C) + Weigh(last.N) + Weigh(last.M)).backward();

        var results = new Dictionary<string, Tensor>
        {
            ["h"] = h,
            ["H"] = last.H,
            ["C"] = last.C,
            ["N"] = last.N,
            ["M"] = last.M,
            ["dx"] = x.grad!,
            ["dR"] = kernel.grad!,
            ["db"] = bias.grad!,
        };
        if (c.HasInitial)
        {
            (results["dH"], results["dC"], results["dN"], results["dM"]) = (initial.H.grad!, initial.C.grad!,
                initial.N.grad!, initial.M.grad!);
        }

        return results;
    }

    private static void AssertClose(Tensor expected, Tensor actual, double tolerance, string? what = null)
    {
        Assert.Equal(expected.shape, actual.shape);
        var error = RelativeError(expected, actual);
        Assert.True(error <= tolerance, $"{what}: relative RMS error {error:e2}, at most {tolerance:e1} allowed");
    }

    private static double RelativeError(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        var (e, a) = (expected.detach().to(ScalarType.Float64), actual.detach().to(ScalarType.Float64));
        var error = (a - e).square().mean().sqrt().ToDouble();
        return error == 0 ? 0 : error / e.square().mean().sqrt().ToDouble();
    }
}
