using XlstmLab.Tasks;
using Xunit;

namespace XlstmLab.Tests.Tasks;

public sealed class NearestNeighborSourceTests
{
    private static readonly NearestNeighborSearch Task = new() { TrainingLength = 6, SampleCount = 7 };

    [Fact]
    public void Next_AnEpoch_HasEveryRowOnceAndTheNextAnotherOrder()
    {
        var source = new NearestNeighborSource(Task, seed: 3);
        var (first, second) = (Rows(source.Next(7)), Rows(source.Next(7)));
        var all = Rows(NearestNeighborSearch.Rows(SyntheticSplit.Train, 3, [0, 1, 2, 3, 4, 5, 6], 6));
        Assert.Equal(all.Order(StringComparer.Ordinal), first.Order(StringComparer.Ordinal));
        Assert.Equal(all.Order(StringComparer.Ordinal), second.Order(StringComparer.Ordinal));
        Assert.NotEqual(first, second);
    }

    [Fact]
    public void Resume_AtAPosition_GoesOnThere()
    {
        var source = new NearestNeighborSource(Task, seed: 3);
        source.Next(10);
        var position = source.Position;
        var expected = Rows(source.Next(9));
        var again = new NearestNeighborSource(Task, seed: 3);
        again.Resume(position);
        Assert.Equal(expected, Rows(again.Next(9)));
        Assert.Throws<ArgumentException>(() => new NearestNeighborSource(Task, seed: 4).Resume(position));
        Assert.Throws<ArgumentException>(() => new NearestNeighborSource(Task with { SampleCount = 8 }, seed: 3).Resume(position));
        Assert.Throws<ArgumentException>(() => again.Resume(position with { Window = 7 }));
    }

    [Fact]
    public void Slice_OfABatch_HasItsRows()
    {
        var batch = new NearestNeighborSource(Task, seed: 3).Next(5);
        Assert.Equal(25, batch.TargetCount);
        var part = batch.Slice(1, 3);
        Assert.Equal((3, 6, 15), (part.Rows, part.Length, part.TargetCount));
        Assert.Equal(Rows(batch)[1..4], Rows(part));
    }

    /// <summary>Each row's numbers, inputs and targets, as text.</summary>
    private static string[] Rows(VectorBatch batch) =>
    [
        .. Enumerable.Range(0, batch.Rows).Select(r =>
        {
            var numbers = batch.Inputs[(18 * r)..(18 * (r + 1))].Concat(batch.Targets[(6 * r)..(6 * (r + 1))]);
            return string.Join(" ", numbers.Select(BitConverter.SingleToInt32Bits));
        }),
    ];
}
