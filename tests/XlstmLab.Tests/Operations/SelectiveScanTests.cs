using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class SelectiveScanTests
{
    public delegate (Tensor Y, Tensor Last) Form(Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial, Tensor? starts);

    public static TheoryData<string, int, int, int, bool, bool> Cases { get; } = new()
    {
        { "fused", 1, 16, 1, false, false },
        { "fused", 33, 20, 3, true, true },
        { "fused", 70, 48, 16, true, false },
        { "fused", 97, 5, 8, false, true },
        { "chunked", 1, 16, 1, false, false },
        { "chunked", 64, 7, 3, true, true },
        { "chunked", 70, 16, 4, true, false },
        { "chunked", 150, 5, 2, true, true },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void Forward_AnyLengthStateAndDocuments_HasOutputsAndGradientsOfTheRecurrence(
        string form, int length, int dim, int states, bool hasState, bool hasStarts)
    {
        using var scope = NewDisposeScope();
        var expected = Run(SelectiveScan.Recurrent, Inputs(3, length, dim, states, ScalarType.Float64), hasState, hasStarts);
        var actual = Run(FormOf(form), Inputs(3, length, dim, states, ScalarType.Float64), hasState, hasStarts);
        Assert.Equal(expected.Keys, actual.Keys);
        Assert.All(expected, pair => MLstmTests.Near(pair.Value, actual[pair.Key], 1e-12, pair.Key));
    }

    [Fact]
    public void Forward_Float32_StaysNearFloat64()
    {
        using var scope = NewDisposeScope();
        var expected = Run(SelectiveScan.Recurrent, Inputs(2, 130, 24, 16, ScalarType.Float64), true, true);
        foreach (var form in new[] { "fused", "chunked" })
        {
            var actual = Run(FormOf(form), Inputs(2, 130, 24, 16, ScalarType.Float32), true, true);
            Assert.All(expected, pair => MLstmTests.Near(pair.Value, actual[pair.Key].to(ScalarType.Float64), 1e-5, pair.Key));
        }
    }

    [Fact]
    public void Forward_LastStateAlone_HasItsGradients()
    {
        using var scope = NewDisposeScope();
        foreach (var form in new[] { "fused", "chunked" })
        {
            var (one, other) = (Inputs(2, 40, 16, 3, ScalarType.Float64), Inputs(2, 40, 16, 3, ScalarType.Float64));
            SelectiveScan.Recurrent(one[0], one[1], one[2], one[3], one[4], one[5]).Last.square().sum().backward();
            FormOf(form)(other[0], other[1], other[2], other[3], other[4], other[5], null).Last.square().sum().backward();
            foreach (var i in new[] { 0, 1, 2, 3, 5 })
            {
                MLstmTests.Near(one[i].grad!, other[i].grad!, 1e-12, $"input {i}");
            }
        }
    }

    [Fact]
    public void Forward_ZeroSteps_LeaveTheStateAsItIs()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var inputs = Inputs(2, 9, 16, 4, ScalarType.Float32);
        foreach (var form in new[] { "fused", "chunked", "recurrent" })
        {
            var last = FormOf(form)(inputs[0], zeros_like(inputs[1]), inputs[2], inputs[3], inputs[4], inputs[5], null).Last;
            Assert.True(last.eq(inputs[5]).all().item<bool>(), form);
        }
    }

    [Fact]
    public void Fused_AnyNumberOfThreads_GivesTheSameBits()
    {
        using var scope = NewDisposeScope();
        var threads = get_num_threads();
        try
        {
            set_num_threads(1);
            var one = Run(SelectiveScanFused.Forward, Inputs(3, 70, 64, 16, ScalarType.Float32), true, true);
            set_num_threads(4);
            var four = Run(SelectiveScanFused.Forward, Inputs(3, 70, 64, 16, ScalarType.Float32), true, true);
            Assert.All(one, pair => Assert.True(pair.Value.eq(four[pair.Key]).all().item<bool>(), pair.Key));
        }
        finally
        {
            set_num_threads(threads);
        }
    }

    [Fact]
    public void Forward_WrongShape_SaysWhatWasExpected()
    {
        using var scope = NewDisposeScope();
        var inputs = Inputs(2, 4, 16, 3, ScalarType.Float32);
        var error = Assert.Throws<ArgumentException>(
            () => SelectiveScan.Forward(inputs[0], inputs[1], inputs[2], inputs[3], inputs[3].narrow(1, 0, 3)));
        Assert.Contains("c must be [B, S, N]", error.Message, StringComparison.Ordinal);
    }

    private static Form FormOf(string name) => name switch
    {
        "fused" => SelectiveScanFused.Forward,
        "chunked" => SelectiveScanChunked.Forward,
        _ => SelectiveScan.Recurrent,
    };

    private static Tensor[] Inputs(int batch, int length, int dim, int states, ScalarType type)
    {
        using var generator = new Generator(7, CPU);
        Tensor Normal(params long[] shape) => randn(shape, dtype: ScalarType.Float64, generator: generator);
        return
        [
            .. new[]
            {
                Normal(batch, length, dim), nn.functional.softplus(Normal(batch, length, dim) - 2), -exp(Normal(dim, states)),
                Normal(batch, length, states),
                Normal(batch, length, states), Normal(batch, dim, states),
            }.Select(t => t.detach().to(type).requires_grad_()),
        ];
    }

    private static Dictionary<string, Tensor> Run(Form form, Tensor[] inputs, bool hasState, bool hasStarts)
    {
        using var generator = new Generator(8, CPU);
        var starts = rand([inputs[0].shape[0], inputs[0].shape[1]], generator: generator).lt(0.1);
        var (y, last) = form(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], hasState ? inputs[5] : null, hasStarts ? starts : null);
        var weights = randn(y.shape, dtype: ScalarType.Float64, generator: generator).to(y.dtype);
        ((y * weights).sum() + last.square().sum()).backward();
        var results = new Dictionary<string, Tensor> { ["y"] = y.detach(), ["last"] = last.detach() };
        foreach (var (name, input) in new[] { "dx", "ddt", "da", "db", "dc", "dinitial" }.Zip(inputs).Take(hasState ? 6 : 5))
        {
            results[name] = input.grad!;
        }

        return results;
    }
}
