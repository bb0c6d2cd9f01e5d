using XlstmLab.Tasks;

namespace XlstmLab.Experiments;

/// <summary>What a study measures besides the validation, and on which rows of a synthetic task.</summary>
public sealed record StudySettings
{
    /// <summary>A gradient norm above this many running medians counts as a spike in the table.</summary>
    public const double SpikeFactor = 4;

    /// <summary>The predicted tokens of the test, at least and in whole batches; null for the whole part.</summary>
    public long? TestTokens { get; init; } = 131_072;

    /// <summary>The positions up to which the loss is measured on the test's long documents after training; null for none.</summary>
    public int? ExtrapolateTo { get; init; }

    /// <summary>Of a synthetic task: the lengths that are trained on; null for the task's own.</summary>
    public LengthRange? TrainLengths { get; init; }

    /// <summary>The lengths of validations; null for the trained ones.</summary>
    public LengthRange? ValidationLengths { get; init; }

    /// <summary>The ranges that are tested; empty for the recipe's.</summary>
    public IReadOnlyList<LengthRange> TestLengths { get; init; } = [];

    /// <summary>The rows of each tested range; null for the recipe's.</summary>
    public int? TestRows { get; init; }

    /// <summary>The rows of a validation; null for the recipe's.</summary>
    public int? ValidationRows { get; init; }

    /// <summary>The rows of an epoch, 0 to draw rows without end; null for the recipe's.</summary>
    public int? Samples { get; init; }

    /// <summary>The accuracy at the validation lengths at which a run ends; null to train to the end.</summary>
    public double? Until { get; init; }
}
