namespace XlstmLab.Tasks.Ruler;

/// <summary>What the tasks are made of.</summary>
public sealed record RulerOptions
{
    /// <summary>Other seeds give other samples; the same seed gives the same on every machine.</summary>
    public long Seed { get; init; }

    /// <summary>
    /// The text of the essays and the words of the lists; null is <see cref="Haystack.Default"/>, read when it is first needed.
    /// </summary>
    public Haystack? Haystack { get; init; }

    /// <summary>What qa_1 and qa_2 ask; null if they are not asked for.</summary>
    public RulerQuestions? Questions { get; init; }

    /// <summary>
    /// Whether vt and cwe show a solved example before the problem, as RULER does. Without it, shorter lengths have room.
    /// </summary>
    public bool Example { get; init; } = true;

    /// <summary>
    /// The number of tokens that a model may answer with. Null is <see cref="RulerTasks.PublishedAnswerTokens"/>, or five quarters of what
    /// the answer takes if that is more, as it may be with bytes.
    /// </summary>
    public int? AnswerTokens { get; init; }
}
