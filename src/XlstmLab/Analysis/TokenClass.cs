using System.Buffers;
using System.Globalization;
using System.Text;
using XlstmLab.Text;

namespace XlstmLab.Analysis;

/// <summary>What kind of text a token spells.</summary>
public enum TokenClass
{
    /// <summary>The token that opens a document.</summary>
    DocumentStart,

    /// <summary>Its first visible character is a letter; also a byte that is part of a letter beyond ASCII.</summary>
    Letter,

    /// <summary>Its first visible character is a digit.</summary>
    Digit,

    /// <summary>It spells nothing visible.</summary>
    Whitespace,

    /// <summary>A full stop, question mark or exclamation mark before a blank, a closing quote or bracket, or the document's end.</summary>
    SentenceEnd,

    /// <summary>Its first visible character is any other mark or symbol.</summary>
    Punctuation,
}

/// <summary>Sorts tokens into classes.</summary>
public static class TokenClasses
{
    /// <summary>The bytes of the longest character in UTF-8, and so the tokens it may be spread over.</summary>
    private const int LongestCharacter = 4;

    /// <summary>The class of each token, for byte and subword tokenizers alike: by the first visible character of what it spells.</summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="tokens">The ids, in the order of the text: whether a full stop ends a sentence depends on what follows.</param>
    public static IReadOnlyList<TokenClass> Classify(ITokenizer tokenizer, ReadOnlySpan<int> tokens)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        var pieces = new List<byte[]>(tokens.Length);
        foreach (var id in tokens)
        {
            pieces.Add(id == tokenizer.EndOfDocument ? [] : tokenizer.Bytes(id).ToArray());
        }

        var classes = new TokenClass[tokens.Length];
        for (var at = 0; at < classes.Length; at++)
        {
            classes[at] = tokens[at] == tokenizer.EndOfDocument ? TokenClass.DocumentStart : OfPiece(pieces, at);
        }

        return classes;
    }

    private static TokenClass OfPiece(List<byte[]> pieces, int at)
    {
        var visible = pieces[at].AsSpan().TrimStart(" \t\r\n\v\f"u8);
        if (visible.IsEmpty)
        {
            return TokenClass.Whitespace;
        }

        if (visible[0] is (byte)'.' or (byte)'!' or (byte)'?')
        {
            var next = pieces.Skip(at + 1).TakeWhile(p => p.Length > 0).Take(LongestCharacter).SelectMany(p => p);
            return EndsSentence([.. visible.TrimStart(".!?"u8), .. next]) ? TokenClass.SentenceEnd : TokenClass.Punctuation;
        }

        if (Rune.DecodeFromUtf8(visible, out var first, out _) != OperationStatus.Done)
        {
            // A character spread over several tokens: outside ASCII most are letters.
            return TokenClass.Letter;
        }

        return Rune.IsWhiteSpace(first) ? TokenClass.Whitespace
            : Rune.IsLetter(first) ? TokenClass.Letter
            : Rune.IsDigit(first) ? TokenClass.Digit
            : TokenClass.Punctuation;
    }

    /// <summary>Whether what follows a full stop lets it end a sentence.</summary>
    private static bool EndsSentence(ReadOnlySpan<byte> following) =>
        following.IsEmpty
        || (Rune.DecodeFromUtf8(following, out var next, out _) == OperationStatus.Done
            && (Rune.IsWhiteSpace(next)
                || next.Value is '"' or '\''
                || Rune.GetUnicodeCategory(next) is UnicodeCategory.ClosePunctuation or UnicodeCategory.FinalQuotePunctuation));
}
