using System.Collections.Concurrent;
using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using TorchSharp;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Experiments;

/// <summary>Trains the runs of a study that are not done, and keeps their rows.</summary>
internal sealed class StudyRunner(Study study, Device device, IProgress<StudyProgress>? progress, ILogger? logger)
{
    private const string RunsName = "runs";
    private const string LockName = ".lock";

    /// <summary>
    /// How long a process that was ended may still hold its run: longer than a cluster waits between asking it to end and killing it.
    /// </summary>
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    private readonly string _folder = study.FolderOrUsual;
    private readonly string _table = study.Share?.Table ?? study.FolderOrUsual;
    private readonly ILogger _logger = logger ?? NullLogger.Instance;
    private readonly ConcurrentDictionary<(string Data, int Context, int Rows), Lazy<Texts>> _texts = new();
    private readonly Lock _gate = new();
    private int _sideBySide = 1;
    private int _finished;
    private int _total;
    private IWatchedGroup? _watched;

    public IReadOnlyList<StudyRow> Run(CancellationToken cancellationToken)
    {
        var runs = Shared();
        using var taken = study.Share is null ? Lock(_folder) : null;
        Directory.CreateDirectory(Path.Combine(_folder, RunsName));
        var damaged = new List<string>();
        var before = StudyTable.ReadAll(study.Tables(), damaged);
        damaged.ForEach(what => _logger.LogWarning("{What}; its run is done again.", what));
        var done = before.Where(row => row.IsDone).Select(row => row.Id).ToHashSet();
        var todo = runs.Where(run => !done.Contains(run.Id)).ToArray();
        (_total, _finished) = (runs.Count, runs.Count - todo.Length);
        GroupMember[] members = [.. todo.Select(run => new GroupMember(run.Id, run.Model, run.Training, token => Train(run, token)))];
        _sideBySide = Math.Clamp(study.SideBySide ?? TrainingGroup.Most, 1, TrainingGroup.SideBySide(members, device));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(
            cancellationToken, TrainingWatch.Current?.Stop ?? CancellationToken.None);
        using var watched = TrainingWatch.Current?.BeginGroup(study.Name, _total, _finished);
        _watched = watched;
        try
        {
            if (members.Length > 0)
            {
                TrainingGroup.Run(members, _sideBySide, stop.Token);
            }
        }
        finally
        {
            foreach (var texts in _texts.Values.Where(t => t.IsValueCreated))
            {
                texts.Value.Dispose();
            }
        }

        stop.Token.ThrowIfCancellationRequested();
        return StudyTable.ReadAll(study.Tables(), []);
    }

    /// <summary>The file that a process has open as long as it runs a study, or merges its tables.</summary>
    /// <exception cref="InvalidOperationException">Another process has it.</exception>
    public static FileStream Lock(string folder)
    {
        Directory.CreateDirectory(Path.Combine(folder, RunsName));
        try
        {
            return Open(Path.Combine(folder, RunsName, LockName));
        }
        catch (IOException e)
        {
            throw new InvalidOperationException(
                $"Another process runs the study in {folder}: {e.Message} Wait for it to end, or choose another folder.", e);
        }
    }

    private static FileStream Open(string path) => new(
        path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);

    /// <summary>The runs that this process is to do.</summary>
    private IReadOnlyList<StudyRun> Shared()
    {
        var runs = study.Expand();
        if (study.Share is not { } share)
        {
            return runs;
        }

        var byId = runs.ToDictionary(run => run.Id);
        return share.Runs.FirstOrDefault(id => !byId.ContainsKey(id)) is { } other
            ? throw new InvalidOperationException(
                $"The study {study.Name} has no run {other}: it was changed after its runs were handed out. Hand them out again.")
            : [.. share.Runs.Select(id => byId[id])];
    }

