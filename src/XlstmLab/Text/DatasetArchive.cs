using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace XlstmLab.Text;

/// <summary>Writes and reads the folder of a dataset: a card and one compressed file of documents.</summary>
public static class DatasetArchive
{
    private static readonly JsonSerializerOptions LineOptions = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes a dataset's folder; the same documents and card give the same bytes.</summary>
    /// <param name="folder">The folder, which is made if need be; its name must be the card's.</param>
    /// <param name="card">The card; sizes and checksums are filled in.</param>
    /// <param name="documents">The documents; their line ends become LF.</param>
    /// <param name="cancellationToken">Stops before anything is written.</param>
    /// <returns>The card that was written.</returns>
    /// <exception cref="ArgumentException">The folder has another name than the card.</exception>
    /// <exception cref="InvalidDataException">There is no text, or two documents have one name, or a part would be empty.</exception>
    public static DatasetCard Write(
        string folder, DatasetCard card, IEnumerable<Document> documents, CancellationToken cancellationToken = default)
    {
        if (Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder))) != card.Name)
        {
            throw new ArgumentException(
                $"The dataset '{card.Name}' must be written to a folder of that name, not to '{folder}'.", nameof(folder));
        }

        var all = documents.Select(d => d with { Text = d.Text.ReplaceLineEndings("\n") }).ToList();
        var content = new MemoryStream();
        foreach (var document in all)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var line = new Dictionary<string, string>(StringComparer.Ordinal) { ["name"] = document.Name };
            foreach (var (key, value) in document.Fields.OrderBy(f => f.Key, StringComparer.Ordinal))
            {
                line.Add(key, value);
            }

            line.Add("text", document.Text);
            JsonSerializer.Serialize(content, line, LineOptions);
            content.WriteByte((byte)'\n');
        }

        var compressed = Compress(card, content.GetBuffer().AsSpan(0, (int)content.Length));
        card = card with
        {
            Sha256 = Convert.ToHexStringLower(SHA256.HashData(compressed)),
            FileBytes = compressed.Length,
            ContentSha256 = Convert.ToHexStringLower(SHA256.HashData(content.GetBuffer().AsSpan(0, (int)content.Length))),
            ContentBytes = content.Length,
            Parts = Sizes(new Corpus(card.Name, all, card.Split)),
        };

        cancellationToken.ThrowIfCancellationRequested();
        Directory.CreateDirectory(folder);
        Replace(Path.Combine(folder, card.File), compressed);
        Replace(Path.Combine(folder, DatasetCard.FileName), Encoding.UTF8.GetBytes(card.ToJson()));
        return card;
    }

    /// <summary>Reads a dataset's folder and checks sizes and checksums against its card.</summary>
    /// <exception cref="InvalidDataException">The card or the file is missing or damaged, or they do not belong together.</exception>
    public static (DatasetCard Card, IReadOnlyList<Document> Documents) Read(string folder)
    {
        var card = DatasetCard.Read(folder);
        var path = Path.Combine(folder, card.File);
        if (!File.Exists(path))
        {
            throw new InvalidDataException($"The dataset '{card.Name}' lacks its file '{path}'.");
        }

        var compressed = File.ReadAllBytes(path);
        Check(path, "the card's sha256", card.Sha256, Convert.ToHexStringLower(SHA256.HashData(compressed)));
        var content = Decompress(card, compressed, path);
        Check(path, "the card's content_sha256", card.ContentSha256, Convert.ToHexStringLower(SHA256.HashData(content.Span)));
        var documents = Corpus.ReadJsonLines(content, path, name: null, textField: "text");
        foreach (var (split, size) in Sizes(new Corpus(card.Name, documents, card.Split)))
        {
            Check(
                path, $"the size of the part {split} in the card",
                card.Parts.GetValueOrDefault(split)?.ToString() ?? "missing", size.ToString());
        }

        return (card, documents);
    }

    private static Dictionary<Split, SplitSize> Sizes(Corpus corpus) =>
        Enum.GetValues<Split>().ToDictionary(s => s, s => new SplitSize(corpus[s].Count, corpus.Bytes(s)));

    private static void Check(string path, string what, string expected, string actual)
    {
        if (!string.Equals(expected, actual, StringComparison.OrdinalIgnoreCase))
        {
            throw new InvalidDataException(
                $"'{path}' is not the file that its card describes: {what} is {expected}, the file's is {actual}. "
                + "Restore both from their origin.");
        }
    }

    private static byte[] Compress(DatasetCard card, ReadOnlySpan<byte> content)
    {
        if (IsZstandard(card))
        {
            using var zstandard = new ZstdSharp.Compressor(12);
            return zstandard.Wrap(content).ToArray();
        }

        // Quality 11 and a window of 16 MiB: text is compressed once and shipped often.
        var buffer = new byte[BrotliEncoder.GetMaxCompressedLength(content.Length)];
        return BrotliEncoder.TryCompress(content, buffer, out var written, quality: 11, window: 24)
            ? buffer[..written]
            : throw new InvalidOperationException("Brotli found no room for its output.");
    }

    private static bool IsZstandard(DatasetCard card) => card.File.EndsWith(".zst", StringComparison.Ordinal);

    private static ReadOnlyMemory<byte> Decompress(DatasetCard card, byte[] compressed, string path)
    {
        try
        {
            var source = new MemoryStream(compressed);
            using Stream stream = IsZstandard(card) ? new ZstdSharp.DecompressionStream(source)
                : new BrotliStream(source, CompressionMode.Decompress);
            var content = new MemoryStream();
            var buffer = new byte[1 << 16];
            for (int got; (got = stream.Read(buffer)) > 0;)
            {
                if (content.Length + got > Math.Min(card.ContentBytes, Array.MaxLength))
                {
                    throw new InvalidDataException(
                        $"it unpacks to more than {Math.Min(card.ContentBytes, Array.MaxLength)} bytes, "
                        + "which its card says (content_bytes) or memory holds. Restore both from their origin.");
                }

                content.Write(buffer.AsSpan(0, got));
            }

            return content.GetBuffer().AsMemory(0, (int)content.Length);
        }
        catch (Exception e) when (e is InvalidDataException or InvalidOperationException or IOException or ZstdSharp.ZstdException)
        {
            throw new InvalidDataException(
                $"'{path}' cannot be read as a {(IsZstandard(card) ? "Zstandard" : "Brotli")} file: {e.Message}", e);
        }
    }

    private static void Replace(string path, byte[] content) =>
        AtomicFile.Write(path, stream => stream.Write(content));
}
