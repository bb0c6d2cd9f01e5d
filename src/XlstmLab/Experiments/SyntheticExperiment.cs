using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.Logging;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Experiments;

/// <summary>Trains a kind of model on a synthetic task with several seeds, and tests it by length.</summary>
/// <remarks>
/// The folder of an experiment holds <c>experiment.json</c>, a run folder for each seed with its <c>curve.json</c> and, once it is done,
/// its <c>result.json</c>, and over all seeds <c>summary.json</c>, <c>curve.csv</c> and <c>accuracy.csv</c>. Started again, it skips seeds
/// that are done and goes on with one that was stopped.
/// </remarks>
public sealed record SyntheticExperiment
{
    private const string CurveName = "curve.json";

    /// <summary>The task.</summary>
    public required SyntheticTask Task { get; init; }

    /// <summary>The model's architecture, with at least the task's tokens.</summary>
    public required LanguageModelConfig Model { get; init; }

    /// <summary>
    /// The training. Seed and context length come from the run; <see cref="TrainingConfig.ValidateEvery"/> is the time between two looks at
    /// the accuracy.
    /// </summary>
    public required TrainingConfig Training { get; init; }

    /// <summary>The lengths that are trained on; null for the task's own.</summary>
    public LengthRange? TrainingLengths { get; init; }

    /// <summary>The rows of an epoch; null to draw rows without end.</summary>
    public int? SampleCount { get; init; }

    /// <summary>
    /// The lengths whose accuracy may end the training (<see cref="Until"/>), on rows that are neither trained nor tested; null for the
    /// trained ones. Without it the curve has the task's test lengths too, which then decide nothing.
    /// </summary>
    public LengthRange? ValidationLengths { get; init; }

    /// <summary>The rows of a validation.</summary>
    public int ValidationRows { get; init; } = 512;

    /// <summary>The ranges of lengths that are tested; empty for the trained and the tested ones.</summary>
    public IReadOnlyList<LengthRange> TestLengths { get; init; } = [];

    /// <summary>The rows of each range.</summary>
    public int TestRows { get; init; } = 1024;

    /// <summary>The rows that are read side by side in validation and test.</summary>
    public int EvaluationBatchSize { get; init; } = 128;

    /// <summary>The accuracy at the validation lengths at which training stops; null to train to the end.</summary>
    public double? Until { get; init; }

    /// <summary>The experiment of a recipe.</summary>
    /// <param name="recipe">The recipe.</param>
    /// <param name="model">The model's architecture.</param>
    public static SyntheticExperiment Of(SyntheticRecipe recipe, LanguageModelConfig model) => new()
    {
        Task = recipe.Task,
        Model = model,
        Training = recipe.Training,
        SampleCount = recipe.SampleCount,
        ValidationRows = recipe.ValidationRows,
        TestLengths = recipe.TestLengths,
        TestRows = recipe.TestRows,
    };

    /// <summary>Trains and tests all seeds that are not done.</summary>
    /// <param name="folder">The experiment's folder: a new or an empty one, or that of the experiment to go on with.</param>
    /// <param name="seeds">The seeds, each but once.</param>
    /// <param name="device">Where to compute; null for the CPU.</param>
    /// <param name="progress">Told each update, and the accuracy when it was looked at.</param>
    /// <param name="logger">Told what also goes to the runs' <c>log.txt</c>.</param>
    /// <param name="cancellationToken">Stops after an update with a checkpoint, or in a test.</param>
    /// <exception cref="ArgumentException">The settings do not fit each other.</exception>
    /// <exception cref="InvalidOperationException">The folder holds another experiment.</exception>
    /// <exception cref="TrainingDivergedException">Seeds diverged; the others are done, and the summary is theirs.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled; started again, it goes on.</exception>
    public SyntheticSummary Run(
        string folder, IReadOnlyList<int> seeds, Device? device = null, IProgress<SyntheticProgress>? progress = null,
        ILogger? logger = null, CancellationToken cancellationToken = default)
    {
        folder = Path.GetFullPath(folder);
        Check(seeds);
        TrainingMemory.Require(Model, Training with { ContextLength = (TrainingLengths ?? Task.TrainingLengths).Maximum }, device ?? CPU);
        SeedFolders.Claim(folder, Describe());
        var runs = new List<SyntheticRun>();
        var curve = new List<SyntheticCurvePoint>();
        var diverged = new List<string>();
        foreach (var (index, seed) in seeds.Index())
        {
            var run = SeedFolders.ReadResult<SyntheticRun>(folder, seed);
            if (run is null)
            {
                try
                {
                    run = RunSeed(folder, seed, index, device ?? CPU, progress, logger, cancellationToken);
                }
                catch (TrainingDivergedException e)
                {
                    diverged.Add($"Seed {seed}: {e.Message}");
                    continue;
                }

                SeedFolders.WriteResult(folder, seed, run);
            }

            runs.Add(run);
            curve.AddRange(ReadCurve(SeedFolders.Of(folder, seed)));
            var summary = new SyntheticSummary(Task.Name, runs, curve);
            SeedFolders.WriteJson(
                Path.Combine(folder, "summary.json"),
                new { Experiment = Describe(), Environment = Environment(folder, seeds[0]), summary.Runs });
            SeedFolders.WriteCsv(Path.Combine(folder, "curve.csv"), curve);
            SeedFolders.WriteCsv(Path.Combine(folder, "accuracy.csv"), summary.AccuracyByLength());
        }

        return diverged.Count == 0 ? new(Task.Name, runs, curve) : throw new TrainingDivergedException(string.Join("\n", diverged));
    }