    /// <summary>Trains a run, unless another process has done it meanwhile.</summary>
    private TrainingResult Train(StudyRun run, CancellationToken cancellationToken)
    {
        var watcher = TrainingWatch.Current;
        try
        {
            if (_watched is { } watched)
            {
                TrainingWatch.Current = new GroupWatcher(
                    watched, FormattableString.Invariant($"{run.Variant}, seed {run.Training.Seed}"), cancellationToken);
            }

            using var taken = Take(run, out var waited, cancellationToken);
            return taken is null ? throw NotTaken(run)
                : waited && StudyTable.ReadAll(study.Tables(), []).Any(row => row.Id == run.Id && row.IsDone)
                ? new(TrainingStatus.Completed, run.Training.Steps, run.Tokens, 0, null, null, null)
                : TrainAndKeep(run, cancellationToken);
        }
        finally
        {
            TrainingWatch.Current = watcher;
        }
    }

    /// <summary>
    /// The file that a process has open as long as it trains a run. A task that is run again may find its first attempt still ending.
    /// </summary>
    private FileStream? Take(StudyRun run, out bool waited, CancellationToken cancellationToken)
    {
        waited = false;
        for (var watch = Stopwatch.StartNew(); ;)
        {
            try
            {
                return Open(Path.Combine(_folder, RunsName, $"{run.Id}.lock"));
            }
            catch (IOException) when (watch.Elapsed < Patience)
            {
                waited = true;
                cancellationToken.WaitHandle.WaitOne(TimeSpan.FromSeconds(1));
                cancellationToken.ThrowIfCancellationRequested();
            }
            catch (IOException)
            {
                return null;
            }
        }
    }

    /// <summary>Keeps that another process trains a run, and says so.</summary>
    private InvalidOperationException NotTaken(StudyRun run)
    {
        var error = $"Another process trains {run.Id}, or died on a machine whose hold on {_folder} has not lapsed yet.";
        Keep(run, Row(run, "") with { Status = StudyStatus.Failed, Error = error }, folder: null);
        return new(error);
    }

    /// <summary>Trains a run, with smaller micro-batches where memory is too small, and keeps its row.</summary>
    private TrainingResult TrainAndKeep(StudyRun run, CancellationToken cancellationToken)
    {
        var folder = Path.Combine(_folder, RunsName, run.Id);
        try
        {
            var (row, result) = TrainInMemory(run, folder, cancellationToken);
            cancellationToken.ThrowIfCancellationRequested();
            Keep(run, row, folder);
            return result;
        }
        catch (OperationCanceledException) when (cancellationToken.IsCancellationRequested)
        {
            throw;
        }
        catch (TrainingDivergedException e)
        {
            Keep(run, Row(run, folder) with { Status = StudyStatus.Diverged, Error = e.Message }, folder);
            throw;
        }
#pragma warning disable CA1031 // Whatever it is, it belongs to one run, and is told in its row.
        catch (Exception e)
#pragma warning restore CA1031
        {
            var failed = Row(run, folder) with { Status = StudyStatus.Failed, Error = e.Message.Split("\nException raised from")[0] };
            Keep(run, failed, folder: null);
            throw;
        }
    }

