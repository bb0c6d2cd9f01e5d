using XlstmLab.Operations;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Operations;

public sealed class PartialSumsTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(33, 31)]
    [InlineData(264, 65)]
    public void Of_RowsAndColumns_IsTheirSum(int rows, int columns)
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(1);
        var partials = randn(rows, columns);
        Assert.InRange(KernelRun.Error(PartialSums.Of(partials), partials.to(float64).sum([0L])), 0, 1e-6);
    }

    /// <summary>
    /// More than a launch takes, of all shapes; some have a gradient already, one in rows that are apart, and one weight is used twice.
    /// </summary>
    [Fact]
    public void Give_ManyWeights_HaveTheirSumsAndWhatTheyHad()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        KernelRun.Seed(2);
        using var sums = new PartialSums(get_default_device());
        var expected = new Dictionary<Tensor, Tensor>(ReferenceEqualityComparer.Instance);
        for (var k = 0; k < 70; k++)
        {
            var (rows, first, inner) = (1 + k % 40, k % 3 * 4, 1 + k % 7);
            var weight = zeros(2, inner);
            if (k % 3 == 0)
            {
                weight.grad = k == 66 ? randn(inner, 2).t() : randn(2, inner);
            }

            expected[weight] = weight.grad?.to(float64) ?? zeros(2, inner, float64);
            Add(weight, rows, first);
        }

        Add(expected.Keys.First(), 5, 0);
        sums.Give();
        Assert.All(expected, pair => Assert.InRange(KernelRun.Error(pair.Key.grad!, pair.Value), 0, 1e-6));
        sums.Give();
        Assert.All(expected, pair => Assert.InRange(KernelRun.Error(pair.Key.grad!, pair.Value), 0, 1e-6)); // nothing was left

        void Add(Tensor weight, int rows, long first)
        {
            var count = weight.NumberOfElements;
            var partials = sums.Take(rows, first + count + 3)!.copy_(randn(rows, first + count + 3));
            expected[weight] = expected[weight] + partials.narrow(1, first, count).to(float64).sum([0L]).view(weight.shape);
            sums.Add(weight, partials, first);
        }
    }

    [Fact]
    public void Clear_WhatWaited_IsForgottenAndItsRoomFree()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var weight = zeros(3);
        using var sums = new PartialSums(get_default_device());
        var partials = sums.Take(2, 3)!.fill_(1);
        sums.Add(weight, partials, 0);
        sums.Clear();
        Assert.Equal(Kernel.Address(partials), Kernel.Address(sums.Take(4, 5)!));
        sums.Give();
        Assert.Null(weight.grad);
    }

    /// <summary>Where the room ends, what waits is summed, and nothing is written over before.</summary>
    [Fact]
    public void Take_MoreThanThereIsRoomFor_SumsWhatWaits()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        KernelRun.Seed(4);
        using var sums = new PartialSums(get_default_device());
        Assert.Null(sums.Take(1 << 12, 1 << 12));
        var weights = Enumerable.Range(0, 5).Select(_ => zeros(40)).ToList();
        var expected = new List<Tensor>();
        foreach (var weight in weights)
        {
            var partials = sums.Take(3, 1 << 20)!;
            partials.narrow(1, 0, 40).normal_();
            Assert.True(sums.Keeps(partials));
            expected.Add(partials.narrow(1, 0, 40).to(float64).sum([0L]));
            sums.Add(weight, partials, 0);
        }

        Assert.NotNull(weights[1].grad);
        Assert.Null(weights[4].grad);
        sums.Give();
        Assert.All(weights.Zip(expected), pair => Assert.InRange(KernelRun.Error(pair.First.grad!, pair.Second), 0, 1e-6));
    }

    /// <summary>A gradient comes after the pass where all weights are the training's, and at once by the engine where one is not.</summary>
    [Fact]
    public void GiveSums_OfATraining_WaitsForTheEndOfThePass()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        KernelRun.Seed(3);
        var (weight, other) = (zeros(2, 2).requires_grad_(), zeros(3).requires_grad_());
        using var products = new TrainedProducts([weight]);
        using var noGrad = no_grad();
        var leaves = products.Serve(() => LeafGradients.Of(weight, null));
        var partials = LeafGradients.Partials(leaves, 6, 7, weight.device).copy_(randn(6, 7));
        var left = LeafGradients.GiveSums(leaves, partials, new SumPart(0, 2, 2), null);
        Assert.Equal([null, null], left);
        Assert.Null(weight.grad);
        products.EndGradients();
        Assert.InRange(KernelRun.Error(weight.grad!, partials.narrow(1, 0, 4).to(float64).sum([0L]).view(2, 2)), 0, 1e-6);

        left = LeafGradients.GiveSums(
            products.Serve(() => LeafGradients.Of(weight, other)), partials, new SumPart(0, 2, 2), new SumPart(4, 3));
        Assert.Null(left[0]);
        Assert.InRange(KernelRun.Error(left[1]!, partials.narrow(1, 4, 3).to(float64).sum([0L])), 0, 1e-6);
        Assert.InRange(KernelRun.Error(weight.grad!, 2 * partials.narrow(1, 0, 4).to(float64).sum([0L]).view(2, 2)), 0, 1e-6);
        products.EndGradients();
        Assert.Null(other.grad);

        weight.grad = null;
        _ = LeafGradients.GiveSums(leaves, partials.clone(), new SumPart(0, 2, 2), null); // of other memory: at once
        Assert.InRange(KernelRun.Error(weight.grad!, partials.narrow(1, 0, 4).to(float64).sum([0L]).view(2, 2)), 0, 1e-6);
    }
}
