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

    /// <summary>More than a launch takes, of all shapes; some have a gradient already, one in rows that are apart, and one weight is used twice.</summary>
    [Fact]
    public void Give_ManyWeights_HaveTheirSumsAndWhatTheyHad()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        KernelRun.Seed(2);
        using var sums = new PartialSums();
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
            var partials = randn(rows, first + count + 3);
            expected[weight] = expected[weight] + partials.narrow(1, first, count).to(float64).sum([0L]).view(weight.shape);
            sums.Add(weight, partials.alias().DetachFromDisposeScope(), first);
        }
    }

    [Fact]
    public void Clear_WhatWaited_IsForgottenAndFreed()
    {
        using var run = KernelRun.Begin();
        using var scope = NewDisposeScope();
        var weight = zeros(3);
        var partials = ones(2, 3).DetachFromDisposeScope();
        using var sums = new PartialSums();
        sums.Add(weight, partials, 0);
        sums.Clear();
        Assert.True(partials.IsInvalid);
        sums.Give();
        Assert.Null(weight.grad);
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
        var partials = randn(6, 7);
        using var noGrad = no_grad();
        var left = LeafGradients.GiveSums(products.Serve(() => LeafGradients.Of(weight, null)), partials, new SumPart(0, 2, 2), null);
        Assert.Equal([null, null], left);
        Assert.Null(weight.grad);
        products.EndGradients();
        Assert.InRange(KernelRun.Error(weight.grad!, partials.narrow(1, 0, 4).to(float64).sum([0L]).view(2, 2)), 0, 1e-6);

        left = LeafGradients.GiveSums(products.Serve(() => LeafGradients.Of(weight, other)), partials, new SumPart(0, 2, 2), new SumPart(4, 3));
        Assert.Null(left[0]);
        Assert.InRange(KernelRun.Error(left[1]!, partials.narrow(1, 4, 3).to(float64).sum([0L])), 0, 1e-6);
        Assert.InRange(KernelRun.Error(weight.grad!, 2 * partials.narrow(1, 0, 4).to(float64).sum([0L]).view(2, 2)), 0, 1e-6);
        products.EndGradients();
        Assert.Null(other.grad);
    }
}
