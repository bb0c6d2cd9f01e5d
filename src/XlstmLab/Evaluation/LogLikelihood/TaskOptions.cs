namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>How a task is put to a model.</summary>
public sealed record TaskOptions
{
    /// <summary>The number of examples before each question, k.</summary>
    public int Shots { get; init; }

    /// <summary>How examples are chosen; null is the task's own way.</summary>
    public FewShotSelection? Selection { get; init; }

    /// <summary>Chooses random examples.</summary>
    public long Seed { get; init; } = 1234;

    /// <summary>Whether answers are also scored without their context, for acc_mutual_info.</summary>
    public bool MutualInformation { get; init; }

    /// <summary>
    /// Whether questions are left out and counted that have an answer without a token of its own, for the tokenizer merges it into the
    /// question; otherwise the first such question is an error.
    /// </summary>
    public bool SkipJoined { get; init; }

    /// <summary>How log-likelihoods are computed.</summary>
    public ScoringOptions Scoring { get; init; } = new();

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        if (Shots < 0)
        {
            throw new ArgumentException($"Expected {nameof(Shots)} of at least 0, got {Shots}.");
        }

        if (Selection is { } selection && !Enum.IsDefined(selection))
        {
            throw new ArgumentException($"Expected {nameof(Selection)} to be Random or First, got {selection}.");
        }

        Scoring.Validate();
    }
}
