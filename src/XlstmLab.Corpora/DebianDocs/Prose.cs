using System.Buffers;
using System.Text;
using System.Text.RegularExpressions;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>Tells English sentences from the rest of a documentation, by what their characters and words are.</summary>
internal static partial class Prose
{
    /// <summary>A text with less of it is no document, in characters.</summary>
    public const int MinimumDocument = 500;

    private const int MaximumHeading = 90;

    // The most frequent function words of English; few of them are words of program code or of another language.
    private static readonly HashSet<string> FunctionWords =
    [
        "the", "of", "and", "to", "a", "is", "that", "it", "for", "as", "with", "be", "this", "are", "by", "or", "an", "not", "which",
        "you", "from",
        "if", "can", "will", "have", "has", "was", "but", "all", "when", "may", "should", "at", "your", "there", "any", "used", "their",
        "they", "its",
        "these", "other", "than", "only", "one", "must", "more", "some", "such", "we", "been", "also", "into", "then", "between", "each",
        "how", "does",
        "would", "no", "so", "what", "same", "where", "were", "who", "because", "our", "his", "he", "do", "on", "in",
    ];

    private static readonly SearchValues<char> NeverInHeadings = SearchValues.Create("{};\\$@");

    private static readonly SearchValues<char> CodeCharacters = SearchValues.Create("{}();=<>|\\$@#[]_~^*`+/");

    /// <summary>The document of what is prose among paragraphs, and of the headings right before it; null if too little is left.</summary>
    /// <param name="paragraphs">Paragraphs in their order, as they were extracted.</param>
    /// <returns>The paragraphs that are kept.</returns>
    public static IReadOnlyList<string>? Keep(IEnumerable<string> paragraphs)
    {
        var kept = new List<string>();
        var headings = new List<string>();
        foreach (var raw in paragraphs)
        {
            var paragraph = Clean(raw);
            if (paragraph.Length == 0)
            {
                continue;
            }

            if (IsSentences(paragraph))
            {
                // Of a run of short lines, such as a list of links, only the last two can be headings of what follows.
                kept.AddRange(headings.TakeLast(2));
                headings.Clear();
                kept.Add(paragraph);
            }
            else if (IsHeading(paragraph))
            {
                headings.Add(paragraph);
            }
            else
            {
                headings.Clear();
            }
        }

        return kept.Sum(p => p.Length) >= MinimumDocument && IsEnglish(string.Join(' ', kept)) ? kept : null;
    }

    /// <summary>Whether a paragraph is one of English sentences.</summary>
    public static bool IsSentences(string text)
    {
        var words = Word().Count(text);
        if (words < 6 || text.Length < 30)
        {
            return false;
        }

        var (letters, code) = (0, 0);
        foreach (var c in text)
        {
            letters += char.IsLetter(c) || c == ' ' || c == '\n' ? 1 : 0;
            code += CodeCharacters.Contains(c) ? 1 : 0;
        }

        return letters >= 0.82 * text.Length && code <= 0.06 * text.Length && FunctionShare(text) >= 0.18 && text.Length <= 12 * words;
    }

    private static bool IsEnglish(string text) =>
        FunctionShare(text) >= 0.22 && text.Count(c => c > '\x7F' && char.IsLetter(c)) <= 0.03 * text.Length;

    private static bool IsHeading(string text) =>
        text.Length <= MaximumHeading
        && !text.Contains('\n', StringComparison.Ordinal)
        && (char.IsLetterOrDigit(text[0]) || (text.Length > 1 && text[0] == '-' && text[1] != ' '))
        && text.Count(char.IsLetter) >= 0.6 * text.Length
        && !text.AsSpan().ContainsAny(NeverInHeadings);

    private static double FunctionShare(string text)
    {
        var (all, function) = (0, 0);
        var lookup = FunctionWords.GetAlternateLookup<ReadOnlySpan<char>>();
        Span<char> lower = stackalloc char[16];
        foreach (var match in Word().EnumerateMatches(text))
        {
            all++;
            if (match.Length <= lower.Length)
            {
                text.AsSpan(match.Index, match.Length).ToLowerInvariant(lower);
                function += lookup.Contains(lower[..match.Length]) ? 1 : 0;
            }
        }

        return function / (double)Math.Max(1, all);
    }

    /// <summary>Without control characters, soft hyphens and runs of white space; line ends stay.</summary>
    private static string Clean(string text)
    {
        var clean = new StringBuilder(text.Length);
        foreach (var c in text)
        {
            if (c == '\n')
            {
                while (clean.Length > 0 && clean[^1] == ' ')
                {
                    clean.Length--;
                }

                if (clean.Length > 0 && clean[^1] != '\n')
                {
                    clean.Append('\n');
                }
            }
            else if (char.IsWhiteSpace(c))
            {
                if (clean.Length > 0 && clean[^1] is not (' ' or '\n'))
                {
                    clean.Append(' ');
                }
            }
            else if (!char.IsControl(c)
                && c is not ('\u00AD' or '\u200B' or '\u200C' or '\u200D' or '\u2060' or '\uFEFF' or '\u00B6' or '\uFFFD')
                    && c is not (>= '\uE000' and <= '\uF8FF'))
            {
                clean.Append(c);
            }
        }

        return clean.ToString().TrimEnd();
    }

    [GeneratedRegex(@"\p{L}+(?:['\u2019-]\p{L}+)*", RegexOptions.CultureInvariant)]
    private static partial Regex Word();
}
