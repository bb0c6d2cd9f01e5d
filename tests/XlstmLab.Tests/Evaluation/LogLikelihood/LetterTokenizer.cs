using XlstmLab.Text;

namespace XlstmLab.Tests.Evaluation.LogLikelihood;

/// <summary>A token a letter or space, and one for "ab", which takes the place of its letters: 29 ids.</summary>
internal sealed class LetterTokenizer : ITokenizer
{
    private const string Letters = "abcdefghijklmnopqrstuvwxyz ";

    public int VocabularySize => 29;

    public int EndOfDocument => 0;

    public int[] Encode(string text)
    {
        var ids = new List<int>();
        for (var k = 0; k < text.Length; k++)
        {
            if (text.AsSpan(k).StartsWith("ab"))
            {
                ids.Add(28);
                k++;
            }
            else
            {
                ids.Add(Letters.IndexOf(text[k], StringComparison.Ordinal) + 1);
            }
        }

        return [.. ids];
    }

    public string Decode(IEnumerable<int> ids) => string.Concat(
        ids.Select(id => id switch { 0 => "", 28 => "ab", _ => Letters[(id - 1)..id] }));

    public ReadOnlySpan<byte> Bytes(int id) => System.Text.Encoding.ASCII.GetBytes(Decode([id]));
}
