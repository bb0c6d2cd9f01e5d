using System.Text;
using Parquet;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class DocumentFileTests
{
    [Theory]
    [InlineData("a.jsonl")]
    [InlineData("a.jsonl.gz")]
    [InlineData("a.jsonl.zst")]
    [InlineData("a.parquet")]
    public void Read_EveryLayout_GivesTheTextsInOrder(string name)
    {
        using var folder = new TempFolder();
        var texts = CorpusFiles.Texts(101);
        texts[7] = new string('x', 700_000);
        var path = Write(folder, name, texts);
        var documents = Assert.Single(DocumentFile.Find(path)).Read().ToList();
        Assert.Equal(texts, documents.Select(d => d.Text));
        Assert.Equal(Enumerable.Range(1, 101).Select(k => $"{name}:{k}"), documents.Select(d => d.Name));
        for (var first = 1; first <= 103; first += 17)
        {
            var rest = new DocumentFile(path, name).ReadRaw("text", first, default).Select(raw => raw.Parse("text", false).Name);
            Assert.Equal(documents.Skip(first - 1).Select(d => d.Name), rest);
        }
    }

    [Fact]
    public void Read_ZstdOfSeveralFrames_GoesOnPastEach()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "a.jsonl.zst");
        using var compressor = new ZstdSharp.Compressor(3);
        File.WriteAllBytes(
            path,
            [.. compressor.Wrap(CorpusFiles.JsonLines(["one"])).ToArray(),
                .. compressor.Wrap(CorpusFiles.JsonLines(["two"])).ToArray()]);
        Assert.Equal(["one", "two"], new DocumentFile(path, "a").Read().Select(d => d.Text));
    }

    [Theory]
    [InlineData(CompressionMethod.None)]
    [InlineData(CompressionMethod.Zstd)]
    [InlineData(CompressionMethod.Gzip)]
    public void Read_ParquetCompressions_AreRead(CompressionMethod compression)
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "a.parquet");
        CorpusFiles.WriteParquet(path, ["one", "", "three"], 2, compression);
        Assert.Equal(["one", "", "three"], new DocumentFile(path, "a").Read().Select(d => d.Text));
    }

    [Fact]
    public void Read_NestedField_IsFoundByItsPath()
    {
        using var folder = new TempFolder();
        var lines = Write(folder, "a.jsonl", ["one", "three"]);
        Assert.Equal(["3", "5"], new DocumentFile(lines, "a").Read("meta.text").Select(d => d.Text));
        var rows = Path.Combine(folder.Path, "a.parquet");

        // Rows 2 and 6 have a source, row 3 a struct without one, row 1 no struct: nulls of two depths in one row group.
        CorpusFiles.WriteParquet(rows, Enumerable.Repeat("x", 6), 6);
        Assert.Contains(
            "row 1", Assert.Throws<InvalidDataException>(() => new DocumentFile(rows, "a").Read("meta.source").ToList()).Message,
            StringComparison.Ordinal);
        Assert.Equal("source 1", new DocumentFile(rows, "a").ReadRaw("meta.source", 2, default).First().Text);
        Assert.Equal("source 5", new DocumentFile(rows, "a").ReadRaw("meta.source", 6, default).Single().Text);
        Assert.Equal(["id 0", "id 1"], new DocumentFile(rows, "a").Read("id").Take(2).Select(d => d.Text));
    }

    [Theory]
    [InlineData("body", "no column 'body'")]
    [InlineData("score", "Double")]
    [InlineData("tags.list.element", "list")]
    public void Read_ParquetColumnThatIsNoText_SaysWhichThereAre(string field, string expected)
    {
        using var folder = new TempFolder();
        var path = Write(folder, "a.parquet", ["one"]);
        Assert.Contains(
            expected, Assert.Throws<InvalidDataException>(() => new DocumentFile(path, "a").Read(field).ToList()).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Read_ParquetNull_SaysTheRow()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "a.parquet");
        CorpusFiles.WriteParquet(path, ["one", "two", "three", null, "five"], 3);
        var error = Assert.Throws<InvalidDataException>(() => new DocumentFile(path, "a").Read().ToList());
        Assert.Contains("row 4", error.Message, StringComparison.Ordinal);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_BadLine_SaysFileLineAndWhatToDo()
    {
        using var folder = new TempFolder();
        var path = Path.Combine(folder.Path, "a.jsonl.zst");
        CorpusFiles.WriteZstd(path, Encoding.UTF8.GetBytes("{\"text\":\"x\"}\n\n{\"body\":\"y\"}\n"));
        var error = Assert.Throws<InvalidDataException>(() => new DocumentFile(path, "a").Read().ToList());
        Assert.Contains($"'{path}', line 3", error.Message, StringComparison.Ordinal);
        Assert.Contains("there are: body", error.Message, StringComparison.Ordinal);
        Assert.Contains("another text field", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a.jsonl.gz")]
    [InlineData("a.jsonl.zst")]
    [InlineData("a.parquet")]
    public void Read_Truncated_SaysSo(string name)
    {
        using var folder = new TempFolder();
        var path = Write(folder, name, CorpusFiles.Texts(300));
        File.WriteAllBytes(path, File.ReadAllBytes(path)[..^50]);
        Assert.Contains(
            "fetch it again", Assert.Throws<InvalidDataException>(() => new DocumentFile(path, "a").Read().ToList()).Message,
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a.jsonl.gz")]
    [InlineData("a.jsonl.zst")]
    [InlineData("a.parquet")]
    public void Read_Damaged_ThrowsInvalidDataOnly(string name)
    {
        using var folder = new TempFolder();
        var path = Write(folder, name, CorpusFiles.Texts(40));
        Damage.Check(
            File.ReadAllBytes(path),
            bytes =>
            {
                File.WriteAllBytes(path, bytes);
                _ = new DocumentFile(path, "a").Read().ToList();
            },
            copies: 120);
    }

    [Fact]
    public void Read_WhatJsonDoesNotAllow_StopsNoCorpus()
    {
        using var folder = new TempFolder();
        folder.Write("a.jsonl", """
            {"text":"one","score":NaN,"list":[-Infinity,Infinity]}
            {"text":"two NaN \\ \" Infinity","url":"x\udc00"}
            {"text":"whole \ud83d\udc4d","score":NaN,"b\ud83d":"\udc4d\ud83d"}
            """);
        var read = new DocumentFile(folder["a.jsonl"], "a").Read().ToList();
        Assert.Equal(["one", "two NaN \\ \" Infinity", "whole \U0001F44D"], read.Select(d => d.Text));
        Assert.Equal(("", "x\ufffd"), (read[0].Fields["score"], read[1].Fields["url"]));
        Assert.Equal("\ufffd\ufffd", read[2].Fields["b\ufffd"]);
        folder.Write("c.jsonl", "{\"text\":\"one\"}\n{\"text\":\"half \\ud83d\"}\n");
        var error = Assert.Throws<InvalidDataException>(() => new DocumentFile(folder["c.jsonl"], "c").Read().ToList());
        Assert.Contains("line 2", error.Message, StringComparison.Ordinal);
        Assert.Contains("surrogate", error.Message, StringComparison.Ordinal);
        folder.Write("b.jsonl", "{\"text\":NaN}");
        Assert.Contains(
            "no string but a Null",
            Assert.Throws<InvalidDataException>(() => new DocumentFile(folder["b.jsonl"], "b").Read().ToList()).Message);
    }

    [Theory]
    [InlineData("a.jsonl")]
    [InlineData("a.jsonl.zst")]
    [InlineData("a.jsonl.gz")]
    public void Read_LineLongerThanAllowed_SaysWhereAndHowToAllowIt(string name)
    {
        using var folder = new TempFolder();
        var path = Write(folder, name, ["short", new string('x', 3 << 20), "short"]);
        var error = Assert.Throws<InvalidDataException>(() => new DocumentFile(path, "a") { MaxLineBytes = 2 << 20 }.Read().ToList());
        Assert.Contains("line 2", error.Message, StringComparison.Ordinal);
        Assert.Contains("--max-line-mib", error.Message, StringComparison.Ordinal);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        Assert.Equal(3, new DocumentFile(path, "a") { MaxLineBytes = 4 << 20 }.Read().Count());
    }

    [Fact]
    public void Read_LineThatUnpacksWithoutEnd_IsRefusedInLittleMemory()
    {
        using var folder = new TempFolder();
        using (var file = File.Create(folder["bomb.jsonl.zst"]))
        using (var zstd = new ZstdSharp.CompressionStream(file))
        {
            var zeros = new byte[1 << 20];
            for (var k = 0; k < 300; k++)
            {
                zstd.Write(zeros);
            }
        }

        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Throws<InvalidDataException>(
            () => new DocumentFile(folder["bomb.jsonl.zst"], "a") { MaxLineBytes = 8 << 20 }.Read().ToList());
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 64 << 20);
    }

    [Fact]
    public void Open_FolderOfEveryLayout_IsACorpusToo()
    {
        using var folder = new TempFolder();
        Write(folder, "c.parquet", ["parquet 1", "parquet 2"]);
        Write(folder, "a.jsonl.zst", ["zstd 1", "", "zstd 2"]);
        Write(folder, "b.jsonl.gz", ["gzip 1"]);
        var corpus = Corpus.Open(folder.Path, new CorpusOptions { Rule = new SplitRule { Validation = 0, Test = 0 } });
        Assert.Equal(["zstd 1", "zstd 2", "gzip 1", "parquet 1", "parquet 2"], corpus[Split.Train].Select(d => d.Text));
        Assert.Equal("a.jsonl.zst:3", corpus[Split.Train][1].Name);
        Assert.Contains("RedPajamaC4", corpus[Split.Train][0].Fields["meta"], StringComparison.Ordinal);
    }

    private static string Write(TempFolder folder, string name, string[] texts)
    {
        var path = Path.Combine(folder.Path, name);
        switch (name[name.IndexOf('.', StringComparison.Ordinal)..])
        {
            case ".parquet": CorpusFiles.WriteParquet(path, texts, 16); break;
            case ".jsonl.gz": CorpusFiles.WriteGzip(path, CorpusFiles.JsonLines(texts)); break;
            case ".jsonl.zst": CorpusFiles.WriteZstd(path, CorpusFiles.JsonLines(texts)); break;
            default: File.WriteAllBytes(path, CorpusFiles.JsonLines(texts)); break;
        }

        return path;
    }
}
