using System.Buffers;
using System.Text;

namespace XlstmLab.Text;

/// <summary>Turns ids that arrive one by one into text, holding back the bytes of a character that is not complete.</summary>
/// <remarks>All that <see cref="Push"/> and <see cref="Flush"/> return, joined, is what the tokenizer's <c>Decode</c> returns.</remarks>
public sealed class Utf8StreamDecoder(ITokenizer tokenizer)
{
    private readonly Decoder _decoder = Encoding.UTF8.GetDecoder();

    /// <summary>The characters that are complete with this id: none, one or several.</summary>
    public string Push(int id) => Convert(tokenizer.Bytes(id), flush: false);

    /// <summary>The characters that are complete with these bytes.</summary>
    internal string PushBytes(ReadOnlySpan<byte> bytes) => Convert(bytes, flush: false);

    /// <summary>The first bytes of a character that a text ends in the middle of; none where it ends with a whole one.</summary>
    public static ReadOnlySpan<byte> OpenBytes(ReadOnlySpan<byte> text)
    {
        for (var length = Math.Min(3, text.Length); length > 0; length--)
        {
            if (Rune.DecodeFromUtf8(text[^length..], out _, out _) == OperationStatus.NeedMoreData)
            {
                return text[^length..];
            }
        }

        return [];
    }

    /// <summary>U+FFFD for a character that was never completed, else nothing; the decoder is then as new.</summary>
    public string Flush() => Convert([], flush: true);

    /// <summary>The text that the ids spell; bytes that are not UTF-8 become U+FFFD.</summary>
    internal static string DecodeAll(ITokenizer tokenizer, IEnumerable<int> ids)
    {
        var bytes = new ArrayBufferWriter<byte>();
        foreach (var id in ids)
        {
            bytes.Write(tokenizer.Bytes(id));
        }

        return Encoding.UTF8.GetString(bytes.WrittenSpan);
    }

    private string Convert(ReadOnlySpan<byte> bytes, bool flush)
    {
        var characters = new char[_decoder.GetCharCount(bytes, flush)];
        _decoder.GetChars(bytes, characters, flush);
        return new string(characters);
    }
}
