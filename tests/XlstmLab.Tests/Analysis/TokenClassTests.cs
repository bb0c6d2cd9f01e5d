using System.Text;
using XlstmLab.Analysis;
using XlstmLab.Text;
using Xunit;
using static XlstmLab.Analysis.TokenClass;

namespace XlstmLab.Tests.Analysis;

public sealed class TokenClassTests
{
    [Fact]
    public void Classify_Bytes_FollowsTextAndContext()
    {
        var tokenizer = new ByteTokenizer();
        int[] tokens = [tokenizer.EndOfDocument, .. tokenizer.Encode("a1 \n,3.5.\" é!"), tokenizer.EndOfDocument];

        Assert.Equal(
            [
                DocumentStart, Letter, Digit, Whitespace, Whitespace, Punctuation, Digit, Punctuation, Digit, SentenceEnd, Punctuation,
                Whitespace,
                Letter, Letter, SentenceEnd, DocumentStart,
            ],
            TokenClasses.Classify(tokenizer, tokens));
    }

    [Fact]
    public void Classify_Pieces_GoesByFirstVisibleCharacter()
    {
        var tokenizer = new Pieces("<eod>", " the", " 12", "\n\n", ".", ".com", " (", "\u00a0", "?\"", "...", "”", "“");

        Assert.Equal(
            [DocumentStart, Letter, Digit, Whitespace, Punctuation, Punctuation, Punctuation, Whitespace,
                SentenceEnd, SentenceEnd, Punctuation, Punctuation],
            TokenClasses.Classify(tokenizer, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]).ToArray());
        Assert.Equal([SentenceEnd, Letter, SentenceEnd], TokenClasses.Classify(tokenizer, [4, 1, 4]));
        Assert.Equal([Punctuation, Punctuation], TokenClasses.Classify(tokenizer, [9, 11]));
        Assert.Equal([SentenceEnd, Letter], TokenClasses.Classify(new ByteTokenizer(), new ByteTokenizer().Encode(".”")).Take(2));
        Assert.Empty(TokenClasses.Classify(tokenizer, []));
    }

    private sealed class Pieces(params string[] pieces) : ITokenizer
    {
        public int VocabularySize => pieces.Length;

        public int EndOfDocument => 0;

        public int[] Encode(string text) => throw new NotSupportedException();

        public string Decode(IEnumerable<int> ids) => throw new NotSupportedException();

        public ReadOnlySpan<byte> Bytes(int id) => Encoding.UTF8.GetBytes(pieces[id]);
    }
}
