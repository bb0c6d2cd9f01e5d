using System.Text;
using CsCheck;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class CorpusTests
{
    [Fact]
    public void Of_Name_IsTheStatedHash()
    {
        // SHA-256("1906\n1800_john_adams_f") and the others, computed apart from this library.
        var rule = new SplitRule { Seed = 1906 };
        Assert.Equal(Split.Validation, rule.Of("1800_john_adams_f"));
        Assert.Equal(Split.Test, rule.Of("1798_john_adams_f"));
        Assert.Equal(Split.Train, rule.Of("1790_george_washington_n"));
    }

    [Fact]
    public void Split_DocumentsAddedOrReordered_LeavesTheOthersWhereTheyAre() =>
        Gen.Select(Gen.Int[150, 300], Gen.Int[0, 149], Gen.Long).Sample((count, removed, seed) =>
        {
            var rule = new SplitRule { Seed = seed, Validation = 0.2, Test = 0.1 };
            var documents = Enumerable.Range(0, count).Select(k => new Document($"d{k}", $"text {k}")).ToList();
            var all = new Corpus("all", documents, rule);
            var some = new Corpus("some", documents.Skip(removed).Reverse(), rule);
            foreach (var split in Enum.GetValues<Split>())
            {
                Assert.Subset(
                    all[split].Select(d => d.Name).ToHashSet(),
                    some.SplitMethod == all.SplitMethod
                        ? some[split].Select(d => d.Name).ToHashSet() : []);
            }

            Assert.Equal(count, Enum.GetValues<Split>().Sum(s => all[s].Count));
        }, iter: 50);

    [Fact]
    public void Split_SingleDocument_IsCutAtLinesAndComplete()
    {
        var text = string.Concat(Enumerable.Range(0, 200).Select(k => $"line {k} é🚀\n"));
        var corpus = new Corpus("one", [new Document("one", text)]);
        Assert.Equal(text, string.Concat(Enum.GetValues<Split>().SelectMany(s => corpus[s]).Select(d => d.Text)));
        Assert.All(Enum.GetValues<Split>(), s => Assert.EndsWith("\n", Assert.Single(corpus[s]).Text, StringComparison.Ordinal));
        Assert.InRange(corpus[Split.Train][0].Text.Length, text.Length * 0.9, text.Length * 0.91);
        Assert.Contains("position", corpus.SplitMethod, StringComparison.Ordinal);
    }

    [Fact]
    public void Split_AnyCutText_LosesNothingAndBreaksNoCharacter() =>
        Gen.OneOf(Gen.Const("🚀"), Gen.Const("é"), Gen.Const("\n"), Gen.Const("ab")).Array[25, 80].Select(string.Concat).Sample(text =>
        {
            var corpus = new Corpus("one", [new Document("one", text)], new SplitRule { Validation = 0.2, Test = 0.2 });
            var parts = Enum.GetValues<Split>().SelectMany(s => corpus[s]).Select(d => d.Text).ToList();
            Assert.Equal(text, string.Concat(parts));
            Assert.All(parts, p => Assert.False(char.IsLowSurrogate(p[0])));
        });

    [Fact]
    public void Open_Folder_ReadsTextsAndLinesInOrdinalOrder()
    {
        using var folder = new TempFolder();
        folder.Write("b.txt", "second, of some length");
        folder.Write("a/z.txt", "\ufefffirst, of some length");
        folder.Write("c.jsonl", "{\"text\":\"third, of some length\",\"year\":1}\n\n{\"text\":\"fourth, of some length\"}\n");
        folder.Write("empty.txt", "");
        folder.Write("ignored.md", "not text");
        var corpus = Corpus.Open(folder.Path, new CorpusOptions { Rule = new SplitRule { Validation = 0, Test = 0 } });
        Assert.Equal(["a/z.txt", "b.txt", "c.jsonl:1", "c.jsonl:3"], corpus[Split.Train].Select(d => d.Name));
        Assert.Equal("first, of some length", corpus[Split.Train][0].Text);
        Assert.Equal("1", corpus[Split.Train][2].Fields["year"]);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"text\":\"x\"}\n{\"text\":\n", "line 2")]
    [InlineData("a.jsonl", "{\"body\":\"x\"}\n", "body")]
    [InlineData("a.jsonl", "{\"text\":1}\n", "Number")]
    [InlineData("a.jsonl", "{\"text\":\"\\ud800\"}\n", "line 1")]
    [InlineData("a.jsonl", "null\n", "line 1")]
    [InlineData("a.jsonl", "\n", "no text")]
    [InlineData("a.txt", "", "no text")]
    [InlineData("a.txt", "abc", "too short")]
    [InlineData("a.csv", "abc", ".jsonl")]
    public void Open_BadFile_SaysWhatAndWhere(string name, string content, string expected)
    {
        using var folder = new TempFolder();
        var path = folder.Write(name, content);
        Assert.Contains(expected, Assert.Throws<InvalidDataException>(() => Corpus.Open(path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_NotUtf8_SaysWhere()
    {
        using var folder = new TempFolder();
        var path = folder.Write("a.txt", "");
        File.WriteAllBytes(path, [97, 98, 0xFF, 99]);
        Assert.Contains("byte 2", Assert.Throws<InvalidDataException>(() => Corpus.Open(path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_EmptyFolder_SaysSo()
    {
        using var folder = new TempFolder();
        Assert.Contains(".jsonl", Assert.Throws<InvalidDataException>(() => Corpus.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_UnknownName_ListsDatasets() =>
        Assert.Contains(
            Datasets.Default, Assert.Throws<FileNotFoundException>(() => Corpus.Open("no-such-dataset")).Message, StringComparison.Ordinal);

    [Fact]
    public void Open_OtherTextField_IsRead()
    {
        using var folder = new TempFolder();
        var path = folder.Write("a.jsonl", "{\"body\":\"a text that is long enough to be cut\"}\n");
        Assert.Equal("a text that is long enough to be cut".Length, new[] { Split.Train, Split.Validation, Split.Test }
            .Sum(s => Corpus.Open(path, new CorpusOptions { TextField = "body" })[s].Sum(d => d.Text.Length)));
    }

    [Fact]
    public void Corpus_BadSharesOrTwins_Refused()
    {
        Document[] documents = [new("a", "x"), new("a", "y")];
        Assert.Contains("'a'", Assert.Throws<InvalidDataException>(() => new Corpus("c", documents)).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidDataException>(() => new Corpus("c", documents[..1], new SplitRule { Test = double.NaN }));
        Assert.Throws<InvalidDataException>(() => new Corpus("c", documents[..1], new SplitRule { Test = 1 }));
    }

    [Fact]
    public void ReadJsonLines_Damaged_ThrowsInvalidDataOnly()
    {
        var content = Encoding.UTF8.GetBytes("{\"text\":\"naïve \\u00e9\",\"n\":[1,2]}\n{\"text\":\"x\\ny\",\"d\":{\"a\":null}}\n");
        Damage.Check(content, bytes => Corpus.ReadJsonLines(bytes, "a.jsonl", "a", "text"));
    }
}
