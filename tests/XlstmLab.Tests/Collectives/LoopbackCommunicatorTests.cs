using System.Net;
using System.Net.Sockets;
using System.Text;
using XlstmLab.Collectives;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Collectives;

public sealed class LoopbackCommunicatorTests
{
    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void BeginAllReduce_SeveralTensorsOfSeveralTypes_GivesEveryRankTheSameSums(int world)
    {
        // More than a piece of the transfer, and not a whole number of pieces.
        const int count = 700_001;
        var results = Ranks.Run(world, communicator =>
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)communicator.Rank + 1);
            var singles = randn(count, generator: generator);
            var doubles = full(3, 0.1 * (communicator.Rank + 1), dtype: float64);
            var halves = full(5, 1 + communicator.Rank, dtype: bfloat16);
            communicator.BeginAllReduce([singles, doubles]);
            communicator.BeginAllReduce([halves]);
            communicator.Finish();
            return (Singles: singles.data<float>().ToArray(), Doubles: doubles.data<double>().ToArray(),
                Half: halves.sum().to(float32).item<float>());
        });
        var expected = new float[count];
        for (var rank = 0; rank < world; rank++)
        {
            using var generator = new Generator((ulong)rank + 1);
            using var values = randn(count, generator: generator);
            var own = values.data<float>().ToArray();
            for (var k = 0; k < count; k++)
            {
                expected[k] += own[k];
            }
        }

        Assert.All(results, result =>
        {
            Assert.True(expected.AsSpan().SequenceEqual(result.Singles));
            Assert.Equal(0.1 * world * (world + 1) / 2, result.Doubles[2], 1e-12);
            Assert.Equal(5f * world * (world + 1) / 2, result.Half);
        });
        Assert.All(results, result => Assert.Equal(results[0].Doubles, result.Doubles));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void Broadcast_FromAnyRank_GivesAllItsBits(int root)
    {
        var results = Ranks.Run(3, communicator =>
        {
            using var values = full(4, 10 + communicator.Rank, dtype: int64);
            communicator.Broadcast(values, root);
            return values[3].item<long>();
        });
        Assert.All(results, value => Assert.Equal(10 + root, value));
    }

    [Fact]
    public void Gather_DifferentLengths_TellsAllWhatEachSaid()
    {
        var results = Ranks.Run(
            3, communicator =>
                communicator.Gather(Encoding.UTF8.GetBytes(new string('x', 3 * communicator.Rank))).Select(said => said.Length).ToArray());
        Assert.All(results, lengths => Assert.Equal([0, 3, 6], lengths));
    }

    [Fact]
    public void Gather_ARankThatEndsWithAReason_FailsOnAllOthersWithIt()
    {
        var failures = Ranks.Failures(3, communicator =>
        {
            if (communicator.Rank == 2)
            {
                communicator.Fail("the disk is full");
                throw new IOException("the disk is full");
            }

            communicator.Gather([]);
        });
        Assert.IsType<IOException>(failures[2]);
        Assert.All(failures[..2], failure => Assert.Equal(
            "Rank 2 of 3 has ended: the disk is full", Assert.IsType<CollectiveException>(failure).Message));
    }

    [Fact]
    public void Finish_ARankThatSaysNothing_FailsWithItsNameInTime()
    {
        using var end = new ManualResetEventSlim();
        var failures = Ranks.Failures(
            2,
            communicator =>
            {
                if (communicator.Rank == 1)
                {
                    end.Wait(TestContext.Current.CancellationToken);
                    return;
                }

                try
                {
                    using var values = ones(2);
                    communicator.BeginAllReduce([values]);
                    communicator.Finish();
                }
                finally
                {
                    end.Set();
                }
            },
            timeoutSeconds: 0.3);
        Assert.Contains(
            "Rank 1 of 2 has said nothing for 0.3 s", Assert.IsType<CollectiveException>(failures[0]).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Finish_RanksOutOfStep_FailsWithWords()
    {
        var failures = Ranks.Failures(2, communicator =>
        {
            using var values = ones(communicator.Rank == 0 ? 2 : 3);
            communicator.BeginAllReduce([values]);
            communicator.Finish();
        });
        Assert.Contains(
            "Rank 1 of 2 is out of step with rank 0: it sends 12 bytes where this rank has 8",
            failures[0]!.Message, StringComparison.Ordinal);
        Assert.IsType<CollectiveException>(failures[1]);
    }

    [Fact]
    public async Task Open_StrangersThatDoNotKnowTheSecret_AreRefusedAndTheRanksMeet()
    {
        using var listener = Ranks.Listener();
        var port = Ranks.Port(listener);
        var first = Task.Run(
            () => LoopbackCommunicator.Open(Ranks.Place(0, 2, port), listener, CancellationToken.None),
            TestContext.Current.CancellationToken);
        using (var stranger = new TcpClient())
        {
            await stranger.ConnectAsync(IPAddress.Loopback, port, TestContext.Current.CancellationToken);
            var stream = stranger.GetStream();
            await stream.WriteAsync(new byte[200], TestContext.Current.CancellationToken);
            var answer = new byte[64];
            var read = 0;
            try
            {
                for (var got = 1; got > 0; read += got)
                {
                    got = await stream.ReadAsync(answer, TestContext.Current.CancellationToken);
                }
            }
            catch (IOException)
            {
                // Hung up.
            }

            Assert.True(read <= 32, "A stranger was given more than the question.");
        }

        var refused = Assert.Throws<CollectiveException>(
            () => LoopbackCommunicator.Open(
                Ranks.Place(1, 2, port) with { Token = "another secret of that length" }, TestContext.Current.CancellationToken));
        Assert.Contains("has not taken rank 1 of 2 in", refused.Message, StringComparison.Ordinal);
        using var second = LoopbackCommunicator.Open(Ranks.Place(1, 2, port), TestContext.Current.CancellationToken);
        using var root = await first;
        Assert.Equal((0, 1), (root.Rank, second.Rank));
    }

    [Fact]
    public void Open_NobodyComes_SaysWhoIsMissing()
    {
        using var listener = Ranks.Listener();
        var failure = Assert.Throws<CollectiveException>(
            () => LoopbackCommunicator.Open(Ranks.Place(0, 3, Ranks.Port(listener), 0.2), listener, CancellationToken.None));
        Assert.Contains("Rank 0 has waited 0.2 s for ranks 1, 2 of 3", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Open_OtherNumbersOfRanks_IsRefusedWithWords()
    {
        using var listener = Ranks.Listener();
        var other = Task.Run(
            () => Record.Exception(() => LoopbackCommunicator.Open(Ranks.Place(1, 3, Ranks.Port(listener)), CancellationToken.None)),
            TestContext.Current.CancellationToken);
        var failure = Assert.Throws<CollectiveException>(
            () => LoopbackCommunicator.Open(Ranks.Place(0, 2, Ranks.Port(listener)), listener, CancellationToken.None));
        Assert.Contains("came as rank 1 of 3, and this is rank 0 of 2", failure.Message, StringComparison.Ordinal);
        Assert.IsType<CollectiveException>(await other);
    }
}
