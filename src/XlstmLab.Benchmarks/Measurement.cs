using System.Text.Json.Serialization;

namespace XlstmLab.Benchmarks;

/// <summary>What an implementation takes for some work: a row of a comparison.</summary>
/// <param name="Work">The work.</param>
/// <param name="Implementation">Whose code it is, and in which of its forms.</param>
/// <param name="Source">When it was measured, or with which versions and where.</param>
public sealed record Measurement(Workload Work, string Implementation, string Source)
{
    /// <summary>This library's name in tables.</summary>
    public const string Own = "XlstmLab";

    /// <summary>Threads on the CPU; null on a GPU.</summary>
    public int? Threads { get; init; }

    /// <summary>Seconds of a forward pass, of a prompt, or of a generated token.</summary>
    public double? ForwardSeconds { get; init; }

    /// <summary>Seconds of forward and backward, or of a training step.</summary>
    public double? TrainingSeconds { get; init; }

    /// <summary>Memory at its peak in bytes.</summary>
    public double? PeakBytes { get; init; }

    /// <summary>Repetitions measured.</summary>
    public int? Repetitions { get; init; }

    /// <summary>Where a step's time goes, if that was asked for.</summary>
    public StepProfile? Profile { get; init; }

    /// <summary>What a generated token reads, where it was counted.</summary>
    public TokenBytes? TokenBytes { get; init; }

    /// <summary>Why there are no numbers, or what else there is to say.</summary>
    public string? Remark { get; init; }

    /// <summary>Whether it does something else in the same place, so that the work's count of operations is not its own.</summary>
    public bool IsOtherWork { get; init; }

    /// <summary>Whether it was to be measured and could not be.</summary>
    [JsonIgnore]
    public bool Failed { get; init; }

    /// <summary>Whether it is this library's.</summary>
    [JsonIgnore]
    public bool IsOwn => Implementation == Own;

    /// <summary>Whether the other measures the same in the same way, so that one of the two is enough.</summary>
    public bool Replaces(Measurement other) => Work == other.Work && Implementation == other.Implementation;
}
