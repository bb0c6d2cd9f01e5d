using System.Globalization;
using System.Text.Json.Serialization;

namespace XlstmLab.Experiments;

/// <summary>How a run of a study ended.</summary>
public enum StudyStatus
{
    /// <summary>All its updates were made.</summary>
    Completed,

    /// <summary>Loss, gradients or weights ceased to be finite: a result, which is not tried again.</summary>
    Diverged,

    /// <summary>An error ended it: it is tried again when the study is.</summary>
    Failed,
}

/// <summary>A stretch of a run between two validations.</summary>
/// <param name="Step">The update of the validation, the last of the stretch.</param>
/// <param name="Tokens">The tokens read until then.</param>
/// <param name="Loss">The mean training loss of the stretch.</param>
/// <param name="Validation">The validation's loss; of a synthetic task, the mean loss of answers at the lengths that decide.</param>
/// <param name="Accuracy">Of a synthetic task, the scaled accuracy at those lengths.</param>
/// <param name="GradientNorm">The greatest gradient norm of the stretch.</param>
public sealed record StudyPoint(int Step, long Tokens, double Loss, double? Validation, double? Accuracy, double GradientNorm);

/// <summary>A test of a synthetic task at a range of lengths.</summary>
/// <param name="Lengths">The range.</param>
/// <param name="Accuracy">The share of answers that are correct.</param>
/// <param name="Scaled">The same with chance at 0.</param>
/// <param name="Loss">Nats per answer.</param>
public sealed record StudyScore(string Lengths, double Accuracy, double Scaled, double Loss);

/// <summary>The loss at a range of positions of long documents.</summary>
/// <param name="Start">The first position.</param>
/// <param name="End">The position after the last.</param>
/// <param name="Loss">Nats per token.</param>
/// <param name="Beyond">Whether training never reached these positions.</param>
public sealed record StudyPosition(int Start, int End, double Loss, bool Beyond);

/// <summary>What one run of a study came to: a line of <c>runs.jsonl</c>.</summary>
public sealed record StudyRow
{
    /// <summary>The measure of speed: a run has one only where it had the device for itself.</summary>
    public const string Speed = "tokens_per_second";

    private static readonly Dictionary<string, Func<StudyRow, double?>> Measures = new()
    {
        ["train_loss"] = row => row.TrainLoss,
        ["validation_loss"] = row => row.ValidationLoss,
        ["validation_perplexity"] = row => row.ValidationLoss is { } loss ? Math.Exp(loss) : null,
        ["validation_bits_per_byte"] = row => row.ValidationBitsPerByte,
        ["test_loss"] = row => row.TestLoss,
        ["test_perplexity"] = row => row.TestPerplexity,
        ["test_bits_per_byte"] = row => row.TestBitsPerByte,
        [Speed] = row => row.SideBySide == 1 ? row.TokensPerSecond : null,
        ["gradient_norm_mean"] = row => row.GradientNormMean,
        ["gradient_norm_max"] = row => row.GradientNormMax,
        ["spikes"] = row => row.Spikes,
        ["solved_at_step"] = row => row.SolvedAtStep,
        ["loss_within"] = row => row.PositionLoss(beyond: false),
        ["loss_beyond"] = row => row.PositionLoss(beyond: true),
    };

    /// <summary>The run's id: readable, with a hash of its full configuration; the last line of an id counts.</summary>
    public required string Id { get; init; }

    /// <summary>The label of what varies; empty where nothing does.</summary>
    public required string Variant { get; init; }

    /// <summary>The label on each axis.</summary>
    public required IReadOnlyDictionary<string, string> Differences { get; init; }

    /// <summary>The seed of weights and data order.</summary>
    public required int Seed { get; init; }

    /// <summary>How it ended.</summary>
    public required StudyStatus Status { get; init; }

    /// <summary>What ended it, if not its last update.</summary>
    public string? Error { get; init; }

    /// <summary>The number of parameters, N.</summary>
    public long Parameters { get; init; }

    /// <summary>The updates that were made.</summary>
    public int Steps { get; init; }

    /// <summary>The tokens that were read in training, D.</summary>
    public long Tokens { get; init; }

    /// <summary>The operations of the training by the model's formulas, forward and twice as much backward.</summary>
    public double Flops { get; init; }

    /// <summary>The mean training loss of the last twentieth of the updates, in nats a token.</summary>
    public double? TrainLoss { get; init; }

    /// <summary>The last validation's loss, in nats a token.</summary>
    public double? ValidationLoss { get; init; }

    /// <summary>The same in bits over the bytes of the text.</summary>
    public double? ValidationBitsPerByte { get; init; }

    /// <summary>The test part's loss after the last update, in nats a token; of a synthetic task, of the last range of lengths.</summary>
    public double? TestLoss { get; init; }

