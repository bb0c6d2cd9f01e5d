using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using ICSharpCode.SharpZipLib.GZip;
using Parquet;
using Parquet.Data;
using Parquet.Schema;

namespace XlstmLab.Text;

/// <summary>A file of documents, read a document at a time whatever its size.</summary>
/// <remarks>
/// A .txt file is one document. A line of a .jsonl file is one, which .gz or .zst after it may compress, as DCLM and SlimPajama are
/// published; so is a row of a .parquet file, as FineWeb-Edu is. What is held in memory is a line or, of Parquet, the text column of a row
/// group.
/// </remarks>
/// <param name="Path">Where the file is.</param>
/// <param name="Name">
/// What its documents are named after, with the number of their line or row: its path in the folder it was found in.
/// </param>
public sealed record DocumentFile(string Path, string Name)
{
    private const string Kinds = ".txt, .jsonl, .jsonl.gz, .jsonl.zst and .parquet";

    /// <summary>The bytes that a line may have unless more are allowed.</summary>
    public const long UsualLineBytes = 128L << 20;

    private const long MostLineBytes = 1L << 30;

    private const long MostRowsOfGroup = 1 << 24;

    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private static readonly string[] Endings = [".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"];

    /// <summary>Whether a document's field "name" names it, as in a dataset's file, and not the file and the line.</summary>
    public bool HasNames { get; init; }

    /// <summary>Whether a row or line whose text is null, or not there, is left out; otherwise it is an error.</summary>
    public bool SkipNull { get; init; }

    /// <summary>The bytes that a line may have, decompressed: what is held of a file, however far it unpacks.</summary>
    public long MaxLineBytes { get; init; } = UsualLineBytes;

    /// <summary>The bytes that the whole file may unpack to; null where nobody says.</summary>
    internal long? ContentBytes { get; init; }

    /// <summary>
    /// The file of that path, or all files of documents in the folder of that path and those below it, in ordinal order of their names, or
    /// the file of the dataset in the folder of that path or, where nothing has that path, of that name.
    /// </summary>
    /// <exception cref="FileNotFoundException">There is no such file, folder or dataset.</exception>
    /// <exception cref="InvalidDataException">
    /// There is no file of documents, or a dataset's file is not the one its card describes.
    /// </exception>
    public static IReadOnlyList<DocumentFile> Find(string source)
    {
        if (File.Exists(source))
        {
            return HasEnding(source)
                ? [new(source, System.IO.Path.GetFileName(source))]
                : throw new InvalidDataException($"'{source}' is not one of {Kinds}; those are what text can be read from.");
        }

        if (DatasetFolder(source) is { } dataset)
        {
            return [OfDataset(dataset)];
        }

        DocumentFile[] files = [.. Directory.EnumerateFiles(source, "*", SearchOption.AllDirectories)
            .Where(HasEnding)
            .Select(file => new DocumentFile(file, System.IO.Path.GetRelativePath(source, file).Replace('\\', '/')))
            .OrderBy(file => file.Name, StringComparer.Ordinal)];
        return files.Length > 0 ? files : throw new InvalidDataException($"The folder '{source}' holds no file of text: no {Kinds}.");
    }

    /// <summary>The same files, to be read in a certain way.</summary>
    /// <param name="source">The file, folder or dataset.</param>
    /// <param name="skipNull">See <see cref="SkipNull"/>.</param>
    /// <param name="maxLineBytes">See <see cref="MaxLineBytes"/>.</param>
    /// <inheritdoc cref="Find(string)" path="/exception"/>
    public static IReadOnlyList<DocumentFile> Find(string source, bool skipNull, long maxLineBytes) =>
        [.. Find(source).Select(file => file with { SkipNull = skipNull, MaxLineBytes = maxLineBytes })];

    /// <summary>The folder of the dataset that a path or name means; null for a folder of files.</summary>
    /// <exception cref="FileNotFoundException">
    /// There is neither a path nor a dataset of that name; the message lists the datasets.
    /// </exception>
    public static string? DatasetFolder(string source) =>
        File.Exists(source) ? null
        : !Directory.Exists(source) ? Datasets.FolderOf(source)
        : File.Exists(System.IO.Path.Combine(source, DatasetCard.FileName)) ? source
        : null;

    /// <summary>The documents in their order; empty lines are left out, empty texts are not.</summary>
    /// <param name="textField">
    /// The field of a JSON line, or the column of a Parquet file, that holds the text; dots lead into nested ones.
    /// </param>
    /// <param name="cancellationToken">Stops between documents.</param>
    /// <exception cref="InvalidDataException">
    /// The file is damaged or a document is not as expected; the message says where and what to do.
    /// </exception>
    public IEnumerable<Document> Read(string textField = "text", CancellationToken cancellationToken = default) =>
        ReadRaw(textField, 1, cancellationToken).Select(raw => raw.ParseOrSkip(textField, keepFields: true)).OfType<Document>();

