using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Text;
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
    /// The training: steps, batch size, rate, AdamW, clipping, and the time between validations. As it is made, that of the first paper
    /// (appendix D): 100,000 updates, 10 % warm-up and a cosine to 1e-7; it tries rates from 1e-4 to 1e-1 and drops 0.1 of the activations.
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
                using var model = new VectorModel(Model, seed);
                model.to(device ?? CPU);
                try
                {
                    run = Train(model, seed, index, device ?? CPU, progress, cancellationToken);
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
        VectorModel model, int seed, int index, Device device, IProgress<VectorProgress>? progress, CancellationToken cancellationToken)
    {
        model.Backbone.Dropout.Seed(seed);
        model.Backbone.ComputeType = Training.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        var watch = Stopwatch.StartNew();
        var parameters = model.named_parameters().ToArray();
        using var optimizer = new AdamW(parameters, Training.Beta1, Training.Beta2, Training.AdamEpsilon, Training.WeightDecay);
        var curve = new List<VectorCurvePoint>();
        var order = new int[Task.SampleCount];
        var next = order.Length;
        var epoch = 0;
        for (var step = 1; step <= Training.Steps; step++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var rows = new int[Training.BatchSizeAt(step)];
            for (var r = 0; r < rows.Length; r++)
            {
                if (next == order.Length)
                {
                    Shuffle(order, seed, ref epoch);
                    next = 0;
                }

                rows[r] = order[next++];
            }

            model.train();
            var batch = NearestNeighborSearch.Rows(SyntheticSplit.Train, seed, rows, Task.TrainingLength);
            var loss = Update(model, parameters, optimizer, batch, device, step);
            VectorScore? validation = null;
            if (step % Training.ValidateEvery == 0 || step == Training.Steps)
            {
                validation = Score(model, SyntheticSplit.Validation, Task.TrainingLength, device, cancellationToken);
                curve.Add(new(seed, step, loss, validation.MeanSquaredError));
            }

            progress?.Report(new(seed, index, step, loss, validation));
        }

        var seconds = watch.Elapsed.TotalSeconds;
        var scores = TestLengths.Select(length => Score(model, SyntheticSplit.Test, length, device, cancellationToken)).ToArray();
        if (!double.IsFinite(curve[^1].ValidationError))
        {
            throw new TrainingDivergedException(
                FormattableString.Invariant($"After update {Training.Steps}, the last, the validation's error is {curve[^1].ValidationError}: ")
                + "a lower learning rate, a longer warm-up or clipping may help.");
        }

        return new(seed, Training.Steps, seconds, model.TrainedCount, scores, curve);
    }

    private double Update(
        VectorModel model, (string Name, TorchSharp.Modules.Parameter Parameter)[] parameters, AdamW optimizer, VectorBatch batch,
        Device device, int step)
    {
        using var scope = NewDisposeScope();
        var loss = SquaredErrors(model, batch, device).mean();
        loss.backward();
        var norm = GlobalNorm.Of([.. parameters.Select(p => p.Parameter.grad).OfType<Tensor>()]);
        var value = loss.item<float>();
        if (!float.IsFinite(value) || !double.IsFinite(norm))
        {
            throw new TrainingDivergedException(
                FormattableString.Invariant($"In update {step} the loss was {value} and the gradient's norm {norm}: ")
                + "a lower learning rate, a longer warm-up or clipping may help.");
        }

        optimizer.Step(Training.LearningRate(step), Training.GradientClip is { } clip && norm > clip ? clip / norm : 1);
        model.zero_grad();
        return value;
    }

    private VectorScore Score(VectorModel model, SyntheticSplit split, int length, Device device, CancellationToken cancellationToken)
    {
        using var mode = EvaluationMode.Of(model);
        var (sum, last) = (0.0, 0.0);
        for (var first = 0; first < TestRows; first += Training.BatchSize)
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var scope = NewDisposeScope();
            int[] rows = [.. Enumerable.Range(first, Math.Min(Training.BatchSize, TestRows - first))];
            var errors = SquaredErrors(model, NearestNeighborSearch.Rows(split, 0, rows, length), device);
            sum += errors.sum(ScalarType.Float64).item<double>();
            last += errors.select(1, -1).sum(ScalarType.Float64).item<double>();
        }

        return new(length, TestRows, sum / TestRows / (length - 1), last / TestRows);
    }

    /// <summary>[B, S - 1]: the first position has no answer.</summary>
    private static Tensor SquaredErrors(VectorModel model, VectorBatch batch, Device device)
    {
        var found = model.Forward(batch.ToInputTensor(device)).narrow(1, 1, batch.Length - 1);
        return (found - batch.ToTargetTensor(device).narrow(1, 1, batch.Length - 1)).square();
    }

    private static void Shuffle(int[] order, int seed, ref int epoch)
    {
        for (var k = 0; k < order.Length; k++)
        {
            order[k] = k;
        }

        epoch++;
        new SplitMix64(seed, -epoch).Shuffle(order);
    }

    private JsonObject Describe() => new()
    {
        ["task"] = $"{NearestNeighborSearch.Name} {JsonSerializer.Serialize(Task, RunJson.Line)}",
        ["model"] = JsonNode.Parse(ModelConfigJson.Text(Model)),
        ["training"] = JsonSerializer.SerializeToNode(Training with { Seed = 0 }, RunJson.Indented),
        ["test_lengths"] = string.Join(", ", TestLengths),
        ["test_rows"] = TestRows,
    };

    /// <summary>An input projection, a language model's blocks, an output projection.</summary>
    private sealed class VectorModel : nn.Module
    {
        private readonly Dense _input;
        private readonly LanguageModel _backbone;
        private readonly Dense _output;

        public VectorModel(LanguageModelConfig config, int seed)
            : base(nameof(VectorModel))
        {
            _input = new(NearestNeighborSearch.InputDim, config.EmbeddingDim, bias: true);
            _backbone = config.CreateModel(seed);
            _output = new(config.EmbeddingDim, 1, bias: true);
            RegisterComponents();
            using var generator = new Generator((ulong)seed, CPU);
            using var gradient = no_grad();
            _input.Weight.normal_(0, 1 / Math.Sqrt(NearestNeighborSearch.InputDim), generator);
            _output.Weight.normal_(0, 1 / Math.Sqrt(config.EmbeddingDim), generator);
        }

        public LanguageModel Backbone => _backbone;

        /// <summary>All but embedding and head, whose gradients nothing reaches.</summary>
        public long TrainedCount => parameters().Sum(p => p.NumberOfElements)
            - (long)(_backbone.Config.TieWordEmbeddings ? 1 : 2) * _backbone.VocabularySize * _backbone.Config.EmbeddingDim;

        /// <summary>[B, S, 3] to [B, S].</summary>
        public Tensor Forward(Tensor vectors)
        {
            using var scope = NewDisposeScope();
            var x = _input.Forward(vectors); // (B, S, d)
            var hidden = _backbone.ForwardHidden(_backbone.ComputeType is { } type ? x.to(type) : x).Hidden;
            return _output.Forward(hidden.to(ScalarType.Float32)).squeeze(-1).MoveToOuterDisposeScope();
        }
    }
}
