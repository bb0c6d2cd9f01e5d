using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class LeafGradientsTests
{
    [Fact]
    public void Give_WeightOfATraining_HasItAtOnceAndAddsUp()
    {
        using var scope = NewDisposeScope();
        var weight = zeros(3).requires_grad_();
        using var products = new TrainedProducts([weight]);
        var leaves = products.Serve(() => LeafGradients.Of(null, weight));
        using var noGrad = no_grad();
        Assert.Null(LeafGradients.Give(leaves, 1, tensor(new float[] { 1, 2, 3 })));
        Assert.Null(LeafGradients.Give(leaves, 1, ones(3)));
        Assert.Equal([2f, 3, 4], weight.grad!.data<float>().ToArray());
        Assert.Null(LeafGradients.Give(leaves, 0, null));
    }

    [Fact]
    public void Give_WithoutATraining_OrOfNoTrainedWeight_IsLeftToTheEngine()
    {
        using var scope = NewDisposeScope();
        var weight = zeros(6).requires_grad_();
        using var products = new TrainedProducts([weight]);
        var slice = weight.narrow(0, 0, 3);
        Assert.Null(LeafGradients.Of(weight));
        var gradient = ones(3);
        Assert.Same(gradient, LeafGradients.Give(null, 0, gradient));
        Assert.Same(gradient, LeafGradients.Give(products.Serve(() => LeafGradients.Of(slice)), 0, gradient));
        var other = zeros(3).requires_grad_();
        Assert.Same(gradient, LeafGradients.Give(products.Serve(() => LeafGradients.Of(other)), 0, gradient));
        Assert.Null(weight.grad);
        Assert.Null(other.grad);
    }
}
