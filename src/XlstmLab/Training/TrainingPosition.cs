using XlstmLab.Text;

namespace XlstmLab.Training;

/// <summary>How far the run is, and what it looks back on.</summary>
internal sealed class TrainingPosition
{
    private const int DefaultWindow = 128;

    private Queue<double> _losses = new();
    private Queue<double> _norms = new();

    public int Step { get; private set; }

    public long Tokens { get; private set; }

    public double Seconds { get; set; }

    public int BadSteps { get; private set; }

    public int ThreadsBefore { get; private set; }

    public void Advance(long tokens, double loss, double norm, bool skipped, int? window)
    {
        Step++;
        Tokens += tokens;
        BadSteps = skipped ? BadSteps + 1 : 0;
        if (double.IsFinite(loss) && double.IsFinite(norm))
        {
            _losses.Enqueue(loss);
            _norms.Enqueue(norm);
        }

        while (_losses.Count > (window ?? DefaultWindow))
        {
            _losses.Dequeue();
            _norms.Dequeue();
        }
    }

    public double ClippedShare(double? clip) => _norms.Count == 0 ? 0 : _norms.Count(norm => norm > clip) / (double)_norms.Count;

    public string? Spike(double loss, double norm, SpikeRule? rule)
    {
        if (rule is null || _losses.Count < rule.Window / 4 || !double.IsFinite(loss) || !double.IsFinite(norm))
        {
            return null;
        }

        var (usualLoss, usualNorm) = (Median(_losses), Median(_norms));
        return norm > rule.GradientNormFactor * usualNorm
                ? FormattableString.Invariant(
                    $"the gradient norm {norm:G4} is more than {rule.GradientNormFactor} times the running median {usualNorm:G4}")
            : loss > rule.LossFactor * usualLoss
                ? FormattableString.Invariant($"the loss {loss:G4} is more than {rule.LossFactor} times the running median {usualLoss:G4}")
            : null;
    }

    /// <summary>The loss and the norm from which on <see cref="Spike"/> finds one; 0 where there is none yet.</summary>
    public (double Loss, double Norm) SpikeLimits(SpikeRule? rule) =>
        rule is null || _losses.Count < rule.Window / 4 ? (0, 0)
            : (rule.LossFactor * Median(_losses), rule.GradientNormFactor * Median(_norms));

    public TrainerState ToState(BatchPosition loader, byte[] randomState, int threads) =>
        new()
        {
            Step = Step,
            Tokens = Tokens,
            Seconds = Seconds,
            Loader = loader,
            RandomState = randomState,
            Threads = threads,
            BadSteps = BadSteps,
            Losses = [.. _losses],
            GradientNorms = [.. _norms],
        };

    public void Restore(TrainerState state)
    {
        (Step, Tokens, Seconds, BadSteps, ThreadsBefore) = (state.Step, state.Tokens, state.Seconds, state.BadSteps, state.Threads);
        (_losses, _norms) = (new(state.Losses), new(state.GradientNorms));
    }

    public RunMetadata Describe(RunMetadata metadata, TrainingStatus status) =>
        metadata with { Status = status, Step = Step, Tokens = Tokens, Seconds = Seconds };

    private static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }
}