    private SyntheticRun RunSeed(
        string folder, int seed, int index, Device device, IProgress<SyntheticProgress>? progress, ILogger? logger,
        CancellationToken cancellationToken)
    {
        var run = SeedFolders.Of(folder, seed);
        var lengths = TrainingLengths ?? Task.TrainingLengths;
        using var model = Model.CreateModel(seed);
        model.to(device);
        var watcher = new Watcher(this, model, run, seed, index, progress, cancellationToken);
        if (watcher.SolvedAtStep is null)
        {
            var source = new SyntheticSource(Task, lengths, seed, SampleCount);
            var config = Training with { Seed = seed, ContextLength = lengths.Maximum };
            new Trainer(model, config, source, [], run, logger: logger)
            {
                DataDescription = Task.Describe(),
                Hooks = new() { AfterValidation = watcher.Look, AfterStep = watcher.Report },
            }.Run(cancellationToken);
            cancellationToken.ThrowIfCancellationRequested();
        }
        else
        {
            using var weights = HuggingFaceFolder.Open(RunFolder.LatestCheckpoint(run)!);
            weights.LoadInto(model, null, cancellationToken);
        }

        IReadOnlyList<LengthRange> tested = TestLengths.Count > 0 ? TestLengths : [.. new[] { lengths, Task.TestLengths }.Distinct()];
        model.ComputeType = Training.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        var scores = SyntheticEvaluator.Evaluate(
            model, Task, tested, TestRows, EvaluationBatchSize, cancellationToken: cancellationToken);
        var last = RunFolder.ReadMetrics(run)[^1];
        var metadata = RunFolder.ReadMetadata(run);
        return new(seed, watcher.SolvedAtStep, metadata.Step, metadata.Tokens, metadata.Seconds, last.Loss, metadata.Parameters,
            scores);
    }

    /// <summary>What the first seed's run ran on.</summary>
    private static object Environment(string folder, int seed)
    {
        var run = RunFolder.ReadMetadata(SeedFolders.Of(folder, seed));
        return new
        {
            run.LibraryVersion,
            run.GitCommit,
            run.GitDirty,
            run.TorchSharpVersion,
            run.LibtorchVersion,
            run.Platform,
            run.Device,
            run.DeviceName,
            run.Kernels,
            run.Graphs,
            run.Threads,
            run.StartedAt,
        };
    }

    private void Check(IReadOnlyList<int> seeds)
    {
        if (seeds.Count == 0 || seeds.Distinct().Count() != seeds.Count)
        {
            throw new ArgumentException(
                $"Expected at least one seed, each but once, got {(seeds.Count == 0 ? "none" : string.Join(", ", seeds))}.", nameof(seeds));
        }

        if (Model.VocabularySize < Task.VocabularySize)
        {
            throw new ArgumentException(
                $"{Task.Name} has {Task.VocabularySize} tokens and the model {Model.VocabularySize}: build the model for the task.");
        }

        if (Until is { } until && until is not (> 0 and <= 1))
        {
            throw new ArgumentException(FormattableString.Invariant($"The accuracy to stop at must lie in (0, 1], it is {until}."));
        }

        Model.Validate();
        foreach (var range in TestLengths.Append(TrainingLengths ?? Task.TrainingLengths).Append(DecidingLengths))
        {
            Task.Validate(range);
        }
    }

