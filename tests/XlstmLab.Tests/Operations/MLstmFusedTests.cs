using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class MLstmFusedTests
{
    public static TheoryData<InputGate, ForgetGate, bool, NormalizerGradient> Gates { get; } = new()
    {
        { InputGate.Exponential, ForgetGate.Sigmoid, true, NormalizerGradient.Exact },
        { InputGate.Exponential, ForgetGate.Sigmoid, true, NormalizerGradient.Constant },
        { InputGate.Exponential, ForgetGate.Exponential, true, NormalizerGradient.Exact },
        { InputGate.Exponential, ForgetGate.None, false, NormalizerGradient.Exact },
        { InputGate.Sigmoid, ForgetGate.Sigmoid, true, NormalizerGradient.Exact },
        { InputGate.None, ForgetGate.Sigmoid, false, NormalizerGradient.Exact },
    };

    [Theory]
    [MemberData(nameof(Gates))]
    public void Forward_LengthsWidthsStatesAndDocuments_HasOutputsAndGradientsOfFloat64(
        InputGate input, ForgetGate forget, bool normalize, NormalizerGradient gradient)
    {
        foreach (var (length, dk, dv, chunk) in new[] { (37, 5, 7, 16), (64, 16, 32, 64), (130, 24, 24, 64), (3, 8, 8, 64), (2, 1, 1, 1) })
        {
            foreach (var hasState in new[] { false, true })
            {
                using var scope = NewDisposeScope();
                var options = new MLstmOptions
                {
                    InputGate = input,
                    ForgetGate = forget,
                    Normalize = normalize,
                    NormalizerGradient = gradient,
                    ChunkSize = chunk,
                    Epsilon = 1e-2,
                };
                CpuLoops.Check(Inputs(length, dk, dv, options, hasState), x => Run(x, options, hasState ? Starts(length) : null));
            }
        }
    }

    [Fact]
    public void ForwardOutput_DocumentsWithoutState_HasGradientsOfFloat64()
    {
        using var scope = NewDisposeScope();
        var options = new MLstmOptions { ChunkSize = 32 };
        CpuLoops.Check(Inputs(75, 6, 10, options, hasState: false), x => [MLstmCell.ForwardOutput(
            Heads(x[0]), Heads(x[1]), Heads(x[2]), x[3], x[4], layout: new(Starts(75)), options: options)]);
    }

    [Fact]
    public void Forward_Padding_HasGradientsOfFloat64()
    {
        using var scope = NewDisposeScope();
        var options = new MLstmOptions { ChunkSize = 16 };
        var padding = zeros([2, 40], ScalarType.Bool);
        padding[0, TensorIndex.Slice(30, 40)] = true;
        padding[1, TensorIndex.Slice(3, 20)] = true;
        CpuLoops.Check(Inputs(40, 8, 8, options, hasState: false), x =>
        {
            var (h, last) = MLstmCell.Forward(
                Heads(x[0]), Heads(x[1]), Heads(x[2]), x[3], x[4], layout: new(Padding: padding), options: options);
            return [h.masked_fill(padding.view(2, 1, 40, 1), 0), last.C, last.N];
        });
    }

    [Fact]
    public void Forward_OneOrTwoThreads_SameBits()
    {
        using var scope = NewDisposeScope();
        var options = new MLstmOptions();
        var x = Inputs(200, 16, 32, options, hasState: false).Select(t => t.to(ScalarType.Float32)).ToArray();
        var threads = get_num_threads();
        try
        {
            set_num_threads(1);
            var one = Run(x, options, null);
            set_num_threads(2);
            var two = Run(x, options, null);
            Assert.All(one.Zip(two), pair => Assert.True(pair.First.equal(pair.Second).all().item<bool>()));
        }
        finally
        {
            set_num_threads(threads);
        }
    }

    [Fact]
    public void Forward_ManyPasses_LeavesNoTensors()
    {
        using var scope = NewDisposeScope();
        var options = new MLstmOptions { ChunkSize = 16 };
        CpuLoops.CheckLifetimes(Inputs(40, 8, 8, options, hasState: true), x => Run(x, options, Starts(40)));
        CpuLoops.CheckLifetimes(Inputs(40, 8, 8, options, hasState: false), x => [MLstmCell.ForwardOutput(
            Heads(x[0]), Heads(x[1]), Heads(x[2]), x[3], x[4], options: options)]);
    }

    private static Tensor[] Run(Tensor[] x, MLstmOptions options, Tensor? starts)
    {
        var state = x.Length > 5 ? new MLstmState(x[5], x[6], x[7]) : null;
        var (h, last) = MLstmCell.Forward(
            Heads(x[0]), Heads(x[1]), Heads(x[2]), x[3], x[4], state, starts is null ? null : new SequenceLayout(starts), options);
        return options.Stabilizes && options is { Normalize: true, NormalizerGradient: NormalizerGradient.Exact }
            ? [h, last.C, last.N, last.M] : [h, last.C, last.N];
    }

    private static Tensor[] Inputs(int length, int dk, int dv, MLstmOptions options, bool hasState)
    {
        const int batch = 2, heads = 2;
        var forget = CpuLoops.Draw(5, batch, heads, length) * 2 + 2;
        Tensor[] x =
        [
            CpuLoops.Draw(1, batch, length, heads, dk), CpuLoops.Draw(2, batch, length, heads, dk),
            CpuLoops.Draw(3, batch, length, heads, dv),
            CpuLoops.Draw(4, batch, heads, length) * 2, options.ForgetGate == ForgetGate.Exponential ? -forget.abs() : forget,
        ];
        return !hasState ? x :
        [
            .. x, CpuLoops.Draw(6, batch, heads, dk, dv), CpuLoops.Draw(7, batch, heads, dk),
            CpuLoops.Draw(8, batch, heads, 1) * (options.Stabilizes ? 1 : 0),
        ];
    }

    private static Tensor Heads(Tensor x) => x.transpose(1, 2);

    private static Tensor Starts(int length) => CpuLoops.Draw(9, 2, length).gt(1.2);
}
