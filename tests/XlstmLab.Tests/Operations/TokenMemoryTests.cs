using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

/// <summary>The mLSTM's step of one token against its recurrence in float64.</summary>
public sealed class TokenMemoryTests
{
    private const double NormEpsilon = 1e-6;

    /// <summary>
    /// Sequences, heads, and a head's memory: by clusters of 8, 4 and 2 and by single blocks, which hold all of it or a part.
    /// </summary>
    [Theory]
    [InlineData(3, 2, 20, 32, false)]
    [InlineData(17, 4, 24, 48, false)]
    [InlineData(33, 4, 12, 40, false)]
    [InlineData(64, 4, 100, 256, false)]
    [InlineData(64, 4, 180, 256, true)]
    public void Remember_Tokens_IsTheRecurrence(int sequences, int heads, int keyDim, int valueDim, bool inHalves)
    {
        LongTests.SkipUnless(sequences is 3 or 64);
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var generator = new Generator(7, CPU);
        var device = get_default_device();
        Tensor Draw(params long[] shape) => randn(shape, generator: generator, device: CPU);
        var (biases, norm) = (Draw(2 * heads), Draw(heads * valueDim));
        Memory exact = new(
            Draw(sequences, heads, keyDim, valueDim).to(ScalarType.Float64), Draw(sequences, heads, keyDim).to(ScalarType.Float64),
            Draw(sequences, heads, 1).to(ScalarType.Float64));
        Tensor There(Tensor tensor) => tensor.to(ScalarType.Float32).to(device);
        var (c, n, m, y) = (There(exact.C), There(exact.N), There(exact.M), empty(sequences, heads * valueDim, ScalarType.BFloat16));
        c = inHalves ? c.to(ScalarType.BFloat16) : c;
        var options = new MLstmOptions { InputGate = InputGate.Exponential, ForgetGate = ForgetGate.Sigmoid };
        for (var token = 0; token < 3; token++)
        {
            var projections = Draw(sequences, heads * (2 * keyDim + 2 * valueDim + 4));
            TokenStepKernels.Remember(
                There(projections), There(biases), c, n, m, There(norm), y, options, gateCap: 15, centers: true, NormEpsilon);
            (exact, var expected) = Step(
                exact, projections.to(ScalarType.Float64), biases.to(ScalarType.Float64), norm.to(ScalarType.Float64));
            Assert.InRange(KernelRun.Error(c, exact.C.to(device)), inHalves ? 1e-3 : 0, inHalves ? 6e-3 : 1e-6);
            Assert.InRange(KernelRun.Error(n, exact.N.to(device)), 0, 1e-6);
            Assert.InRange(KernelRun.Error(m, exact.M.to(device)), 0, 1e-6);
            Assert.InRange(KernelRun.Error(y, expected.to(device)), 0, inHalves ? 0.02 : 4e-3);
        }

        Assert.Equal(["token_memory"], run.Launched);
    }

    /// <summary>
    /// A memory in bfloat16 that forgets a thousandth a token, over tokens of which each alone is lost in rounding to nearest, and its
    /// sums.
    /// </summary>
    [Fact]
    public void Remember_MemoryInHalves_ForgetsAndLearnsAsInFloat64()
    {
        const int tokens = 3000, heads = 2, keyDim = 16, valueDim = 32;
        LongTests.Skip();
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var generator = new Generator(9, CPU);
        var device = get_default_device();
        Tensor Draw(params long[] shape) => randn(shape, generator: generator, device: CPU);
        Memory exact = new(
            zeros(1, heads, keyDim, valueDim, ScalarType.Float64, CPU), zeros(1, heads, keyDim, ScalarType.Float64, CPU),
            zeros(1, heads, 1, ScalarType.Float64, CPU));
        var (c, n, m) = (zeros(1, heads, keyDim, valueDim, ScalarType.BFloat16), zeros(1, heads, keyDim), zeros(1, heads, 1));
        var nearest = exact.C;
        var y = empty(1, heads * valueDim, ScalarType.BFloat16);
        var (biases, norm) = (tensor([0f, 0, 7, 7]), ones(heads * valueDim, device: CPU)); // f = 0.9991
        var options = new MLstmOptions { InputGate = InputGate.Exponential, ForgetGate = ForgetGate.Sigmoid };
        for (var token = 0; token < tokens; token++)
        {
            using var step = NewDisposeScope();
            var projections = Draw(1, heads * (2 * keyDim + 2 * valueDim + 4)) + 0.3;
            projections.narrow(1, heads * (2 * keyDim + 2 * valueDim), 4 * heads).zero_();
            TokenStepKernels.Remember(
                projections.to(device), biases.to(device), c, n, m, norm.to(device), y, options, gateCap: 15, centers: true, NormEpsilon);
            var before = exact;
            (exact, _) = Step(before, projections.to(ScalarType.Float64), biases.to(ScalarType.Float64), norm.to(ScalarType.Float64));
            var keep = (nn.functional.logsigmoid(full([1], 7, ScalarType.Float64, device: CPU)) + before.M - exact.M).exp().unsqueeze(-1);
            nearest = ((exact.C - before.C * keep) + nearest * keep).to(ScalarType.BFloat16).to(ScalarType.Float64);
            (exact, nearest) = (
                new(exact.C.MoveToOuterDisposeScope(), exact.N.MoveToOuterDisposeScope(), exact.M.MoveToOuterDisposeScope()),
                nearest.MoveToOuterDisposeScope());
        }

        Assert.InRange(KernelRun.Error(n, exact.N.to(device)), 0, 1e-4);
        var error = KernelRun.Error(c, exact.C.to(device));
        Assert.InRange(error, 0, 0.06);
        Assert.True(KernelRun.Error(nearest, exact.C) > 2 * error, "rounding to nearest is no worse");
    }

    private static (Memory Memory, Tensor Y) Step(Memory before, Tensor projections, Tensor biases, Tensor norm)
    {
        var (sequences, heads, keyDim, valueDim) = (before.C.shape[0], before.C.shape[1], before.C.shape[2], before.C.shape[3]);
        var parts = projections.split([heads * keyDim, heads * keyDim, heads * valueDim, heads * valueDim, 4 * heads], 1);
        var q = parts[0].view(sequences, heads, keyDim) / Math.Sqrt(keyDim);
        var (k, v) = (parts[1].view(sequences, heads, keyDim), parts[2].view(sequences, heads, valueDim));
        var gates = parts[4].view(sequences, 2, 2, heads).sum(1) + biases.view(2, heads); // (B, 2, NH)
        gates = 15 * (gates / 15).tanh();
        var (logInput, past) = (gates.select(1, 0).unsqueeze(-1), nn.functional.logsigmoid(gates.select(1, 1)).unsqueeze(-1) + before.M);
        var m = maximum(past, logInput); // (B, NH, 1)
        var (keep, write) = ((past - m).exp(), (logInput - m).exp());
        var n = before.N * keep + k * write;
        var c = before.C * keep.unsqueeze(-1) + (k * write).unsqueeze(-1) * v.unsqueeze(-2);
        var divisor = maximum((n * q).sum(-1, keepdim: true).abs(), (-m).exp());
        var h = (q.unsqueeze(-2).matmul(c).squeeze(-2) / (divisor + 1e-6)); // (B, NH, DV)
        h -= h.mean([-1], keepdim: true);
        h *= (h.square().mean([-1], keepdim: true) + NormEpsilon).rsqrt();
        return (new(c, n, m), parts[3].sigmoid() * h.view(sequences, heads * valueDim) * norm);
    }

    private sealed record Memory(Tensor C, Tensor N, Tensor M);
}
