using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class MLstmSequenceKernelTests
{
    public static TheoryData<Case> Cases { get; } =
    [
        new Case(1, 1, 2, 32, 32),
        new Case(2, 2, 150, 64, 128),
        new Case(1, 1, 128, 96, 192),
        new Case(1, 2, 259, 96, 192) { HasState = true }, // the benchmarks' heads, in several chunks and an odd rest
        new Case(1, 2, 259, 128, 256) { HasLayout = true },
        new Case(1, 1, 133, 256, 512),
        new Case(2, 1, 131, 32, 64) { HasLayout = true, HasState = true },
        new Case(1, 1, 260, 32, 64) { InputBias = 10, ForgetBias = -12 },
        new Case(2, 2, 260, 32, 64) { InputBias = 10, ForgetBias = -12, HasLayout = true, HasState = true },
        new Case(1, 1, 260, 32, 64) { InputBias = -10, ForgetBias = 12, HasState = true },
        new Case(1, 2, 140, 32, 64) { Options = new() { InputGate = InputGate.Sigmoid }, HasLayout = true },
        new Case(1, 2, 140, 32, 64) { Options = new() { InputGate = InputGate.Sigmoid, Normalize = false }, HasState = true },
        new Case(1, 1, 140, 32, 64) { Options = new() { NormalizerGradient = NormalizerGradient.Constant }, HasState = true },
        new Case(1, 1, 140, 32, 64) { Options = new() { ForgetGate = ForgetGate.Exponential }, ForgetBias = -1, HasLayout = true },
        new Case(1, 1, 140, 32, 64) { Options = new() { InputGate = InputGate.None, ForgetGate = ForgetGate.None, Normalize = false } },
        // Heads narrower than the tiles: those of the small presets, bytes-1m and bytes-3m, and others that are multiples of 8.
        new Case(2, 4, 259, 16, 32) { HasLayout = true, HasState = true },
        new Case(1, 2, 131, 24, 48) { HasLayout = true, HasState = true },
        new Case(2, 3, 5, 8, 8) { HasState = true },
        new Case(2, 2, 257, 8, 16)
        {
            Options = new() { InputGate = InputGate.Sigmoid, Normalize = false },
            HasLayout = true,
            HasState = true,
        },
        new Case(1, 2, 261, 40, 40) { HasLayout = true, HasState = true },
        new Case(1, 2, 139, 40, 24) { Options = new() { InputGate = InputGate.Sigmoid }, HasState = true },
        new Case(1, 1, 130, 16, 40) { Options = new() { NormalizerGradient = NormalizerGradient.Constant }, HasState = true },
        new Case(1, 1, 130, 24, 48) { Options = new() { ForgetGate = ForgetGate.Exponential }, ForgetBias = -1, HasLayout = true },
        new Case(1, 1, 260, 72, 104) { HasState = true }, // tiles of 96 and 128
        new Case(1, 1, 131, 200, 136), // tiles of 32
    ];

    /// <summary>
    /// Sequences whose walk over the chunks is cut into segments, most of them with a memory that outlasts several of them.
    /// </summary>
    public static TheoryData<Case> Segmented { get; } =
    [
        new Case(1, 1, 1290, 16, 32) { ForgetBias = 8, HasState = true }, // six segments, the last with one chunk
        new Case(1, 1, 1290, 16, 32) { ForgetBias = 8, HasState = true, HasLayout = true, Starts = 0.001 },
        new Case(1, 1, 1290, 16, 32) { HasLayout = true },
        new Case(1, 2, 1700, 32, 64) { ForgetBias = 8, Options = new() { InputGate = InputGate.Sigmoid, Normalize = false } },
        new Case(1, 1, 1700, 64, 128) { ForgetBias = 8 }, // two blocks a segment
        new Case(1, 1, 1700, 72, 104) { ForgetBias = 8, HasState = true }, // blocks of 128 columns
    ];

    /// <summary>The kernels of a training pass.</summary>
    private static readonly string[] Training =
    [
        "mlstm_gates", "mlstm_states", "mlstm_forward", "mlstm_backward_scores", "mlstm_backward", "mlstm_gates_backward",
    ];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Agrees_with_float64_in_outputs_states_and_gradients(Case c)
    {
        LongTests.SkipUnless(c.Dv < 192);
        using var run = KernelRun.Begin();
        Compare(c);
        Assert.Superset(Training.ToHashSet(), run.Launched.ToHashSet());
    }

    [Theory]
    [MemberData(nameof(Segmented))]
    public void Segments_agree_with_float64_in_outputs_states_and_gradients(Case c)
    {
        LongTests.SkipUnless(c.Dv <= 64);
        using var run = KernelRun.Begin();
        Compare(c);
        Assert.Contains("mlstm_states_join", run.Launched);
    }

    /// <summary>
    /// The heads are pieces of wider rows, whose other columns hold NaN: what a kernel reads or writes beside its own is seen.
    /// </summary>
    [Theory]
    [InlineData(16, 32)]
    [InlineData(24, 40)]
    public void Columns_of_others_are_neither_read_nor_written(int dk, int dv)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(dk);
        const int Batch = 2, Heads = 2, Length = 133, Gap = 24;
        Tensor Framed(int dim)
        {
            var all = full([Batch, Length + 2, Heads, dim + Gap], double.NaN, ScalarType.BFloat16);
            var inside = all.narrow(1, 1, Length).narrow(3, 8, dim);
            inside.copy_(randn([Batch, Length, Heads, dim]));
            return inside.transpose(1, 2);
        }

        Tensor[] framed = [Framed(dk), Framed(dk), Framed(dv)];
        var gates = (Input: randn(Batch, Heads, Length), Forget: randn(Batch, Heads, Length) + 3);
        var dh = Framed(dv);
        Tensor[] Results(Func<Tensor, Tensor> arrange)
        {
            var x = framed.Select(t => arrange(t).detach().requires_grad_()).ToArray();
            var (h, last) = MLstmCell.Forward(x[0], x[1], x[2], gates.Input, gates.Forget);
            h.backward([arrange(dh)]);
            return [h, last.C, last.N, .. x.Select(t => t.grad!)];
        }

        Assert.All(Results(t => t).Zip(Results(t => t.contiguous())), pair => Assert.True(pair.First.Equals(pair.Second)));
        Assert.Contains("mlstm_backward", run.Launched);
    }

    [Theory]
    [InlineData(20, 32, "queries of 20 a head: the mLSTM kernels serve multiples of 8")]
    [InlineData(16, 36, "values of 36 a head: the mLSTM kernels serve multiples of 8")]
    [InlineData(264, 512, "queries of 264 a head: the mLSTM kernels serve up to 256")]
    [InlineData(256, 520, "values of 520 a head: the mLSTM kernels serve up to 512")]
    [InlineData(256, 512, null)]
    [InlineData(8, 8, null)]
    public void Lack_OfWidths_SaysWhichAndWhy(int dk, int dv, string? expected) => Assert.Equal(expected, MLstmSequenceKernel.Lack(dk, dv));

    /// <summary>The shapes whose speed is published, and those of models of 768 and 1024 channels: batch, heads, length, DK, DV.</summary>
    [Theory]
    [InlineData(8, 4, 2048, 128, 256, InputGate.Exponential)]
    [InlineData(8, 4, 2048, 128, 256, InputGate.Sigmoid)]
    [InlineData(2, 8, 8192, 256, 512, InputGate.Exponential)]
    [InlineData(8, 4, 2048, 96, 192, InputGate.Exponential)]
    [InlineData(16, 4, 2048, 96, 192, InputGate.Exponential)]
    [InlineData(8, 4, 1024, 128, 256, InputGate.Exponential)]
    [InlineData(2, 8, 1025, 256, 512, InputGate.Sigmoid)]
    [InlineData(64, 4, 256, 16, 32, InputGate.Exponential)]
    [InlineData(32, 4, 512, 24, 48, InputGate.Exponential)]
    [InlineData(32, 5, 512, 32, 64, InputGate.Exponential)]
    [InlineData(1, 4, 8192, 128, 256, InputGate.Exponential)] // a prompt: the walk is cut into segments
    [InlineData(1, 8, 8192, 256, 512, InputGate.Exponential)] // a prompt whose memory is too large for that
    public void Benchmarked_shapes_agree_with_float64(int batch, int heads, int length, int dk, int dv, InputGate gate)
    {
        using var run = KernelRun.BeginOnGpu();
        Compare(new(batch, heads, length, dk, dv) { Options = new() { InputGate = gate } });
        Assert.Superset(Training.ToHashSet(), run.Launched.ToHashSet());
    }

    private static void Compare(Case c)
    {
        using var scope = NewDisposeScope();
        KernelRun.Seed(c.Length + c.Dk);
        // As the layers make them: the heads of a token lie side by side.
        Tensor Tokens(int dim) => randn([c.Batch, c.Length, c.Heads, dim]).to(bfloat16).transpose(1, 2);
        var (q, k, v) = (Tokens(c.Dk).requires_grad_(), Tokens(c.Dk).requires_grad_(), Tokens(c.Dv).requires_grad_());
        Tensor Gate(double bias) => (randn(c.Batch, c.Length, c.Heads) + bias).transpose(1, 2).requires_grad_();
        var (input, forget) = (Gate(c.InputBias), Gate(c.ForgetBias));
        var scale = c.Options.Stabilizes ? randn(c.Batch, c.Heads, 1) : zeros(c.Batch, c.Heads, 1);
        var initial = c.HasState
            ? new MLstmState(randn(c.Batch, c.Heads, c.Dk, c.Dv).requires_grad_(), randn(c.Batch, c.Heads, c.Dk).requires_grad_(), scale)
            : null;
        var layout = c.HasLayout ? new SequenceLayout(rand(c.Batch, c.Length).lt(c.Starts), rand(c.Batch, c.Length).lt(0.1)) : null;
        var dh = randn(c.Batch, c.Heads, c.Length, c.Dv).to(bfloat16);
        dh = layout is null ? dh : dh.masked_fill(layout.Padding!.unsqueeze(1).unsqueeze(3), 0); // no loss counts what is no token
        var (dc, dn) = (randn(c.Batch, c.Heads, c.Dk, c.Dv), randn(c.Batch, c.Heads, c.Dk) * (c.Options.Normalize ? 1 : 0));
        Assert.True(MLstmSequenceKernel.Serves(q, v));

        var (h, last) = MLstmCell.Forward(q, k, v, input, forget, initial, layout, c.Options);
        var loss = (h.to(float32) * dh).sum();
        (c.HasState ? loss + (last.C * dc).sum() + (last.N * dn).sum() : loss).backward();

        var (q64, k64, v64, input64, forget64) = (Wide(q), Wide(k), Wide(v), Wide(input), Wide(forget));
        var initial64 = initial is null ? null : new MLstmState(Wide(initial.C), Wide(initial.N), initial.M.to(float64));
        var (h64, last64) = MLstmCell.Forward(q64, k64, v64, input64, forget64, initial64, layout, c.Options);
        var loss64 = (h64 * dh.to(float64)).sum();
        (c.HasState ? loss64 + (last64.C * dc.to(float64)).sum() + (last64.N * dn.to(float64)).sum() : loss64).backward();

        Assert.InRange(KernelRun.Error(h, h64), 0, 5e-3);
        Assert.InRange(KernelRun.Error(last.C, last64.C), 0, 5e-3);
        Assert.InRange(KernelRun.Error(last.N, last64.N), 0, 5e-3);
        Assert.InRange((last.M.to(float64) - last64.M).abs().max().item<double>(), 0, 1e-3);
        foreach (var (actual, expected) in new[] { (q, q64), (k, k64), (v, v64) })
        {
            Assert.InRange(KernelRun.Error(actual.grad!, expected.grad!), 0, 1e-2);
        }

        if (c.Options.InputGate != InputGate.None)
        {
            Assert.InRange(KernelRun.Error(input.grad!, input64.grad!), 0, 1.5e-2);
        }

        if (c.Options.ForgetGate != ForgetGate.None)
        {
            Assert.InRange(KernelRun.Error(forget.grad!, forget64.grad!), 0, 1.5e-2);
        }

        if (initial is not null)
        {
            Assert.InRange(KernelRun.Error(initial.C.grad!, initial64!.C.grad!), 0, 1e-2);
            if (c.Options.Normalize)
            {
                Assert.InRange(KernelRun.Error(initial.N.grad!, initial64.N.grad!), 0, 1e-2);
            }
        }
    }

    [Fact]
    public void Same_input_gives_the_same_bits()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        Tensor Tokens(int dim) => randn([1, 2, 200, dim]).to(bfloat16).requires_grad_();
        var (q, k, v) = (Tokens(32), Tokens(32), Tokens(32));
        var (input, forget) = (randn(1, 2, 200), randn(1, 2, 200) + 3);
        var runs = Enumerable.Range(0, 2).Select(_ =>
        {
            var h = MLstmCell.ForwardOutput(q, k, v, input, forget);
            h.sum().backward();
            var gradients = new[] { q, k, v }.Select(t => t.grad!.clone()).ToArray();
            q.grad!.zero_();
            k.grad!.zero_();
            v.grad!.zero_();
            return gradients.Append(h).ToArray();
        }).ToArray();
        Assert.All(runs[0].Zip(runs[1]), pair => Assert.True(pair.First.Equals(pair.Second)));
    }

    private static Tensor Wide(Tensor x) => x.detach().to(float64).requires_grad_();

    public sealed record Case(int Batch, int Heads, int Length, int Dk, int Dv)
    {
        public double InputBias { get; init; }

        public double ForgetBias { get; init; } = 3;

        public bool HasLayout { get; init; }

        /// <summary>The share of tokens that a document starts with.</summary>
        public double Starts { get; init; } = 0.03;

        public bool HasState { get; init; }

        public MLstmOptions Options { get; init; } = new();
    }
}
