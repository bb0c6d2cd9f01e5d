using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Experiments;

/// <summary>How near a model comes to the values it is to find, at one length.</summary>
/// <param name="Length">The vectors of a row.</param>
/// <param name="Rows">The number of rows.</param>
/// <param name="MeanSquaredError">Over all positions but the first.</param>
/// <param name="LastSquaredError">At the last position.</param>
public sealed record VectorScore(int Length, int Rows, double MeanSquaredError, double LastSquaredError);

/// <summary>A look at the error during training.</summary>
/// <param name="Seed">The seed of the run.</param>
/// <param name="Step">The update.</param>
/// <param name="Loss">The mean squared error of the update.</param>
/// <param name="ValidationError">The mean squared error of the validation rows, of the training's length.</param>
public sealed record VectorCurvePoint(int Seed, int Step, double Loss, double ValidationError);

/// <summary>What one seed came to.</summary>
/// <param name="Seed">The seed of weights, rows and order.</param>
/// <param name="Step">The updates done.</param>
/// <param name="Seconds">The seconds of training, with validations.</param>
/// <param name="Parameters">The number of parameters that are trained.</param>
/// <param name="Scores">The test, a score for each length.</param>
/// <param name="Curve">The validations.</param>
public sealed record VectorRun(
    int Seed, int Step, double Seconds, long Parameters, IReadOnlyList<VectorScore> Scores, IReadOnlyList<VectorCurvePoint> Curve);

/// <summary>How far the training has come.</summary>
/// <param name="Seed">The seed that is trained.</param>
/// <param name="SeedIndex">Its index among the seeds, from 0.</param>
/// <param name="Step">The update.</param>
/// <param name="Loss">The mean squared error of the update.</param>
/// <param name="Validation">The validation after it; null if there was none.</param>
public sealed record VectorProgress(int Seed, int SeedIndex, int Step, double Loss, VectorScore? Validation);

/// <summary>
/// Trains a kind of model on <see cref="NearestNeighborSearch"/> with several seeds, between an input and an output projection, and tests
/// its mean squared error by length.
/// </summary>
/// <remarks>
/// The folder holds <c>experiment.json</c>, <c>seed-1/result.json</c> for each seed, and <c>summary.json</c>, <c>curve.csv</c> and
/// <c>error.csv</c>. Started again, it skips seeds that are done; one that was stopped starts from its beginning.
/// </remarks>
public sealed record NearestNeighborExperiment
{
    /// <summary>The task.</summary>
    public NearestNeighborSearch Task { get; init; } = new();

    /// <summary>The model's architecture; its embedding and its head are not used.</summary>
    public required LanguageModelConfig Model { get; init; }

    /// <summary>
    /// The training: steps, batch size, rate, optimiser, clipping, and the time between validations. As it is made, that of the first paper
    /// (appendix D): 100,000 updates, 10 % warm-up and a cosine to 1e-7; it tries rates from 1e-4 to 1e-1 and drops 0.1 of the activations.
    /// What is for run folders alone is not looked at, nor are spikes and averages of weights.
    /// </summary>
    public TrainingConfig Training { get; init; } = new()
    {
        Steps = 100_000,
        BatchSize = 128,
        PeakLearningRate = 1e-3,
        Beta2 = 0.99,
        GradientClip = null,
        Schedule = new() { WarmupSteps = 10_000, EndFactor = 1e-4 },
        ValidateEvery = 1000,
    };

    /// <summary>The lengths that are tested.</summary>
    public IReadOnlyList<int> TestLengths { get; init; } = [16, 32, 64, 96, 128, 192, 256];

    /// <summary>The rows of each length, and of a validation.</summary>
    public int TestRows { get; init; } = 1024;

