using System.Globalization;
using System.Text;

namespace XlstmLab.Text.Patterns;

/// <summary>Reads patterns in the dialect of Oniguruma, which those of a tokenizer.json are written in.</summary>
/// <remarks>
/// Read are: alternatives, groups of all kinds but absent ones, greedy, reluctant and possessive quantifiers, look-around, the options i, m
/// and x, classes with ranges, POSIX brackets, nested classes and intersections, properties, escapes, and anchors. What is not known to
/// mean the same here, such as back-references, calls, \R and \X, is refused by its place.
/// </remarks>
internal sealed class OnigurumaPattern
{
    private const int MaxRepeat = 100_000;

    private static readonly CodePointSet LineEnd = CodePointSet.Of('\n');

    private readonly string _pattern;
    private readonly List<PatternPart> _parts = [];
    private int _at;
    private int _classDepth;

    private OnigurumaPattern(string pattern) => _pattern = pattern;

    private bool AtEnd => _at == _pattern.Length;

    /// <summary>Reads a pattern.</summary>
    /// <exception cref="InvalidDataException">It is none, or holds what is not supported; the message says where.</exception>
    public static CodePointPattern Parse(string pattern)
    {
        var parser = new OnigurumaPattern(pattern);
        parser.Alternatives(new(), 0);
        if (!parser.AtEnd)
        {
            throw parser.Refuse(parser._at, "is no end of a group");
        }

        try
        {
            return new CodePointPattern(parser._parts);
        }
        catch (ArgumentException e)
        {
            throw new InvalidDataException($"the pattern '{pattern}' cannot be used: {e.Message}", e);
        }
    }

    /// <summary>All up to the end of the group or pattern.</summary>
    private void Alternatives(Flags flags, int depth)
    {
        if (depth > 200)
        {
            throw Refuse(_at, "is nested too deeply");
        }

        int? literal = null;
        while (!AtEnd && _pattern[_at] != ')')
        {
            if (Take('|'))
            {
                Add("|");
                literal = null;
                continue;
            }

            SkipExtended(flags);
            if (AtEnd || _pattern[_at] is ')' or '|')
            {
                continue;
            }

            var (start, first) = (_at, _parts.Count);
            var isolated = OptionsForTheRest(flags);
            if (isolated is { } rest)
            {
                // The options hold for all that is left of the group, alternatives included.
                Add("(?:");
                Alternatives(rest, depth + 1);
                Add(")");
                return;
            }

            var (repeatable, before) = (Atom(flags, depth), literal);
            literal = _parts.Count == first + 1 ? LiteralOf(_parts[first].Set, flags) : null;
            if (before is { } one && literal is { } two && CodePointClasses.MayFoldToOne(one, two))
            {
                throw Refuse(
                    start, "is, with what is before it and without regard to case, a single character too, which is not supported");
            }

            if (Quantifiers(first, repeatable, flags))
            {
                literal = null;
            }
        }
    }

    /// <summary>A code point that a set stands for, with or without regard to case; null where it is a class.</summary>
    private static int? LiteralOf(CodePointSet? set, Flags flags) =>
        set is { IsEmpty: false } && flags.IgnoreCase && set.CodePoints().First() is var first
        && CodePointClasses.IgnoringCase(CodePointSet.Of(first)).SetEquals(set)
            ? first
            : null;

    /// <summary>The options of (?i) and the like, which hold up to the end of the group; null where there are none.</summary>
    private Flags? OptionsForTheRest(Flags flags)
    {
        if (!_pattern.AsSpan(_at).StartsWith("(?", StringComparison.Ordinal))
        {
            return null;
        }

        var (at, on, changed) = (_at + 2, true, flags);
        for (; at < _pattern.Length && _pattern[at] is 'i' or 'm' or 'x' or '-'; at++)
        {
            switch (_pattern[at])
            {
                case 'i': changed = changed with { IgnoreCase = on }; break;
                case 'm': changed = changed with { DotTakesLineEnds = on }; break;
                case 'x': changed = changed with { Extended = on }; break;
                default: on = false; break;
            }
        }

        if (at == _at + 2 || at == _pattern.Length || _pattern[at] != ')')
        {
            return null;
        }

        _at = at + 1;
        return changed;
    }

