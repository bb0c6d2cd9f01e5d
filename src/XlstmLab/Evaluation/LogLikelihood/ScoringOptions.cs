namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>Which requests begin with the end of document, as every document did in training.</summary>
public enum DocumentPrefix
{
    /// <summary>Every request: the context stands at the start of a document. This is how the models here are trained.</summary>
    Always,

    /// <summary>
    /// Requests of an empty context only, which need a token to predict from. This is what lm-evaluation-harness does with a tokenizer
    /// that adds no token of its own.
    /// </summary>
    EmptyContext,
}

/// <summary>How log-likelihoods are computed. Only <see cref="Prefix"/> and <see cref="MaxTokens"/> change results.</summary>
public sealed record ScoringOptions
{
    /// <summary>The most tokens read at once, padding included; a single row may be longer.</summary>
    public int BatchTokens { get; init; } = 4096;

    /// <summary>The most rows read at once, B: each needs a state of its own.</summary>
    public int MaxRows { get; init; } = 64;

    /// <summary>The most tokens a model reads for a request; the context loses tokens from the left. Null: no limit.</summary>
    public int? MaxTokens { get; init; }

    /// <summary>Which requests begin with the end of document.</summary>
    public DocumentPrefix Prefix { get; init; }

    /// <summary>
    /// Whether a context of several continuations is read once, and its state forked, where that saves more than it costs.
    /// </summary>
    public bool ShareContexts { get; init; } = true;

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        Require(BatchTokens >= 1, $"Expected {nameof(BatchTokens)} of at least 1, got {BatchTokens}.");
        Require(MaxRows >= 1, $"Expected {nameof(MaxRows)} of at least 1, got {MaxRows}.");
        Require(MaxTokens is null or >= 1, $"Expected {nameof(MaxTokens)} of at least 1 or null, got {MaxTokens}.");
        Require(Enum.IsDefined(Prefix), $"Expected {nameof(Prefix)} to be Always or EmptyContext, got {Prefix}.");
    }

    private static void Require(bool holds, string message)
    {
        if (!holds)
        {
            throw new ArgumentException(message);
        }
    }
}
