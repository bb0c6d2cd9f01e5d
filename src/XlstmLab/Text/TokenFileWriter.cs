using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace XlstmLab.Text;

/// <summary>Writes a token file; until <see cref="Finish"/> has been called it is none.</summary>
internal sealed class TokenFileWriter : IDisposable
{
    private readonly FileStream _stream;
    private readonly TokenFileHeader _empty;
    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
    private readonly List<long> _offsets = [0];
    private readonly List<long> _documentBytes = [];
    private ushort[] _narrow = [];
    private long _textBytes;

    /// <summary>Begins the file, which must not be there yet.</summary>
    public TokenFileWriter(string path, ITokenizer tokenizer)
    {
        _empty = new()
        {
            TokenBytes = TokenFileHeader.TokenBytesFor(tokenizer.VocabularySize),
            VocabularySize = tokenizer.VocabularySize,
            EndOfDocument = tokenizer.EndOfDocument,
            Tokenizer = Convert.FromHexString(tokenizer.Fingerprint),
        };
        _stream = new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 18);
        _stream.Write(new byte[TokenFileHeader.Size]);
    }

    /// <summary>Appends a document.</summary>
    /// <param name="tokens">Its tokens, the end of document first.</param>
    /// <param name="textBytes">The UTF-8 bytes of its text.</param>
    public void Append(int[] tokens, long textBytes)
    {
        _offsets.Add(_offsets[^1] + tokens.Length);
        _documentBytes.Add(textBytes);
        _textBytes += textBytes;
        if (_empty.TokenBytes == sizeof(uint))
        {
            Write(MemoryMarshal.AsBytes(tokens.AsSpan()));
            return;
        }

        Array.Resize(ref _narrow, Math.Max(_narrow.Length, tokens.Length));
        System.Numerics.Tensors.TensorPrimitives.ConvertChecked<int, ushort>(tokens, _narrow);
        Write(MemoryMarshal.AsBytes(_narrow.AsSpan(0, tokens.Length)));
    }

    /// <summary>Writes the index and the header.</summary>
    /// <returns>How much the file holds.</returns>
    public TokenCounts Finish()
    {
        var header = _empty with { TokenCount = _offsets[^1], DocumentCount = _offsets.Count - 1, TextBytes = _textBytes };
        Write(new byte[header.IndexStart - _stream.Position]);
        Write(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(_offsets)));
        Write(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(_documentBytes)));
        _stream.Position = 0;
        _stream.Write((header with { Sha256 = _hash.GetHashAndReset() }).ToBytes());
        _stream.Flush();
        return new(header.DocumentCount, header.TokenCount, header.TextBytes);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stream.Dispose();
        _hash.Dispose();
    }

    private void Write(ReadOnlySpan<byte> bytes)
    {
        _stream.Write(bytes);
        _hash.AppendData(bytes);
    }
}
