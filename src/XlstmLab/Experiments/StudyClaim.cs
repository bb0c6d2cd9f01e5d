namespace XlstmLab.Experiments;

/// <summary>A published claim that a study tries: one variant is better than another, or two are alike.</summary>
public sealed record StudyClaim
{
    /// <summary>The claim in words.</summary>
    public required string Text { get; init; }

    /// <summary>Who published it, and where: paper, table or figure.</summary>
    public required string Source { get; init; }

    /// <summary>What is compared: a name that <see cref="StudyRow.Measure"/> knows.</summary>
    public string Metric { get; init; } = "test_loss";

    /// <summary>The variant that is said to be better; of several axes, labels with a comma and a space between.</summary>
    public required string Better { get; init; }

    /// <summary>The variant that it is said to be better than.</summary>
    public required string Worse { get; init; }

    /// <summary>
    /// Where the claim is that they are alike: the greatest difference that still counts as none, in units of the metric. Null where it is
    /// a difference.
    /// </summary>
    public double? Within { get; init; }

    /// <summary>The published value of the better one, in the publication's unit; null where only the order is published.</summary>
    public double? PublishedBetter { get; init; }

    /// <summary>The published value of the worse one.</summary>
    public double? PublishedWorse { get; init; }

    /// <summary>What the published values are, such as <c>validation perplexity, 160M on 15B tokens</c>.</summary>
    public string? PublishedUnit { get; init; }

    /// <summary>
    /// What a reader must know of it beside the numbers, such as that it was worded after runs had been seen; null where there is nothing.
    /// </summary>
    public string? Note { get; init; }
}
