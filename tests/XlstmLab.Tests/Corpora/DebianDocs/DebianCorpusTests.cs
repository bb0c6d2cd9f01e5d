using System.Formats.Tar;
using System.IO.Compression;
using System.Text;
using XlstmLab.Corpora.DebianDocs;
using XlstmLab.Tests.Text;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Corpora.DebianDocs;

[Collection(nameof(TextCollection))]
public class DebianCorpusTests
{
    private const string Shared = "This licence lets the reader copy the text and change it as it says in the file that came with it.";

    [Fact]
    public void Build_FolderOfPackages_WritesADatasetOfDistinctText()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        var reports = new List<DebianCorpusProgress>();
        var card = DebianCorpus.Build(
            folder["docs"], Options(folder), new ImmediateProgress<DebianCorpusProgress>(reports.Add),
            TestContext.Current.CancellationToken);
        var (read, documents) = DatasetArchive.Read(folder["docs"]);

        Assert.Equal(
            ["card.json", "text.jsonl.zst"],
            Directory.EnumerateFiles(folder["docs"]).Select(f => Path.GetFileName(f)!).Order(StringComparer.Ordinal));
        Assert.False(Directory.Exists(folder["docs.part"]));
        Assert.Equal(card.ToJson(), read.ToJson());
        Assert.Equal(["alpha-doc", "beta-doc"], card.Packages!.Select(p => p.Name));
        Assert.Equal("1:2.0-1", card.Packages![0].Version);
        Assert.Equal(new FileInfo(folder["debs", "alpha-doc_1%3a2.0-1_all.deb"]).Length, card.Packages![0].Bytes);

