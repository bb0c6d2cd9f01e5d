using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class TokenWindowsTests
{
    [Fact]
    public void Permutation_AnyCount_IsOne() => Gen.Select(Gen.Int[1, 3000], Gen.Long, Gen.Int[0, 5]).Sample((count, seed, stream) =>
    {
        var order = new Permutation(count, seed, stream);
        var values = Enumerable.Range(0, count).Select(k => order[k]).ToList();
        Assert.Equal(Enumerable.Range(0, count).Select(k => (long)k), values.Order());
        Assert.True(count < 50 || values.Zip(values.Skip(1)).Count(p => p.Second == p.First + 1) < count / 10);
    }, iter: 40);

    [Fact]
    public void Permutation_HugeCount_StaysBelowItAndIsTheSameEverywhere()
    {
        var order = new Permutation(1L << 40, 7, 3);
        Assert.All(Enumerable.Range(0, 1000), k => Assert.InRange(order[k], 0, (1L << 40) - 1));

        // The order belongs to the format of checkpoints: it must not change from version to version.
        Assert.Equal("23 635 12 530 969", string.Join(' ', Enumerable.Range(0, 5).Select(k => new Permutation(1000, 1, 2)[k])));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(512)]
    [InlineData(8_000)]
    [InlineData(16_655)]
    public void Next_EachEpoch_HandsOutEveryWindowOnce(int length)
    {
        using var folder = new Tokens();
        var stream = folder.Stream(Split.Train);
        var windows = new TokenWindows(folder.Open(), Split.Train, length, seed: 3);
        Assert.Equal((stream.Length - 1) / length, windows.WindowsPerEpoch);
        Assert.Equal(stream.Length, windows.TokenCount);
        var expected = Enumerable.Range(0, (int)windows.WindowsPerEpoch).Select(w => Text(stream.AsSpan(w * length, length + 1))).ToList();
        var sequential = windows.Sequential(5).ToList();
        Assert.Equal(expected, sequential.SelectMany(Rows));
        Assert.All(sequential, b => Assert.Equal(b.Inputs.Select(t => t == 256), b.DocumentStarts));
        var epochs = Enumerable.Range(0, 2).Select(_ => Rows(windows.Next((int)windows.WindowsPerEpoch)).ToList()).ToList();
        Assert.All(epochs, epoch => Assert.Equal(expected.Order(), epoch.Order()));
        Assert.True(expected.Count < 20 || !epochs[0].SequenceEqual(epochs[1]));
        Assert.Equal(new BatchPosition(2, 0, 3, length, windows.Fingerprint), windows.Position);
    }

    [Fact]
    public void Resume_AnyPosition_GivesTheSameBatches()
    {
        using var folder = new Tokens();
        var windows = new TokenWindows(folder.Open(), Split.Validation, 64, seed: 3);
        foreach (var rows in new[] { 1, 5, (int)windows.WindowsPerEpoch, 3 })
        {
            windows.Next(rows);
            var resumed = new TokenWindows(folder.Open(), Split.Validation, 64, seed: 3);
            resumed.Next(2);
            resumed.Resume(windows.Position);
            var (one, other) = (windows.Next(9), resumed.Next(9));
            Assert.Equal(one.Inputs, other.Inputs);
            Assert.Equal(one.Targets, other.Targets);
        }

        Refuse(windows.Position with { Window = windows.WindowsPerEpoch }, "window");
        Refuse(windows.Position with { Seed = 4 }, "seed");
        Refuse(windows.Position with { ContextLength = 65 }, "context");
        Refuse(new TokenWindows(folder.Open(), Split.Train, 64, seed: 3).Position, "other data");
        Assert.Contains(
            "shorter context", Assert.Throws<InvalidDataException>(() => new TokenWindows(folder.Open(), Split.Test, 1 << 24)).Message,
            StringComparison.Ordinal);

        void Refuse(BatchPosition position, string expected) =>
            Assert.Contains(expected, Assert.Throws<ArgumentException>(() => windows.Resume(position)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Mixture_AnyNumberOfRows_HoldsItsShares()
    {
        using var folder = new Tokens();
        double[] weights = [0.4, 0.15, 0.25, 0.2];
        var mixture = new TokenMixture(
            [.. weights.Select(w => new MixturePart(new TokenWindows(folder.Open(), Split.Train, 64), 10 * w))], seed: 9);
        var counts = new int[weights.Length];
        for (var row = 1; row <= 5 * TokenMixture.BlockRows; row++)
        {
            counts[mixture.SourceOf(row - 1)]++;
            if (row % TokenMixture.BlockRows == 0)
            {
                // Exact to less than a row a block.
                Assert.All(
                    counts.Zip(weights), p => Assert.InRange(Math.Abs(p.First - p.Second * row), 0, (double)row / TokenMixture.BlockRows));
            }
            else if (row % 256 == 0)
            {
                // Within a block the order is random: five standard deviations of drawing without replacement.
                Assert.All(
                    counts.Zip(weights), p =>
                        Assert.InRange(
                            p.First - p.Second * row, -5 * Math.Sqrt(TokenMixture.BlockRows) / 4 - 3,
                            5 * Math.Sqrt(TokenMixture.BlockRows) / 4 + 3));
            }
        }

        Assert.All(mixture.Shares.Zip(weights), p => Assert.Equal(p.Second, p.First, 1.0 / TokenMixture.BlockRows));
        Assert.NotEqual(
            Enumerable.Range(0, 50).Select(r => mixture.SourceOf(r)),
            Enumerable.Range(0, 50).Select(r => mixture.SourceOf(r + TokenMixture.BlockRows)));
    }

    [Fact]
    public void Mixture_Rows_AreThoseOfItsSourcesInTheirOrder()
    {
        using var folder = new Tokens();
        TokenWindows[] Sources() => [new(folder.Open(), Split.Train, 100, 1), new(folder.Open(), Split.Validation, 100, 2)];
        var mixture = new TokenMixture([new(Sources()[0], 3), new(Sources()[1], 1)], seed: 4);
        var rows = Rows(mixture.Next(300)).ToList();
        foreach (var (source, part) in Sources().Select((s, k) => (s, k)))
        {
            var mine = rows.Where((_, row) => mixture.SourceOf(row) == part).ToList();
            Assert.Equal(Rows(source.Next(mine.Count)), mine);
        }

        // Past a block and past the smaller source's epochs, a new mixture goes on exactly.
        mixture.Next(TokenMixture.BlockRows);
        var resumed = new TokenMixture([new(Sources()[0], 3), new(Sources()[1], 1)], seed: 4);
        resumed.Resume(mixture.Position);
        Assert.Equal(Rows(mixture.Next(40)), Rows(resumed.Next(40)));
        Assert.Equal(mixture.Position, resumed.Position);
        var other = new TokenMixture([new(Sources()[0], 2), new(Sources()[1], 1)], seed: 4);
        Assert.Contains(
            "other data", Assert.Throws<ArgumentException>(() => other.Resume(mixture.Position)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Mixture_BadParts_AreRefused()
    {
        using var folder = new Tokens();
        var source = new TokenWindows(folder.Open(), Split.Train, 10);
        Assert.Throws<ArgumentException>(() => new TokenMixture([]));
        Assert.Throws<ArgumentException>(() => new TokenMixture([new(source, 0)]));
        Assert.Throws<ArgumentException>(() => new TokenMixture([new(source, double.NaN)]));
        Assert.Contains(
            "twice", Assert.Throws<ArgumentException>(() => new TokenMixture([new(source, 1), new(source, 1)])).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "context",
            Assert.Throws<ArgumentException>(() =>
                new TokenMixture(
                    [new(source, 1), new(new TokenWindows(folder.Open(), Split.Train, 11), 1)])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "no whole row",
            Assert.Throws<ArgumentException>(() =>
                new TokenMixture(
                    [new(source, 1), new(new TokenWindows(folder.Open(), Split.Train, 10), 1e-5)])).Message, StringComparison.Ordinal);
    }

    private static IEnumerable<string> Rows(TokenBatch batch) => Enumerable.Range(0, batch.Rows).Select(row =>
    {
        var inputs = batch.Inputs.AsSpan(row * batch.Length, batch.Length);
        var targets = batch.Targets.AsSpan(row * batch.Length, batch.Length);
        Assert.True(inputs[1..].SequenceEqual(targets[..^1]));
        return Text([.. inputs, targets[^1]]);
    });

    private static string Text(ReadOnlySpan<int> tokens) => string.Join(' ', tokens.ToArray());

    /// <summary>A token folder of bytes in many shards, some of whose documents are longer than a window.</summary>
    private sealed class Tokens : IDisposable
    {
        private readonly TempFolder _folder = new();
        private readonly List<TokenFolder> _opened = [];

        public Tokens()
        {
            TokenFolderTests.WriteSource(_folder, 1);
            TokenFolderWriter.Write(
                TokenFolderTests.Source(_folder), new ByteTokenizer(), TokenFolderTests.Out(_folder),
                TokenFolderTests.Options() with { ShardBytes = 9_000 });
        }

        public TokenFolder Open()
        {
            _opened.Add(TokenFolder.Open(TokenFolderTests.Out(_folder)));
            return _opened[^1];
        }

        public int[] Stream(Split split) => [.. Open().Documents(split).SelectMany(d => d)];

        public void Dispose()
        {
            _opened.ForEach(f => f.Dispose());
            _folder.Dispose();
        }
    }
}