    /// <summary>Trains and tests all seeds that are not done.</summary>
    /// <param name="folder">The experiment's folder: a new or an empty one, or that of the experiment to go on with.</param>
    /// <param name="seeds">The seeds, each but once.</param>
    /// <param name="device">Where to compute; null for the CPU.</param>
    /// <param name="progress">Told each update, and the error when it was looked at.</param>
    /// <param name="cancellationToken">Stops after an update, or in a test.</param>
    /// <exception cref="ArgumentException">The settings do not fit each other.</exception>
    /// <exception cref="InvalidOperationException">The folder holds another experiment.</exception>
    /// <exception cref="TrainingDivergedException">
    /// A seed's loss, gradient or error was not finite; the others are done, and the summary is theirs.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public IReadOnlyList<VectorRun> Run(
        string folder, IReadOnlyList<int> seeds, Device? device = null, IProgress<VectorProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        Training.Validate();
        Model.Validate();
        TrainingMemory.Require(Model, Training with { ContextLength = Task.TrainingLength }, device ?? CPU);
        folder = Path.GetFullPath(folder);
        SeedFolders.Claim(folder, Describe());
        var runs = new List<VectorRun>();
        var diverged = new List<string>();
        foreach (var (index, seed) in seeds.Index())
        {
            var run = SeedFolders.ReadResult<VectorRun>(folder, seed);
            if (run is null)
            {
                using var model = Model.CreateModel(seed);
                using var ends = new VectorEnds(Model.EmbeddingDim, seed);
                model.to(device ?? CPU);
                ends.to(device ?? CPU);
                try
                {
                    run = Train(model, ends, seed, index, progress, cancellationToken);
                }
                catch (TrainingDivergedException e)
                {
                    diverged.Add($"Seed {seed}: {e.Message}");
                    continue;
                }

                Directory.CreateDirectory(SeedFolders.Of(folder, seed));
                SeedFolders.WriteResult(folder, seed, run);
            }

            runs.Add(run);
            SeedFolders.WriteJson(Path.Combine(folder, "summary.json"), new { Experiment = Describe(), Runs = runs });
            SeedFolders.WriteCsv(Path.Combine(folder, "curve.csv"), [.. runs.SelectMany(r => r.Curve)]);
            SeedFolders.WriteCsv(
                Path.Combine(folder, "error.csv"),
                [.. runs.SelectMany(r => r.Scores.Select(s => new { r.Seed, s.Length, s.Rows, s.MeanSquaredError, s.LastSquaredError }))]);
        }

