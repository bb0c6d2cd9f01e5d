namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>An answer to choose, with what stands before it.</summary>
/// <param name="Query">The text that the model reads.</param>
/// <param name="Answer">The text that is scored, after a space.</param>
public sealed record TaskChoice(string Query, string Answer);

/// <summary>One question of a task.</summary>
/// <param name="Choices">What there is to choose from; a single one where the model has to find the answer itself.</param>
/// <param name="Gold">The index of the right choice.</param>
public sealed record TaskItem(IReadOnlyList<TaskChoice> Choices, int Gold)
{
    /// <summary>What opens the prompt, before any examples.</summary>
    public string Description { get; init; } = "";

    /// <summary>
    /// The part of the task it belongs to, such as the subject; null where there are none. Examples are of the same part.
    /// </summary>
    public string? Group { get; init; }

    /// <summary>The question with its right answer, as a few-shot example.</summary>
    public string Example => $"{Choices[Gold].Query} {Choices[Gold].Answer}";
}
