using System.Buffers;
using System.Text.RegularExpressions;

namespace XlstmLab.Text.Patterns;

/// <summary>A pattern that is matched by code points.</summary>
/// <remarks>
/// .NET's expressions see UTF-16, and their classes are not those of the dialect that tokenizers are written in. So the code points are
/// divided into kinds that the pattern does not tell apart; the expression that .NET runs is one of kinds, a character each, and so is the
/// text while it is matched.
/// </remarks>
internal sealed class CodePointPattern
{
    /// <summary>The character of the first kind; those of ASCII are the fastest.</summary>
    private const char FirstKind = '!';

    private readonly Regex _regex;
    private readonly char[] _kindOf;

    /// <summary>Puts a pattern together.</summary>
    /// <param name="parts">The expression: what .NET's syntax has, or a set of code points of which one has to stand there.</param>
    /// <exception cref="RegexParseException">It is no expression.</exception>
    public CodePointPattern(IReadOnlyList<PatternPart> parts)
    {
        var sets = new List<CodePointSet>();
        foreach (var set in parts.Select(p => p.Set).OfType<CodePointSet>().Where(s => !sets.Exists(other => other.SetEquals(s))))
        {
            sets.Add(set);
        }

        var kinds = Kinds(sets, out _kindOf);
        _regex = new Regex(
            string.Concat(parts.Select(p => p.Set is null ? p.Syntax : Class(kinds, sets.FindIndex(s => s.SetEquals(p.Set))))),
            RegexOptions.Compiled | RegexOptions.CultureInvariant);
    }

    /// <summary>The pattern that a text is found by as it is.</summary>
    public static CodePointPattern OfText(string text) =>
        new([.. text.EnumerateRunes().Select(r => new PatternPart("", CodePointSet.Of(r.Value)))]);

    /// <summary>Finds the matches of a text, from its start to its end, none overlapping another.</summary>
    /// <param name="text">The text, whose lone surrogates count as U+FFFD.</param>
    /// <param name="matches">Where they start and end is added to this.</param>
    public void Find(ReadOnlySpan<char> text, List<Range> matches)
    {
        var kinds = ArrayPool<char>.Shared.Rent(text.Length);
        int[]? offsets = null;
        var count = 0;
        try
        {
            while (count < text.Length && !char.IsSurrogate(text[count]))
            {
                kinds[count] = _kindOf[text[count]];
                count++;
            }

            if (count < text.Length)
            {
                offsets = ArrayPool<int>.Shared.Rent(text.Length + 1);
                for (var k = 0; k < count; k++)
                {
                    offsets[k] = k;
                }

                var position = count;
                foreach (var rune in text[count..].EnumerateRunes())
                {
                    offsets[count] = position;
                    kinds[count++] = _kindOf[rune.Value];
                    position += rune.Utf16SequenceLength;
                }

                offsets[count] = position;
            }

            foreach (var match in _regex.EnumerateMatches(kinds.AsSpan(0, count)))
            {
                var end = match.Index + match.Length;
                matches.Add(offsets is null ? match.Index..end : offsets[match.Index]..offsets[end]);
            }
        }
        finally
        {
            ArrayPool<char>.Shared.Return(kinds);
            if (offsets is not null)
            {
                ArrayPool<int>.Shared.Return(offsets);
            }
        }
    }

    /// <summary>The kinds, each as its membership in the sets, and the character that stands for each code point's.</summary>
    private static List<bool[]> Kinds(List<CodePointSet> sets, out char[] kindOf)
    {
        kindOf = new char[CodePointSet.Limit];
        var kinds = new List<bool[]>();
        var numberOf = new Dictionary<string, int>();
        var edges = sets.SelectMany(s => s.Edges).Append(0).Append(CodePointSet.Limit).Distinct().Order().ToArray();
        for (var k = 0; k + 1 < edges.Length; k++)
        {
            bool[] membership = [.. sets.Select(s => s.Contains(edges[k]))];
            var key = string.Concat(membership.Select(m => m ? '1' : '0'));
            if (!numberOf.TryGetValue(key, out var kind))
            {
                kind = kinds.Count;
                numberOf.Add(key, kind);
                kinds.Add(membership);
            }

            kindOf.AsSpan(edges[k]..edges[k + 1]).Fill((char)(FirstKind + kind));
        }

        return kinds;
    }

    /// <summary>The kinds of a set as a class of .NET's syntax.</summary>
    private static string Class(List<bool[]> kinds, int set)
    {
        var inside = Enumerable.Range(0, kinds.Count).Where(kind => kinds[kind][set]).Select(kind => $"\\u{FirstKind + kind:X4}").ToArray();
        return inside.Length switch { 0 => "(?!)", 1 => inside[0], _ => $"[{string.Concat(inside)}]" };
    }
}

/// <summary>A part of a pattern: <paramref name="Set"/> where there is one, else <paramref name="Syntax"/>.</summary>
/// <param name="Syntax">Groups, quantifiers and the like, as .NET and Oniguruma share them.</param>
/// <param name="Set">The code points one of which has to stand there.</param>
internal readonly record struct PatternPart(string Syntax, CodePointSet? Set);
