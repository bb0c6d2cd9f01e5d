using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using XlstmLab.Checkpoints;
using XlstmLab.Collectives;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Trains a language model on tokens in a run folder, from where an earlier call stopped if there was one.</summary>
/// <inheritdoc cref="Trainer{TBatch}" path="/remarks"/>
/// <example>
/// A loss of one's own, here the cross-entropy with a z-loss, and a hook that ends the run early:
/// <code>
/// var trainer = new Trainer(model, recipe, source, validation, "runs/x", loss: (model, batch, divisor) =>
/// {
///     var logits = model.Forward(batch.ToInputTensor()).Logits; // (B, S, V)
///     var nats = nn.functional.cross_entropy(logits.flatten(0, 1), batch.ToTargetTensor().flatten(), reduction: nn.Reduction.Sum);
///     return (nats + 1e-4 * logits.logsumexp(-1).square().sum()) / divisor;
/// })
/// {
///     Hooks = new() { AfterValidation = at => { if (at.Metrics.ValidationLoss &lt; 1.2) { at.Stop(); } } },
/// };
/// </code>
/// </example>
/// <param name="model">The model: float32, on the device it trains on.</param>
/// <param name="config">The configuration of the training.</param>
/// <param name="training">The training text, at its first batch, cut for the configuration's context length.</param>
/// <param name="validation">The batches a validation takes, each row from an empty state; may be empty.</param>
/// <param name="runFolder">The run's folder: a new or an empty one, or that of the run to go on with; null to keep nothing.</param>
/// <param name="progress">Told the metrics of every update.</param>
/// <param name="logger">Told what also goes to the run's <c>log.txt</c>.</param>
/// <param name="loss">What is lowered; null for the cross-entropy of the next token, <see cref="NextTokenLoss"/>.</param>
public sealed class Trainer(
    LanguageModel model,
    TrainingConfig config,
    BatchSource<TokenBatch> training,
    IReadOnlyList<TokenBatch> validation,
    string? runFolder,
    IProgress<TrainingMetrics>? progress = null,
    ILogger? logger = null,
    BatchLoss<TokenBatch>? loss = null)
    : Trainer<TokenBatch>(model, config, training, validation, loss ?? NextTokenLoss.Of, runFolder, progress, logger)
{
    private protected override bool IsInNats { get; } = loss is null;

    private protected override IRecordableLoss<TokenBatch>? Recordable { get; } = loss is null ? new NextTokenLoss.Recordable() : null;

    private protected override long? TextBytes(IReadOnlyList<TokenBatch> batches) => TextBytes(batches, Tokenizer);

    /// <summary>The bytes of text that the targets of batches spell; null where that is not known.</summary>
    internal static long? TextBytes(IReadOnlyList<TokenBatch> batches, ITokenizer? tokenizer)
    {
        // Tokens of a tokenizer that changes texts do not tell how long those were.
        var targets = batches.SelectMany(batch => batch.Targets.Where(t => t != TokenBatch.Ignored));
        var bytes = batches.All(batch => batch.TextBytes is not null) ? batches.Sum(batch => batch.TextBytes)
            : tokenizer is null or { ChangesText: true } ? null
            : targets.Sum(id => (long)tokenizer.Bytes(id).Length);
        return bytes > 0 ? bytes : null;
    }
}

