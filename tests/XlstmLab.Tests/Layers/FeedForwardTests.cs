using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Layers;

public sealed class FeedForwardTests
{
    [Theory]
    [InlineData(FeedForwardKind.SwiGlu, WeightMode.Single)]
    [InlineData(FeedForwardKind.SwiGlu, WeightMode.Fused)]
    [InlineData(FeedForwardKind.GeGlu, WeightMode.Single)]
    [InlineData(FeedForwardKind.GeGlu, WeightMode.Fused)]
    [InlineData(FeedForwardKind.Mlp, WeightMode.Single)]
    [InlineData(FeedForwardKind.Mlp, WeightMode.Fused)]
    [InlineData(FeedForwardKind.ReluSquared, WeightMode.Single)]
    public void Forward_EveryKind_EqualsItsFormula(FeedForwardKind kind, WeightMode mode)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var layer = new FeedForward(kind, 5, 7, bias: true, mode);
        foreach (var parameter in layer.parameters())
        {
            parameter.normal_(0, 1);
        }

        var weights = layer.named_parameters().ToDictionary(p => p.name, p => (Tensor)p.parameter);
        Tensor Project(string name, Tensor input) => input.matmul(weights[name + ".weight"].t()) + weights[name + ".bias"];
        var x = randn(2, 3, 5);
        var gated = kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;
        var first = !gated ? Project("proj_up", x)
            : mode == WeightMode.Fused ? Project("proj_up_gate_z", x).narrow(2, 0, 7) : Project("proj_up_gate", x);
        var activated = kind switch
        {
            FeedForwardKind.SwiGlu => first / (1 + exp(-first)),
            FeedForwardKind.ReluSquared => first * first * first.gt(0),
            _ => 0.5 * first * (1 + erf(first / Math.Sqrt(2))),
        };
        var second = !gated ? 1 : mode == WeightMode.Fused ? Project("proj_up_gate_z", x).narrow(2, 7, 7) : Project("proj_up", x);

        Assert.True(layer.Forward(x).allclose(Project("proj_down", activated * second), 1e-4, 1e-5));
        Assert.Equal(gated ? mode == WeightMode.Fused ? 4 : 6 : 4, weights.Count);
    }

    [Fact]
    public void Constructor_None_IsRefused() =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new FeedForward(FeedForwardKind.None, 5, 7));

    [Theory]
    [InlineData(4096, 2.667, 64, 10944)]
    [InlineData(64, 2.6667, 64, 192)]
    [InlineData(10, 1.5, 1, 15)]
    public void InnerDim_PublishedFactors_GivePublishedWidths(int dim, double factor, int multiple, int expected) =>
        Assert.Equal(expected, FeedForward.InnerDim(dim, factor, multiple));
}
