using System.Text.Json.Serialization;

namespace XlstmLab.Training;

/// <summary>What updates the parameters.</summary>
public enum OptimizerKind
{
    /// <summary>AdamW for all parameters.</summary>
    [JsonStringEnumMemberName("adamw")]
    AdamW,

    /// <summary>Muon for the hidden matrices, AdamW for all others.</summary>
    [JsonStringEnumMemberName("muon")]
    Muon,
}

/// <summary>What the learning rate of a matrix [rows, columns] is multiplied by, so that one rate serves all shapes.</summary>
public enum MuonScale
{
    /// <summary>
    /// 0.2 sqrt(max(rows, columns)): updates as large as AdamW's usually are, so that AdamW's learning rate serves (Liu et al. 2025,
    /// section 2.2).
    /// </summary>
    [JsonStringEnumMemberName("match_rms_adamw")]
    MatchRmsAdamW,

    /// <summary>sqrt(max(1, rows / columns)), for rates near 0.02 (Jordan et al. 2024).</summary>
    [JsonStringEnumMemberName("original")]
    Original,
}

/// <summary>How <see cref="Muon"/> updates hidden matrices.</summary>
public sealed record MuonSettings
{
    /// <summary>The highest learning rate of hidden matrices, on the schedule of all others; null for the same as theirs.</summary>
    public double? PeakLearningRate { get; init; }

    /// <summary>The decay of the mean of gradients.</summary>
    public double Momentum { get; init; } = 0.95;

    /// <summary>Whether an update looks ahead: the gradient counts once more beside the mean.</summary>
    public bool Nesterov { get; init; } = true;

    /// <summary>The steps of Newton and Schulz that make an update orthogonal.</summary>
    public int NewtonSchulzSteps { get; init; } = 5;

    /// <summary>
    /// The weight decay of hidden matrices, multiplied by their learning rate without its scale; null for that of all others.
    /// </summary>
    public double? WeightDecay { get; init; }

    /// <summary>What a matrix's shape does to its learning rate.</summary>
    public MuonScale Scale { get; init; }

    internal IEnumerable<string> Faults()
    {
        if (!Enum.IsDefined(Scale))
        {
            yield return UnknownValue.Fault($"Muon.{nameof(Scale)}", Scale);
        }

        if (PeakLearningRate is { } rate && !(rate > 0 && double.IsFinite(rate)))
        {
            yield return FormattableString.Invariant(
                $"Muon.{nameof(PeakLearningRate)} must be positive, or null for that of all others; it is {rate}");
        }

        if (Momentum is not (>= 0 and < 1))
        {
            yield return FormattableString.Invariant($"Muon.{nameof(Momentum)} must lie in [0, 1), it is {Momentum}");
        }

        if (NewtonSchulzSteps < 1)
        {
            yield return $"Muon.{nameof(NewtonSchulzSteps)} must be at least 1, it is {NewtonSchulzSteps}";
        }

        if (WeightDecay is { } decay && !(decay >= 0 && double.IsFinite(decay)))
        {
            yield return FormattableString.Invariant($"Muon.{nameof(WeightDecay)} must not be negative, it is {decay}");
        }
    }
}
