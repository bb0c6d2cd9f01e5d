using System.Text;

namespace XlstmLab.Text;

/// <summary>One token a byte of UTF-8, and the end of document: 257 ids.</summary>
public sealed class ByteTokenizer : ITokenizer
{
    private static readonly byte[] AllBytes = [.. Enumerable.Range(0, 256).Select(b => (byte)b)];

    /// <inheritdoc/>
    public int VocabularySize => 257;

    /// <inheritdoc/>
    public int EndOfDocument => 256;

    /// <inheritdoc/>
    /// <remarks>A lone surrogate becomes the replacement character U+FFFD.</remarks>
    public int[] Encode(string text) => EncodeBytes(Encoding.UTF8.GetBytes(text));

    /// <summary>The ids of bytes, whatever they spell.</summary>
    public static int[] EncodeBytes(ReadOnlySpan<byte> bytes)
    {
        var ids = new int[bytes.Length];
        for (var k = 0; k < ids.Length; k++)
        {
            ids[k] = bytes[k];
        }

        return ids;
    }

    /// <inheritdoc/>
    /// <remarks>Bytes that are not UTF-8 become U+FFFD here; <see cref="Bytes"/> keeps them.</remarks>
    public string Decode(IEnumerable<int> ids) => Utf8StreamDecoder.DecodeAll(this, ids);

    /// <inheritdoc/>
    /// <exception cref="ArgumentOutOfRangeException">The id is negative.</exception>
    public ReadOnlySpan<byte> Bytes(int id)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(id);
        return id < 256 ? AllBytes.AsSpan(id, 1) : default;
    }
}