    private LengthRange DecidingLengths => ValidationLengths ?? TrainingLengths ?? Task.TrainingLengths;

    private JsonObject Describe() => new()
    {
        ["task"] = Task.Describe(),
        ["model"] = JsonNode.Parse(ModelConfigJson.Text(Model)),
        ["training"] = JsonSerializer.SerializeToNode(
            Training with { Seed = 0, ContextLength = (TrainingLengths ?? Task.TrainingLengths).Maximum }, RunJson.Indented),
        ["training_lengths"] = (TrainingLengths ?? Task.TrainingLengths).ToString(),
        ["sample_count"] = SampleCount,
        ["validation_lengths"] = DecidingLengths.ToString(),
        ["validation_rows"] = ValidationRows,
        ["test_lengths"] = string.Join(", ", TestLengths),
        ["test_rows"] = TestRows,
        ["until"] = Until,
    };

    private static SyntheticCurvePoint[] ReadCurve(string run) =>
        SeedFolders.Read<SyntheticCurvePoint[]>(Path.Combine(run, CurveName)) ?? [];

    /// <summary>Looks at the accuracy while a model is trained, keeps the curve, and says when it is enough.</summary>
    private sealed class Watcher
    {
        private readonly SyntheticExperiment _experiment;
        private readonly LanguageModel _model;
        private readonly string _run;
        private readonly int _seed;
        private readonly int _index;
        private readonly IProgress<SyntheticProgress>? _progress;
        private readonly CancellationToken _cancellationToken;
        private readonly LengthRange _deciding;
        private readonly LengthRange[] _lengths;
        private readonly List<SyntheticCurvePoint> _curve;
        private IReadOnlyList<SyntheticScore>? _scores;

        public Watcher(
            SyntheticExperiment experiment, LanguageModel model, string run, int seed, int index, IProgress<SyntheticProgress>? progress,
            CancellationToken cancellationToken)
        {
            (_experiment, _model, _run, _seed, _index) = (experiment, model, run, seed, index);
            (_progress, _cancellationToken) = (progress, cancellationToken);
            _deciding = experiment.DecidingLengths;
            var watched = experiment.ValidationLengths ?? experiment.Task.TestLengths;
            _lengths = [.. new[] { experiment.TrainingLengths ?? experiment.Task.TrainingLengths, watched }.Distinct()];

            // What no checkpoint covers will be done again.
            var done = TrainingCheckpoint.List(run) is { Count: > 0 } checkpoints ? checkpoints[^1].Step : 0;
            _curve = [.. ReadCurve(run).Where(point => point.Step <= done)];
            if (_curve.Any(point => point.Step == done && point.Lengths == _deciding.ToString() && point.Accuracy >= experiment.Until))
            {
                SolvedAtStep = done;
            }
        }

        public int? SolvedAtStep { get; private set; }

        /// <summary>Validates, which a run that was cancelled does not wait for.</summary>
        public void Look(TrainingMoment moment)
        {
            if (_cancellationToken.IsCancellationRequested)
            {
                return;
            }

            var metrics = moment.Metrics;
            _scores = SyntheticEvaluator.Evaluate(
                _model, _experiment.Task, _lengths, _experiment.ValidationRows, _experiment.EvaluationBatchSize, SyntheticSplit.Validation);
            _curve.AddRange(_scores.Select(s => new SyntheticCurvePoint(
                _seed, metrics.Step, metrics.Tokens, metrics.Seconds, metrics.Loss, s.Lengths().ToString(), s.Accuracy, s.ScaledAccuracy,
                s.Loss)));
            SeedFolders.WriteJson(Path.Combine(_run, CurveName), _curve);
            if (_scores.First(s => s.Lengths() == _deciding).Accuracy >= _experiment.Until)
            {
                SolvedAtStep = metrics.Step;
                moment.Stop();
            }
        }

        public void Report(TrainingMoment moment)
        {
            _progress?.Report(new(_seed, _index, moment.Metrics, _scores));
            _scores = null;
        }
    }
}
