namespace XlstmLab.Tasks.Ruler;

/// <summary>One problem of a task.</summary>
/// <param name="Task">The task.</param>
/// <param name="Length">The number of tokens that prompt and room for the answer may take together.</param>
/// <param name="Index">The sample's number, from 0.</param>
/// <param name="Text">The prompt's text, from the instruction to the beginning of the answer.</param>
/// <param name="Prompt">The prompt's tokens: the end of document, as before every document in training, and the text.</param>
/// <param name="AnswerTokens">The number of tokens that the model may answer with.</param>
/// <param name="Answers">What the output has to hold: all of them or, for a question, any.</param>
/// <param name="Needles">
/// Where in the text the answers stand: of needles and variables as many as <paramref name="Answers"/>, in their order; of a question the
/// paragraph with the answer, if one has it; none for words that are counted.
/// </param>
public sealed record RulerSample(
    RulerTask Task, int Length, int Index, string Text, int[] Prompt, int AnswerTokens, IReadOnlyList<string> Answers,
    IReadOnlyList<RulerNeedle> Needles)
{
    /// <summary>The number of tokens that prompt and room for the answer take, at most <see cref="Length"/>.</summary>
    public int TokenCount => Prompt.Length + AnswerTokens;

    /// <summary>The score of an output, from 0 to 1.</summary>
    public double Score(string output) => Task.Score(output, Answers);
}

/// <summary>A piece of the text that the answer is in.</summary>
/// <param name="Start">Its first character in the text.</param>
/// <param name="Length">The number of its characters.</param>
/// <param name="Depth">The share of the haystack before it, by characters: 0 at the start of the haystack, 1 at its end.</param>
public readonly record struct RulerNeedle(int Start, int Length, double Depth);
