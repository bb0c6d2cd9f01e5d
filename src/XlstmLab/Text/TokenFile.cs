using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace XlstmLab.Text;

/// <summary>A file of token ids with an index of documents, mapped into memory: opening reads the header only.</summary>
/// <remarks>
/// The file is a header, the tokens as uint16 or uint32, zeros up to a multiple of 8, and of each document the place of its first token
/// as int64, with the number of tokens after them, and of each document the UTF-8 bytes of its text as int64, which files of version 1 do
/// not have; all numbers are little-endian. Every document begins with the end of document.
/// The header is checked as a whole when the file is opened, all else when it is used. Reading is thread-safe. Files are written once
/// and never changed: see <see cref="TokenFolderWriter"/>.
/// </remarks>
public sealed unsafe class TokenFile : IDisposable
{
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly byte* _start;
    private readonly TokenFileHeader _header;

    private TokenFile(string path, TokenFileHeader header, MemoryMappedFile map)
    {
        Path = path;
        _header = header;
        _map = map;
        _view = map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _start);
    }

    /// <summary>The file's path.</summary>
    public string Path { get; }

    /// <summary>The number of tokens, ends of documents included.</summary>
    public long TokenCount => _header.TokenCount;

    /// <summary>The number of documents.</summary>
    public long DocumentCount => _header.DocumentCount;

    /// <summary>The UTF-8 bytes of the documents' texts: what bits per byte are divided by.</summary>
    public long TextBytes => _header.TextBytes;

    /// <summary>Whether the bytes of each document's text are known; files of an older version have only their sum.</summary>
    public bool HasDocumentBytes => _header.HasDocumentBytes;

    /// <summary>The bytes of a token: 2 where all ids fit, else 4.</summary>
    public int TokenBytes => _header.TokenBytes;

    /// <summary>The number of token ids there are.</summary>
    public int VocabularySize => _header.VocabularySize;

    /// <summary>The token that opens every document.</summary>
    public int EndOfDocument => _header.EndOfDocument;

    /// <summary>The <see cref="ITokenizer.Fingerprint"/> of the tokenizer.</summary>
    public string TokenizerFingerprint => Convert.ToHexStringLower(_header.Tokenizer);

    /// <summary>The SHA-256 of all that follows the header, in hexadecimal.</summary>
    public string Sha256 => Convert.ToHexStringLower(_header.Sha256);

    /// <summary>Opens a file and checks its header.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    /// <exception cref="InvalidDataException">The file is no whole token file.</exception>
    public static TokenFile Open(string path)
    {
        using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
        Span<byte> bytes = stackalloc byte[TokenFileHeader.Size];
        var got = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        var header = TokenFileHeader.Parse(bytes[..got], stream.Length, path);
        var map = MemoryMappedFile.CreateFromFile(stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        try
        {
            return new(path, header, map);
        }
        catch
        {
            map.Dispose();
            throw;
        }
    }

    /// <summary>Copies tokens out.</summary>
    /// <param name="start">The first of them.</param>
    /// <param name="target">As many as fit.</param>
    /// <exception cref="ArgumentOutOfRangeException">The file has no tokens there.</exception>
    /// <exception cref="InvalidDataException">A token is none of the vocabulary: the file is damaged.</exception>
    public void Copy(long start, Span<int> target)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, TokenCount - target.Length);
        ObjectDisposedException.ThrowIf(_view.SafeMemoryMappedViewHandle.IsClosed, this);
        var source = _start + TokenFileHeader.Size + start * TokenBytes;
        if (TokenBytes == sizeof(ushort))
        {
            System.Numerics.Tensors.TensorPrimitives.ConvertChecked(new ReadOnlySpan<ushort>(source, target.Length), target);
        }
        else
        {
            new ReadOnlySpan<int>(source, target.Length).CopyTo(target);
        }

        if (target.ContainsAnyExceptInRange(0, VocabularySize - 1))
        {
            throw new InvalidDataException(
                $"'{Path}' is damaged: after token {start} stands an id that is not below {VocabularySize}. "
                + "Delete its folder and tokenize again.");
        }

        GC.KeepAlive(this);
    }

    /// <summary>The tokens of a document, its opening end of document first.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such document.</exception>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public int[] Document(long index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, DocumentCount);
        var (start, end) = (Offset(index), Offset(index + 1));
        if (start < 0 || end <= start || end > TokenCount || end - start > Array.MaxLength)
        {
            throw Damaged($"document {index} is said to be the tokens from {start} to {end}, of {TokenCount}");
        }

        var tokens = new int[end - start];
        Copy(start, tokens);
        return tokens[0] == EndOfDocument ? tokens : throw Damaged(
            $"document {index} does not begin with the end of document, {EndOfDocument}");
    }

    /// <summary>The UTF-8 bytes of a document's text; null where only their sum is known.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such document.</exception>
    /// <exception cref="InvalidDataException">The file is damaged.</exception>
    public long? DocumentBytes(long index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, DocumentCount);
        if (!HasDocumentBytes)
        {
            return null;
        }

        var bytes = Offset(DocumentCount + 1 + index);
        return bytes >= 0 && bytes <= TextBytes ? bytes : throw Damaged(
            $"document {index} is said to have a text of {bytes} bytes, of {TextBytes}");
    }

    /// <summary>All documents with the bytes of their texts, which have to be known.</summary>
    internal IEnumerable<(int[] Tokens, long TextBytes)> DocumentsWithTextBytes()
    {
        for (var index = 0L; index < DocumentCount; index++)
        {
            yield return (Document(index), DocumentBytes(index)!.Value);
        }
    }

    /// <summary>Reads the whole file and compares it with the checksum in its header.</summary>
    /// <exception cref="InvalidDataException">They differ: the file is damaged.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public void Verify(CancellationToken cancellationToken = default)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (long position = TokenFileHeader.Size, length = _header.FileLength; position < length;)
        {
            cancellationToken.ThrowIfCancellationRequested();
            ObjectDisposedException.ThrowIf(_view.SafeMemoryMappedViewHandle.IsClosed, this);
            var count = (int)Math.Min(length - position, 1 << 24);
            hash.AppendData(new ReadOnlySpan<byte>(_start + position, count));
            position += count;
        }

        if (!hash.GetHashAndReset().AsSpan().SequenceEqual(_header.Sha256))
        {
            throw Damaged("its content has another SHA-256 than its header says");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_view.SafeMemoryMappedViewHandle.IsClosed)
        {
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
        }

        _view.Dispose();
        _map.Dispose();
    }

    private long Offset(long index)
    {
        ObjectDisposedException.ThrowIf(_view.SafeMemoryMappedViewHandle.IsClosed, this);
        return Marshal.ReadInt64((nint)(_start + _header.IndexStart + index * sizeof(long)));
    }

    private InvalidDataException Damaged(string what) => new($"'{Path}' is damaged: {what}. Delete its folder and tokenize again.");
}
