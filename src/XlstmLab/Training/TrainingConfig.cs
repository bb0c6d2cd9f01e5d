using System.Globalization;
using System.Text.Json;
using TorchSharp;

namespace XlstmLab.Training;

/// <summary>A change of the batch size on the way.</summary>
/// <param name="AfterStep">The number of updates after which the size holds; 0 for the start.</param>
/// <param name="BatchSize">Sequences per update.</param>
public sealed record BatchRampStage(int AfterStep, int BatchSize);

/// <summary>What counts as a spike, and what happens to it.</summary>
public sealed record SpikeRule
{
    /// <summary>A gradient norm above this many running medians is a spike.</summary>
    public double GradientNormFactor { get; init; } = 10;

    /// <summary>A loss above this many running medians is a spike.</summary>
    public double LossFactor { get; init; } = 1.5;

    /// <summary>The updates the running medians look back on; nothing is judged before a quarter of them have passed.</summary>
    public int Window { get; init; } = 128;

    /// <summary>Whether a spike's update is left out; otherwise it is only logged.</summary>
    public bool SkipUpdate { get; init; }
}

/// <summary>A training run, apart from model and data.</summary>
public sealed record TrainingConfig
{
    /// <summary>The recipe of xLSTM 7B (Beck et al. 2025, appendix B): 2.3 T tokens on 128 GPUs.</summary>
    public static TrainingConfig Xlstm7B { get; } = new()
    {
        Steps = 550_000,
        BatchSize = 512,
        ContextLength = 8192,
        PeakLearningRate = 5e-4,
        Beta1 = 0.99,
        Beta2 = 0.95,
        Schedule = new()
        {
            WarmupSteps = 3000,
            Kind = DecayKind.Exponential,
            EndFactor = 0.1,
            DecaySteps = 497_000,
            CooldownSteps = 7000,
        },
        BatchRamp = [new(0, 128), new(2000, 256), new(4000, 512)],
        ComputeType = torch.ScalarType.BFloat16,
    };

    /// <summary>The recipe of the 7B paper's ablations: 160 B tokens.</summary>
    public static TrainingConfig Xlstm7BAblation { get; } = Xlstm7B with
    {
        Steps = 76_000,
        BatchSize = 256,
        Schedule = new() { WarmupSteps = 3000, Kind = DecayKind.Cosine, EndFactor = 0.1, CooldownSteps = 1000 },
        BatchRamp = [],
    };

    /// <summary>The number of updates of the whole run.</summary>
    public int Steps { get; init; } = 1000;

    /// <summary>Sequences per update.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>Tokens a sequence, S: the model reads S tokens and predicts S.</summary>
    public int ContextLength { get; init; } = 256;

    /// <summary>
    /// Sequences that go through the model at once; gradients are summed until the batch is complete. Null: the whole batch.
    /// </summary>
    public int? MicroBatchSize { get; init; }

    /// <summary>The highest learning rate, after the warm-up.</summary>
    public double PeakLearningRate { get; init; } = 1e-3;

    /// <summary>What updates the parameters. A run goes on by the optimiser that it was begun with.</summary>
    public OptimizerKind Optimizer { get; init; }

    /// <summary>
    /// How hidden matrices are updated where <see cref="Optimizer"/> is Muon; all else is AdamW's, with the settings below.
    /// </summary>
    public MuonSettings Muon { get; init; } = new();

    /// <summary>AdamW's decay of the mean of gradients, beta 1.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>AdamW's decay of the mean of squared gradients, beta 2.</summary>
    public double Beta2 { get; init; } = 0.95;

    /// <summary>AdamW's epsilon.</summary>
    public double AdamEpsilon { get; init; } = 1e-8;

    /// <summary>
    /// The decoupled weight decay of the weights whose role has one (<see cref="ParameterRoles.Decays"/>); it is multiplied by the
    /// learning rate.
    /// </summary>
    public double WeightDecay { get; init; } = 0.1;

    /// <summary>The global norm that gradients are scaled down to; null for no clipping.</summary>
    public double? GradientClip { get; init; } = 0.5;

    /// <summary>The course of the learning rate.</summary>
    public LearningRateSchedule Schedule { get; init; } = new();

    /// <summary>Other batch sizes on the way, in order of their steps; the last that has begun holds.</summary>
    public IReadOnlyList<BatchRampStage> BatchRamp { get; init; } = [];

    /// <summary>What matrix products are computed in, float32 or bfloat16, over float32 master weights, gradients and moments.</summary>
    public torch.ScalarType ComputeType { get; init; } = torch.ScalarType.Float32;

    /// <summary>The decay of the running average of the weights an update, such as 0.999; null for none.</summary>
    public double? EmaDecay { get; init; }

    /// <summary>The seed of torch's generator at the start of the run. The data order has its own seed, in the loader.</summary>
    public int Seed { get; init; } = 1;

    /// <summary>Updates between two validations; the last step always validates.</summary>
    public int ValidateEvery { get; init; } = 100;

    /// <summary>
    /// The predicted tokens a validation takes, at least, from the start of the validation batches and in whole batches; null for all.
    /// </summary>
    public long? ValidationTokens { get; init; }

    /// <summary>Updates between two checkpoints; the end of the run always writes one.</summary>
    public int CheckpointEvery { get; init; } = 500;

    /// <summary>The number of latest checkpoints that are kept.</summary>
    public int KeepCheckpoints { get; init; } = 2;

    /// <summary>Updates between two lines of metrics; validations, statistics, spikes and skipped updates always get one.</summary>
    public int LogEvery { get; init; } = 1;

    /// <summary>Updates between two measurements of gates and parameter norm; 0 for never.</summary>
    public int StatisticsEvery { get; init; } = 100;