        // Of 40 pages, the copy and the page in French are left out; the shared paragraph is there once.
        Assert.Equal(40, documents.Count);
        Assert.Equal(1, documents.Count(d => d.Text.Contains(Shared, StringComparison.Ordinal)));
        Assert.DoesNotContain(
            documents, d => d.Text.Contains("Home", StringComparison.Ordinal) || d.Text.Contains("fichier", StringComparison.Ordinal));
        Assert.All(documents, d => Assert.StartsWith(d.Fields["package"] + "/usr/share/", d.Name, StringComparison.Ordinal));
        Assert.Equal(1.0, reports[^1].Bytes / (double)reports[^1].TotalBytes);
    }

    [Fact]
    public void Build_AgainAndWithOtherWorkersAndAfterAStop_SameBytes()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        DebianCorpus.Build(folder["one", "docs"], Options(folder), null, TestContext.Current.CancellationToken);

        // Stopped before the second package: the first one's text is kept.
        using var source = new CancellationTokenSource();
        var stop = new ImmediateProgress<DebianCorpusProgress>(p =>
        {
            if (p.Package == "beta-doc")
            {
                source.Cancel();
            }
        });
        Assert.ThrowsAny<OperationCanceledException>(() => DebianCorpus.Build(folder["two", "docs"], Options(folder), stop, source.Token));
        Assert.False(Directory.Exists(folder["two", "docs"]));
        var kept = Directory.GetFiles(folder["two", "docs.part"]);
        Assert.StartsWith("alpha-doc-", Path.GetFileName(Assert.Single(kept)), StringComparison.Ordinal);
        var written = File.GetLastWriteTimeUtc(kept[0]);
        DebianCorpus.Build(
            folder["two", "docs"], Options(folder) with { Workers = 3 },
            new ImmediateProgress<DebianCorpusProgress>(p => Assert.Equal(written, File.GetLastWriteTimeUtc(kept[0]))),
            TestContext.Current.CancellationToken);

        foreach (var file in (string[])["card.json", "text.jsonl.zst"])
        {
            Assert.Equal(File.ReadAllBytes(folder["one", "docs", file]), File.ReadAllBytes(folder["two", "docs", file]));
        }
    }

    [Fact]
    public void Build_FolderWithContentOrDamagedPackage_IsRefused()
    {
        using var folder = new TempFolder();
        folder.Write("full/x.txt", "x");
        Assert.Contains(
            "not empty", Assert.Throws<InvalidOperationException>(() => DebianCorpus.Build(folder["full"], Options(folder))).Message);
        Assert.Contains(
            "no .deb", Assert.Throws<InvalidOperationException>(() => DebianCorpus.Build(folder["docs"], Options(folder))).Message);

        folder.Write("debs/x-doc_1_all.deb", "no archive at all");
        Assert.Contains(
            "no Debian package", Assert.Throws<InvalidDataException>(() => DebianCorpus.Build(folder["docs"], Options(folder))).Message);
        Assert.False(Directory.Exists(folder["docs"]));
    }

    [Fact]
    public async Task DatasetByName_TokenizerAndTokens_UseItsNamesAndSplit()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        var card = DebianCorpus.Build(folder["docs"], Options(folder), null, TestContext.Current.CancellationToken);

        var trained = await CommandLine.RunAsync(
            TestContext.Current.CancellationToken, "data", "train-tokenizer", folder["docs"], "--vocab", "300", "--out",
            folder["tokenizer.json"], "--json");
        Assert.Equal(0, trained.Code);
        Assert.Equal(300, (int?)trained.Json["vocabulary_size"]);
        Assert.Equal(card.Parts[Split.Train].Bytes, (long?)trained.Json["text_bytes"]);

        var tokenized = await CommandLine.RunAsync(
            TestContext.Current.CancellationToken, "data", "tokenize", folder["docs"], "--tokenizer", folder["tokenizer.json"], "--out",
            folder["tokens"]);
        Assert.Equal((0, ""), (tokenized.Code, tokenized.Code == 0 ? "" : tokenized.Error));
        using var tokens = TokenFolder.Open(folder["tokens"]);
        Assert.All(card.Parts, p => Assert.Equal(
            (p.Value.Documents, p.Value.Bytes), (tokens.Card.Parts[p.Key].Documents, tokens.Card.Parts[p.Key].Bytes)));
        Assert.Equal(card.Split, tokens.Card.Plan.Split);
    }

    [Fact]
    public async Task DebianDocsCommand_FolderOfPackages_SaysWhatItMade()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        var built = await CommandLine.RunAsync(
            TestContext.Current.CancellationToken, "data", "debian-docs", "--out", folder["docs"], "--debs", folder["debs"], "--json");

        Assert.Equal((0, ""), (built.Code, built.Code == 0 ? "" : built.Error));
        Assert.Equal(DatasetCard.Read(folder["docs"]).Sha256, (string?)built.Json["sha256"]);
        Assert.Equal("beta-doc", (string?)built.Json["packages"]![1]!["name"]);
    }

    /// <summary>One command from packages to tokens, which goes on where it was, and a slice of them.</summary>
    [Fact]
    public async Task DebianDocsCommand_WithTokens_MakesThemByATokenizerOfItsOwn()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        string[] line = ["data", "debian-docs", "--out", folder["docs"], "--debs", folder["debs"], "--tokens", folder["tokens"]];
        for (var time = 0; time < 2; time++)
        {
            var made = await CommandLine.RunAsync(TestContext.Current.CancellationToken, line);
            Assert.True(made.Code == 0, made.Error);

            // The second time there is nothing to learn.
            var tokenizer = new FileInfo(folder["docs", "tokenizer.json"]);
            Assert.Equal(time > 0, tokenizer.LastWriteTimeUtc == DateTime.UnixEpoch);
            tokenizer.LastWriteTimeUtc = DateTime.UnixEpoch;
        }

        using (var tokens = TokenFolder.Open(folder["tokens"]))
        {
            var card = DatasetCard.Read(folder["docs"]);
            Assert.All(card.Parts, p => Assert.Equal(
                (p.Value.Documents, p.Value.Bytes), (tokens.Card.Parts[p.Key].Documents, tokens.Card.Parts[p.Key].Bytes)));
            Assert.True(tokens.OpenTokenizer().VocabularySize <= 16384);
            Assert.Equal(1, tokens.Card.Shards);
        }

        var slice = await CommandLine.RunAsync(TestContext.Current.CancellationToken, [.. line, "--shards", "1"]);
        Assert.Contains("the first 1", slice.Error, StringComparison.Ordinal);
        Assert.Equal(
            2,
            (await CommandLine.RunAsync(TestContext.Current.CancellationToken, "data", "debian-docs",
                "--out", folder["docs"], "--shards", "1")).Code);
    }

    [Fact]
    public void Find_DatasetsName_IsItsFileWithNames()
    {
        var file = Assert.Single(DocumentFile.Find("state-of-the-union"));
        var (_, documents) = DatasetArchive.Read(Datasets.FolderOf("state-of-the-union"));

        Assert.True(file.HasNames);
        Assert.Equal(documents.Select(d => (d.Name, d.Text)), file.Read().Select(d => (d.Name, d.Text)));
        Assert.Contains("state-of-the-union", Assert.Throws<FileNotFoundException>(() => DocumentFile.Find("no-such-dataset")).Message);
    }

    [Fact]
    public void Find_DatasetWithAnotherFile_IsRefused()
    {
        using var folder = new TempFolder();
        WritePackages(folder);
        DebianCorpus.Build(folder["docs"], Options(folder), null, TestContext.Current.CancellationToken);
        CorpusFiles.WriteZstd(folder["docs", "text.jsonl.zst"], "{}"u8.ToArray());

        Assert.Contains("SHA-256", Assert.Throws<InvalidDataException>(() => DocumentFile.Find(folder["docs"])).Message);
    }

    [Fact]
    public void ParseShow_AptsOutput_GivesPackagesAndRefusesOtherParts()
    {
        const string Entry = "Package: linux-doc\nVersion: 6.1-2\nSection: doc\nDepends: linux-doc-6.1 (>= 6), x | y:any\nDescription: a\n"
            + " more\nSize: 1004\nSHA256: ab12\n";
        var (package, depends) = Assert.Single(DebianPackages.ParseShow(Entry + "\n"));

        Assert.Equal(new SourcePackage("linux-doc", "6.1-2", "ab12", 1004), package);
        Assert.Equal(["linux-doc-6.1", "x", "y"], depends);
        Assert.Equal(2, DebianPackages.ParseShow(Entry + "\n" + Entry).Count);
        Assert.Contains(
            "non-free",
            Assert.Throws<InvalidDataException>(() =>
                DebianPackages.ParseShow(Entry.Replace("Section: doc", "Section: non-free/doc"))).Message);
    }

    private static DebianCorpusOptions Options(TempFolder folder) =>
        new() { PackageFolder = folder["debs"], Workers = 1, Split = new SplitRule { Validation = 0.2, Test = 0.2 } };

    private static void WritePackages(TempFolder folder)
    {
        Directory.CreateDirectory(folder["debs"]);
        var pages = Enumerable.Range(0, 40).Select(k => ($"usr/share/doc/p/page{k}.html", Page(k))).ToArray();
        WriteDeb(
            folder["debs", "alpha-doc_1%3a2.0-1_all.deb"],
            [.. pages[..30], ("usr/share/doc/p/copy.html", Page(3)), ("usr/share/doc/p/fr/page.html", Page(77))]);
        WriteDeb(folder["debs", "beta-doc_3_all.deb"], [.. pages[30..], ("usr/share/doc/q/french.html", string.Concat(
            Enumerable.Repeat("<p>Le fichier est lu par le programme dans cet ordre.</p>", 20)))]);
    }

    private static string Page(int k)
    {
        var paragraphs = Enumerable.Range(0, 7).Select(i =>
            $"<p>This is the paragraph {i} of page {k}, and it tells the reader what is to be done with each of {k * i} parts.</p>");
        return $"<html><body><nav>Home</nav><h1>Page {k}</h1>{string.Concat(paragraphs)}<p>{Shared}</p></body></html>";
    }

    [Theory]
    [InlineData("data.tar.gz")]
    [InlineData("data.tar.zst")]
    [InlineData("data.tar")]
    public void Read_Damaged_NamesThePackage(string member)
    {
        using var folder = new TempFolder();
        var path = folder["a_1_all.deb"];
        var tar = new MemoryStream();
        using (var writer = new System.Formats.Tar.TarWriter(tar, leaveOpen: true))
        {
            for (var k = 0; k < 5; k++)
            {
                writer.WriteEntry(new System.Formats.Tar.UstarTarEntry(System.Formats.Tar.TarEntryType.RegularFile, $"./usr/{k}.html")
                {
                    DataStream = new MemoryStream(
                        Encoding.UTF8.GetBytes(string.Concat(Enumerable.Range(0, 200).Select(n => $"<p>{n * 7919 % 1000}</p>")))),
                });
            }
        }

        var content = member switch
        {
            "data.tar.gz" => Packed(
                tar, to => new System.IO.Compression.GZipStream(to, System.IO.Compression.CompressionLevel.Fastest, leaveOpen: true)),
            "data.tar.zst" => Packed(tar, to => new ZstdSharp.CompressionStream(to)),
            _ => tar.ToArray(),
        };
        byte[] deb = [
            .. "!<arch>\n"u8, .. Encoding.ASCII.GetBytes($"{member,-16}{0,-12}{0,-6}{0,-6}{100644,-8}{content.Length,-10}`\n"), .. content];
        File.WriteAllBytes(path, deb);
        Assert.Equal(5, DebFile.Read(path, _ => true).Count());
        var random = new Random(1);
        var refused = 0;
        var copies = LongTests.Cases(all: 300, few: 60);
        for (var k = 0; k < copies; k++)
        {
            byte[] damaged = [.. deb];
            damaged[random.Next(damaged.Length)] ^= (byte)(1 << random.Next(8));
            File.WriteAllBytes(path, k % 3 == 0 ? damaged[..random.Next(damaged.Length)] : damaged);
            try
            {
                _ = DebFile.Read(path, _ => true).ToList();
            }
            catch (InvalidDataException e)
            {
                Assert.Contains(path, e.Message, StringComparison.Ordinal);
                refused++;
            }
        }

        Assert.True(refused > copies / 5, $"only {refused} of {copies} were refused");
    }

    private static byte[] Packed(MemoryStream content, Func<Stream, Stream> pack)
    {
        var packed = new MemoryStream();
        using (var stream = pack(packed))
        {
            stream.Write(content.GetBuffer().AsSpan(0, (int)content.Length));
        }

        return packed.ToArray();
    }

    /// <summary>An ar archive as dpkg-deb writes it, packed by gzip.</summary>
    private static void WriteDeb(string path, (string Path, string Text)[] files)
    {
        var data = new MemoryStream();
        using (var tar = new TarWriter(new GZipStream(data, CompressionLevel.Fastest, leaveOpen: true), TarEntryFormat.Gnu))
        {
            foreach (var (name, text) in files)
            {
                tar.WriteEntry(new GnuTarEntry(TarEntryType.RegularFile, "./" + name)
                {
                    DataStream = new MemoryStream(Encoding.UTF8.GetBytes(text)),
                    ModificationTime = DateTimeOffset.UnixEpoch,
                });
            }
        }

        using var deb = File.Create(path);
        deb.Write("!<arch>\n"u8);
        Member("debian-binary", "2.0\n"u8);
        Member("control.tar.gz", "odd"u8);
        Member("data.tar.gz", data.ToArray());

        void Member(string name, ReadOnlySpan<byte> content)
        {
            deb.Write(Encoding.ASCII.GetBytes($"{name,-16}{0,-12}{0,-6}{0,-6}{100644,-8}{content.Length,-10}`\n"));
            deb.Write(content);
            deb.Write(content.Length % 2 == 0 ? ""u8 : "\n"u8);
        }
    }
}