/// <summary>Trains a language model, or what stands around one, on batches of any kind by any loss.</summary>
/// <remarks>
/// The same configuration, data and number of threads on the same CPU give the same losses bit for bit, however often the run was
/// stopped or killed in between, and whatever other threads train: dropout draws from the model, and torch's global generator is neither
/// read nor written. On a GPU, metrics come one update late, but for those that are validated or saved, and spikes are judged by what was
/// known when the update was begun.
/// </remarks>
/// <typeparam name="TBatch">The kind of batch.</typeparam>
/// <param name="model">The model: float32, on the device it trains on.</param>
/// <param name="config">The configuration of the training.</param>
/// <param name="training">The training data, at their first batch, with rows of the configuration's context length.</param>
/// <param name="validation">The batches a validation takes; may be empty.</param>
/// <param name="loss">What is lowered.</param>
/// <param name="runFolder">The run's folder: a new or an empty one, or that of the run to go on with; null to keep nothing.</param>
/// <param name="progress">Told the metrics of every update.</param>
/// <param name="logger">Told what also goes to the run's <c>log.txt</c>.</param>
public class Trainer<TBatch>(
    LanguageModel model,
    TrainingConfig config,
    BatchSource<TBatch> training,
    IReadOnlyList<TBatch> validation,
    BatchLoss<TBatch> loss,
    string? runFolder = null,
    IProgress<TrainingMetrics>? progress = null,
    ILogger? logger = null)
    where TBatch : IBatch<TBatch>
{
    private readonly ILogger _logger = logger ?? NullLogger.Instance;

    /// <summary>What the data is, for <c>config.json</c>; a run goes on only with the same.</summary>
    public string? DataDescription { get; init; }

    /// <summary>Counts the bytes that validation targets spell, for bits per byte, and is kept with the run.</summary>
    public ITokenizer? Tokenizer { get; init; }

    /// <summary>
    /// What the run can be opened again by; null for what <see cref="DataDescription"/> and <see cref="Tokenizer"/> tell.
    /// </summary>
    public RunText? Text { get; init; }

    /// <summary>Whether a run that is in the folder already is deleted, instead of continued.</summary>
    public bool StartOver { get; init; }

    /// <summary>
    /// Files that belong to the run, by their names: there before <c>config.json</c> is, so that no run is without them, whenever it is
    /// killed. Null is a file that the run does not have.
    /// </summary>
    public IReadOnlyDictionary<string, byte[]?> Attachments { get; init; } = new Dictionary<string, byte[]?>();

    /// <summary>What is called on the way, and may ask the training to stop.</summary>
    public TrainingHooks Hooks { get; init; } = new();

    /// <summary>
    /// What the loss has of parameters of its own, such as another head, on the model's device: they are trained with the model's, and kept
    /// in checkpoints beside the optimiser's numbers under names that begin with <c>loss.</c>
    /// </summary>
    public nn.Module? LossModule { get; init; }

    /// <summary>How the training is shared by several processes; null for one that is alone.</summary>
    public TrainingParallelism? Parallelism { get; init; }

    /// <summary>Told each path of a checkpoint as it is written.</summary>
    internal Action<string>? CheckpointWritten { get; init; }

    /// <summary>Whether the loss is a cross-entropy in nats, which has a perplexity.</summary>
    private protected virtual bool IsInNats => false;

    /// <summary>The loss as part of a graph; null where it cannot be.</summary>
    private protected virtual IRecordableLoss<TBatch>? Recordable => null;

    /// <summary>
    /// Trains to the last step, or until cancelled, stopped by a hook or by who watches (<see cref="TrainingWatch"/>): then it finishes the
    /// step it is in, writes a checkpoint and returns.
    /// </summary>
    /// <param name="cancellationToken">Stops the run.</param>
    /// <exception cref="ArgumentException">The configuration cannot be used, or does not fit the model or the loader.</exception>
    /// <exception cref="InvalidOperationException">The folder is in use, is not a run's, or has a run of another configuration.</exception>
    /// <exception cref="CheckpointException">The checkpoint to go on from is damaged or belongs to another model.</exception>
    /// <exception cref="TrainingDivergedException">
    /// <see cref="TrainingConfig.MaxBadSteps"/> updates in a row could not be made, or the run ended in losses, gradients or weights that
    /// are not finite; then the last checkpoint is one from before.
    /// </exception>
    /// <exception cref="CollectiveException">Another rank is gone, hangs, or no longer has what this one has.</exception>
    /// <exception cref="ObjectDisposedException">The model was disposed.</exception>
    public TrainingResult Run(CancellationToken cancellationToken = default)
    {
        try
        {
            return RunAsRank(cancellationToken);
        }
        catch (Exception e)
        {
            Parallelism?.Communicator.Fail(e.Message);
            throw;
        }
    }

    private TrainingResult RunAsRank(CancellationToken cancellationToken)
    {
        using var heap = HeapMemory.Keep();
        using var modes = new EvaluationMode(model).Keep();
        using var modesOfLoss = LossModule is { } module ? new EvaluationMode(module).Keep() : default(EvaluationMode.Scope?);
        config.Validate();
        if (training.ContextLength != config.ContextLength)
        {
            throw new ArgumentException(
                $"The text is cut for a context of {training.ContextLength} tokens, the configuration's is {config.ContextLength}: "
                + "cut it for the same length.");
        }

        Parallelism?.Validate(config);
        var ranks = new TrainingRanks(Parallelism);
        var own = TrainingParallelism.OfRank(config, ranks.World);
        TrainingMemory.Require(model.Config, own, model.WeightsDevice, model.parameters().Sum(p => p.numel()));
        using var state = new TrainingState<TBatch>(model, LossModule, training, config, keepsProducts: Recordable is not null, ranks);
        using var run = ranks.Writes ? OpenFolder() : null;
        var log = new TrainingLog(run, _logger);
        using var graphs = new TrainingGraphs<TBatch>(state, Recordable, log);
        var metadata = Begin(run, state, log, graphs);
        var computeType = model.ComputeType;
        model.ComputeType = config.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        var watcher = TrainingWatch.Current;
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, watcher?.Stop ?? CancellationToken.None);
        using var watched = watcher?.Begin(config, state.Device);
        try
        {
            var batches = ChooseValidation();
            var measure = new TrainingValidation<TBatch>(state, config, batches, loss, IsInNats, TextBytes(batches), graphs, ranks);
            var step = new TrainingStep<TBatch>(state, config, training, loss, graphs, ranks);
            model.train();
            LossModule?.train();
            var told = TrainingWatch.And(progress, watched);
            var loop = new TrainingLoop<TBatch>(
                config, state, step, measure, run, log, Hooks, told, CheckpointWritten, ranks, saves: runFolder is not null);
            var result = loop.Run(stop.Token);
            Describe(run, state, metadata, graphs, result.Status);
            return result;
        }
        catch (Exception e)
        {
            log.WriteFailure(e, metadata is null ? null : Described(state, metadata, graphs, TrainingStatus.Failed));
            throw;
        }
        finally
        {
            model.ComputeType = computeType;
            state.ZeroGradients();
        }
    }

    /// <summary>The bytes of text that the targets of a validation spell; null where that is not known.</summary>
    private protected virtual long? TextBytes(IReadOnlyList<TBatch> batches) => null;

    private RunFolder? OpenFolder()
    {
        if (runFolder is null)
        {
            return null;
        }

        var data = new { Description = DataDescription, training.Fingerprint, training.TokenCount, training.Seed };
        var attachments = RunText.Attach(runFolder, Text, DataDescription, Tokenizer, StartOver, Attachments);
        return RunFolder.Open(runFolder, config, model.Config, data, StartOver, attachments);
    }

    /// <summary>Brings everything to where the run stands: its start, or its last complete checkpoint.</summary>
    private RunMetadata? Begin(RunFolder? run, TrainingState<TBatch> state, TrainingLog log, TrainingGraphs<TBatch> graphs)
    {
        var metadata = run is null ? null : RunMetadata.Collect(state.Device, config.ComputeType, config.Seed, state.ParameterCount) with
        {
            Ranks = Parallelism is { Communicator: { World: > 1 } group }
                ? $"{group.World}, by {group.Name}, "
                    + $"gradients in {Parallelism.GradientType}{(Parallelism.ShardsOptimizer ? ", moments shared out" : "")}"
                : null,
        };
        var threads = get_num_threads();
        var folder = run is null ? null : RunFolder.LatestCheckpoint(run.Folder);
        state.Restore(folder);
        if (run is not null && folder is not null)
        {
            metadata = metadata! with { StartedAt = run.StartedAt ?? metadata.StartedAt };
            log.Write(LogLevel.Information, $"Going on after step {state.Position.Step} of {config.Steps}, from {folder}.");
            if (state.Position.ThreadsBefore != threads)
            {
                const string consequence = "losses may differ in their last digits from those of an uninterrupted run.";
                log.Write(LogLevel.Warning, $"{threads} threads now, {state.Position.ThreadsBefore} before: {consequence}");
            }
        }
        else
        {
            log.Write(
                LogLevel.Information,
                $"Starting: {state.ParameterCount:N0} parameters on {state.Device}, {threads} threads, {config.Steps} steps.");
        }

        if (KernelCoverage.Warning(model, config.ComputeType) is { } slow)
        {
            log.Write(LogLevel.Warning, $"{slow}");
        }

        foreach (var damage in run?.TruncateMetrics(state.Position.Step) ?? [])
        {
            log.Write(LogLevel.Warning, $"{damage}; it is left out.");
        }

        Describe(run, state, metadata, graphs, TrainingStatus.Running);
        return metadata;
    }

    private static void Describe(
        RunFolder? run, TrainingState<TBatch> state, RunMetadata? metadata, TrainingGraphs<TBatch> graphs, TrainingStatus status)
    {
        if (metadata is not null)
        {
            run?.WriteMetadata(Described(state, metadata, graphs, status));
        }
    }

    private static RunMetadata Described(
        TrainingState<TBatch> state, RunMetadata metadata, TrainingGraphs<TBatch> graphs, TrainingStatus status)
    {
        var described = metadata with { Graphs = graphs.Absence is { } absence ? $"off: {absence.Split('\n')[0]}" : "on" };
        return state.Position.Describe(described, status);
    }

    /// <summary>As many batches as the configuration asks for.</summary>
    private List<TBatch> ChooseValidation()
    {
        var chosen = new List<TBatch>();
        var targets = 0L;
        foreach (var batch in validation.TakeWhile(_ => config.ValidationTokens is not { } wanted || targets < wanted))
        {
            chosen.Add(batch);
            targets += batch.TargetCount;
        }

        return chosen;
    }
}
