namespace XlstmLab.Training;

/// <summary>How the learning rate goes on between warm-up and cool-down.</summary>
public enum DecayKind
{
    /// <summary>It stays at its peak.</summary>
    Constant,

    /// <summary>Half a cosine from the peak to <see cref="LearningRateSchedule.EndFactor"/> times the peak, then constant.</summary>
    Cosine,

    /// <summary>
    /// The factor <see cref="LearningRateSchedule.EndFactor"/> per <see cref="LearningRateSchedule.DecaySteps"/> updates, without end
    /// (xLSTM 7B, appendix B).
    /// </summary>
    Exponential,

    /// <summary>
    /// At its peak until the last <see cref="LearningRateSchedule.DecaySteps"/> updates before the cool-down, in which it falls to
    /// <see cref="LearningRateSchedule.EndFactor"/> times the peak by one minus a square root.
    /// </summary>
    WarmupStableDecay,
}

/// <summary>The learning rate of every update: linear warm-up, one of four courses, linear cool-down to zero.</summary>
/// <remarks>Updates count from 1, so that the first one already has a rate and the last one still has.</remarks>
public sealed record LearningRateSchedule
{
    /// <summary>The updates over which the rate grows linearly; the last of them has the peak rate.</summary>
    public int WarmupSteps { get; init; }

    /// <summary>What follows the warm-up.</summary>
    public DecayKind Kind { get; init; } = DecayKind.Cosine;

    /// <summary>The share of the peak rate that the decay leads to.</summary>
    public double EndFactor { get; init; } = 0.1;

    /// <summary>
    /// The updates the decay takes from the peak to <see cref="EndFactor"/>; null for all between warm-up and cool-down.
    /// </summary>
    public int? DecaySteps { get; init; }

    /// <summary>The last updates of the run, over which the rate falls linearly from where it was to zero after the last of them.</summary>
    public int CooldownSteps { get; init; }

    /// <summary>The learning rate of one update.</summary>
    /// <param name="step">The update, from 1 to <paramref name="totalSteps"/>.</param>
    /// <param name="peak">The peak rate.</param>
    /// <param name="totalSteps">The updates of the whole run.</param>
    /// <exception cref="ArgumentOutOfRangeException">The step is not one of the run.</exception>
    public double Rate(int step, double peak, int totalSteps)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(step, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(step, totalSteps);
        var cooldownStart = totalSteps - CooldownSteps;
        return step <= cooldownStart
            ? peak * Factor(step, cooldownStart)
            : peak * Factor(cooldownStart, cooldownStart) * (totalSteps - step + 1) / CooldownSteps;
    }

    /// <summary>Finds what cannot be meant.</summary>
    /// <param name="totalSteps">The updates of the whole run.</param>
    /// <returns>A sentence for each fault.</returns>
    internal IEnumerable<string> Faults(int totalSteps)
    {
        if (!Enum.IsDefined(Kind))
        {
            yield return $"the schedule's Kind is {Kind}; expected one of {string.Join(", ", Enum.GetNames<DecayKind>())}";
        }

        if (WarmupSteps < 0 || CooldownSteps < 0 || DecaySteps < 1)
        {
            yield return "the schedule's lengths must not be negative, and DecaySteps at least 1 "
                + $"(warm-up {WarmupSteps}, decay {DecaySteps}, cool-down {CooldownSteps})";
        }

        if (EndFactor is not (> 0 and <= 1))
        {
            yield return FormattableString.Invariant(
                $"the schedule's EndFactor must lie in (0, 1], it is {EndFactor}; use CooldownSteps to end at zero");
        }

        var decay = Kind == DecayKind.WarmupStableDecay ? DecaySteps ?? 0 : 0;
        if ((long)WarmupSteps + decay + CooldownSteps > totalSteps)
        {
            yield return $"warm-up {WarmupSteps}, decay {decay} and cool-down {CooldownSteps} do not fit into {totalSteps} steps";
        }
    }

    private double Factor(int step, int end)
    {
        if (step < WarmupSteps)
        {
            return step / (double)WarmupSteps;
        }

        var length = DecaySteps ?? Math.Max(1, end - WarmupSteps);
        var decayed = (step - WarmupSteps) / (double)length;
        return Kind switch
        {
            DecayKind.Constant => 1,
            DecayKind.Cosine => EndFactor + (1 - EndFactor) * 0.5 * (1 + Math.Cos(Math.PI * Math.Min(1, decayed))),
            DecayKind.Exponential => Math.Pow(EndFactor, decayed),
            DecayKind.WarmupStableDecay => 1 - (1 - EndFactor) * Math.Sqrt(Math.Clamp((step - (end - length)) / (double)length, 0, 1)),
            _ => throw UnknownValue.Of(Kind),
        };
    }
}
