using XlstmLab.Text.Patterns;

namespace XlstmLab.Text;

/// <summary>Takes a piece of text; it is valid during the call only.</summary>
internal delegate void PieceAction(ReadOnlySpan<char> piece);

/// <summary>Cuts text into the pieces that byte pair encoding never merges across.</summary>
internal sealed class PreTokenizer
{
    private static readonly Lazy<CodePointPattern> Gpt2Pattern =
        new(() => OnigurumaPattern.Parse(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"));

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
                throw new InvalidDataException(
                    $"its pre_tokenizer has a step of type '{step?.Type}' after ByteLevel; ByteLevel must come last");
            }

            switch (step?.Type)
            {
                case "ByteLevel":
                    hasByteLevel = true;
                    _prefixDepth = step.AddPrefixSpace ? _steps.Count : -1;
                    if (step.UseRegex)
                    {
                        _steps.Add(new Step(Gpt2Pattern.Value, KeepMatches: true, KeepGaps: true));
                    }

                    break;
                case "Split":
                    _steps.Add(SplitStep(step));
                    break;
                case "Digits":
                    _steps.Add(
                        new Step(OnigurumaPattern.Parse(step.IndividualDigits ? @"\p{N}" : @"\p{N}+"), KeepMatches: true, KeepGaps: true));
                    break;
                case "Sequence" when step.Pretokenizers is not null:
                    step.Pretokenizers.ForEach(Add);
                    break;
                default:
                    throw new InvalidDataException(
                        $"its pre_tokenizer is of type '{step?.Type ?? "none"}'; supported are ByteLevel, Split, "
                        + "Digits and a Sequence of them");
            }
        }
    }

    /// <summary>Whether a space is put before texts, or a part of them left out.</summary>
    public bool ChangesText => _prefixDepth >= 0 || _steps.Exists(s => !s.KeepMatches || !s.KeepGaps);

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
        var matches = new List<Range>();
        step.Pattern.Find(text, matches);
        var end = 0;
        foreach (var match in matches)
        {
            if (step.KeepGaps)
            {
                Split(text[end..match.Start], depth + 1, action);
            }

            end = match.End.Value;
            if (step.KeepMatches)
            {
                Split(text[match], depth + 1, action);
            }
        }

        if (step.KeepGaps)
        {
            Split(text[end..], depth + 1, action);
        }
    }

    private static Step SplitStep(StepJson json)
    {
        CodePointPattern pattern;
        try
        {
            pattern = json.Pattern switch
            {
                { Regex: { } regex } => OnigurumaPattern.Parse(regex),
                { Literal: { } literal } => CodePointPattern.OfText(literal),
                _ => throw new InvalidDataException("it has neither a Regex nor a String as pattern"),
            };
        }
        catch (InvalidDataException e)
        {
            throw new InvalidDataException($"a Split of its pre_tokenizer is not supported: {e.Message}", e);
        }

        return json.Behavior switch
        {
            "Isolated" => new Step(pattern, KeepMatches: true, KeepGaps: true),
            "Removed" => new Step(pattern, KeepMatches: json.Invert, KeepGaps: !json.Invert),
            _ => throw new InvalidDataException(
                $"a Split of its pre_tokenizer has the behavior '{json.Behavior}'; supported are Isolated and Removed"),
        };
    }

    private sealed record Step(CodePointPattern Pattern, bool KeepMatches, bool KeepGaps);
}