    /// <summary>exp of it.</summary>
    public double? TestPerplexity { get; init; }

    /// <summary>The same in bits over the bytes of the text.</summary>
    public double? TestBitsPerByte { get; init; }

    /// <summary>Of a synthetic task, its tests.</summary>
    public IReadOnlyList<StudyScore> Scores { get; init; } = [];

    /// <summary>The update at which the asked-for accuracy was reached; null if it was not asked for or reached.</summary>
    public int? SolvedAtStep { get; init; }

    /// <summary>The loss by position in long documents, where the study asks for it.</summary>
    public IReadOnlyList<StudyPosition> Positions { get; init; } = [];

    /// <summary>The mean norm of the gradient before clipping.</summary>
    public double? GradientNormMean { get; init; }

    /// <summary>The greatest.</summary>
    public double? GradientNormMax { get; init; }

    /// <summary>The updates whose gradient norm was above <see cref="StudySettings.SpikeFactor"/> medians of the 128 before it.</summary>
    public int Spikes { get; init; }

    /// <summary>The median rate of an update in tokens a second, the first tenth left out; runs side by side share the device.</summary>
    public double? TokensPerSecond { get; init; }

    /// <summary>How many runs the device had at a time.</summary>
    public int SideBySide { get; init; } = 1;

    /// <summary>The memory of the device, or of the process on a CPU, that was in use at the end, by all runs, in bytes.</summary>
    public long MemoryBytes { get; init; }

    /// <summary>The sequences that went through the model at once, where that was less than a batch.</summary>
    public int? MicroBatchSize { get; init; }

    /// <summary>The seconds of training, with validations.</summary>
    public double Seconds { get; init; }

    /// <summary>The version of the library with its commit.</summary>
    public string Commit { get; init; } = "";

    /// <summary>The device's name.</summary>
    public string Device { get; init; } = "";

    /// <summary>What computed: the CUDA kernels or not, graphs or not.</summary>
    public string Backend { get; init; } = "";

    /// <summary>When it ended, in UTC.</summary>
    public DateTimeOffset EndedAt { get; init; }

    /// <summary>The stretches between validations.</summary>
    public IReadOnlyList<StudyPoint> Curve { get; init; } = [];

    /// <summary>Whether the run has its result and is not tried again.</summary>
    [JsonIgnore]
    public bool IsDone => Status != StudyStatus.Failed;

    /// <summary>
    /// The names of measures, apart from those with a range of lengths such as <c>accuracy@40-256</c> and <c>scaled@40-256</c>.
    /// </summary>
    public static IReadOnlyCollection<string> MeasureNames => Measures.Keys;

    /// <summary>Whether more of a measure is better.</summary>
    /// <param name="metric">Its name.</param>
    public static bool IsMoreBetter(string metric)
    {
        ArgumentNullException.ThrowIfNull(metric);
        return metric.StartsWith("accuracy@", StringComparison.Ordinal) || metric.StartsWith("scaled@", StringComparison.Ordinal)
            || metric == Speed;
    }

    /// <summary>A measure by its name; null where the run has none.</summary>
    /// <param name="metric">A name of <see cref="MeasureNames"/>, or <c>accuracy@LENGTHS</c> or <c>scaled@LENGTHS</c>.</param>
    /// <exception cref="ArgumentException">There is no such measure.</exception>
    public double? Measure(string metric)
    {
        RequireMeasure(metric);
        return Status != StudyStatus.Completed ? null
            : Measures.TryGetValue(metric, out var read) ? read(this)
            : Scores.FirstOrDefault(s => s.Lengths == metric.Split('@')[1]) is not { } score ? null
            : metric.StartsWith("accuracy@", StringComparison.Ordinal) ? score.Accuracy : score.Scaled;
    }

    /// <summary>Refuses a measure that there is not.</summary>
    /// <exception cref="ArgumentException">There is none of that name.</exception>
    internal static void RequireMeasure(string metric)
    {
        ArgumentNullException.ThrowIfNull(metric);
        if (!Measures.ContainsKey(metric) && metric.Split('@', 2) is not ["accuracy" or "scaled", _])
        {
            throw new ArgumentException(
                $"There is no measure '{metric}'.{NearestName.Hint(metric, Measures.Keys)} Expected accuracy@LENGTHS, "
                + $"scaled@LENGTHS or one of {string.Join(", ", Measures.Keys)}.",
                nameof(metric));
        }
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{Id}: {Status}, {Steps} updates, validation {ValidationLoss:0.####}, test {TestLoss:0.####}");

    private double? PositionLoss(bool beyond)
    {
        var ranges = Positions.Where(p => p.Beyond == beyond).ToArray();
        return ranges.Length == 0 ? null : ranges.Sum(p => p.Loss * (p.End - p.Start)) / ranges.Sum(p => p.End - p.Start);
    }
}
