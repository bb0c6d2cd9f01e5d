using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed unsafe class VectorLoopsTests
{
    [Theory]
    [InlineData(1, 1, 1)]
    [InlineData(7, 37, 3)]
    [InlineData(64, 128, 2)]
    [InlineData(13, 24, 8)]
    public void Multiply_AnySize_IsTheProductOfEachRow(int outputs, int inputs, int rows)
    {
        using var scope = NewDisposeScope();
        var (w, x, bias) = (Draw(1, outputs, inputs), Draw(2, rows, inputs + 3), Draw(3, outputs));
        var (y, alone) = (zeros(rows, outputs + 5), zeros(1, outputs));
        VectorLoops.Multiply(At(w), outputs, inputs, At(bias), At(x), inputs + 3, rows, At(y), outputs + 5);
        MLstmTests.Near(x.narrow(1, 0, inputs).matmul(w.t()) + bias, y.narrow(1, 0, outputs), 1e-6, "product", floor: 1e-6);
        Assert.True(y.narrow(1, outputs, 5).eq(0).all().item<bool>());

        VectorLoops.Multiply(At(w), outputs, inputs, At(bias), At(x) + (rows - 1) * (inputs + 3), inputs + 3, 1, At(alone), outputs);
        Assert.True(y[rows - 1].narrow(0, 0, outputs).equal(alone[0]).all().item<bool>(), "a row is what it is alone");
    }

    [Theory]
    [InlineData(24, 1, false)]
    [InlineData(24, 2, true)]
    [InlineData(40, 4, true)]
    [InlineData(64, 4, false)]
    public void Norm_GroupsOfAnyWidth_IsTheNormUnderItsGate(int channels, int groups, bool center)
    {
        using var scope = NewDisposeScope();
        var (x, weight, bias, o) = (Draw(1, channels) + 0.5, Draw(2, channels), Draw(3, channels), Draw(4, channels));
        var grouped = x.view(groups, -1);
        var centered = center ? grouped - grouped.mean([1L], keepdim: true) : grouped;
        var normed = (centered * rsqrt(centered.square().mean([1L], keepdim: true) + 1e-3)).view(-1) * weight;
        var y = zeros(channels);
        VectorLoops.Norm(At(x), channels, channels / groups, center, 1e-3f, At(weight), null, null, At(y));
        MLstmTests.Near(normed, y, 1e-6, "norm", floor: 1e-6);
        VectorLoops.Norm(At(x), channels, channels / groups, center, 1e-3f, At(weight), At(bias), At(o), At(x));
        MLstmTests.Near((normed + bias) * sigmoid(o), x, 1e-6, "gated norm in place", floor: 1e-6);
    }

    private static float* At(Tensor tensor) => CpuMemory.Floats(tensor);

    private static Tensor Draw(int seed, params long[] shape) => randn(shape, generator: new Generator((ulong)seed));
}
