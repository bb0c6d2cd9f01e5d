using System.Text;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class TokenFolderTests
{
    private static readonly SplitRule Thirds = new() { Seed = 5, Validation = 0.2, Test = 0.1 };

    [Fact]
    public void Write_ManyFiles_HoldsWhatEncodingEachDocumentGives()
    {
        using var folder = new TempFolder();
        var texts = WriteSource(folder);
        var tokenizer = BpeTokenizer.Load(TestSetup.Golden("tokenizer"));
        var card = TokenFolderWriter.Write(
            Source(folder), tokenizer, Out(folder), Options() with { TokenizerFile = TestSetup.Golden("tokenizer", "tokenizer.json") });
        using var tokens = TokenFolder.Open(Out(folder));
        Assert.True(card.Shards > 3);
        foreach (var split in Enum.GetValues<Split>())
        {
            var expected = texts.Where(t => t.Text.Length > 0 && Thirds.Of(t.Name) == split).ToList();
            Assert.Equal(expected.Select(t => (int[])[tokenizer.EndOfDocument, .. tokenizer.Encode(t.Text)]), tokens.Documents(split));
            Assert.Equal(
                new TokenCounts(
                    expected.Count, tokens.Documents(split).Sum(d => (long)d.Length),
                    expected.Sum(t => (long)Encoding.UTF8.GetByteCount(t.Text))),
                card.Parts[split]);

            // Bits per byte need as many bytes as the tokens spell.
            Assert.Equal(card.Parts[split].Bytes, tokens.Documents(split).Sum(d => d.Sum(id => (long)tokenizer.Bytes(id).Length)));
            Assert.All(tokens[split], file => Assert.Equal(2, file.TokenBytes));
        }

        tokens.Verify();
        Assert.Equal(tokenizer.Fingerprint, tokens.OpenTokenizer().Fingerprint);
        Assert.Contains(
            "another tokenizer",
            Assert.Throws<InvalidDataException>(() => tokens.RequireTokenizer(new ByteTokenizer())).Message, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(Out(folder), TokenFolder.PlanName)));
    }

    [Fact]
    public void Write_FirstShards_AreThoseOfTheWhole()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        var tokenizer = BpeTokenizer.Load(TestSetup.Golden("tokenizer"));
        var options = Options() with { TokenizerFile = TestSetup.Golden("tokenizer", "tokenizer.json") };
        TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder), options);
        var card = TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder) + "-2", options with { MostShards = 2 });
        Assert.Equal(2, card.Shards);
        using (var slice = TokenFolder.Open(Out(folder) + "-2"))
        using (var whole = TokenFolder.Open(Out(folder)))
        {
            var documents = slice.Documents(Split.Train).ToArray();
            Assert.NotEmpty(documents);
            Assert.Equal(whole.Documents(Split.Train).Take(documents.Length), documents);
            Assert.True(whole.Card.Parts[Split.Train].Documents > documents.Length);
        }

        // Made again it is done; as another slice it is refused.
        Assert.Equal(
            card.Parts, TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder) + "-2", options with { MostShards = 2 }).Parts);
        Assert.Contains(
            "the first 2 shards, not all",
            Assert.Throws<InvalidOperationException>(() =>
                TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder) + "-2", options)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Write_AnyNumberOfWorkers_GivesTheSameBytes()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        var tokenizer = BpeTokenizer.Load(TestSetup.Golden("tokenizer"));
        var contents = new[] { 1, 2, 7 }.Select(workers =>
        {
            TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder) + workers, Options() with { Workers = workers });
            return Content(Out(folder) + workers);
        }).ToList();
        Assert.Equal(contents[0], contents[1]);
        Assert.Equal(contents[0], contents[2]);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void Write_CancelledAgainAndAgain_EndsWithTheSameBytesAndRedoesNoShard(int workers)
    {
        using var folder = new TempFolder();
        WriteSource(folder, copies: 9);
        var tokenizer = new CountingTokenizer();
        var options = Options() with { Workers = workers, ShardBytes = 250_000 };
        TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder) + "whole", options);
        var documents = tokenizer.Count;
        var kept = new Dictionary<string, DateTime>();
        for (var (run, done) = (0, false); !done; run++)
        {
            Assert.True(run < 30);
            using var cancellation = new CancellationTokenSource();
            var shards = -1;
            var progress = new ImmediateProgress<TokenFolderProgress>(p =>
            {
                // Cancelled in the middle of the second shard of each run.
                shards = shards < 0 ? p.Shards : shards;
                if (p.Shards > shards)
                {
                    cancellation.Cancel();
                }
            });
            tokenizer.Count = 0;
            try
            {
                TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder), options, progress, cancellation.Token);
                done = true;
            }
            catch (OperationCanceledException)
            {
                Assert.Contains(
                    "goes on", Assert.Throws<InvalidDataException>(() => TokenFolder.Open(Out(folder))).Message, StringComparison.Ordinal);
                Assert.DoesNotContain(
                    Directory.EnumerateFileSystemEntries(Out(folder)), e => e.Contains(".tmp-", StringComparison.Ordinal));
            }

            Assert.True(run == 0 || tokenizer.Count < documents, "a run that goes on encodes all documents again");
            Assert.All(kept, k => Assert.Equal(k.Value, File.GetLastWriteTimeUtc(k.Key)));
            kept = Directory.EnumerateFiles(Out(folder), "*.tokens", SearchOption.AllDirectories)
                .ToDictionary(f => f, File.GetLastWriteTimeUtc);
            Assert.True(done || kept.Count > 0);
        }

        Assert.True(kept.Count > 9);
        Assert.Equal(Content(Out(folder) + "whole"), Content(Out(folder)));

        // Finished folders are left alone.
        tokenizer.Count = 0;
        TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder), options);
        Assert.Equal(0, tokenizer.Count);
    }

    [Fact]
    public void Write_LeftoversOfAKill_AreClearedAndRedone()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder) + "whole", Options());

        // As a kill in the third shard leaves it: two whole shards, the third aside, no card.
        TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), Options());
        var plan = TokenFolder.ReadCard(Out(folder))!.Plan;
        File.Delete(Path.Combine(Out(folder), TokenFolder.CardName));
        File.WriteAllText(Path.Combine(Out(folder), TokenFolder.PlanName), TokenFolder.ToJson(plan));
        foreach (var shard in Directory.EnumerateDirectories(Out(folder)).Order(StringComparer.Ordinal).Skip(3))
        {
            Directory.Delete(shard, recursive: true);
        }

        Directory.Move(Path.Combine(Out(folder), "00002"), Path.Combine(Out(folder), "00002.tmp-01234567"));
        File.WriteAllText(Path.Combine(Out(folder), "00002.tmp-01234567", "train.tokens"), "half");
        Assert.Throws<InvalidDataException>(() => TokenFolder.Open(Out(folder)));
        TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), Options());
        Assert.Equal(Content(Out(folder) + "whole"), Content(Out(folder)));
    }

    [Fact]
    public void Write_BegunInAnotherWay_SaysWhatDiffers()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), Options());
        Refuse("tokenizer", BpeTokenizer.Load(TestSetup.Golden("tokenizer")), Options());
        Refuse("split", new ByteTokenizer(), Options() with { Split = new SplitRule() });
        Refuse("shards of", new ByteTokenizer(), Options() with { ShardBytes = 5 });
        Refuse("text field", new ByteTokenizer(), Options() with { TextField = "meta.text" });
        File.AppendAllText(Path.Combine(Source(folder), "z.txt"), "more");
        Refuse("source files", new ByteTokenizer(), Options());

        void Refuse(string expected, ITokenizer tokenizer, TokenFolderOptions options) => Assert.Contains(
            expected,
            Assert.Throws<InvalidOperationException>(() =>
                TokenFolderWriter.Write(Source(folder), tokenizer, Out(folder), options)).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Write_BadSourceOrFolder_SaysWhat()
    {
        using var folder = new TempFolder();
        folder.Write("in/a.jsonl", "{\"text\":\"fine\"}\n{\"text\":3}\n");
        var bad = Assert.Throws<InvalidDataException>(
            () => TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), Options()));
        Assert.Contains("line 2", bad.Message, StringComparison.Ordinal);
        folder.Write("in/a.jsonl", "{\"text\":\"\"}\n");
        Assert.Contains(
            "no text",
            Assert.Throws<InvalidDataException>(() =>
                TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder) + 2,
                    Options())).Message, StringComparison.Ordinal);
        folder.Write("other/thing", "x");
        Assert.Throws<InvalidOperationException>(
            () => TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Path.Combine(folder.Path, "other"), Options()));
        Assert.Throws<FileNotFoundException>(
            () => TokenFolderWriter.Write(Path.Combine(folder.Path, "none"), new ByteTokenizer(), Out(folder) + 3));
        Assert.Throws<FileNotFoundException>(() => TokenFolder.Open(Source(folder)));
        Assert.Throws<ArgumentOutOfRangeException>(
            () => TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder) + 3, new() { Workers = 0 }));
    }

    [Fact]
    public void Write_LargeVocabulary_TakesFourBytesAToken()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        var wide = new CountingTokenizer { VocabularySize = 70_000, Offset = 69_000 };
        TokenFolderWriter.Write(Source(folder), wide, Out(folder), Options());
        TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder) + "narrow", Options());
        using var tokens = TokenFolder.Open(Out(folder));
        using var narrow = TokenFolder.Open(Out(folder) + "narrow");
        Assert.All(tokens[Split.Train], f => Assert.Equal(4, f.TokenBytes));
        Assert.Equal(
            narrow.Documents(Split.Train).Select(d => d.Skip(1).Select(t => t + 69_000)),
            tokens.Documents(Split.Train).Select(d => d.Skip(1)));
        Assert.Contains(
            "name the tokenizer", Assert.Throws<InvalidDataException>(() => tokens.OpenTokenizer()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_DamagedFile_IsRefusedOrFoundByVerify()
    {
        using var folder = new TempFolder();
        WriteSource(folder);
        TokenFolderWriter.Write(Source(folder), BpeTokenizer.Load(TestSetup.Golden("tokenizer")), Out(folder), Options());
        var path = Path.Combine(Out(folder), "00001", "train.tokens");
        var refused = Damage.Check(File.ReadAllBytes(path), bytes =>
        {
            File.WriteAllBytes(path, bytes);
            using var file = TokenFile.Open(path);
            for (var k = 0L; k < file.DocumentCount; k++)
            {
                file.Document(k);
            }

            file.Verify();
        });
        Assert.InRange(refused, 0.975, 1);
        File.Delete(path);
        Assert.Contains(
            "missing", Assert.Throws<InvalidDataException>(() => TokenFolder.Open(Out(folder))).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(200)]
    public void Write_AnyNumberOfDocuments_HasThePartsOfTheCorpus(int count)
    {
        using var folder = new TempFolder();
        for (var k = 0; k < count; k++)
        {
            folder.Write($"in/{k:000}.txt", string.Concat(Enumerable.Repeat($"line {k} \U0001F680\n", 40)));
        }

        var card = TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), new() { ShardBytes = 500 });
        using var tokens = TokenFolder.Open(Out(folder));
        var corpus = Corpus.Open(Source(folder));
        foreach (var split in Enum.GetValues<Split>())
        {
            Assert.NotEmpty(corpus[split]);
            Assert.Equal(corpus[split].Select(d => d.Text), tokens.Documents(split).Select(d => new ByteTokenizer().Decode(d)));
        }

        Assert.Equal(count < 10, card.Plan.ByPosition);
        Assert.Equal(corpus.SplitMethod.StartsWith("by position", StringComparison.Ordinal), card.Plan.ByPosition);
    }

    [Fact]
    public void Write_TextTooShortForItsParts_SaysSoAndWritesNothing()
    {
        using var folder = new TempFolder();
        folder.Write("in/a.txt", "ab");
        Assert.Contains(
            "too short",
            Assert.Throws<InvalidDataException>(() => TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder))).Message);
        Assert.False(Directory.Exists(Out(folder)));
        Assert.Equal(
            2,
            TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), new()
            {
                Split = new() { Validation = 0, Test = 0 },
            }).Parts[Split.Train].Bytes);
    }

    [Fact]
    public void Write_RowsWithoutText_AreCountedWhereTheyAreSkipped()
    {
        using var folder = new TempFolder();
        Directory.CreateDirectory(Source(folder));
        CorpusFiles.WriteParquet(Path.Combine(Source(folder), "a.parquet"), ["one", null, "two", null], 2);
        folder.Write("in/b.jsonl", "{\"text\":\"three\"}\n{\"text\":null}\n{\"other\":1}\n{\"text\":NaN}\n");
        var error = Assert.Throws<InvalidDataException>(() => TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder)));
        Assert.Contains("--skip-null", error.Message, StringComparison.Ordinal);

        var options = new TokenFolderOptions { SkipNull = true, Split = new() { Validation = 0, Test = 0 } };
        var card = TokenFolderWriter.Write(Source(folder), new ByteTokenizer(), Out(folder), options);
        Assert.Equal((3, 5), (card.Parts[Split.Train].Documents, card.Skipped));
        Assert.Equal(5, Corpus.Open(Source(folder), new() { SkipNull = true, Rule = options.Split }).Skipped);
        Assert.Equal(11, BpeTrainer.Train(Source(folder), folder["t.json"], new() { VocabularySize = 260, SkipNull = true }).TextBytes);
    }

    /// <summary>Some files of every layout; texts come with the names that split them.</summary>
    internal static List<(string Name, string Text)> WriteSource(TempFolder folder, int copies = 3)
    {
        Directory.CreateDirectory(Source(folder));
        var all = new List<(string, string)>();
        for (var copy = 0; copy < copies; copy++)
        {
            var texts = CorpusFiles.Texts(150, copy);
            texts[3] = "";
            texts[50] = string.Concat(Enumerable.Repeat("long text ", 20_000));
            var name = $"{copy:00}" + (copy % 3) switch { 0 => ".jsonl.zst", 1 => ".parquet", _ => ".jsonl" };
            var path = Path.Combine(Source(folder), name);
            switch (copy % 3)
            {
                case 0: CorpusFiles.WriteZstd(path, CorpusFiles.JsonLines(texts)); break;
                case 1: CorpusFiles.WriteParquet(path, texts, 40); break;
                default: File.WriteAllBytes(path, CorpusFiles.JsonLines(texts)); break;
            }

            all.AddRange(texts.Select((t, k) => ($"{name}:{k + 1}", t)));
        }

        return all;
    }

    internal static TokenFolderOptions Options() => new() { Split = Thirds, ShardBytes = 100_000, Workers = 2 };

    internal static string Source(TempFolder folder) => Path.Combine(folder.Path, "in");

    internal static string Out(TempFolder folder) => Path.Combine(folder.Path, "out");

    private static Dictionary<string, string> Content(string folder) =>
        Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)
            .ToDictionary(f => Path.GetRelativePath(folder, f), f => Convert.ToHexString(
                System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(f))));

    /// <summary>Bytes, each with an offset, and how many texts were encoded.</summary>
    private sealed class CountingTokenizer : ITokenizer
    {
        private readonly ByteTokenizer _bytes = new();
        private int _count;

        public int Offset { get; init; }

        public int Count
        {
            get => _count;
            set => _count = value;
        }

        public int VocabularySize { get; init; } = 257;

        public int EndOfDocument => VocabularySize - 1;

        public int[] Encode(string text)
        {
            Interlocked.Increment(ref _count);
            return Array.ConvertAll(_bytes.Encode(text), t => t + Offset);
        }

        public string Decode(IEnumerable<int> ids) => _bytes.Decode(ids.Select(id => id - Offset));

        public ReadOnlySpan<byte> Bytes(int id) => id < Offset ? default : _bytes.Bytes(id - Offset);
    }
}
