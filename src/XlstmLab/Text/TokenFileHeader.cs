using System.Buffers.Binary;

namespace XlstmLab.Text;

/// <summary>What stands at the start of a token file.</summary>
internal sealed record TokenFileHeader
{
    /// <summary>The bytes it takes.</summary>
    public const int Size = 128;

    private const int CurrentVersion = 2;

    /// <summary>The version of the layout: 1, or 2 with the bytes of each document's text.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>Whether the bytes of each document's text follow the index.</summary>
    public bool HasDocumentBytes => Version > 1;

    /// <summary>The bytes of a token, 2 or 4.</summary>
    public required int TokenBytes { get; init; }

    /// <summary>The number of token ids there are.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>The token that opens every document.</summary>
    public required int EndOfDocument { get; init; }

    /// <summary>The number of tokens.</summary>
    public long TokenCount { get; init; }

    /// <summary>The number of documents.</summary>
    public long DocumentCount { get; init; }

    /// <summary>The UTF-8 bytes of the documents' texts.</summary>
    public long TextBytes { get; init; }

    /// <summary>The tokenizer's fingerprint, 16 bytes.</summary>
    public required byte[] Tokenizer { get; init; }

    /// <summary>The SHA-256 of all that follows the header, 32 bytes.</summary>
    public byte[] Sha256 { get; init; } = new byte[32];

    /// <summary>Where the index of documents begins, in bytes.</summary>
    public long IndexStart => Size + (TokenCount * TokenBytes + 7) / 8 * 8;

    /// <summary>The size of the file in bytes.</summary>
    public long FileLength => IndexStart + (DocumentCount + 1 + (HasDocumentBytes ? DocumentCount : 0)) * sizeof(long);

    private static ReadOnlySpan<byte> Magic => "XLSTMTOK"u8;

    /// <summary>The bytes a token takes in that vocabulary.</summary>
    public static int TokenBytesFor(int vocabularySize) => vocabularySize <= ushort.MaxValue + 1 ? sizeof(ushort) : sizeof(uint);

    /// <summary>The header as bytes.</summary>
    public byte[] ToBytes()
    {
        var bytes = new byte[Size];
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(8), Version);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(12), TokenBytes);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(16), VocabularySize);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(20), EndOfDocument);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(24), TokenCount);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(32), DocumentCount);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(40), TextBytes);
        Tokenizer.CopyTo(bytes, 48);
        Sha256.CopyTo(bytes, 64);
        return bytes;
    }

    /// <summary>Reads a header and checks it against the file's size.</summary>
    /// <exception cref="InvalidDataException">It is no header, or not of a file of that size.</exception>
    public static TokenFileHeader Parse(ReadOnlySpan<byte> bytes, long fileLength, string path)
    {
        if (bytes.Length < Size || !bytes.StartsWith(Magic))
        {
            throw new InvalidDataException(
                $"'{path}' is no token file: it does not begin with the header of one. Delete its folder and tokenize again.");
        }

        var version = BinaryPrimitives.ReadInt32LittleEndian(bytes[8..]);
        if (version is < 1 or > CurrentVersion)
        {
            throw new InvalidDataException(
                $"'{path}' is a token file of version {version}; this program reads versions 1 to {CurrentVersion}. Tokenize again.");
        }

        var header = new TokenFileHeader
        {
            Version = version,
            TokenBytes = BinaryPrimitives.ReadInt32LittleEndian(bytes[12..]),
            VocabularySize = BinaryPrimitives.ReadInt32LittleEndian(bytes[16..]),
            EndOfDocument = BinaryPrimitives.ReadInt32LittleEndian(bytes[20..]),
            TokenCount = BinaryPrimitives.ReadInt64LittleEndian(bytes[24..]),
            DocumentCount = BinaryPrimitives.ReadInt64LittleEndian(bytes[32..]),
            TextBytes = BinaryPrimitives.ReadInt64LittleEndian(bytes[40..]),
            Tokenizer = bytes.Slice(48, 16).ToArray(),
            Sha256 = bytes.Slice(64, 32).ToArray(),
        };

        // The bounds on the counts keep the products from overflowing.
        var isWhole = header.VocabularySize > 0 && header.TokenBytes == TokenBytesFor(header.VocabularySize)
            && header.EndOfDocument >= 0 && header.EndOfDocument < header.VocabularySize
            && header.TokenCount >= 0 && header.TokenCount <= fileLength && header.DocumentCount >= 0
            && header.DocumentCount <= header.TokenCount
            && header.TextBytes >= 0 && header.FileLength == fileLength && !bytes[96..Size].ContainsAnyExcept((byte)0);
        return isWhole ? header : throw new InvalidDataException(
            $"'{path}' is damaged: its header does not fit its size of {fileLength} bytes. Delete its folder and tokenize again.");
    }
}
