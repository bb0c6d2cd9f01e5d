using System.Buffers;

namespace XlstmLab.Text;

/// <summary>Finds added tokens in a text: the leftmost first, of those the longest.</summary>
internal sealed class AddedTokens
{
    private readonly AddedTokenJson[] _longestFirst;
    private readonly SearchValues<string> _contents;

    public AddedTokens(IEnumerable<AddedTokenJson> tokens)
    {
        _longestFirst = [.. tokens.OrderByDescending(t => t.Content!.Length)];
        _contents = SearchValues.Create([.. _longestFirst.Select(t => t.Content!)], StringComparison.Ordinal);
    }

    /// <summary>Whether a token takes white space with it that it does not spell.</summary>
    public bool ChangesText => Array.Exists(_longestFirst, t => t.Lstrip || t.Rstrip);

    /// <summary>Hands over the text between the tokens, and the tokens, in order.</summary>
    public void Split(ReadOnlySpan<char> text, PieceAction onText, Action<int> onToken)
    {
        // Stripping moves only what is handed over: a token is found even in the white space that the one before it took.
        var (searched, handedOver) = (0, 0);
        while (_longestFirst.Length > 0 && text[searched..].IndexOfAny(_contents) is >= 0 and var distance)
        {
            var start = searched + distance;
            var token = LongestAt(text[start..]);
            searched = start + token.Content!.Length;
            if (token.Lstrip)
            {
                start = text[..start].TrimEnd().Length;
            }

            if (start > handedOver)
            {
                onText(text[handedOver..start]);
            }

            onToken(token.Id);
            handedOver = token.Rstrip ? text.Length - text[searched..].TrimStart().Length : searched;
        }

        onText(text[handedOver..]);
    }

    private AddedTokenJson LongestAt(ReadOnlySpan<char> text)
    {
        foreach (var token in _longestFirst)
        {
            if (text.StartsWith(token.Content!, StringComparison.Ordinal))
            {
                return token;
            }
        }

        throw new InvalidOperationException("The search found a token that is not one.");
    }
}