    /// <summary>What counts as a spike of loss or gradient norm; null to look for none.</summary>
    public SpikeRule? Spikes { get; init; } = new();

    /// <summary>
    /// Updates in a row that may be left out because loss or gradient is not finite or, where the rule says so, for a spike, before the
    /// run is given up.
    /// </summary>
    public int MaxBadSteps { get; init; } = 10;

    /// <summary>Whether metrics also go to a TensorBoard event file.</summary>
    public bool TensorBoard { get; init; } = true;

    /// <summary>Reads settings as <c>training</c> in a run's <c>config.json</c> spells them; absent ones have their defaults.</summary>
    /// <param name="file">A JSON file; comments and trailing commas are allowed.</param>
    /// <exception cref="InvalidDataException">It is no JSON, or has a setting that there is not.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static TrainingConfig Read(string file)
    {
        if (Directory.Exists(file))
        {
            throw new IOException($"{file} is a folder; expected a JSON file of training settings.");
        }

        try
        {
            return StrictJson.Read<TrainingConfig>(File.ReadAllText(file), RunJson.ByHand);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{file} cannot be read as training settings: {e.Message}", e);
        }
    }

    /// <summary>The learning rate of an update.</summary>
    /// <param name="step">The update, from 1.</param>
    public double LearningRate(int step) => Schedule.Rate(step, PeakLearningRate, Steps);

    /// <summary>The sequences of an update.</summary>
    /// <param name="step">The update, from 1.</param>
    public int BatchSizeAt(int step) => BatchRamp.LastOrDefault(stage => stage.AfterStep < step)?.BatchSize ?? BatchSize;

    /// <summary>Refuses what cannot be meant.</summary>
    /// <exception cref="ArgumentException">The message lists every fault.</exception>
    public void Validate()
    {
        var faults = Faults().Concat(Muon.Faults()).Concat(Schedule.Faults(Steps)).ToArray();
        if (faults.Length > 0)
        {
            throw new ArgumentException($"The training configuration cannot be used: {string.Join("; ", faults)}.");
        }
    }

    private IEnumerable<string> Faults()
    {
        if (!Enum.IsDefined(Optimizer))
        {
            yield return UnknownValue.Fault(nameof(Optimizer), Optimizer);
        }

        foreach (var (name, value, least) in new[]
        {
            (nameof(Steps), Steps, 1),
            (nameof(BatchSize), BatchSize, 1),
            (nameof(ContextLength), ContextLength, 1),
            (nameof(MicroBatchSize), MicroBatchSize ?? 1, 1),
            (nameof(ValidateEvery), ValidateEvery, 1),
            (nameof(CheckpointEvery), CheckpointEvery, 1),
            (nameof(KeepCheckpoints), KeepCheckpoints, 1),
            (nameof(LogEvery), LogEvery, 1),
            (nameof(StatisticsEvery), StatisticsEvery, 0),
            (nameof(MaxBadSteps), MaxBadSteps, 1),
        })
        {
            if (value < least)
            {
                yield return $"{name} must be at least {least}, it is {value}";
            }
        }

        if (!(PeakLearningRate > 0 && double.IsFinite(PeakLearningRate)))
        {
            yield return FormattableString.Invariant($"{nameof(PeakLearningRate)} must be positive, it is {PeakLearningRate}");
        }

        foreach (var (name, value) in new[] { (nameof(Beta1), Beta1), (nameof(Beta2), Beta2), (nameof(EmaDecay), EmaDecay ?? 0) })
        {
            if (value is not (>= 0 and < 1))
            {
                yield return FormattableString.Invariant($"{name} must lie in [0, 1), it is {value}");
            }
        }

        if (!(AdamEpsilon > 0 && double.IsFinite(AdamEpsilon)))
        {
            yield return FormattableString.Invariant($"{nameof(AdamEpsilon)} must be positive, it is {AdamEpsilon}");
        }

        if (!(WeightDecay >= 0 && double.IsFinite(WeightDecay)))
        {
            yield return FormattableString.Invariant($"{nameof(WeightDecay)} must not be negative, it is {WeightDecay}");
        }

        if (GradientClip is { } clip && !(clip > 0 && double.IsFinite(clip)))
        {
            yield return FormattableString.Invariant($"{nameof(GradientClip)} must be positive, or null for no clipping; it is {clip}");
        }

        if (ValidationTokens < 1)
        {
            yield return $"{nameof(ValidationTokens)} must be at least 1, or null for all; it is {ValidationTokens}";
        }

        if (ComputeType is not (torch.ScalarType.Float32 or torch.ScalarType.BFloat16))
        {
            yield return $"{nameof(ComputeType)} must be Float32 or BFloat16, it is {ComputeType}";
        }

        if (BatchRamp.Any(stage => stage.AfterStep < 0 || stage.BatchSize < 1)
            || BatchRamp.Zip(BatchRamp.Skip(1)).Any(pair => pair.First.AfterStep >= pair.Second.AfterStep))
        {
            yield return $"{nameof(BatchRamp)} must be in order of its steps, with at least one sequence a batch: "
                + string.Join(", ", BatchRamp);
        }

        if (Spikes is { } rule && !(rule.GradientNormFactor > 1 && rule.LossFactor > 1 && rule.Window >= 4 && double.IsFinite(
            rule.GradientNormFactor + rule.LossFactor)))
        {
            yield return string.Create(
                CultureInfo.InvariantCulture,
                $"{nameof(Spikes)} needs factors above 1 and a window of at least 4; they are {rule.GradientNormFactor}, "
                + $"{rule.LossFactor} and {rule.Window}");
        }
    }
}