    /// <summary>What a quantifier may follow.</summary>
    /// <returns>Whether one may.</returns>
    private bool Atom(Flags flags, int depth)
    {
        var start = _at;
        switch (_pattern[_at])
        {
            case '(':
                return Group(flags, depth);
            case '[':
                _at++;
                Add(Class(flags, start));
                return true;
            case '.':
                _at++;
                Add(flags.DotTakesLineEnds ? CodePointSet.All : LineEnd.Complement);
                return true;
            case '^':
                _at++;
                AddLineStart();
                return false;
            case '$':
                _at++;
                Add("(?=");
                Add(LineEnd);
                Add(@"|\z)");
                return false;
            case '*' or '+' or '?':
                throw Refuse(start, "repeats nothing");
            case '{' when Interval() is not null:
                throw Refuse(start, "repeats nothing");
            case '\\':
                return Escape(flags);
            default:
                AddLiteral(Next(), flags, start);
                return true;
        }
    }

    private void AddLineStart()
    {
        // A line end that ends the text begins no line.
        Add(@"(?:\A|(?<=");
        Add(LineEnd);
        Add(@")(?!\z))");
    }

    private bool Group(Flags flags, int depth)
    {
        var start = _at++;
        var (open, repeatable, inside) = ("(?:", true, flags);
        if (Take('?'))
        {
            if (Take('>'))
            {
                open = "(?>";
            }
            else if (Take('=') || Take('!'))
            {
                (open, repeatable) = ($"(?{_pattern[_at - 1]}", false);
            }
            else if (TakeAll("<=") || TakeAll("<!"))
            {
                (open, repeatable) = ($"(?<{_pattern[_at - 1]}", false);
                inside = flags with { Behind = true };
            }
            else if (Take('<') || Take('\''))
            {
                var end = _pattern.IndexOf(_pattern[_at - 1] == '<' ? '>' : '\'', _at);
                if (end <= _at || !char.IsLetter(_pattern[_at]))
                {
                    throw Refuse(start, "is no group with a name");
                }

                _at = end + 1;
            }
            else if (Take('#'))
            {
                var end = _pattern.IndexOf(')', _at);
                _at = end < 0 ? throw Refuse(start, "is a comment without an end") : end + 1;
                return false;
            }
            else if (!Take(':'))
            {
                inside = GroupOptions(flags, start);
            }
        }

        if (flags.Behind && open is "(?>" or "(?=" or "(?!")
        {
            throw Refuse(start, "in a look-behind is not supported");
        }

        Add(open);
        Alternatives(inside, depth + 1);
        if (!Take(')'))
        {
            throw Refuse(start, "is a group without an end");
        }

        Add(")");
        return repeatable;
    }

    /// <summary>The options of a group such as (?i:...).</summary>
    private Flags GroupOptions(Flags flags, int start)
    {
        var on = true;
        while (!AtEnd)
        {
            switch (_pattern[_at++])
            {
                case 'i': flags = flags with { IgnoreCase = on }; break;
                case 'm': flags = flags with { DotTakesLineEnds = on }; break;
                case 'x': flags = flags with { Extended = on }; break;
                case '-': on = false; break;
                case ':' when _at > start + 3: return flags;
                default: throw Refuse(start, "is a kind of group that is not supported", _at - start);
            }
        }

        throw Refuse(start, "is a group without an end");
    }

    /// <summary>What quantifiers there are; the part that they repeat begins at an index.</summary>
    /// <returns>Whether there are any.</returns>
    private bool Quantifiers(int first, bool repeatable, Flags flags)
    {
        var (any, greedy) = (false, true);
        while (true)
        {
            SkipExtended(flags);
            var start = _at;
            var interval = !AtEnd && _pattern[_at] == '{' ? Interval() : null;
            var quantifier = interval is { } bounds ? bounds.Text
                : !AtEnd && _pattern[_at] is '*' or '+' or '?' ? $"{_pattern[_at++]}" : null;
            if (quantifier is null)
            {
                return any;
            }

            if (!repeatable)
            {
                throw Refuse(start, "repeats what cannot be repeated");
            }

            if (any && !greedy)
            {
                throw Refuse(start, "repeats what is reluctant or possessive, which is not supported without a group");
            }

            var possessive = interval is null && Take('+');

            // {n}? is none or n times, not reluctant.
            var reluctant = !possessive && interval is not { IsFixed: true } && Take('?');
            if (possessive && flags.Behind)
            {
                throw Refuse(start, "in a look-behind is not supported");
            }

            greedy = !possessive && !reluctant;
            if (any || _parts.Count > first + 1)
            {
                _parts.Insert(first, new("(?:", null));
                Add(")");
            }

            Add(reluctant ? quantifier + "?" : quantifier);
            if (possessive)
            {
                _parts.Insert(first, new("(?>", null));
                Add(")");
            }

            any = true;
        }
    }