    /// <summary>The documents from a line or row on, not parsed yet.</summary>
    internal IEnumerable<RawDocument> ReadRaw(string textField, long firstLine, CancellationToken cancellationToken)
    {
        var documents = Ends(".parquet") ? Rows(textField, firstLine) : Ends(".txt") ? WholeText(firstLine) : Lines(firstLine);
        foreach (var document in documents)
        {
            cancellationToken.ThrowIfCancellationRequested();
            yield return document;
        }
    }

    /// <summary>The documents of JSON lines that have names.</summary>
    internal IEnumerable<Document> ReadNamed(CancellationToken cancellationToken) =>
        (this with { HasNames = true }).Read("text", cancellationToken);

    private static DocumentFile OfDataset(string folder)
    {
        var card = DatasetCard.Read(folder);
        var file = System.IO.Path.Combine(folder, card.File);
        if (!File.Exists(file))
        {
            throw new InvalidDataException($"The dataset '{card.Name}' lacks its file '{file}'.");
        }

        using var stream = File.OpenRead(file);
        return Convert.ToHexStringLower(SHA256.HashData(stream)) == card.Sha256
            ? new(file, $"{card.Name}/{card.File}") { HasNames = true, ContentBytes = card.ContentBytes }
            : throw new InvalidDataException(
                $"'{file}' is not the file that its card describes: its SHA-256 is not the card's. Restore both from their origin.");
    }

    private static bool HasEnding(string path) => Array.Exists(
        Endings, ending => path.EndsWith(ending, StringComparison.OrdinalIgnoreCase));

    private bool Ends(string ending) => Path.EndsWith(ending, StringComparison.OrdinalIgnoreCase);

    private IEnumerable<RawDocument> WholeText(long firstLine)
    {
        if (firstLine > 1)
        {
            yield break;
        }

        if (new FileInfo(Path).Length is > MostLineBytes and var size)
        {
            throw new InvalidDataException(
                $"'{Path}' has {size} bytes, and a .txt file is one document, of at most {MostLineBytes}: cut it into several, "
                + "or make it JSON lines.");
        }

        var bytes = File.ReadAllBytes(Path);
        string text;
        try
        {
            text = StrictUtf8.GetString(bytes.AsSpan().StartsWith(Encoding.UTF8.Preamble) ? bytes.AsSpan(3) : bytes);
        }
        catch (DecoderFallbackException e)
        {
            throw new InvalidDataException($"'{Path}' is not UTF-8 at byte {e.Index}; convert it first, for example with iconv.", e);
        }

        yield return new(this, 1, default, text, bytes.Length);
    }

    private IEnumerable<RawDocument> Lines(long firstLine)
    {
        using var file = new FileStream(Path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 16);

        // .NET's own reader of gzip takes a file that was cut off for one that has ended.
        using Stream stream = Ends(".gz") ? new GZipInputStream(file) : Ends(".zst") ? new ZstdSharp.DecompressionStream(file)
            : Ends(".br") ? new BrotliStream(file, CompressionMode.Decompress) : file;
        var buffer = new byte[1 << 18];
        var (start, end, line, unpacked, ended) = (0, 0, 0L, 0L, false);
        var most = Math.Clamp(MaxLineBytes, 1, MostLineBytes);
        while (!ended || start < end)
        {
            var length = buffer.AsSpan(start, end - start).IndexOf((byte)'\n');
            if (length < 0 && !ended)
            {
                if (start > 0)
                {
                    buffer.AsSpan(start, end - start).CopyTo(buffer);
                    (start, end) = (0, end - start);
                }
                else if (end == buffer.Length)
                {
                    Array.Resize(ref buffer, (int)Math.Min(2L * buffer.Length, Math.Max(most + 1, buffer.Length + 1)));
                }

                if (end - start > most)
                {
                    throw LineTooLong(line + 1);
                }

                var got = Fill(stream, buffer.AsSpan(end), line + 1);
                (end, ended, unpacked) = (end + got, got == 0, unpacked + got);
                if (unpacked > ContentBytes)
                {
                    throw new InvalidDataException(
                        $"'{Path}' unpacks to more than the {ContentBytes} bytes that its card says (content_bytes). "
                        + "Restore both from their origin.");
                }

                continue;
            }

            line++;
            if ((length < 0 ? end - start : length) > most)
            {
                throw LineTooLong(line);
            }

            var next = length < 0 ? end : start + length + 1;
            if (line >= firstLine)
            {
                var content = buffer.AsSpan(start, (length < 0 ? end : start + length) - start);
                content = (line == 1 && content.StartsWith(Encoding.UTF8.Preamble) ? content[3..] : content).Trim(" \t\r"u8);
                if (!content.IsEmpty)
                {
                    yield return new(this, line, content.ToArray(), null, file.Position);
                }
            }

            start = next;
        }
    }

    private InvalidDataException LineTooLong(long line) => new(
        $"'{Path}', line {line}: it is longer than the {Math.Clamp(MaxLineBytes, 1, MostLineBytes)} bytes that a line may have, unpacked. "
        + $"If that is a text, allow more by --max-line-mib ({nameof(MaxLineBytes)}), up to {MostLineBytes} bytes; "
        + "else the file is damaged.");