        return diverged.Count == 0 ? runs : throw new TrainingDivergedException(string.Join("\n", diverged));
    }

    private VectorRun Train(
        LanguageModel model, VectorEnds ends, int seed, int index, IProgress<VectorProgress>? progress, CancellationToken cancellationToken)
    {
        var watch = Stopwatch.StartNew();
        var curve = new List<VectorCurvePoint>();
        VectorScore? validation = null;
        var config = Training with
        {
            Seed = seed,
            ContextLength = Task.TrainingLength,
            Spikes = null,
            EmaDecay = null,
            StatisticsEvery = 0,
        };
        new Trainer<VectorBatch>(model, config, new NearestNeighborSource(Task, seed), [], ends.SquaredError)
        {
            LossModule = ends,
            Hooks = new() { AfterValidation = Validate, AfterStep = Report },
        }.Run(cancellationToken);
        cancellationToken.ThrowIfCancellationRequested();
        var seconds = watch.Elapsed.TotalSeconds;
        model.ComputeType = Training.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        var scores = TestLengths.Select(length => Score(model, ends, SyntheticSplit.Test, length, cancellationToken)).ToArray();
        return new(seed, Training.Steps, seconds, TrainedCount(model, ends), scores, curve);

        void Validate(TrainingMoment moment)
        {
            var (step, loss) = (moment.Metrics.Step, moment.Metrics.Loss);
            RequireFinite(moment.Metrics);
            validation = Score(model, ends, SyntheticSplit.Validation, Task.TrainingLength, cancellationToken);
            curve.Add(new(seed, step, loss, validation.MeanSquaredError));
            if (step == Training.Steps && !double.IsFinite(validation.MeanSquaredError))
            {
                throw Diverged($"After update {step}, the last, the validation's error is {validation.MeanSquaredError}");
            }
        }

        void Report(TrainingMoment moment)
        {
            RequireFinite(moment.Metrics);
            progress?.Report(new(seed, index, moment.Metrics.Step, moment.Metrics.Loss, validation));
            validation = null;
        }
    }

    /// <summary>Gives a seed up at the first update that could not be made.</summary>
    private static void RequireFinite(TrainingMetrics metrics)
    {
        if (!double.IsFinite(metrics.Loss) || !double.IsFinite(metrics.GradientNorm))
        {
            throw Diverged($"In update {metrics.Step} the loss was {metrics.Loss} and the gradient's norm {metrics.GradientNorm}");
        }
    }

    private static TrainingDivergedException Diverged(FormattableString what) =>
        new($"{FormattableString.Invariant(what)}: a lower learning rate, a longer warm-up or clipping may help.");

    /// <summary>All but embedding and head, whose gradients nothing reaches.</summary>
    private static long TrainedCount(LanguageModel model, VectorEnds ends) =>
        model.parameters().Concat(ends.parameters()).Sum(p => p.NumberOfElements)
        - (long)(model.Config.TieWordEmbeddings ? 1 : 2) * model.VocabularySize * model.Config.EmbeddingDim;

    private VectorScore Score(
        LanguageModel model, VectorEnds ends, SyntheticSplit split, int length, CancellationToken cancellationToken)
    {
        using var mode = EvaluationMode.Of(model);
        var (sum, last) = (0.0, 0.0);
        for (var first = 0; first < TestRows; first += Training.BatchSize)
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            int[] rows = [.. Enumerable.Range(first, Math.Min(Training.BatchSize, TestRows - first))];
            var errors = ends.SquaredErrors(model, NearestNeighborSearch.Rows(split, 0, rows, length)); // (B, S - 1)
            sum += errors.sum(ScalarType.Float64).item<double>();
            last += errors.select(1, -1).sum(ScalarType.Float64).item<double>();
        }

        return new(length, TestRows, sum / TestRows / (length - 1), last / TestRows);
    }

    private JsonObject Describe() => new()
    {
        ["task"] = $"{NearestNeighborSearch.Name} {JsonSerializer.Serialize(Task, RunJson.Line)}",
        ["model"] = JsonNode.Parse(ModelConfigJson.Text(Model)),
        ["training"] = JsonSerializer.SerializeToNode(Training with { Seed = 0 }, RunJson.Indented),
        ["test_lengths"] = string.Join(", ", TestLengths),
        ["test_rows"] = TestRows,
    };

    /// <summary>What stands before and behind a language model's blocks in place of its embedding and head: two projections.</summary>
    private sealed class VectorEnds : nn.Module
    {
        private readonly Dense _input;
        private readonly Dense _output;

        public VectorEnds(int dim, int seed)
            : base(nameof(VectorEnds))
        {
            _input = new(NearestNeighborSearch.InputDim, dim, bias: true);
            _output = new(dim, 1, bias: true);
            RegisterComponents();
            using var generator = new Generator((ulong)seed, CPU);
            using var gradient = no_grad();
            _input.Weight.normal_(0, 1 / Math.Sqrt(NearestNeighborSearch.InputDim), generator);
            _output.Weight.normal_(0, 1 / Math.Sqrt(dim), generator);
        }

        /// <summary>The loss: the squared error, summed and divided.</summary>
        public Tensor SquaredError(LanguageModel model, VectorBatch batch, long divisor) => SquaredErrors(model, batch).sum() / divisor;

        /// <summary>[B, S - 1]: the first position has no answer.</summary>
        public Tensor SquaredErrors(LanguageModel model, VectorBatch batch)
        {
            using var scope = NewDisposeScope();
            var device = _input.Weight.device;
            var x = _input.Forward(batch.ToInputTensor(device)); // (B, S, d)
            var hidden = model.ForwardHidden(model.ComputeType is { } type ? x.to(type) : x).Hidden; // (B, S, d)
            var found = _output.Forward(hidden.to(ScalarType.Float32)).squeeze(-1).narrow(1, 1, batch.Length - 1);
            return (found - batch.ToTargetTensor(device).narrow(1, 1, batch.Length - 1)).square().MoveToOuterDisposeScope();
        }
    }
}
