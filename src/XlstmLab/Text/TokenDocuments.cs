using System.Collections;

namespace XlstmLab.Text;

/// <summary>Documents as tokens, each opened by the end of document, with the UTF-8 bytes of the texts they were made of.</summary>
/// <remarks>
/// A tokenizer that normalizes or puts a space before a text makes tokens that spell other bytes than the text has: bits per byte are
/// divided by those of the text.
/// </remarks>
public sealed class TokenDocuments : IReadOnlyList<int[]>
{
    private readonly int[][] _tokens;
    private readonly long[]? _textBytes;

    /// <summary>Takes tokens and the sizes of their texts.</summary>
    /// <param name="tokenizer">What made the tokens.</param>
    /// <param name="tokens">The tokens of each document; they are kept, not copied.</param>
    /// <param name="textBytes">The UTF-8 bytes of each document's text; null where they are not known.</param>
    /// <exception cref="ArgumentException">There are not as many sizes as documents.</exception>
    public TokenDocuments(ITokenizer tokenizer, int[][] tokens, long[]? textBytes)
    {
        if (textBytes is not null && textBytes.Length != tokens.Length)
        {
            throw new ArgumentException(
                $"Expected a size for each of the {tokens.Length} documents, got {textBytes.Length}.", nameof(textBytes));
        }

        (Tokenizer, _tokens, _textBytes) = (tokenizer, tokens, textBytes);
        TextBytes = textBytes?.Sum() ?? SpeltBytes(tokens, tokenizer);
    }

    /// <summary>What made the tokens.</summary>
    public ITokenizer Tokenizer { get; }

    /// <summary>The UTF-8 bytes of all texts: what bits per byte are divided by; null where they are not known.</summary>
    public long? TextBytes { get; init; }

    /// <inheritdoc/>
    public int Count => _tokens.Length;

    /// <summary>The tokens of a document.</summary>
    public int[] this[int index] => _tokens[index];

    /// <summary>The tokens alone.</summary>
    public static implicit operator int[][](TokenDocuments documents) => documents.ToArray();

    /// <summary>The tokens alone.</summary>
    public int[][] ToArray() => _tokens;

    /// <summary>The first documents.</summary>
    /// <param name="count">How many; fewer where there are fewer.</param>
    public TokenDocuments Take(int count) => count >= Count ? this : new(Tokenizer, _tokens[..count], _textBytes?[..count]);

    /// <inheritdoc/>
    public IEnumerator<int[]> GetEnumerator() => _tokens.AsEnumerable().GetEnumerator();

    /// <inheritdoc/>
    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>The bytes of the text of documents; null where their tokens do not tell.</summary>
    internal static long? TextBytesOf(IReadOnlyList<int[]> documents, ITokenizer tokenizer) =>
        documents is TokenDocuments known ? known.TextBytes : SpeltBytes(documents, tokenizer);

    /// <summary>The documents one by one, for <see cref="TextByteCounter"/>; null where the size of each is not known.</summary>
    internal IEnumerable<(int[] Tokens, long TextBytes)>? WithTextBytes() => _textBytes is null ? null : _tokens.Zip(_textBytes);

    private static long? SpeltBytes(IReadOnlyList<int[]> documents, ITokenizer tokenizer) =>
        tokenizer.ChangesText ? null : documents.Sum(d => d.Sum(id => (long)tokenizer.Bytes(id).Length));
}
