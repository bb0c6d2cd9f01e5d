namespace XlstmLab.Tasks.Ruler;

/// <summary>How RULER scores an output (Hsieh et al. 2024): what is looked for may stand anywhere in it, in any case.</summary>
public static class RulerMetrics
{
    /// <summary>The share of the answers that the output holds, from 0 to 1: string_match_all, for all tasks but questions.</summary>
    /// <exception cref="ArgumentException">There is no answer to look for.</exception>
    public static double StringMatchAll(string output, IReadOnlyList<string> answers) =>
        RequireSome(answers).Count(answer => Holds(output, answer)) / (double)answers.Count;

    /// <summary>
    /// 1 if the output holds any of the answers, else 0: string_match_part, for questions, whose answers are spellings of one.
    /// </summary>
    /// <inheritdoc cref="StringMatchAll" path="/exception"/>
    public static double StringMatchPart(string output, IReadOnlyList<string> answers) =>
        RequireSome(answers).Any(answer => Holds(output, answer)) ? 1 : 0;

    /// <summary>Whether an output holds an answer, both in lower case.</summary>
    public static bool Holds(string output, string answer) => Lower(output).Contains(Lower(answer), StringComparison.Ordinal);

#pragma warning disable CA1308 // RULER compares lower case, which makes other characters equal than upper case.
    private static string Lower(string text) => text.ToLowerInvariant();
#pragma warning restore CA1308

    private static IReadOnlyList<string> RequireSome(IReadOnlyList<string> answers) =>
        answers.Count > 0 ? answers : throw new ArgumentException("Expected at least one answer to look for, got none.", nameof(answers));
}
