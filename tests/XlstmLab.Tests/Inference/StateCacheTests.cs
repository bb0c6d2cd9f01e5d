using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Models;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

public sealed class StateCacheTests
{
    /// <summary>8 bytes of state; a token is 4 more.</summary>
    [Fact]
    public void Find_LongestKnownBeginning_IsACopyOfItsState()
    {
        var before = Live();
        using (var cache = new StateCache(1000))
        {
            cache.Add([1], State(1));
            cache.Add([1, 2, 3], State(3));
            cache.Add([1, 2, 4], State(4));
            cache.Add([1, 2, 3, 5], State(5));
            Assert.Equal((3, 3), Found(cache, 1, 2, 3));
            Assert.Equal((3, 3), Found(cache, 1, 2, 3, 4, 5));
            Assert.Equal((4, 5), Found(cache, 1, 2, 3, 5, 5));
            Assert.Equal((1, 1), Found(cache, 1, 2));
            Assert.Equal((0, -1), Found(cache, 2, 1));
            Assert.Equal((0, -1), Found(cache));
            Assert.Equal((4, (4 * 8) + (11 * 4)), (cache.Count, cache.SizeInBytes));
            cache.Clear();
            Assert.Equal((0, -1), Found(cache, 1, 2, 3));
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public void Add_BeyondTheCapacity_ForgetsWhatWasNotUsedForTheLongestTime()
    {
        var before = Live();
        using (var cache = new StateCache(30))
        {
            cache.Add([1], State(1));
            cache.Add([2], State(2));
            Assert.Equal((1, 1), Found(cache, 1));
            cache.Add([3], State(3));
            Assert.Equal((2, 24), (cache.Count, cache.SizeInBytes));
            Assert.Equal((0, -1), Found(cache, 2));
            Assert.Equal((1, 1), Found(cache, 1));

            // Larger than all of it; and one that is known.
            cache.Add([.. Enumerable.Range(0, 9)], State(9));
            cache.Add([3], State(8));
            Assert.Equal((1, 3), Found(cache, 3));
            Assert.Equal(2, cache.Count);
        }

        using (var none = new StateCache(0))
        {
            none.Add([1], State(1));
            Assert.Equal(0, none.Count);
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public void Add_NoTokensOrSeveralSequences_IsRefused()
    {
        using var cache = new StateCache(100);
        using var one = State(1);
        using var two = one.SelectRows(0, 0);
        Assert.Contains("after 0", Assert.Throws<ArgumentException>(() => cache.Add([], one)).Message, StringComparison.Ordinal);
        Assert.Contains("got 2", Assert.Throws<ArgumentException>(() => cache.Add([1], two)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => new StateCache(-1));
    }

    private static (int Length, double Value) Found(StateCache cache, params int[] tokens)
    {
        var (length, state) = cache.Find(tokens);
        using (state)
        {
            return (length, state is null ? -1 : state["x"].item<double>());
        }
    }

    private static ModelState State(double value) => new([KeyValuePair.Create("x", full([1, 1], value, ScalarType.Float64))]);

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
