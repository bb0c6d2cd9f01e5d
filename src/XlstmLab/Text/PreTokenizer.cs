using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace XlstmLab.Text;

/// <summary>Takes a piece of text; it is valid during the call only.</summary>
internal delegate void PieceAction(ReadOnlySpan<char> piece);

/// <summary>Cuts text into the pieces that byte pair encoding never merges across.</summary>
internal sealed partial class PreTokenizer
{
    private static readonly Dictionary<UnicodeCategory, char> Representatives = FindRepresentatives();

    private readonly List<Step> _steps = [];
    private int _prefixDepth = -1;

    /// <summary>Reads the pre-tokenizer of a tokenizer.json.</summary>
    /// <exception cref="InvalidDataException">It is of a kind that is not supported.</exception>
    public PreTokenizer(StepJson? json)
    {
        var hasByteLevel = false;
        Add(json);
        if (!hasByteLevel)
        {
            throw new InvalidDataException(
                "its pre_tokenizer has no ByteLevel step, so that it is not a byte-level tokenizer; only those are supported");
        }

        void Add(StepJson? step)
        {
            if (hasByteLevel)
            {
                throw new InvalidDataException($"its pre_tokenizer has a step of type '{step?.Type}' after ByteLevel; ByteLevel must come last");
            }

            switch (step?.Type)
            {
                case "ByteLevel":
                    hasByteLevel = true;
                    _prefixDepth = step.AddPrefixSpace ? _steps.Count : -1;
                    if (step.UseRegex)
                    {
                        _steps.Add(new Step(Gpt2Pattern(), KeepMatches: true, KeepGaps: true));
                    }

                    break;
                case "Split":
                    _steps.Add(SplitStep(step));
                    break;
                case "Digits":
                    _steps.Add(new Step(step.IndividualDigits ? Digit() : Digits(), KeepMatches: true, KeepGaps: true));
                    break;
                case "Sequence" when step.Pretokenizers is not null:
                    step.Pretokenizers.ForEach(Add);
                    break;
                default:
                    throw new InvalidDataException(
                        $"its pre_tokenizer is of type '{step?.Type ?? "none"}'; supported are ByteLevel, Split, Digits and a Sequence of them");
            }
        }
    }

    /// <summary>Hands over the pieces of a text in order.</summary>
    public void Split(ReadOnlySpan<char> text, PieceAction action) => Split(text, 0, action);

    private void Split(ReadOnlySpan<char> text, int depth, PieceAction action)
    {
        if (text.IsEmpty)
        {
            return;
        }

        if (depth == _prefixDepth && text[0] != ' ')
        {
            text = string.Concat(" ", text);
        }

        if (depth == _steps.Count)
        {
            action(text);
            return;
        }

        var step = _steps[depth];
        var (subject, offsets) = OneCharacterACodePoint(text);
        var end = 0;
        foreach (var match in step.Pattern.EnumerateMatches(subject))
        {
            if (step.KeepGaps)
            {
                Split(text[At(end)..At(match.Index)], depth + 1, action);
            }

            end = match.Index + match.Length;
            if (step.KeepMatches)
            {
                Split(text[At(match.Index)..At(end)], depth + 1, action);
            }
        }

        if (step.KeepGaps)
        {
            Split(text[At(end)..], depth + 1, action);
        }

        int At(int position) => offsets is null ? position : offsets[position];
    }

    /// <summary>
    /// .NET's patterns see the two halves of a code point beyond U+FFFF as characters that are neither letter nor number. A
    /// character of the same category stands in for such a code point while the pattern is matched.
    /// </summary>
    private static Subject OneCharacterACodePoint(ReadOnlySpan<char> text)
    {
        if (!text.ContainsAnyInRange('\uD800', '\uDFFF'))
        {
            return new Subject(text, null);
        }

        var characters = new char[text.Length];
        var offsets = new int[text.Length + 1];
        var (count, position) = (0, 0);
        foreach (var rune in text.EnumerateRunes())
        {
            offsets[count] = position;
            characters[count++] = rune.IsBmp ? (char)rune.Value : Representatives[Rune.GetUnicodeCategory(rune)];
            position += rune.Utf16SequenceLength;
        }

        offsets[count] = position;
        return new Subject(characters.AsSpan(0, count), offsets);
    }

    private static Step SplitStep(StepJson json)
    {
        var pattern = json.Pattern?.Regex
            ?? (json.Pattern?.Literal is { } literal ? Regex.Escape(literal) : null)
            ?? throw new InvalidDataException("a Split of its pre_tokenizer has neither a Regex nor a String as pattern");
        Regex regex;
        try
        {
            // Multiline because ^ and $ are ends of lines in the dialect these patterns are written in.
            regex = new Regex(pattern, RegexOptions.Compiled | RegexOptions.CultureInvariant | RegexOptions.Multiline);
        }
        catch (ArgumentException e)
        {
            throw new InvalidDataException($"the pattern of a Split in its pre_tokenizer cannot be used: {e.Message}", e);
        }

        return json.Behavior switch
        {
            "Isolated" => new Step(regex, KeepMatches: true, KeepGaps: true),
            "Removed" => new Step(regex, KeepMatches: json.Invert, KeepGaps: !json.Invert),
            _ => throw new InvalidDataException(
                $"a Split of its pre_tokenizer has the behavior '{json.Behavior}'; supported are Isolated and Removed"),
        };
    }

    private static Dictionary<UnicodeCategory, char> FindRepresentatives()
    {
        var representatives = new Dictionary<UnicodeCategory, char>();
        for (var c = char.MaxValue; c > 0x7F; c--)
        {
            representatives.TryAdd(char.GetUnicodeCategory(c), c);
        }

        return representatives;
    }

    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", RegexOptions.CultureInvariant)]
    private static partial Regex Gpt2Pattern();

    [GeneratedRegex(@"\p{N}", RegexOptions.CultureInvariant)]
    private static partial Regex Digit();

    [GeneratedRegex(@"\p{N}+", RegexOptions.CultureInvariant)]
    private static partial Regex Digits();

    private sealed record Step(Regex Pattern, bool KeepMatches, bool KeepGaps);

    private readonly ref struct Subject(ReadOnlySpan<char> text, int[]? offsets)
    {
        private readonly ReadOnlySpan<char> _text = text;

        public void Deconstruct(out ReadOnlySpan<char> text, out int[]? offsetsOfText)
        {
            text = _text;
            offsetsOfText = offsets;
        }
    }
}
