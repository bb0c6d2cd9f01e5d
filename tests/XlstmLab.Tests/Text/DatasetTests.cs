using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Text;

[Collection(nameof(TextCollection))]
public sealed class DatasetTests
{
    private static readonly DatasetCard Card = new()
    {
        Name = "tiny",
        Title = "Tiny",
        Origin = "a test",
        Licence = "none",
        Preparation = "none",
        Split = new SplitRule { Validation = 0.3, Test = 0.3 },
    };

    private static readonly Document[] Documents =
        [.. Enumerable.Range(0, 30).Select(k =>
            new Document($"d{k}", $"text {k}\r\nwith \u0002 and —") { Fields = new Dictionary<string, string> { ["year"] = $"{k}" } })];

    [Fact]
    public void Open_ShippedDataset_IsWhatItsReadmeSays()
    {
        var corpus = Corpus.Open(Datasets.Default);
        Assert.Equal((207, 9_649_328L), (corpus[Split.Train].Count, corpus.Bytes(Split.Train)));
        Assert.Equal((14, 536_200L), (corpus[Split.Validation].Count, corpus.Bytes(Split.Validation)));
        Assert.Equal((12, 575_674L), (corpus[Split.Test].Count, corpus.Bytes(Split.Test)));
        Assert.Equal(("1800", "John Adams"), (corpus[Split.Validation][0].Fields["year"], corpus[Split.Validation][0].Fields["president"]));
    }

    [Fact]
    public void Write_ThenRead_GivesTheDocuments()
    {
        using var temporary = new TempFolder();
        var folder = Path.Combine(temporary.Path, "tiny");
        var written = DatasetArchive.Write(folder, Card, Documents);
        var (card, documents) = DatasetArchive.Read(folder);
        Assert.Equal(written.Sha256, card.Sha256);
        Assert.Equal(
            Documents.Select(d => (d.Name, d.Text.Replace("\r\n", "\n", StringComparison.Ordinal))),
            documents.Select(d => (d.Name, d.Text)));
        Assert.Equal("7", documents[7].Fields["year"]);
        Assert.Equal(written.Sha256, DatasetArchive.Write(folder, Card, documents).Sha256);
        Assert.Equal(2, Directory.EnumerateFiles(folder).Count());
        Assert.Equal(
            Corpus.Open(folder)[Split.Test].Select(d => d.Name), documents.Select(d => d.Name).Where(n => Card.Split.Of(n) == Split.Test));
    }

    [Fact]
    public void Write_FolderOfAnotherName_Refused()
    {
        using var temporary = new TempFolder();
        Assert.Throws<ArgumentException>(() => DatasetArchive.Write(temporary.Path, Card, Documents));
    }

    [Fact]
    public void Read_OtherFile_NamesTheChecksum()
    {
        using var temporary = new TempFolder();
        var folder = Path.Combine(temporary.Path, "tiny");
        DatasetArchive.Write(folder, Card, Documents);
        var path = Path.Combine(folder, Card.File);
        var bytes = File.ReadAllBytes(path);
        bytes[^1] ^= 1;
        File.WriteAllBytes(path, bytes);
        Assert.Contains("sha256", Assert.Throws<InvalidDataException>(() => DatasetArchive.Read(folder)).Message, StringComparison.Ordinal);
        File.Delete(path);
        Assert.Contains("lacks", Assert.Throws<InvalidDataException>(() => DatasetArchive.Read(folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_FileThatUnpacksToMoreThanItsCardSays_StopsThere()
    {
        using var temporary = new TempFolder();
        var folder = Path.Combine(temporary.Path, "tiny");
        DatasetArchive.Write(folder, Card, Documents);
        byte[] content = [.. Enumerable.Repeat((byte)' ', 200_000_000)];
        var bomb = new byte[1 << 20];
        Assert.True(System.IO.Compression.BrotliEncoder.TryCompress(content, bomb, out var written, quality: 5, window: 22));
        File.WriteAllBytes(Path.Combine(folder, "text.jsonl.br"), bomb[..written]);
        var card = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "card.json")))!;
        card["sha256"] = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(bomb.AsSpan(0, written)));
        card["content_bytes"] = 1000;
        File.WriteAllText(Path.Combine(folder, "card.json"), card.ToJsonString());

        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains(
            "content_bytes", Assert.Throws<InvalidDataException>(() => DatasetArchive.Read(folder)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "content_bytes", Assert.Throws<InvalidDataException>(() => DocumentFile.Find(folder)[0].Read().ToList()).Message,
            StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 32 << 20);
    }

    [Theory]
    [InlineData("card.json")]
    [InlineData("text.jsonl.br")]
    public void Read_Damaged_ThrowsInvalidDataOnly(string file)
    {
        using var temporary = new TempFolder();
        var folder = Path.Combine(temporary.Path, "tiny");
        DatasetArchive.Write(folder, Card, Documents);
        var path = Path.Combine(folder, file);
        Damage.Check(File.ReadAllBytes(path), bytes =>
        {
            File.WriteAllBytes(path, bytes);
            DatasetArchive.Read(folder);
        });
    }
}
