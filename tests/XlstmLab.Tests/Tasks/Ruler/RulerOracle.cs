using System.Text.RegularExpressions;
using XlstmLab.Tasks.Ruler;

namespace XlstmLab.Tests.Tasks.Ruler;

/// <summary>Solves samples by reading their text, knowing only how problems are worded.</summary>
internal static partial class RulerOracle
{
    /// <summary>What is asked for, as a model would say it; empty where the text does not tell.</summary>
    public static string Solve(string text)
    {
        var question = text[(text.LastIndexOf("\nQuestion: ", StringComparison.Ordinal) + 1)..];
        var context = text[..^question.Length];
        return AskedKeys().Match(question) is { Success: true } keys ? Needles(context, keys.Groups[1].Value)
            : AskedValue().Match(question) is { Success: true } value ? string.Join(", ", Variables(context, value.Groups[1].Value))
            : question.Contains("10 words", StringComparison.Ordinal) ? string.Join(
                ", ", List(context).CountBy(w => w).OrderByDescending(w => w.Value).Take(10).Select(w => w.Key))
            : question.Contains("coded words", StringComparison.Ordinal) ? string.Join(
                ", ", Coded(context).CountBy(w => w).OrderByDescending(w => w.Value).Take(3).Select(w => w.Key))
            : Colour().Match(context + question) is { Success: true } colour ? colour.Groups[2].Value
            : "";
    }

    /// <summary>The text that has been said after a prompt that is complete; null if it is not.</summary>
    public static string? Said(string text)
    {
        var at = text.LastIndexOf("\nAnswer:", StringComparison.Ordinal);
        var begun = at < 0 ? null : BeginningOfAnswer().Match(text, at);
        return begun is { Success: true } ? text[(begun.Index + begun.Length)..] : null;
    }

    public static IEnumerable<(string Key, string Value)> AllNeedles(string text) =>
        NeedleLine().Matches(text).Select(m => (m.Groups[1].Value, m.Groups[2].Value));

    /// <summary>The names that have a value, found by assigning until nothing changes.</summary>
    public static List<string> Variables(string context, string value)
    {
        var lines = Assignment().Matches(context).Select(m => (Name: m.Groups[1].Value, From: m.Groups[2].Value)).ToArray();
        var known = new List<string> { value };
        for (var before = 0; before < known.Count;)
        {
            before = known.Count;
            known.AddRange(lines.Where(l => known.Contains(l.From) && !known.Contains(l.Name)).Select(l => l.Name));
        }

        return known[1..];
    }

    /// <summary>The words of the last numbered list.</summary>
    public static IEnumerable<string> List(string context) =>
        Entry().Matches(context[context.LastIndexOf("\n1. ", StringComparison.Ordinal)..]).Select(m => m.Groups[1].Value);

    public static IEnumerable<string> Coded(string context) =>
        CodedWord().Matches(context[context.IndexOf('\n', StringComparison.Ordinal)..]).Select(m => m.Value);

    private static string Needles(string context, string asked)
    {
        var keys = asked.Replace(" and ", ", ", StringComparison.Ordinal).Split(", ");
        return string.Join(", ", AllNeedles(context).Where(n => keys.Contains(n.Key)).Select(n => n.Value));
    }

    [GeneratedRegex(@"the secret \w+ for (.+?) in the text\?")]
    private static partial Regex AskedKeys();

    [GeneratedRegex(@"have the value (\d+),")]
    private static partial Regex AskedValue();

    [GeneratedRegex(@"One of the secret \w+ for (\S+) is (\S+)\.")]
    private static partial Regex NeedleLine();

    [GeneratedRegex(@"VAR ([A-Z]+) = (?:VAR )?(\w+)\.")]
    private static partial Regex Assignment();

    [GeneratedRegex(@"\d+\. ([a-z]+)")]
    private static partial Regex Entry();

    [GeneratedRegex(@"\b[a-z]{6}\b")]
    private static partial Regex CodedWord();

    [GeneratedRegex(@"The colour of (\w+) is (\w+)\.[\s\S]*Question: What is the colour of \1\?")]
    private static partial Regex Colour();

    [GeneratedRegex(@"\nAnswer:(?: [^\n]*?(?: is| are|, namely)\b)?")]
    private static partial Regex BeginningOfAnswer();
}

/// <summary>Questions that the oracle can answer, and a haystack without needles.</summary>
internal static class RulerTexts
{
    private static readonly string[] Names =
        ["Arno", "Bela", "Cleo", "Dora", "Egon", "Fritz", "Gerda", "Hugo", "Ines", "Jorn", "Karla", "Lothar"];
    private static readonly string[] Colours =
        ["red", "green", "blue", "white", "black", "pink", "grey", "brown", "gold", "violet", "orange", "teal"];

    /// <summary>Sentences of 400 distinct words.</summary>
    public static Haystack Haystack { get; } = new(string.Join(' ', Enumerable.Range(0, 2000).Select(k =>
        $"{(char)('b' + k % 20)}{"aeiou"[k / 20 % 5]}{"rstl"[k / 100 % 4]}n" + (k % 9 == 8 ? "." : ""))));

    public static string Jsonl { get; } = string.Join('\n', Names.Select((name, k) =>
        $$"""{"question": "What is the colour of {{name}}?", "answers": ["{{Colours[k]}}"], "context": "{{Paragraph(k)}}"}""")
        .Concat(Names.Take(4).Select((name, k) =>
        $$"""{"question": "What is the colour of {{name}}?", "answer": "{{Colours[k]}}", "context": ["{{Paragraph(k + 4)}}", "{{Paragraph(k)}}"]}""")));

    public static RulerQuestions Questions { get; } = Read();

    private static string Paragraph(int k) =>
        $"{string.Concat(Enumerable.Repeat($"This is about {Names[k]}. ", 2 + k % 4))}The colour of {Names[k]} is {Colours[k]}.";

    private static RulerQuestions Read()
    {
        var path = Path.GetTempFileName() + ".jsonl";
        File.WriteAllText(path, Jsonl);
        try
        {
            return RulerQuestions.Read(path);
        }
        finally
        {
            File.Delete(path);
        }
    }
}
