using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class PackedTokensTests
{
    private const int End = 0;

    // Every token but the end of document has a value of its own, so that its place can be told.
    private static readonly Gen<int[][]> Documents = Gen.Int[0, 12].Array[1, 12].Select(lengths =>
    {
        var next = 1;
        return lengths.Select(n => (int[])[End, .. Enumerable.Range(0, n).Select(_ => next++)]).ToArray();
    });

    [Fact]
    public void Next_OneEpoch_ReadsEveryTokenOfEveryWindowOnce() =>
        Gen.Select(Documents, Gen.Int[1, 9], Gen.Long).Where(x => x.Item1.Sum(d => d.Length) > x.Item2).Sample((documents, length, seed) =>
        {
            var loader = new PackedTokens(documents, End, length, seed);
            var batch = loader.Next(loader.WindowsPerEpoch);
            Assert.Equal(new BatchPosition(1, 0, seed, length, loader.Fingerprint), loader.Position);
            var read = batch.Inputs.Where(t => t != End).ToList();
            Assert.Equal(read.Count, read.Distinct().Count());
            var dropped = loader.TokenCount - (long)loader.WindowsPerEpoch * length;
            Assert.InRange(dropped!.Value, 1, length);
            Assert.Equal(loader.TokenCount - dropped, (long)batch.Rows * length);
            Assert.Equal(batch.Inputs.Select(t => t == End), batch.DocumentStarts);

            // Within a row, a document goes on in its order, and ends only where the next begins.
            var follower = documents.SelectMany(d => d.Zip([.. d.Skip(1), End])).Where(p => p.First != End)
                .ToDictionary(p => p.First, p => p.Second);
            var firsts = documents.Select(d => d.Length > 1 ? d[1] : End).ToHashSet();
            for (var row = 0; row < batch.Rows; row++)
            {
                var one = batch.Slice(row, 1);
                Assert.Equal(one.Inputs[1..], one.Targets[..^1]);
                int[] tokens = [.. one.Inputs, one.Targets[^1]];
                Assert.All(tokens.Zip(tokens.Skip(1)), p => Assert.True(
                    p.First == End ? p.Second == End || firsts.Contains(p.Second) : follower[p.First] == p.Second));
            }
        });

    [Fact]
    public void Resume_AnyPosition_GivesTheSameBatches() =>
        Gen.Select(Documents, Gen.Int[1, 6], Gen.Int[1, 5], Gen.Int[0, 8], Gen.Long)
            .Where(x => x.Item1.Sum(d => d.Length) > x.Item2)
            .Sample((documents, length, rows, before, seed) =>
            {
                var loader = new PackedTokens(documents, End, length, seed);
                for (var k = 0; k < before; k++)
                {
                    loader.Next(rows);
                }

                var resumed = new PackedTokens([.. documents.Select(d => d.ToArray())], End, length, seed);
                resumed.Next(rows + 1);
                resumed.Resume(loader.Position);
                for (var k = 0; k < 6; k++)
                {
                    Assert.Equal(loader.Next(rows).Targets, resumed.Next(rows).Targets);
                }

                Assert.Equal(loader.Position, resumed.Position);
            });

    [Fact]
    public void Next_BatchSizes_DoNotChangeTheOrderOfWindows()
    {
        int[][] documents = [[End, 1, 2, 3, 4, 5, 6], [End, 7, 8, 9], [End, 10, 11, 12, 13]];
        var byOne = new PackedTokens(documents, End, 2, 5);
        var byFive = new PackedTokens(documents, End, 2, 5);
        Assert.Equal(
            Enumerable.Range(0, 20).SelectMany(_ => byOne.Next(1).Inputs), Enumerable.Range(0, 4).SelectMany(_ => byFive.Next(5).Inputs));
    }

    [Fact]
    public void Next_EpochsAndSeeds_DifferInOrder()
    {
        int[][] documents = [.. Enumerable.Range(0, 40).Select(k => (int[])[End, k * 3 + 1, k * 3 + 2, k * 3 + 3])];
        var loader = new PackedTokens(documents, End, 4, 1);
        var first = loader.Next(loader.WindowsPerEpoch).Inputs;
        Assert.NotEqual(first, loader.Next(loader.WindowsPerEpoch).Inputs);
        Assert.NotEqual(first, new PackedTokens(documents, End, 4, 2).Next(loader.WindowsPerEpoch).Inputs);

        // The order belongs to the format of checkpoints: it must not change from version to version.
        Assert.Equal("0 82 83 84 0 61 62 63", string.Join(' ', first[..8]));
    }

    [Fact]
    public void Sequential_AllWindows_InGivenOrder()
    {
        int[][] documents = [[End, 1, 2, 3], [End, 4, 5, 6, 7]];
        var loader = new PackedTokens(documents, End, 2);
        var batches = loader.Sequential(3).ToList();
        Assert.Equal([3, 1], batches.Select(b => b.Rows));
        Assert.Equal([End, 1, 2, 3, End, 4], batches[0].Inputs);
        Assert.Equal([1, 2, 3, End, 4, 5], batches[0].Targets);
        Assert.Equal([5, 6, 6, 7], [.. batches[1].Inputs, .. batches[1].Targets]);
        Assert.Equal(0, loader.Position.Window);
    }

    [Fact]
    public void Resume_OtherDataLengthOrSeed_SaysWhich()
    {
        int[][] documents = [[End, 1, 2, 3]];
        var position = new PackedTokens(documents, End, 2, 1).Position;
        Refuse(new PackedTokens([[End, 1, 2, 4]], End, 2, 1), position, "data");
        Refuse(new PackedTokens(documents, End, 3, 1), position, "context");
        Refuse(new PackedTokens(documents, End, 2, 3), position, "seed");
        Refuse(new PackedTokens(documents, End, 2, 1), position with { Window = 9 }, "window 9");

        static void Refuse(PackedTokens loader, BatchPosition position, string expected) =>
            Assert.Contains(expected, Assert.Throws<ArgumentException>(() => loader.Resume(position)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void PackedTokens_TooLittleOrNoStart_Refused()
    {
        Assert.Contains(
            "4 tokens", Assert.Throws<ArgumentException>(() => new PackedTokens([[End, 1, 2, 3]], End, 4)).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "Document 1", Assert.Throws<ArgumentException>(() => new PackedTokens([[End, 1], [2]], End, 1)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => new PackedTokens([], End, 1));
    }

    [Fact]
    public void EncodeDocuments_Parallel_KeepsOrderAndReports()
    {
        var documents = Enumerable.Range(0, 100).Select(k => new Document($"{k}", new string('x', k))).ToList();
        var reports = new System.Collections.Concurrent.ConcurrentBag<TokenizingProgress>();
        var encoded = new ByteTokenizer().EncodeDocuments(documents, new ImmediateProgress<TokenizingProgress>(reports.Add));
        Assert.Equal(Enumerable.Range(1, 100), encoded.Select(d => d.Length));
        Assert.All(encoded, d => Assert.Equal(256, d[0]));
        Assert.Contains(reports, r => r is { Documents: 100, TotalDocuments: 100 });
        Assert.Throws<OperationCanceledException>(() => new ByteTokenizer().EncodeDocuments(documents, null, new CancellationToken(true)));
    }
}