    private int Fill(Stream stream, Span<byte> target, long line)
    {
        try
        {
            return stream.Read(target);
        }
#pragma warning disable CA1031 // On damaged bytes the libraries fail in whatever way they lead them to.
        catch (Exception e)
        {
            throw new InvalidDataException(
                $"'{Path}' cannot be read at line {line}: {e.Message} The file is damaged or not whole: fetch it again.", e);
        }
#pragma warning restore CA1031
    }

    private IEnumerable<RawDocument> Rows(string textField, long firstRow)
    {
        using var file = new FileStream(Path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 16);
        var reader = Parquet(() => Wait(ParquetReader.CreateAsync(file)), "as a Parquet file");
        try
        {
            var field = Column(Parquet(() => reader.Schema, "as a Parquet file"), textField);
            var row = 0L;
            for (var group = 0; group < reader.RowGroupCount; group++)
            {
                using var rows = Parquet(() => reader.OpenRowGroupReader(group), $"in row group {group}");
                if (row + rows.RowCount < firstRow)
                {
                    row += rows.RowCount;
                    continue;
                }

                if (rows.RowCount is < 0 or > MostRowsOfGroup)
                {
                    throw new InvalidDataException(
                        $"'{Path}', row group {group} has {rows.RowCount} rows, which are read at once, and at most {MostRowsOfGroup} can "
                        + "be: write it in smaller groups. If it should have fewer, the file is damaged: fetch it again.");
                }

                var before = row;
                var texts = Parquet(() => Texts(rows, field), $"in row group {group}, rows {row + 1} to {row + rows.RowCount},");
                if (texts.Length != rows.RowCount)
                {
                    throw new InvalidDataException(
                        $"'{Path}', row group {group}: expected {rows.RowCount} texts, got {texts.Length}. "
                        + "The file is damaged: fetch it again.");
                }

                for (var k = 0; k < texts.Length; k++)
                {
                    row++;
                    if (row >= firstRow)
                    {
                        var text = texts[k] is null && !SkipNull
                            ? throw new InvalidDataException(
                                $"'{Path}', row {row}: the column '{textField}' is null. Remove the row, name another column as the text "
                                + "field, or leave such rows out by --skip-null.")
                            : texts[k];
                        yield return new(
                            this, row, default, text,
                            (long)((group + (row - before) / (double)rows.RowCount) / reader.RowGroupCount * file.Length));
                    }
                }
            }
        }
        finally
        {
            Wait(reader.DisposeAsync());
        }
    }

    private DataField Column(ParquetSchema schema, string textField)
    {
        var fields = schema.GetDataFields();
        var path = textField.Replace('.', '/');
        var field = Array.Find(fields, f => f.Path.ToString() == path || f.Path.ToString() == textField)
            ?? throw new InvalidDataException(
                $"'{Path}' has no column '{textField}'; name one as the text field: "
                + $"{string.Join(", ", fields.Select(f => f.Path.ToString().Replace('/', '.')))}.");
        return field.MaxRepetitionLevel > 0 ? throw new InvalidDataException(
            $"'{Path}': the column '{textField}' is a list; the text has to be one string a row.")
            : field.ClrType == typeof(ReadOnlyMemory<char>) || field.ClrType == typeof(string) ? field
            : throw new InvalidDataException(
                $"'{Path}': the column '{textField}' is no string but of type {field.ClrType.Name}; name another as the text field.");
    }

    /// <remarks>Definition levels are read here, since the library's own unpacking loses nulls below a group.</remarks>
    private static string?[] Texts(ParquetRowGroupReader rows, DataField field)
    {
        using var column = (RawColumnData<ReadOnlyMemory<char>>)Wait(rows.ReadRawColumnDataBaseAsync(field));
        var values = column.Values;
        if (field.MaxDefinitionLevel == 0)
        {
            var all = new string[values.Length];
            for (var k = 0; k < all.Length; k++)
            {
                all[k] = values[k].ToString();
            }

            return all;
        }

        var levels = column.DefinitionLevels;
        var texts = new string?[levels.Length];
        var value = 0;
        for (var k = 0; k < texts.Length; k++)
        {
            texts[k] = levels[k] == field.MaxDefinitionLevel ? values[value++].ToString() : null;
        }

        return texts;
    }

    private static T Wait<T>(ValueTask<T> task) => task.AsTask().GetAwaiter().GetResult();

    private static T Wait<T>(Task<T> task) => task.GetAwaiter().GetResult();

    private static void Wait(ValueTask task) => task.AsTask().GetAwaiter().GetResult();

    private T Parquet<T>(Func<T> read, string what)
    {
        try
        {
            return read();
        }
#pragma warning disable CA1031 // As of other damaged files; sizes that are damaged ask for more memory than there is.
        catch (Exception e)
        {
            throw new InvalidDataException(
                $"'{Path}' cannot be read {what}: {e.Message} The file is damaged or not whole: fetch it again.", e);
        }
#pragma warning restore CA1031
    }
}