    private (StudyRow Row, TrainingResult Result) TrainInMemory(StudyRun run, string folder, CancellationToken cancellationToken)
    {
        var begun = run.Task is null ? folder : SeedFolders.Of(folder, run.Training.Seed);

        // A run goes on with the micro-batch that it was begun with, be it one to which it came when memory was too small.
        var micro = RunFolder.IsOne(begun) ? RunFolder.ReadTrainingConfig(begun).MicroBatchSize : Fitting(run);
        while (true)
        {
            try
            {
                return run.Task is null ? TrainText(run, folder, micro, cancellationToken)
                    : TrainTask(run, folder, micro, cancellationToken);
            }
            catch (Exception e) when (IsOutOfMemory(e) && (micro ?? run.Training.BatchSize) > 1)
            {
                micro = (micro ?? run.Training.BatchSize) / 2;
                _logger.LogWarning("{Run}: memory was too small; again with {Rows} sequences at once.", run.Id, micro);
            }

            // What was begun has another micro-batch in its configuration.
            if (Directory.Exists(folder))
            {
                Directory.Delete(folder, recursive: true);
            }

            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
    }

    /// <summary>The micro-batch with which the run can fit by what it needs at least.</summary>
    private int? Fitting(StudyRun run)
    {
        for (var micro = run.Training.MicroBatchSize; ; micro = (micro ?? run.Training.BatchSize) / 2)
        {
            try
            {
                TrainingMemory.Require(run.Model, run.Training with { MicroBatchSize = micro }, device);
                return micro;
            }
            catch (ConfigException) when ((micro ?? run.Training.BatchSize) > 1)
            {
                // Half of it may fit.
            }
        }
    }

    private (StudyRow Row, TrainingResult Result) TrainText(StudyRun run, string folder, int? micro, CancellationToken cancellationToken)
    {
        var key = (run.Data, run.Training.ContextLength, run.Training.BatchSize);
        var texts = _texts.GetOrAdd(key, k =>
            new(() => new Texts(k.Data, k.Context, k.Rows, run.Training, study.Measure, cancellationToken))).Value;
        var training = run.Training with { MicroBatchSize = micro };
        using var model = run.Model.CreateModel(training.Seed);
        model.to(device);
        var result = new Trainer(model, training, texts.Training(training.Seed), texts.Validation, folder, Watch(run), _logger)
        {
            DataDescription = run.Data,
            Tokenizer = texts.Tokenizer,
        }.Run(cancellationToken);
        cancellationToken.ThrowIfCancellationRequested();
        model.ComputeType = training.ComputeType == ScalarType.BFloat16 ? ScalarType.BFloat16 : null;
        var row = Row(run, folder) with { MicroBatchSize = micro };
        if (texts.Test.Count > 0)
        {
            var (loss, bits) = Measure(model, texts, micro ?? training.BatchSize);
            row = row with { TestLoss = loss, TestPerplexity = Math.Exp(loss), TestBitsPerByte = bits };
        }

        return (study.Measure.ExtrapolateTo is { } longest
            ? row with { Positions = Positions(model, texts, training, longest, cancellationToken) } : row, result);
    }

    private (StudyRow Row, TrainingResult Result) TrainTask(StudyRun run, string folder, int? micro, CancellationToken cancellationToken)
    {
        var experiment = study.Experiment(run, micro);
        var watch = Watch(run);
        var seed = run.Training.Seed;
        var summary = experiment.Run(
            folder, [seed], device, watch is null ? null : new ImmediateProgress<SyntheticProgress>(p => watch.Report(p.Metrics)), _logger,
            cancellationToken);
        var done = summary.Runs[0];
        var decides = (experiment.ValidationLengths ?? experiment.TrainingLengths ?? run.Task!.TrainingLengths).ToString();
        var looks = summary.Curve.Where(point => point.Lengths == decides).ToDictionary(point => point.Step);
        var row = Row(run, SeedFolders.Of(folder, seed), looks) with
        {
            MicroBatchSize = micro,
            SolvedAtStep = done.SolvedAtStep,
            Scores = [.. done.Scores.Select(s => new StudyScore(s.Lengths().ToString(), s.Accuracy, s.ScaledAccuracy, s.Loss))],
            ValidationLoss = summary.Curve.LastOrDefault(point => point.Lengths == decides)?.ValidationLoss,
            TestLoss = done.Scores[^1].Loss,
        };
        return (row, new(TrainingStatus.Completed, done.Step, done.Tokens, done.Seconds, null, null, null));
    }

    private ImmediateProgress<TrainingMetrics>? Watch(StudyRun run) =>
        progress is null ? null : new(metrics => progress.Report(new(run, metrics, null, Volatile.Read(ref _finished), _total)));

    private void Keep(StudyRun run, StudyRow row, string? folder)
    {
        lock (_gate)
        {
            StudyTable.Append(_table, row);
            _finished++;
        }

        _watched?.End(row.Status != StudyStatus.Completed);

        if (row.Error is { } error)
        {
            _logger.LogWarning("{Run} has {Status}: {Error}", run.Id, row.Status, error);
        }

        progress?.Report(new(run, null, row, Volatile.Read(ref _finished), _total));
        if (folder is not null && !study.KeepRuns && Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>What a run's folder tells of it.</summary>
    private StudyRow Row(StudyRun run, string folder, Dictionary<int, SyntheticCurvePoint>? looks = null)
    {
        if (!Directory.Exists(folder))
        {
            folder = "";
        }
        else if (!RunFolder.IsOne(folder) && Directory.Exists(SeedFolders.Of(folder, run.Training.Seed)))
        {
            folder = SeedFolders.Of(folder, run.Training.Seed);
        }

        var row = new StudyRow
        {
            Id = run.Id,
            Variant = run.Variant,
            Differences = run.Differences,
            Seed = run.Training.Seed,
            Status = StudyStatus.Completed,
            Parameters = run.Model.CountParameters(),
            SideBySide = _sideBySide,
            MemoryBytes = MemoryInUse(),
            EndedAt = DateTimeOffset.UtcNow,
        };
        if (folder.Length == 0 || !RunFolder.IsOne(folder) || !File.Exists(Path.Combine(folder, RunFolder.MetadataName)))
        {
            return row;
        }

        var metadata = RunFolder.ReadMetadata(folder);
        var metrics = RunFolder.ReadMetrics(folder, []);
        row = row with
        {
            Commit = metadata.LibraryVersion,
            Device = metadata.DeviceName ?? FormattableString.Invariant($"CPU, {metadata.Threads} threads"),
            Backend = $"kernels {metadata.Kernels}; graphs {metadata.Graphs}",
        };
        if (metrics.Count == 0)
        {
            return row;
        }

        var rates = metrics.Skip(metrics.Count / 10).Select(m => m.TokensPerSecond).Order().ToArray();
        var tail = metrics.Skip(metrics.Count - Math.Max(1, metrics.Count / 20)).Select(m => m.Loss);
        var validated = metrics.LastOrDefault(m => m.IsValidated);
        var norms = metrics.Select(m => m.GradientNorm).ToArray();
        return row with
        {
            Steps = metrics[^1].Step,
            Tokens = metrics[^1].Tokens,
            Flops = run.FlopsPerToken * metrics[^1].Tokens,
            Seconds = metrics[^1].Seconds,
            TrainLoss = tail.Average(),
            ValidationLoss = validated?.ValidationLoss,
            ValidationBitsPerByte = validated?.ValidationBitsPerByte,
            GradientNormMean = norms.Average(),
            GradientNormMax = norms.Max(),
            Spikes = SpikesOf(norms),
            TokensPerSecond = rates[rates.Length / 2],
            Curve = Curve(metrics, looks),
        };
    }

    private static List<StudyPoint> Curve(IReadOnlyList<TrainingMetrics> metrics, Dictionary<int, SyntheticCurvePoint>? looks)
    {
        var points = new List<StudyPoint>();
        var from = 0;
        for (var at = 0; at < metrics.Count; at++)
        {
            var look = looks?.GetValueOrDefault(metrics[at].Step);
            if (metrics[at].IsValidated || look is not null || at == metrics.Count - 1)
            {
                var stretch = metrics.Skip(from).Take(at + 1 - from).ToArray();
                points.Add(new(
                    metrics[at].Step, metrics[at].Tokens, Digits(stretch.Average(m => m.Loss)), Digits(
                        look?.ValidationLoss ?? metrics[at].ValidationLoss),
                    Digits(look?.ScaledAccuracy), Digits(stretch.Max(m => m.GradientNorm))));
                from = at + 1;
            }
        }

        return points;
    }

    /// <summary>As many digits as a plot shows: a table holds hundreds of curves.</summary>
    private static double? Digits(double? value) => value is { } number ? Digits(number) : null;

    private static double Digits(double value) => double.IsFinite(value) && value != 0
        ? Math.Round(value, Math.Clamp(5 - (int)Math.Floor(Math.Log10(Math.Abs(value))), 0, 15))
        : value;

    internal static int SpikesOf(IReadOnlyList<double> norms)
    {
        const int window = 128;
        var spikes = 0;
        for (var at = window / 4; at < norms.Count; at++)
        {
            var before = norms.Skip(Math.Max(0, at - window)).Take(Math.Min(at, window)).Order().ToArray();
            spikes += norms[at] > StudySettings.SpikeFactor * before[before.Length / 2] ? 1 : 0;
        }

        return spikes;
    }

    private static (double Loss, double? BitsPerByte) Measure(LanguageModel model, Texts texts, int rows)
    {
        using var mode = EvaluationMode.Of(model);
        using var gradient = no_grad();
        var sum = 0.0;
        foreach (var batch in texts.Test)
        {
            for (var row = 0; row < batch.Rows; row += rows)
            {
                using var scope = NewDisposeScope();
                sum += NextTokenLoss.Of(model, batch.Slice(row, Math.Min(rows, batch.Rows - row)), 1).to(ScalarType.Float64).item<double>();
            }
        }

        return (sum / texts.Test.Sum(batch => (long)batch.TargetCount), sum / Math.Log(2) / texts.TestBytes);
    }

    private static IReadOnlyList<StudyPosition> Positions(
        LanguageModel model, Texts texts, TrainingConfig training, int longest, CancellationToken cancellationToken)
    {
        var options = new ExtrapolationOptions { TrainedLength = training.ContextLength, Longest = longest };
        var measured = LengthExtrapolation.Measure(
            model, texts.TestDocuments(cancellationToken), texts.Tokenizer, options, null, cancellationToken);
        return [.. measured.Ranges.Select(r => new StudyPosition(r.Start, r.End, r.Loss, r.BeyondTraining))];
    }

    private long MemoryInUse()
    {
        if (device.type != DeviceType.CUDA)
        {
            return Environment.WorkingSet;
        }

        var (free, total) = Native.Cuda.Gpu.Memory(Math.Max(0, device.index));
        return total - free;
    }

    /// <summary>Whether libtorch, CUDA or the runtime had no memory left; a kernel that failed says that it may have been that.</summary>
    private static bool IsOutOfMemory(Exception error) =>
        error is OutOfMemoryException
        || ((error.Message.Contains("out of memory", StringComparison.OrdinalIgnoreCase) || error.Message.Contains(
            "can't allocate memory", StringComparison.OrdinalIgnoreCase))
            && !error.Message.Contains("kernel failed", StringComparison.Ordinal))
        || (error.InnerException is { } inner && IsOutOfMemory(inner));

    /// <summary>Tells the watcher of a study which of its runs a training is.</summary>
    private sealed class GroupWatcher(IWatchedGroup group, string name, CancellationToken stop) : ITrainingWatcher
    {
        public CancellationToken Stop => stop;

        public IWatchedTraining Begin(TrainingConfig recipe, Device device) => group.Begin(name, recipe, device);
    }

    /// <summary>A text, cut for a context: what runs of one study share.</summary>
    private sealed class Texts : IDisposable
    {
        private readonly TextSource _source;
        private readonly BatchSource<TokenBatch> _training;
        private readonly int _rows;

        public Texts(
            string data, int context, int rows, TrainingConfig training, StudySettings settings, CancellationToken cancellationToken)
        {
            _source = TextSource.Open(data, null, cancellationToken);
            _rows = rows;
            Tokenizer = _source.UsualTokenizer();
            var batches = _source.Batches(Tokenizer, context, rows, training.Seed, training.ValidationTokens, null, cancellationToken);
            (_training, Validation) = (batches.Training, batches.Validation);
            Test = [.. Enough(_source.Windows(Split.Test, Tokenizer, context, rows, cancellationToken), settings.TestTokens)];
            TestBytes = Trainer.TextBytes(Test, Tokenizer);
        }

        public ITokenizer Tokenizer { get; }

        public IReadOnlyList<TokenBatch> Validation { get; }

        public IReadOnlyList<TokenBatch> Test { get; }

        public long? TestBytes { get; }

        /// <summary>The training text in the order of a seed; from several threads.</summary>
        public BatchSource<TokenBatch> Training(int seed)
        {
            lock (_source)
            {
                return _training is PackedTokens packed ? packed.WithSeed(seed)
                    : _source.Batches(Tokenizer, _training.ContextLength, _rows, seed, 1).Training;
            }
        }

        public TokenDocuments TestDocuments(CancellationToken cancellationToken)
        {
            lock (_source)
            {
                return _source.Documents(Split.Test, Tokenizer, cancellationToken: cancellationToken);
            }
        }

        public void Dispose() => _source.Dispose();

        private static IEnumerable<TokenBatch> Enough(IEnumerable<TokenBatch> batches, long? tokens)
        {
            var targets = 0L;
            foreach (var batch in batches.TakeWhile(_ => tokens is not { } wanted || targets < wanted))
            {
                targets += batch.TargetCount;
                yield return batch;
            }
        }
    }
}
