using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class TrainedProductsTests
{
    private static readonly long[] Widths = [24, 8, 40];

    [Fact]
    public void Passes_WithWhatIsKept_GiveTheSameAndAddUpTheirGradients()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(1);
        var (kept, plain) = (Weights(), Weights());
        foreach (var (a, b) in kept.Zip(plain))
        {
            using var noGrad = no_grad();
            a.copy_(b);
        }

        using var products = new TrainedProducts(kept);
        for (var update = 0; update < 2; update++)
        {
            for (var part = 0; part < 2; part++)
            {
                var x = randn(2, 5, 16).to(bfloat16).requires_grad_();
                var again = x.detach().requires_grad_();
                var results = products.Serve(() => JointProjection.Forward(x, kept, Widths));
                var expected = JointProjection.Forward(again, plain, Widths);
                var gradients = results.Select(r => randn(r.shape).to(bfloat16)).ToArray();
                autograd.backward([.. results], gradients);
                autograd.backward([.. expected], gradients);
                Assert.All(results.Zip(expected), pair => Assert.True(pair.First.equal(pair.Second).all().item<bool>()));
                Assert.True(x.grad!.equal(again.grad!).all().item<bool>());
            }

            for (var k = 0; k < Widths.Length; k++)
            {
                Assert.Equal(float32, kept[k].grad!.dtype);
                Assert.InRange(KernelRun.Error(kept[k].grad!, plain[k].grad!), 0, 1e-2);
                (kept[k].grad, plain[k].grad) = (null, null);
            }

            products.BeginGradients();
        }

        Assert.Equal(1, products.Count);
    }

    [Fact]
    public void Backward_ResultThatNobodyUsed_HasAGradientOfZeros()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(2);
        var weights = Weights();
        using var products = new TrainedProducts(weights);
        var x = randn(3, 16).to(bfloat16).requires_grad_();
        for (var pass = 0; pass < 2; pass++)
        {
            products.Serve(() => JointProjection.Forward(x, weights, Widths))[1].sum().backward();
        }

        Assert.Equal(0, weights[0].grad!.abs().max().item<float>());
        Assert.InRange(KernelRun.Error(weights[1].grad!, 2 * x.detach().to(float32).sum([0L]).expand(8, 16)), 0, 1e-2);
    }

    [Fact]
    public void Backward_WeightThatHasAGradientAlready_AddsToIt()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        var weight = Weights()[0];
        using var products = new TrainedProducts([weight]);
        var x = randn(3, 16).to(bfloat16).requires_grad_();
        var before = randn(24, 16);
        weight.grad = before.clone();
        products.Serve(() => JointProjection.Forward(x, [weight], 24))[0].sum().backward();
        Assert.InRange(KernelRun.Error(weight.grad, before + x.detach().to(float32).sum([0L]).expand(24, 16)), 0, 1e-2);
    }

    /// <summary>A hook, a checkpoint and an average in their place change weights behind the optimiser's back.</summary>
    [Fact]
    public void Refresh_WeightsChangedOrElsewhere_IsSeen()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(4);
        var weights = Weights();
        using var products = new TrainedProducts(weights);
        var product = products.Serve(() => TrainedProducts.Of(weights))!;
        Assert.True(product.Joined.equal(cat([.. weights]).to(bfloat16)).all().item<bool>());
        using (no_grad())
        {
            weights[2].mul_(3);
        }

        Assert.True(products.Refresh());
        Assert.True(product.Joined.equal(cat([.. weights]).to(bfloat16)).all().item<bool>());
        product.Joined.zero_();
        Assert.True(products.Refresh());
        Assert.Equal(0, product.Joined.abs().max().to(float32).item<float>()); // nothing was changed since

        using (no_grad())
        {
            weights[1].set_(randn(8, 16));
        }

        Assert.False(products.Refresh());
        Assert.Equal(0, products.Count);
        product = products.Serve(() => TrainedProducts.Of(weights))!;
        Assert.True(product.Joined.equal(cat([.. weights]).to(bfloat16)).all().item<bool>());
    }

    /// <summary>Every place is one of the training's still, but another weight's.</summary>
    [Fact]
    public void Refresh_WeightsThatChangedPlaces_IsSeen()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(5);
        var (first, second) = (nn.Parameter(randn(8, 16)), nn.Parameter(randn(8, 16)));
        using var products = new TrainedProducts([first, second]);
        products.Serve(() => TrainedProducts.Of([first])!);
        Assert.True(products.Refresh());
        using (no_grad())
        {
            var before = first.alias();
            first.set_(second);
            second.set_(before);
        }

        Assert.False(products.Refresh());
        Assert.True(products.Refresh());
        var product = products.Serve(() => TrainedProducts.Of([first]))!;
        Assert.True(product.Joined.equal(first.to(bfloat16)).all().item<bool>());
    }

    /// <summary>Two trained weights in one place, as an embedding table that is the head too.</summary>
    [Fact]
    public void Refresh_WeightsInOnePlace_StayAsTheyWere()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(6);
        var first = nn.Parameter(randn(8, 16));
        using var products = new TrainedProducts([first, first.alias()]);
        products.Serve(() => TrainedProducts.Of([first])!);
        Assert.True(products.Refresh());
        Assert.Equal(1, products.Count);
    }

    [Fact]
    public void Of_OtherWeightsOrNoTraining_IsNull()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var weights = Weights();
        using var products = new TrainedProducts(weights[..2]);
        Assert.Null(TrainedProducts.Of(weights[..2]));
        products.Serve(() =>
        {
            Assert.Null(TrainedProducts.Of(weights));
            using (no_grad())
            {
                Assert.Null(TrainedProducts.Of([weights[0]]));
            }

            Assert.NotNull(TrainedProducts.Of(weights[..2]));
            Assert.Null(TrainedProducts.Of([weights[0]]));
            Assert.Null(TrainedProducts.Of([weights[1]]));
            return true;
        });
    }

    [Fact]
    public void Dense_OfATraining_TakesWhatIsKept()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(5);
        using var dense = new Dense(16, 12);
        dense.to(get_default_device());
        using (no_grad())
        {
            dense.Weight.normal_();
        }

        using var products = new TrainedProducts(dense.parameters());
        var x = randn(2, 3, 16).to(bfloat16);
        Assert.InRange(KernelRun.Error(products.Serve(() => dense.Forward(x)), dense.Forward(x)), 0, 1e-2);
        Assert.Equal(1, products.Count);
    }

    private static Parameter[] Weights() => [.. Widths.Select(w => new Parameter(randn(w, 16)))];
}
