using XlstmLab.Operations;
using Xunit;

namespace XlstmLab.Tests.Operations;

public sealed class WorkTeamTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void Run_ManyTimes_DoesEachPieceOnce(int threads)
    {
        for (var round = 0; round < 2000; round++)
        {
            var work = new Counting(1 + round % 13);
            WorkTeam.Run(work, work.Counts.Length, threads);
            Assert.All(work.Counts, count => Assert.Equal(1, count));

            // Long enough that helpers go to sleep now and then.
            if (round % 500 == 0)
            {
                Thread.Sleep(50);
            }
        }
    }

    [Fact]
    public void Run_FromManyThreadsAtOnce_DoesAllOfTheirPieces() => Parallel.For(0, 8, _ =>
    {
        for (var round = 0; round < 300; round++)
        {
            var work = new Counting(7);
            WorkTeam.Run(work, 7, 3);
            Assert.All(work.Counts, count => Assert.Equal(1, count));
        }
    });

    [Fact]
    public void Run_PieceThatFails_FailsWhenAllOthersAreDoneAndServesAgain()
    {
        var work = new Counting(9, failing: 4);
        var error = Assert.Throws<InvalidOperationException>(() => WorkTeam.Run(work, 9, 2));
        Assert.Contains("the fourth", error.Message, StringComparison.Ordinal);
        Assert.All(work.Counts, count => Assert.Equal(1, count));
        var next = new Counting(9);
        WorkTeam.Run(next, 9, 2);
        Assert.All(next.Counts, count => Assert.Equal(1, count));
    }

    private sealed class Counting(int pieces, int failing = -1) : ISharedWork
    {
        public int[] Counts { get; } = new int[pieces];

        public void Do(int piece)
        {
            Interlocked.Increment(ref Counts[piece]);
            if (piece == failing)
            {
                throw new InvalidOperationException("the fourth");
            }
        }
    }
}
