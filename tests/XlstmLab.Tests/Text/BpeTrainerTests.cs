using System.Text;
using System.Text.Json.Nodes;
using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public class BpeTrainerTests
{
    private const string Alphabet = "aaabbc  d\u00E9'st1\n";

    private static readonly string[] Fixed = ["the cat's hat, the hat", "aaaaaaa aaaa aaa", "🚀🚀 🚀 数数数 12345", "état été"];

    private static readonly Gen<string> Words = Gen.OneOf(
        Gen.Char[Alphabet].Array[0, 60].Select(c => new string(c)),
        Gen.Int[0, 3].Select(k => Fixed[k]));

    private static readonly Gen<string[]> Corpora = Words.Array[1, 8].Where(c => c.Any(t => t.Length > 0));

    [Fact]
    public void Train_AnySmallCorpus_EqualsNaiveTrainer() => Gen.Select(Corpora, Gen.Int[257, 330], Gen.Int[1, 3], Gen.Bool).Sample(
        (corpus, size, frequency, gpt4) =>
        {
            var options = new BpeTrainerOptions
            {
                VocabularySize = size,
                MinimumFrequency = frequency,
                Pattern = gpt4 ? BpePattern.Gpt4 : BpePattern.Gpt2,
                Workers = 2,
            };
            var trained = BpeTrainer.Train(corpus, options);
            var (tokens, merges) = NaiveBpe.Train(corpus.SelectMany(t => NaiveBpe.Pieces(t, options.Pattern)), size, frequency);

            Assert.Equal(tokens, trained.Tokens);
            Assert.Equal(merges, trained.Merges);
        },
        iter: LongTests.Cases(all: 60, few: 20));

    [Fact]
    public void Encode_AnyText_EqualsNaiveEncoderAndDecodesToItself() => Gen.Select(Corpora, Words, Gen.String, Gen.Bool).Sample(
        (corpus, text, any, gpt4) =>
        {
            var options = new BpeTrainerOptions
            {
                VocabularySize = 300,
                MinimumFrequency = 1,
                Pattern = gpt4 ? BpePattern.Gpt4 : BpePattern.Gpt2,
                Workers = 1,
            };
            var trained = BpeTrainer.Train(corpus, options);
            var tokenizer = trained.ToTokenizer();
            foreach (var each in (string[])[.. corpus, text, any])
            {
                var whole = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(each));
                var ids = tokenizer.Encode(each);

                Assert.Equal(whole, tokenizer.Decode(ids));
                Assert.Equal(NaiveBpe.Pieces(whole, options.Pattern).SelectMany(p => NaiveBpe.Encode(p, trained)), ids);
            }
        },
        iter: LongTests.Cases(all: 40, few: 10));

    [Fact]
    public void Bytes_OfAllTokens_AreAllBytesAndWhatMergesSpell()
    {
        var trained = BpeTrainer.Train(["low lower lowest newer newest wider"], new() { VocabularySize = 275, MinimumFrequency = 1 });
        var tokenizer = trained.ToTokenizer();

        Assert.Equal(Enumerable.Range(0, 256), Enumerable.Range(1, 256).Select(id => (int)tokenizer.Bytes(id)[0]).Order());
        Assert.All(Enumerable.Range(1, 256), id => Assert.Equal(1, tokenizer.Bytes(id).Length));
        Assert.All(trained.Merges.Index(), m => Assert.Equal(
            [.. tokenizer.Bytes(m.Item.Left), .. tokenizer.Bytes(m.Item.Right)], tokenizer.Bytes(257 + m.Index).ToArray()));
    }

    [Fact]
    public void Train_PairsEquallyFrequent_TakesSmallerIds()
    {
        // "ab", "cd" and "ba" all occur twice: a < b < c by id.
        var trained = BpeTrainer.Train(["cd cd", "ba ba", "ab ab"], new() { VocabularySize = 300 });

        Assert.Equal(["ab", "ba", "cd"], trained.Merges.Take(3).Select(m => trained.Tokens[m.Left] + trained.Tokens[m.Right]));
    }

    [Fact]
    public void Train_SpecialTokens_ComeFirstAndSpellNothing()
    {
        var trained = BpeTrainer.Train(
            ["some text of words, some text"], new() { VocabularySize = 264, SpecialTokens = ["<end>", "<pad>"] });
        var tokenizer = trained.ToTokenizer();

        Assert.Equal(0, tokenizer.EndOfDocument);
        Assert.Equal(1, tokenizer.SpecialTokens["<pad>"]);
        Assert.Equal(264, tokenizer.VocabularySize);
        Assert.Equal([0, .. tokenizer.Encode("some")], tokenizer.Encode("<end>some"));
        Assert.Equal("some", tokenizer.Decode([0, .. tokenizer.Encode("some"), 1]));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Train_FewerPiecesHeldThanThereAre_SameForAnyWorkersAndSaysSo(int workers)
    {
        var texts = CorpusFiles.Texts(2000);
        var options = new BpeTrainerOptions { VocabularySize = 400, MaximumPieces = 300, Workers = workers };
        var trained = BpeTrainer.Train(texts, options);
        var again = BpeTrainer.Train(texts, options with { Workers = 2 });
        var exact = BpeTrainer.Train(texts, options with { MaximumPieces = 100_000 });

        Assert.True(trained.ForgottenCount > 0);
        Assert.True(trained.DistinctPieces <= 300);
        Assert.Equal(again.ToJson(), trained.ToJson());
        Assert.Equal(0, exact.ForgottenCount);
        Assert.Contains(trained.Tokens[300], exact.Tokens);
    }

    [Fact]
    public void TrainFiles_SeveralKinds_SameAsTheirTexts()
    {
        using var folder = new TempFolder();
        var texts = CorpusFiles.Texts(40);
        CorpusFiles.WriteZstd(folder["a.jsonl.zst"], CorpusFiles.JsonLines(texts[..20]));
        CorpusFiles.WriteParquet(folder["b.parquet"], texts[20..], 7);
        var path = folder["out", "tokenizer.json"];
        var reports = new List<BpeTrainingProgress>();
        var trained = BpeTrainer.Train(
            folder.Path, path, new() { VocabularySize = 300 }, new ImmediateProgress<BpeTrainingProgress>(reports.Add));

        Assert.Equal(BpeTrainer.Train(texts, new() { VocabularySize = 300 }).ToJson(), File.ReadAllText(path));
        Assert.Equal(texts.Sum(Encoding.UTF8.GetByteCount), trained.TextBytes);
        Assert.Equal(["tokenizer.json"], Directory.EnumerateFileSystemEntries(folder["out"]).Select(e => Path.GetFileName(e)!));
        Assert.Equal((1.0, 300), (reports[^1].SourceShare, reports[^1].Tokens));
        Assert.Equal(texts[3], BpeTokenizer.Load(path).Decode(BpeTokenizer.Load(path).Encode(texts[3])));
    }

    [Fact]
    public void TrainFiles_Sample_TakesTheBeginningOfEachFile()
    {
        using var folder = new TempFolder();
        folder.Write("a.jsonl", string.Concat(Enumerable.Repeat("{\"text\":\"xy xy xy xy xy xy xy xy\"}\n", 100)));
        folder.Write("b.jsonl", string.Concat(Enumerable.Repeat("{\"text\":\"uv uv uv uv uv uv uv uv\"}\n", 100)));
        var trained = BpeTrainer.Train(folder.Path, folder["tokenizer.json"], new() { VocabularySize = 300, SampleBytes = 700 });

        Assert.InRange(trained.TextBytes, 400, 800);
        Assert.Contains("xy", trained.Tokens);
        Assert.Contains("uv", trained.Tokens);
    }

    [Fact]
    public void TrainFiles_SampleOfOneHugeDocument_IsNoLongerThanAskedFor()
    {
        using var folder = new TempFolder();
        folder.Write("a.txt", string.Concat(Enumerable.Repeat("a line of text with \u00e9 in it\n", 5000)));
        var trained = BpeTrainer.Train(folder["a.txt"], folder["tokenizer.json"], new() { VocabularySize = 300, SampleBytes = 10_000 });
        Assert.InRange(trained.TextBytes, 9_900, 10_000);

        folder.Write("b.jsonl", $"{{\"text\":\"{new string('x', 60_000)}\",\"beside\":\"{new string('y', 60_000)}\"}}\n");
        Assert.InRange(
            BpeTrainer.Train(folder.Path, folder["tokenizer.json"], new() { VocabularySize = 300, SampleBytes = 10_000 }).TextBytes,
            9_900, 10_000);
    }

    [Fact]
    public void TrainFiles_FewDocumentsOfASplit_LearnsFromTheirTrainingPartsOnly()
    {
        using var folder = new TempFolder();
        folder.Write("in/a.txt", string.Concat(Enumerable.Repeat("line\n", 200)));
        var rule = new SplitRule { Validation = 0.1, Test = 0.1 };
        Assert.Equal(
            new Corpus("c", [new("a.txt", File.ReadAllText(folder["in/a.txt"]))], rule).Bytes(Split.Train),
            BpeTrainer.Train(folder["in"], folder["tokenizer.json"], new() { VocabularySize = 300, Split = rule }).TextBytes);
    }

    [Fact]
    public void TrainFiles_SplitRule_LearnsFromTrainingDocumentsOnly()
    {
        using var folder = new TempFolder();
        folder.Write("a.jsonl", string.Concat(Enumerable.Range(0, 50).Select(k => $"{{\"text\":\"text {k}\"}}\n")));
        var rule = new SplitRule { Validation = 0.3, Test = 0.2 };
        var expected = DocumentFile.Find(folder["a.jsonl"]).SelectMany(f => f.Read()).Where(d => rule.Of(d.Name) == Split.Train)
            .Sum(d => d.Text.Length);
        var trained = BpeTrainer.Train(folder["a.jsonl"], folder["tokenizer.json"], new() { VocabularySize = 300, Split = rule });

        Assert.Equal(expected, trained.TextBytes);
        Assert.InRange(expected, 100, 300);
    }

    [Fact]
    public void ToJson_Gpt2Pattern_IsWhatHuggingFaceWrites()
    {
        var json = JsonNode.Parse(BpeTrainer.Train(["ab ab"], new() { VocabularySize = 258 }).ToJson())!;

        Assert.Equal("BPE", (string?)json["model"]!["type"]);
        Assert.Equal("a b", (string?)json["model"]!["merges"]![0]);
        Assert.Equal(0, (int?)json["model"]!["vocab"]!["<|endoftext|>"]);
        Assert.Equal(1, (int?)json["model"]!["vocab"]!["!"]);
        Assert.Equal(
            """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}""",
            json["pre_tokenizer"]!.ToJsonString());
    }

    [Fact]
    public void Train_Cancelled_WritesNothing()
    {
        using var folder = new TempFolder();
        folder.Write("a.txt", "some text");
        using var source = new CancellationTokenSource();
        source.Cancel();

        Assert.ThrowsAny<OperationCanceledException>(
            () => BpeTrainer.Train(folder["a.txt"], folder["tokenizer.json"], null, null, source.Token));
        Assert.Equal(["a.txt"], folder.Entries);
    }

    [Fact]
    public void Train_SenselessOptions_SaysWhatIsExpected()
    {
        Assert.Contains(
            "at least 257", Assert.Throws<ArgumentException>(() => BpeTrainer.Train(["a"], new() { VocabularySize = 256 })).Message);
        Assert.Contains(
            "special tokens", Assert.Throws<ArgumentException>(() => BpeTrainer.Train(["a"], new() { SpecialTokens = [] })).Message);
        Assert.Contains("no text", Assert.Throws<InvalidDataException>(() => BpeTrainer.Train([""], new())).Message);
    }
}
