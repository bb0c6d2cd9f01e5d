using System.Text;
using System.Text.RegularExpressions;
using XlstmLab.Text;

namespace XlstmLab.Tests.Text;

/// <summary>Byte pair encoding as its definition says it, all pairs counted anew before each merge.</summary>
internal static class NaiveBpe
{
    private const string Gpt2 = @"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private const string Gpt4 =
        @"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        + @"|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>
    /// The pieces as UTF-8. Letters and numbers beyond U+FFFF are told from a copy of the text in which 'x' and '1' stand for them.
    /// </summary>
    public static IEnumerable<byte[]> Pieces(string text, BpePattern pattern)
    {
        var runes = text.EnumerateRunes().ToArray();
        var shape = string.Concat(runes.Select(
            r => r.IsBmp ? (char)r.Value : Rune.IsLetter(r) ? 'x' : Rune.IsNumber(r) ? '1' : Rune.IsWhiteSpace(r) ? ' ' : '#'));
        return Regex.Matches(shape, pattern == BpePattern.Gpt2 ? Gpt2 : Gpt4)
            .Select(m => Encoding.UTF8.GetBytes(string.Concat(runes[m.Index..(m.Index + m.Length)])));
    }

    public static (List<string> Tokens, List<(int, int)> Merges) Train(IEnumerable<byte[]> pieces, int size, int frequency)
    {
        List<string> tokens = ["<|endoftext|>", .. BpeTokenizer.CharOfByte.Order().Select(c => $"{c}")];
        var merges = new List<(int, int)>();
        var words = pieces.Select(p => p.Select(b => tokens.IndexOf($"{BpeTokenizer.CharOfByte[b]}")).ToList()).ToList();
        while (tokens.Count < size)
        {
            var counts = words.SelectMany(w => w.Zip(w.Skip(1))).GroupBy(p => p).Select(g => (Pair: g.Key, Count: g.Count()))
                .Where(p => p.Count >= frequency).ToList();
            if (counts.Count == 0)
            {
                break;
            }

            var (a, b) = counts.OrderByDescending(p => p.Count).ThenBy(p => p.Pair.First).ThenBy(p => p.Pair.Second).First().Pair;
            if (!tokens.Contains(tokens[a] + tokens[b]))
            {
                tokens.Add(tokens[a] + tokens[b]);
            }

            merges.Add((a, b));
            words.ForEach(w => Merge(w, a, b, tokens.IndexOf(tokens[a] + tokens[b])));
        }

        return (tokens, merges);
    }

    public static IEnumerable<int> Encode(byte[] piece, TrainedBpe trained)
    {
        var tokens = trained.Tokens.ToList();
        var word = piece.Select(b => tokens.IndexOf($"{BpeTokenizer.CharOfByte[b]}")).ToList();
        foreach (var (a, b) in trained.Merges)
        {
            Merge(word, a, b, tokens.IndexOf(tokens[a] + tokens[b]));
        }

        return word;
    }

    private static void Merge(List<int> word, int a, int b, int id)
    {
        for (var k = 0; k + 1 < word.Count; k++)
        {
            if (word[k] == a && word[k + 1] == b)
            {
                word[k] = id;
                word.RemoveAt(k + 1);
            }
        }
    }
}
