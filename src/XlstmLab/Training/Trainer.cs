using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp.Modules;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Trains a language model in a run folder, from where an earlier call stopped if there was one.</summary>
/// <remarks>
/// The same configuration, data and number of threads on the same CPU give the same losses bit for bit, however often the run was
/// stopped or killed in between, and whatever other threads train: dropout draws from the model, and torch's global generator is neither
/// read nor written. On a GPU, metrics come one update late, but for those that are validated or saved, and spikes are judged by what was
/// known when the update was begun.
/// </remarks>
/// <param name="model">The model: float32, on the device it trains on.</param>
/// <param name="config">The configuration of the training.</param>
/// <param name="training">The training text, at its first batch, cut for the configuration's context length.</param>
/// <param name="validation">The batches a validation takes, each row from an empty state; may be empty.</param>
/// <param name="runFolder">The run's folder: a new or an empty one, or that of the run to go on with.</param>
/// <param name="progress">Told the metrics of every update.</param>
/// <param name="logger">Told what also goes to the run's <c>log.txt</c>.</param>
public sealed class Trainer(
    LanguageModel model,
    TrainingConfig config,
    BatchSource training,
    IReadOnlyList<TokenBatch> validation,
    string runFolder,
    IProgress<TrainingMetrics>? progress = null,
    ILogger? logger = null)
{
    private readonly ILogger _logger = logger ?? NullLogger.Instance;
    private (string Name, Parameter Parameter)[] _parameters = [];

    /// <summary>What the data is, for <c>config.json</c>; a run goes on only with the same.</summary>
    public string? DataDescription { get; init; }

    /// <summary>Counts the bytes that validation targets spell, for bits per byte, and is kept with the run.</summary>
    public ITokenizer? Tokenizer { get; init; }

    /// <summary>What the run can be opened again by; null for what <see cref="DataDescription"/> and <see cref="Tokenizer"/> tell.</summary>
    public RunText? Text { get; init; }

    /// <summary>Whether a run that is in the folder already is deleted, instead of continued.</summary>
    public bool StartOver { get; init; }

    /// <summary>
    /// Files that belong to the run, by their names: there before <c>config.json</c> is, so that no run is without them, whenever it is
    /// killed. Null is a file that the run does not have.
    /// </summary>
    public IReadOnlyDictionary<string, byte[]?> Attachments { get; init; } = new Dictionary<string, byte[]?>();

    /// <summary>Told each path of a checkpoint as it is written.</summary>
    internal Action<string>? CheckpointWritten { get; init; }

    /// <summary>Trains to the last step, or until cancelled: then it finishes the step it is in, writes a checkpoint and returns.</summary>
    /// <param name="cancellationToken">Stops the run.</param>
    /// <exception cref="ArgumentException">The configuration cannot be used, or does not fit the model or the loader.</exception>
    /// <exception cref="InvalidOperationException">The folder is in use, is not a run's, or has a run of another configuration.</exception>
    /// <exception cref="CheckpointException">The checkpoint to go on from is damaged or belongs to another model.</exception>
    /// <exception cref="TrainingDivergedException">
    /// <see cref="TrainingConfig.MaxBadSteps"/> updates in a row could not be made, or the run ended in losses, gradients or weights that
    /// are not finite; then the last checkpoint is one from before.
    /// </exception>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public TrainingResult Run(CancellationToken cancellationToken = default)
    {
        using var modes = new EvaluationMode(model).Keep();
        config.Validate();
        if (training.ContextLength != config.ContextLength)
        {
            throw new ArgumentException(
                $"The text is cut for a context of {training.ContextLength} tokens, the configuration's is {config.ContextLength}: "
                + "cut it for the same length.");
        }

        TrainingMemory.Require(model.Config, config, model.parameters().First().device, model.parameters().Sum(p => p.numel()));
        var data = new { Description = DataDescription, training.Fingerprint, training.TokenCount, training.Seed };
        var attachments = RunText.Attach(runFolder, Text, DataDescription, Tokenizer, StartOver, Attachments);
        _parameters = [.. model.named_parameters()];
        using IOptimizer optimizer = config.Optimizer switch
        {
            OptimizerKind.AdamW => new AdamW(_parameters, config.Beta1, config.Beta2, config.AdamEpsilon, config.WeightDecay),
            OptimizerKind.Muon => MuonWithAdamW.Of(model, config),
            _ => throw UnknownValue.Of(config.Optimizer),
        };
        using var run = RunFolder.Open(runFolder, config, model.Config, data, StartOver, attachments);
        using var average = config.EmaDecay is { } decay ? new WeightAverage(_parameters, decay) : null;
        var position = new TrainingPosition();
        var metadata = Begin(run, optimizer, average, position);
        var computeType = model.ComputeType;
        model.ComputeType = config.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        try
        {
            var result = Train(run, optimizer, average, position, cancellationToken);
            run.WriteMetadata(position.Describe(metadata, result.Status));
            return result;
        }
        catch (Exception e)
        {
            RecordFailure(run, position.Describe(metadata, TrainingStatus.Failed) with { Error = e.Message });
            throw;
        }
        finally
        {
            model.ComputeType = computeType;
            model.zero_grad();
        }
    }

    /// <summary>Brings everything to where the run stands: its start, or its last complete checkpoint.</summary>
    private RunMetadata Begin(RunFolder run, IOptimizer optimizer, WeightAverage? average, TrainingPosition position)
    {
        var count = _parameters.Sum(p => p.Parameter.NumberOfElements);
        var metadata = RunMetadata.Collect(_parameters[0].Parameter.device, config.ComputeType, config.Seed, count);
        if (RunFolder.LatestCheckpoint(run.Folder) is { } folder)
        {
            Restore(folder, optimizer, average, position);
            metadata = metadata with { StartedAt = run.StartedAt ?? metadata.StartedAt };
            Log(run, LogLevel.Information, $"Going on after step {position.Step} of {config.Steps}, from {folder}.");
            if (position.ThreadsBefore != metadata.Threads)
            {
                const string consequence = "losses may differ in their last digits from those of an uninterrupted run.";
                Log(run, LogLevel.Warning, $"{metadata.Threads} threads now, {position.ThreadsBefore} before: {consequence}");
            }
        }
        else
        {
            model.Dropout.Seed(config.Seed);
            Log(
                run,
                LogLevel.Information,
                $"Starting: {count:N0} parameters on {metadata.Device}, {metadata.Threads} threads, {config.Steps} steps.");
        }

        foreach (var damage in run.TruncateMetrics(position.Step))
        {
            Log(run, LogLevel.Warning, $"{damage}; it is left out.");
        }

        run.WriteMetadata(position.Describe(metadata, TrainingStatus.Running));
        return metadata;
    }

    private TrainingResult Train(
        RunFolder run, IOptimizer optimizer, WeightAverage? average, TrainingPosition position, CancellationToken cancellationToken)
    {
        var (validationBatches, validationBytes) = ChooseValidation();
        var earlier = RunFolder.ReadMetrics(run.Folder);
        var last = earlier.Count > 0 ? earlier[^1] : null;
        var lastValidated = earlier.LastOrDefault(m => m.IsValidated);
        var checkpoint = RunFolder.LatestCheckpoint(run.Folder);
        var savedStep = position.Step;
        var onDevice = optimizer is AdamW { HasKernel: true } adamW ? adamW : null;
        int? brokenSince = null; // the first of the latest updates in a row whose numbers are not finite
        var secondsBefore = position.Seconds;
        var watch = Stopwatch.StartNew();
        var finished = watch.Elapsed;
        Update? running = null;
        model.train();
        while (position.Step + (running is null ? 0 : 1) < config.Steps && !cancellationToken.IsCancellationRequested)
        {
            var step = position.Step + (running is null ? 1 : 2);
            var update = Begin(step);
            if (running is not null)
            {
                Finish(running);
            }

            running = update;
            if (onDevice is null || update.Measures || Validates(step) || step % config.CheckpointEvery == 0)
            {
                running = null;
                Finish(update);
            }
        }

        if (running is not null)
        {
            Finish(running);
        }

        var status = position.Step == config.Steps ? TrainingStatus.Completed : TrainingStatus.Stopped;
        if (brokenSince is { } first && status == TrainingStatus.Completed)
        {
            throw Diverged(
                $"Loss, gradients or validation are not finite since step {first}, and were not when the run ended at step {position.Step}",
                checkpoint);
        }

        if (position.Step > savedStep && brokenSince is null)
        {
            checkpoint = Save(run, optimizer, average, position, checkpoint);
        }

        Log(
            run,
            LogLevel.Information,
            $"{status} after step {position.Step} of {config.Steps}, {position.Tokens:N0} tokens and {position.Seconds:F0} s.");
        return new(status, position.Step, position.Tokens, position.Seconds, last, lastValidated, checkpoint);

        // A GPU has yet to do what was begun: what it made of it is asked for when the next update has been begun, so that it never waits.
        Update Begin(int step)
        {
            if (onDevice is null)
            {
                finished = watch.Elapsed;
            }

            var (rows, rate) = (config.BatchSizeAt(step), config.LearningRate(step));
            var measures = config.StatisticsEvery > 0 && step % config.StatisticsEvery == 0;
            var gates = measures ? new GateRecorder() : null;
            using var scope = NewDisposeScope();
            var loss = AccumulateGradients(rows, gates);
            using var updates = measures ? new UpdateRecorder(_parameters) : null;
            var result = onDevice is null ? Step(loss.item<double>()) : StepOnDevice(onDevice, loss);
            var statistics = updates?.Statistics();
            model.zero_grad();
            return new(step, rows, rate, measures, gates?.Statistics(), statistics, result);

            Func<UpdateResult> Step(double value)
            {
                var norm = GradientNorm();
                var skipped = Unusable(value, norm) ?? (config.Spikes is { SkipUpdate: true } ? position.Spike(value, norm, config.Spikes) : null);
                if (skipped is null)
                {
                    optimizer.Step(rate, config.GradientClip is { } clip && norm > clip ? clip / norm : 1);
                    average?.Update();
                }

                return () => new(value, norm, skipped);
            }

            Func<UpdateResult> StepOnDevice(AdamW kernel, Tensor value)
            {
                var (lossLimit, normLimit) = config.Spikes is { SkipUpdate: true } ? position.SpikeLimits(config.Spikes) : default;
                var settings = new AdamWSettings
                {
                    Rate = rate,
                    Clip = config.GradientClip ?? 0,
                    LossLimit = lossLimit,
                    NormLimit = normLimit,
                    AverageDecay = average?.Decay ?? 0,
                };
                var later = kernel.StepOnDevice(settings, value, average?.Averages);
                return () =>
                {
                    var record = later();
                    var why = record.Applied == 1 ? null
                        : position.Spike(record.Loss, record.Norm, config.Spikes)
                        ?? FormattableString.Invariant($"the loss is {record.Loss} and the gradients' norm {record.Norm}");
                    return new(record.Loss, record.Norm, why);
                };
            }
        }

        void Finish(Update update)
        {
            var (loss, norm, skipped) = update.Result();
            var (step, rows) = (update.Step, update.Rows);
            var spike = position.Spike(loss, norm, config.Spikes);
            position.Advance(rows * (long)config.ContextLength, loss, norm, skipped is not null, config.Spikes?.Window);
            var seconds = (watch.Elapsed - finished).TotalSeconds;
            finished = watch.Elapsed;
            if ((skipped ?? spike) is { } remark)
            {
                Log(run, LogLevel.Warning, $"Step {step}: {remark}; the update was {(skipped is null ? "made" : "left out")}.");
            }

            var metrics = new TrainingMetrics
            {
                Step = step,
                Tokens = position.Tokens,
                Loss = loss,
                LearningRate = update.Rate,
                GradientNorm = norm,
                ClippedShare = position.ClippedShare(config.GradientClip),
                BatchSize = rows,
                TokensPerSecond = rows * (long)config.ContextLength / seconds,
                Seconds = 0,
                Skipped = skipped,
                ParameterNorm = update.Measures ? GlobalNorm.Of([.. _parameters.Select(p => p.Parameter)]) : null,
                Gates = update.Gates,
                Parameters = update.Parameters,
            };
            if (Validates(step))
            {
                metrics = Validate(metrics, validationBatches, validationBytes, average);
                Log(run, LogLevel.Information, $"Step {step}: loss {loss:F4}, validation {metrics.ValidationLoss:F4} nats a token.");
                finished = watch.Elapsed;
            }

            position.Seconds = secondsBefore + watch.Elapsed.TotalSeconds;
            metrics = metrics with { Seconds = position.Seconds };
            if (step % config.LogEvery == 0 || step == config.Steps || update.Measures || metrics.IsValidated || (skipped ?? spike) is not null)
            {
                run.Append(metrics, config.TensorBoard);
            }

            var isFinite = double.IsFinite(loss) && double.IsFinite(norm) && double.IsFinite(metrics.ValidationLoss ?? 0);
            brokenSince = isFinite ? null : brokenSince ?? step;
            last = metrics;
            lastValidated = metrics.IsValidated ? metrics : lastValidated;
            progress?.Report(metrics);
            if (position.BadSteps >= config.MaxBadSteps)
            {
                throw Diverged(
                    $"{position.BadSteps} updates in a row could not be made, the last, of step {step}, because {skipped}", checkpoint);
            }

            if (step % config.CheckpointEvery == 0 && brokenSince is not null)
            {
                // What led here may be in the weights already: older checkpoints must not go for it.
                Log(
                    run,
                    LogLevel.Warning,
                    $"Step {step}: no checkpoint: loss, gradients or validation are not finite since step {brokenSince}.");
            }
            else if (step % config.CheckpointEvery == 0)
            {
                (checkpoint, savedStep) = (Save(run, optimizer, average, position, checkpoint), step);
                finished = watch.Elapsed;
            }
        }

        bool Validates(int step) => validationBatches.Length > 0 && (step % config.ValidateEvery == 0 || step == config.Steps);
    }

    /// <summary>Adds up the gradients of a whole batch, in pieces that fit the memory.</summary>
    /// <returns>The mean loss over the batch's targets, [1] float64.</returns>
    private Tensor AccumulateGradients(int rows, GateRecorder? gates)
    {
        using var scope = NewDisposeScope();
        var observer = model.Observer;
        model.Observer += gates is null ? null : gates.Observe;
        try
        {
            var total = zeros(1, ScalarType.Float64, _parameters[0].Parameter.device);
            var batch = training.Next(rows);
            for (var done = 0; done < rows;)
            {
                using var micro = NewDisposeScope();
                var part = batch.Slice(done, Math.Min(config.MicroBatchSize ?? rows, rows - done));
                var loss = Loss(part, batch.TargetCount);
                loss.backward();
                total.add_(loss.detach());
                done += part.Rows;
            }

            return total.MoveToOuterDisposeScope();
        }
        finally
        {
            model.Observer = observer;
        }
    }

    /// <summary>The cross-entropy summed over all targets and divided.</summary>
    private Tensor Loss(TokenBatch batch, long divisor)
    {
        var device = _parameters[0].Parameter.device;
        if (model.HasLossKernel)
        {
            var borders = batch.HasInnerStarts ? new SequenceLayout(batch.ToDocumentStartTensor(device)) : null;
            return model.Loss(batch.ToInputTensor(device), batch.ToTargetTensor(device), divisor, borders);
        }

        var layout = new SequenceLayout(batch.ToDocumentStartTensor(device));
        var targets = batch.Targets;
        Tensor? positions = null;
        if (targets.Contains(TokenBatch.Ignored))
        {
            var counting = Enumerable.Range(0, targets.Length).Where(k => targets[k] != TokenBatch.Ignored).Select(k => (long)k).ToArray();
            positions = tensor(counting, device: device);
            targets = [.. targets.Where(t => t != TokenBatch.Ignored)];
        }

        var logits = model.Forward(batch.ToInputTensor(device), layout: layout, positions: positions).Logits; // (B, S, V) or (N, V)
        return nn.functional.cross_entropy(
            logits.to(ScalarType.Float32).reshape(-1, model.VocabularySize), tensor(targets, [targets.Length], int64, device), reduction: nn.Reduction.Sum)
            / divisor;
    }

    private double GradientNorm()
    {
        using var scope = NewDisposeScope();
        return GlobalNorm.Of([.. _parameters.Select(p => p.Parameter.grad).OfType<Tensor>()]);
    }

    /// <summary>Why no update can be made of these gradients; null if one can.</summary>
    private string? Unusable(double loss, double norm)
    {
        if (double.IsFinite(loss) && double.IsFinite(norm))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var names = _parameters.Where(p => p.Parameter.grad is { } g && !g.isfinite().all().item<bool>()).Select(p => p.Name).ToArray();
        var first = string.Join(", ", names.Take(3)) + (names.Length > 3 ? ", ..." : "");
        return names.Length == 0
            ? FormattableString.Invariant($"the loss is {loss}, though every gradient is finite")
            : FormattableString.Invariant($"the loss is {loss} and the gradient is not finite in {names.Length} of {_parameters.Length} parameters ({first})");
    }

    private TrainingMetrics Validate(TrainingMetrics metrics, TokenBatch[] batches, long? bytes, WeightAverage? average)
    {
        using var mode = EvaluationMode.Of(model);
        var tokens = batches.Sum(b => (long)b.TargetCount);
        var nats = ValidationNats(batches);
        double? averageNats = null;
        if (average is not null)
        {
            average.Swap();
            try
            {
                averageNats = ValidationNats(batches);
            }
            finally
            {
                average.Swap();
            }
        }

        return metrics with
        {
            ValidationLoss = nats / tokens,
            ValidationPerplexity = Math.Exp(nats / tokens),
            ValidationBitsPerByte = nats / Math.Log(2) / bytes,
            ValidationTokens = tokens,
            EmaValidationLoss = averageNats / tokens,
        };
    }

    private double ValidationNats(TokenBatch[] batches)
    {
        using var noGrad = no_grad();
        var sum = 0.0;
        foreach (var batch in batches)
        {
            for (var row = 0; row < batch.Rows;)
            {
                using var scope = NewDisposeScope();
                var part = batch.Slice(row, Math.Min(config.MicroBatchSize ?? config.BatchSize, batch.Rows - row));
                sum += Loss(part, 1).to(ScalarType.Float64).item<double>();
                row += part.Rows;
            }
        }

        return sum;
    }

    /// <summary>The batches that the configuration asks for, and the bytes of the text that their targets stand for.</summary>
    private (TokenBatch[] Batches, long? Bytes) ChooseValidation()
    {
        var chosen = new List<TokenBatch>();
        var tokens = 0L;
        foreach (var batch in validation.TakeWhile(_ => config.ValidationTokens is not { } wanted || tokens < wanted))
        {
            chosen.Add(batch);
            tokens += batch.TargetCount;
        }

        // Tokens of a tokenizer that changes texts do not tell how long those were.
        var targets = chosen.SelectMany(batch => batch.Targets.Where(t => t != TokenBatch.Ignored));
        var bytes = chosen.TrueForAll(batch => batch.TextBytes is not null) ? chosen.Sum(batch => batch.TextBytes)
            : Tokenizer is null or { ChangesText: true } ? null
            : targets.Sum(id => (long)Tokenizer.Bytes(id).Length);
        return ([.. chosen], bytes > 0 ? bytes : null);
    }

    private string Save(RunFolder run, IOptimizer optimizer, WeightAverage? average, TrainingPosition position, string? before)
    {
        if (!double.IsFinite(GlobalNorm.Of([.. _parameters.Select(p => p.Parameter)])))
        {
            var broken = _parameters.Where(p => !double.IsFinite(GlobalNorm.Of([p.Parameter]))).Select(p => p.Name).ToArray();
            throw Diverged(
                $"After step {position.Step} the weights are not finite in {broken.Length} of {_parameters.Length} parameters "
                + $"({string.Join(", ", broken.Take(3))})",
                before);
        }

        run.FlushMetrics();
        var state = position.ToState(training.Position, model.Dropout.State, get_num_threads());
        var moments = OptimizerTensors(optimizer, average);
        var folder = TrainingCheckpoint.Write(
            run.Folder, state, model.state_dict(), model.Config, moments, config.KeepCheckpoints, CheckpointWritten);
        Log(run, LogLevel.Information, $"Step {position.Step}: wrote {folder}.");
        return folder;
    }

    private void Restore(string folder, IOptimizer optimizer, WeightAverage? average, TrainingPosition position)
    {
        var state = TrainingCheckpoint.Read(folder, model.state_dict(), OptimizerTensors(optimizer, average));
        model.Dropout.State = state.RandomState;
        training.Resume(state.Loader);
        position.Restore(state);
    }

    private static Dictionary<string, Tensor> OptimizerTensors(IOptimizer optimizer, WeightAverage? average) =>
        new(optimizer.StateDict().Concat(average?.StateDict() ?? new Dictionary<string, Tensor>()));

    private static TrainingDivergedException Diverged(string what, string? checkpoint) =>
        new($"{what}. {(checkpoint is null ? "No checkpoint was saved" : $"The last checkpoint is {checkpoint}, from before")}. "
            + "Start over with a lower learning rate, a longer warm-up or a smaller clipping norm.");

    /// <summary>Notes what ended the run, unless that is what keeps it from being noted: a full disk must not hide behind itself.</summary>
    private void RecordFailure(RunFolder run, RunMetadata metadata)
    {
        try
        {
            Log(run, LogLevel.Error, $"The run failed: {metadata.Error}");
            run.WriteMetadata(metadata);
        }
        catch (IOException e)
        {
            _logger.LogError(e, "The failure of the run could not be noted in its folder.");
        }
    }

    private void Log(RunFolder run, LogLevel level, FormattableString text)
    {
        var message = FormattableString.Invariant(text);
        run.Log(level >= LogLevel.Warning ? $"{level}: {message}" : message);
        _logger.Log(level, "{Message}", message);
    }

    /// <summary>An update that was begun; its result waits for it to be done.</summary>
    private sealed record Update(
        int Step, int Rows, double Rate, bool Measures, GateStatistics[]? Gates, ParameterStatistics[]? Parameters, Func<UpdateResult> Result);

    /// <summary>What an update came to; <see cref="Skipped"/> says why it was left out, if it was.</summary>
    private readonly record struct UpdateResult(double Loss, double Norm, string? Skipped);
}