    /// <summary>{n}, {n,}, {,m} or {n,m}; null, and nothing read, where the brace is one of the text.</summary>
    private (string Text, bool IsFixed)? Interval()
    {
        var close = _pattern.IndexOf('}', _at);
        var bounds = close < 0 ? [] : _pattern[(_at + 1)..close].Split(',');
        if (bounds.Length is not (1 or 2) || bounds.All(b => b.Length == 0) || bounds.Any(b => b.Any(c => !char.IsAsciiDigit(c)))
            || (bounds.Length == 1 && bounds[0].Length == 0))
        {
            return null;
        }

        var start = _at;
        var low = Bound(bounds[0].Length == 0 ? "0" : bounds[0]);
        int? high = bounds[^1].Length == 0 ? null : Bound(bounds[^1]);
        _at = close + 1;
        return high < low
            ? throw Refuse(start, "has a lower bound above the upper one")
            : (bounds.Length == 1 ? FormattableString.Invariant($"{{{low}}}")
            : FormattableString.Invariant($"{{{low},{high}}}"), bounds.Length == 1);

        int Bound(string digits) =>
            int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var bound) && bound <= MaxRepeat
            ? bound
            : throw Refuse(_at, $"repeats more than {MaxRepeat} times");
    }

    private bool Escape(Flags flags)
    {
        var start = _at++;
        if (AtEnd)
        {
            throw Refuse(start, "escapes nothing");
        }

        switch (_pattern[_at])
        {
            case 'w' or 'W':
                Add(_pattern[_at++] == 'w' ? CodePointClasses.Word : CodePointClasses.Word.Complement);
                return true;
            case 'b' or 'B':
                AddWordBoundary(_pattern[_at++] == 'b');
                return false;
            case 'z' or 'Z' when flags.Behind:
                throw Refuse(start, "in a look-behind is not supported");
            case 'A' or 'z':
                Add($"\\{_pattern[_at++]}");
                return false;
            case 'Z':
                _at++;
                Add("(?=");
                Add(LineEnd);
                Add(@"?\z)");
                return false;
            case 'N':
                _at++;
                Add(LineEnd.Complement);
                return true;
            case 'O':
                _at++;
                Add(CodePointSet.All);
                return true;
            default:
                _at = start;
                if (EscapedClass(start) is { } set)
                {
                    Add(Folded(set.Set, set.Negated, flags, start));
                }
                else
                {
                    AddLiteral(EscapedCodePoint(inClass: false), flags, start);
                }

                return true;
        }
    }

    private void AddWordBoundary(bool isBoundary)
    {
        var word = CodePointClasses.Word;
        Add("(?:(?<=");
        Add(word);
        Add(isBoundary ? ")(?!" : ")(?=");
        Add(word);
        Add(")|(?<!");
        Add(word);
        Add(isBoundary ? ")(?=" : ")(?!");
        Add(word);
        Add("))");
    }

    /// <summary>\d, \p{L} and the like; null, and nothing read, where the escape is none.</summary>
    private (CodePointSet Set, bool Negated)? EscapedClass(int start)
    {
        var name = _at + 1 < _pattern.Length ? _pattern[_at + 1] : '\0';
        CodePointSet? set = name switch
        {
            'd' or 'D' => CodePointClasses.Digit,
            's' or 'S' => CodePointClasses.Space,
            'h' or 'H' => CodePointClasses.HexDigit,
            'w' or 'W' => CodePointClasses.WordInBrackets,
            _ => null,
        };
        if (set is not null)
        {
            _at += 2;
            return (set, char.IsAsciiLetterUpper(name));
        }

        if (name is not ('p' or 'P'))
        {
            return null;
        }

        _at += 2;
        string property;
        var negated = name == 'P';
        if (Take('{'))
        {
            negated ^= Take('^');
            var end = _pattern.IndexOf('}', _at);
            property = end < 0 ? throw Refuse(start, "is a property without an end") : _pattern[_at..end];
            _at = end + 1;
        }
        else
        {
            property = AtEnd ? "" : $"{_pattern[_at++]}";
        }

        return (CodePointClasses.Property(property) ?? throw Refuse(start, "is a property that is not supported", _at - start), negated);
    }

    /// <summary>A code point after a backslash.</summary>
    private int EscapedCodePoint(bool inClass)
    {
        var start = _at++;
        if (AtEnd)
        {
            throw Refuse(start, "escapes nothing");
        }

        var c = Next();
        switch (c)
        {
            case 't': return '\t';
            case 'n': return '\n';
            case 'r': return '\r';
            case 'f': return '\f';
            case 'v': return '\v';
            case 'a': return '\a';
            case 'e': return 0x1B;
            case 'b' when inClass: return '\b';
            case 'u': return Number(4, 4, 16);
            case 'x' when Take('{'):
                var code = Number(1, 8, 16);
                return Take('}') ? code : throw Refuse(start, "is no code point", _at - start);
            case 'x':
                return Number(1, 2, 16) is < 0x80 and var ascii ? ascii : throw Refuse(
                    start, "is a byte of UTF-8, which is not supported: write the code point as \\x{...}");
            case '0':
                _at--;
                return Number(1, 3, 8) is < 0x80 and var octal ? octal : throw Refuse(
                    start, "is a byte of UTF-8, which is not supported: write the code point as \\x{...}");
            default:
                return c > 0x7F || !char.IsAsciiLetterOrDigit((char)c) ? c : throw Refuse(start, "is not supported");
        }

        int Number(int least, int most, int numberBase)
        {
            var end = _at;
            while (end < _pattern.Length && end - _at < most && char.IsAsciiHexDigit(_pattern[end])
                && (numberBase == 16 || _pattern[end] is >= '0' and <= '7'))
            {
                end++;
            }

            var value = end - _at < least ? -1 : Convert.ToInt64(_pattern[_at..end], numberBase);
            _at = end;
            return value is >= 0 and < CodePointSet.Limit and not (>= 0xD800 and <= 0xDFFF) ? (int)value : throw Refuse(
                start, "is no code point", _at - start);
        }
    }

    /// <summary>A class, after its opening bracket.</summary>
    private CodePointSet Class(Flags flags, int start)
    {
        var (set, negated) = ClassItems(start);
        return Folded(set, negated, flags, start);
    }

    /// <summary>What stands between the brackets, and whether the class is all but that.</summary>
    private (CodePointSet Set, bool Negated) ClassItems(int start)
    {
        if (++_classDepth > 50)
        {
            throw Refuse(start, "is nested too deeply");
        }

        var negated = Take('^');
        CodePointSet? intersection = null;
        var items = CodePointSet.Empty;
        var (isFirst, afterRange) = (true, false);
        while (true)
        {
            if (AtEnd)
            {
                throw Refuse(start, "is a class without an end");
            }

            var at = _at;
            if (_pattern[_at] == ']' && !isFirst)
            {
                _at++;
                break;
            }

            isFirst = false;
            if (TakeAll("&&"))
            {
                intersection = intersection?.Intersect(items) ?? items;
                (items, afterRange, isFirst) = (CodePointSet.Empty, false, false);
                continue;
            }

            if (_pattern[_at] == '[')
            {
                items = items.Union(Bracket());
                RefuseRangeAfterClass();
                afterRange = false;
                continue;
            }

            if (_pattern[_at] == '\\' && at + 1 < _pattern.Length && _pattern[at + 1] is 'R' or 'X')
            {
                throw Refuse(at, "in a class is not supported");
            }

            if (_pattern[_at] == '\\' && EscapedClass(at) is { } escaped)
            {
                items = items.Union(escaped.Negated ? escaped.Set.Complement : escaped.Set);
                RefuseRangeAfterClass();
                afterRange = false;
                continue;
            }

            var isHyphen = _pattern[_at] == '-';
            var low = _pattern[_at] == '\\' ? EscapedCodePoint(inClass: true) : Next();
            if (isHyphen && (afterRange || (!AtEnd && _pattern[_at] == ']')))
            {
                items = items.Union(CodePointSet.Of('-'));
                afterRange = false;
                continue;
            }

            if (AtEnd || _pattern[_at] != '-' || (_at + 1 < _pattern.Length && _pattern[_at + 1] == ']'))
            {
                items = items.Union(CodePointSet.Of(low));
                afterRange = false;
                continue;
            }

            if (isHyphen)
            {
                throw Refuse(at, "begins a range with a hyphen, which is not supported: escape it");
            }

            _at++;
            at = _at;
            if (AtEnd || _pattern[_at] is '[' or '-' or '&' || (_pattern[_at] == '\\' && EscapedClass(at) is not null))
            {
                throw Refuse(at, "is no end of a range");
            }

            var high = _pattern[_at] == '\\' ? EscapedCodePoint(inClass: true) : Next();
            items = items.Union(high >= low ? CodePointSet.Range(low, high) : throw Refuse(at, "ends a range before it begins"));
            afterRange = true;
        }

        _classDepth--;
        return (intersection?.Intersect(items) ?? items, negated);
    }

    /// <summary>A POSIX bracket or a nested class.</summary>
    private CodePointSet Bracket()
    {
        var start = _at++;
        if (Take(':'))
        {
            var negated = Take('^');
            var end = _pattern.IndexOf(":]", _at, StringComparison.Ordinal);
            var named = end < 0 ? null : CodePointClasses.Posix(_pattern[_at..end]);
            _at = named is null ? _at : end + 2;
            return named is null ? throw Refuse(start, "is no POSIX bracket", 2) : negated ? named.Complement : named;
        }

        var (set, isNegated) = ClassItems(start);
        return isNegated ? set.Complement : set;
    }

    private void RefuseRangeAfterClass()
    {
        if (_at + 1 < _pattern.Length && _pattern[_at] == '-' && _pattern[_at + 1] != ']')
        {
            throw Refuse(_at, "after a class begins no range: escape it");
        }
    }

    private void AddLiteral(int codePoint, Flags flags, int start) => Add(Folded(CodePointSet.Of(codePoint), negated: false, flags, start));

    /// <summary>A class with regard to case or without.</summary>
    private CodePointSet Folded(CodePointSet set, bool negated, Flags flags, int start)
    {
        if (flags.IgnoreCase)
        {
            set = !negated && CodePointClasses.FoldsToSeveral(set)
                ? throw Refuse(start, "is, without regard to case, several characters too, which is not supported")
                : CodePointClasses.IgnoringCase(set);
        }

        return negated ? set.Complement : set;
    }

    /// <summary>Skips white space and comments, where the pattern is extended.</summary>
    private void SkipExtended(Flags flags)
    {
        while (flags.Extended && !AtEnd && _pattern[_at] is ' ' or (>= '\t' and <= '\r') or '#')
        {
            var end = _pattern[_at] == '#' ? _pattern.IndexOf('\n', _at) : _at + 1;
            _at = end < 0 ? _pattern.Length : end;
        }
    }

    private int Next()
    {
        var rune = Rune.TryGetRuneAt(_pattern, _at, out var whole) ? whole : throw Refuse(_at, "is no code point");
        _at += rune.Utf16SequenceLength;
        return rune.Value;
    }

    private bool Take(char c)
    {
        var found = !AtEnd && _pattern[_at] == c;
        _at += found ? 1 : 0;
        return found;
    }

    private bool TakeAll(string text)
    {
        var found = _pattern.AsSpan(_at).StartsWith(text, StringComparison.Ordinal);
        _at += found ? text.Length : 0;
        return found;
    }

    private void Add(string syntax) => _parts.Add(new(syntax, null));

    private void Add(CodePointSet set) => _parts.Add(new("", set));

    private InvalidDataException Refuse(int at, string why, int length = 0)
    {
        var shown = _pattern[at..Math.Min(_pattern.Length, at + Math.Clamp(length == 0 ? 6 : length, 1, 40))];
        return new(
            $"the pattern '{_pattern}' cannot be used: '{shown}' at its character {(at + 1).ToString(CultureInfo.InvariantCulture)} {why}");
    }

    /// <summary>What options hold at a place.</summary>
    private readonly record struct Flags(bool IgnoreCase, bool DotTakesLineEnds, bool Extended, bool Behind);
}
