using System.IO.Compression;
using System.Text;
using System.Text.Json;
using Parquet;
using Parquet.Serialization;

namespace XlstmLab.Tests.Text;

/// <summary>Writes small files in the layouts that large corpora are published in.</summary>
internal static class CorpusFiles
{
    /// <summary>Texts of many lengths, with characters of one to four bytes.</summary>
    public static string[] Texts(int count, int seed = 1)
    {
        var random = new Random(seed);
        string[] words = ["the", "state", "of", "é", "🚀", "union", "12", "\n", "a", "Zürich", "constitutional", "数"];
        return [.. Enumerable.Range(0, count).Select(
            k => $"{k}:" + string.Concat(Enumerable.Range(0, random.Next(60)).Select(_ => " " + words[random.Next(words.Length)])))];
    }

    /// <summary>JSON lines as those of SlimPajama: a text, and an object beside it.</summary>
    public static byte[] JsonLines(IEnumerable<string> texts) => Encoding.UTF8.GetBytes(string.Concat(texts.Select(
        text =>
            JsonSerializer.Serialize(new { text, meta = new { redpajama_set_name = "RedPajamaC4", text = text.Length.ToString() } })
            + "\n")));

    /// <summary>Writes bytes, compressed by Zstandard in one frame.</summary>
    public static void WriteZstd(string path, byte[] content)
    {
        using var compressor = new ZstdSharp.Compressor(3);
        File.WriteAllBytes(path, compressor.Wrap(content).ToArray());
    }

    /// <summary>Writes bytes, compressed by gzip.</summary>
    public static void WriteGzip(string path, byte[] content)
    {
        using var gzip = new GZipStream(File.Create(path), CompressionLevel.Fastest);
        gzip.Write(content);
    }

    /// <summary>Writes rows as those of FineWeb-Edu, with a struct and a list beside the text.</summary>
    public static void WriteParquet(
        string path, IEnumerable<string?> texts, int rowGroup, CompressionMethod compression = CompressionMethod.Snappy)
    {
        using var file = File.Create(path);
        var rows = texts.Select((text, k) => new Row
        {
            text = text,
            id = $"id {k}",
            score = k / 2.0,
            meta = k % 3 == 0 ? null : new Meta { source = k % 2 == 0 ? null : $"source {k}" },
            tags = [.. Enumerable.Repeat("tag", k % 4)],
        });
        ParquetSerializer.SerializeAsync(rows, file, new ParquetOptions { RowGroupSize = rowGroup, CompressionMethod = compression })
            .GetAwaiter().GetResult();
    }

#pragma warning disable IDE1006, CA1812 // The names of the published columns; made by the serializer.
    private sealed class Row
    {
        public string? text { get; set; }

        public string? id { get; set; }

        public double score { get; set; }

        public Meta? meta { get; set; }

        public List<string>? tags { get; set; }
    }

    private sealed class Meta
    {
        public string? source { get; set; }
    }
#pragma warning restore IDE1006, CA1812
}
