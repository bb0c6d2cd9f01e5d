using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed unsafe class VectorLoopsTests
{
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
