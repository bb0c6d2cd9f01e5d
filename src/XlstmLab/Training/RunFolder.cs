using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using TorchSharp;
using TorchSharp.Modules;
using XlstmLab.Checkpoints;
using XlstmLab.Models;

namespace XlstmLab.Training;

/// <summary>The folder of a training run, and all that is written into it.</summary>
/// <remarks>
/// It holds <c>config.json</c> (model, training and data), <c>metrics.jsonl</c> (a <see cref="TrainingMetrics"/> a line, appended),
/// <c>meta.json</c> (<see cref="RunMetadata"/>), <c>log.txt</c>, <c>checkpoints/step-000500</c> and TensorBoard's event files.
/// </remarks>
public sealed class RunFolder : IDisposable
{
    private const string ConfigName = "config.json";
    private const string MetricsName = "metrics.jsonl";
    internal const string MetadataName = "meta.json";
    private const string LogName = "log.txt";
    private const string LockName = ".lock";
    private const string EventPattern = "events.out.tfevents.*";

    /// <summary>What a run may change when it goes on: none of it touches weights or data.</summary>
    private static readonly string[] HarmlessSettings =
    [
        "training.log_every", "training.statistics_every", "training.validate_every", "training.checkpoint_every",
        "training.keep_checkpoints", "training.max_bad_steps", "training.tensor_board",
    ];

    private readonly FileStream _lock;
    private StreamWriter? _metrics;
    private StreamWriter? _log;
    private SummaryWriter? _events;

    private RunFolder(string folder, FileStream @lock)
    {
        Folder = folder;
        _lock = @lock;
    }

    /// <summary>The path.</summary>
    public string Folder { get; }

    /// <summary>The metrics of a run, whether it has ended or not.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <param name="damaged">Told what is wrong with each damaged line, which is then left out; null for an exception instead.</param>
    /// <returns>The complete lines; a last line that is being written is left out.</returns>
    /// <exception cref="InvalidDataException">A line is not one of metrics.</exception>
    public static IReadOnlyList<TrainingMetrics> ReadMetrics(string folder, ICollection<string>? damaged = null) =>
        [.. ReadMetricLines(folder, damaged).Select(line => line.Metrics)];

    /// <summary>The run's metadata.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="FileNotFoundException">The folder has none.</exception>
    /// <exception cref="InvalidDataException">meta.json does not hold any.</exception>
    public static RunMetadata ReadMetadata(string folder)
    {
        var path = Path.Combine(folder, MetadataName);
        try
        {
            return StrictJson.Read<RunMetadata>(File.ReadAllText(path), RunJson.Indented);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read as a run's metadata: {e.Message}", e);
        }
    }

    /// <summary>The run's training configuration.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="InvalidDataException">config.json does not hold one.</exception>
    public static TrainingConfig ReadTrainingConfig(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        try
        {
            return StrictJson.Read<TrainingConfig>(ReadDescription(path)["training"], RunJson.Indented, "training");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read as a run's configuration: {e.Message}", e);
        }
    }

    /// <summary>The run's model configuration.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="InvalidDataException">config.json does not hold one.</exception>
    /// <exception cref="ConfigException">It is of a kind that this library does not know, or cannot be.</exception>
    public static LanguageModelConfig ReadModelConfig(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        try
        {
            return ModelConfigJson.Parse(ReadDescription(path)["model"]!.ToJsonString(), path);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{path} cannot be read as a run's configuration: {e.Message}", e);
        }
    }

    /// <summary>The run's description of its data; null where it is of another form.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="InvalidDataException">config.json is damaged.</exception>
    public static RunData? ReadData(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        try
        {
            return ReadDescription(path)["data"] is JsonObject data ? data.Deserialize<RunData>(RunJson.Line) : null;
        }
        catch (JsonException e) when (e.Path is not null)
        {
            // Whoever calls a trainer may describe data as they like.
            return null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path} cannot be read as a run's configuration: {e.Message}", e);
        }
    }

    /// <summary>Whether a folder is a run's.</summary>
    /// <param name="folder">The folder.</param>
    public static bool IsOne(string folder)
    {
        var path = Path.Combine(folder, ConfigName);
        try
        {
            return File.Exists(path)
                && JsonNode.Parse(File.ReadAllText(path)) is JsonObject config
                && config["model"] is JsonObject
                && config["training"] is JsonObject;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or ArgumentException)
        {
            return false;
        }
    }

    /// <summary>Whether a process trains in a folder.</summary>
    /// <param name="folder">The run's folder.</param>
    internal static bool IsInUse(string folder)
    {
        try
        {
            var file = Path.Combine(folder, LockName);
            if (File.Exists(file))
            {
                using var taken = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read);
            }

            return false;
        }
        catch (FileNotFoundException)
        {
            return false;
        }
        catch (IOException e)
        {
            return IsTaken(e);
        }
        catch (UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>The folder of the latest complete checkpoint; null if there is none.</summary>
    /// <param name="folder">The run's folder.</param>
    public static string? LatestCheckpoint(string folder) =>
        TrainingCheckpoint.List(folder) is { Count: > 0 } checkpoints ? checkpoints[^1].Folder : null;

    /// <summary>When the run that is continued first started; null for a new one.</summary>
    internal DateTimeOffset? StartedAt
    {
        get
        {
            try
            {
                return File.Exists(Path.Combine(Folder, MetadataName)) ? ReadMetadata(Folder).StartedAt : null;
            }
            catch (Exception e) when (e is JsonException or InvalidDataException)
            {
                // It is written anew; a run whose checkpoints are whole need not stop at it.
                return null;
            }
        }
    }

    /// <summary>Opens a new or an existing run, for this process alone.</summary>
    /// <param name="folder">The folder; it is made if need be.</param>
    /// <param name="config">The training configuration.</param>
    /// <param name="model">The model's configuration.</param>
    /// <param name="data">A description of the data, any object that JSON can hold.</param>
    /// <param name="startOver">Whether an earlier run in the folder is deleted.</param>
    /// <param name="attachments">As <see cref="Trainer{TBatch}.Attachments"/>.</param>
    /// <exception cref="InvalidOperationException">
    /// Another process trains in it, it is some other folder, or its run has another configuration.
    /// </exception>
    internal static RunFolder Open(
        string folder, TrainingConfig config, LanguageModelConfig model, object? data, bool startOver,
        IReadOnlyDictionary<string, byte[]?>? attachments = null)
    {
        folder = Path.GetFullPath(folder);
        Directory.CreateDirectory(folder);
        var run = new RunFolder(folder, Lock(folder));
        try
        {
            run.Prepare(config, model, data, startOver, attachments ?? new Dictionary<string, byte[]?>());
            return run;
        }
        catch
        {
            run.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Drops the metrics of steps that a checkpoint does not cover, since they will be made again, and lines that are damaged.
    /// </summary>
    /// <returns>What is damaged, a sentence a line.</returns>
    internal IReadOnlyList<string> TruncateMetrics(int lastStep)
    {
        var damaged = new List<string>();
        var kept = ReadMetricLines(Folder, damaged).TakeWhile(line => line.Metrics.Step <= lastStep).Select(line => line.Text + "\n");
        AtomicFile.WriteText(Path.Combine(Folder, MetricsName), string.Concat(kept));
        return damaged;
    }

    /// <summary>Appends a line of metrics, to the event file too if there is one.</summary>
    internal void Append(TrainingMetrics metrics, bool tensorBoard)
    {
        _metrics ??= Appender(MetricsName);
        _metrics.Write(JsonSerializer.Serialize(metrics, RunJson.Line) + "\n");
        _metrics.Flush();
        if (tensorBoard)
        {
            AppendEvents(metrics);
        }
    }

    /// <summary>Brings the metrics to the disk, so that no checkpoint is ahead of them.</summary>
    internal void FlushMetrics() => (_metrics?.BaseStream as FileStream)?.Flush(flushToDisk: true);

    /// <summary>Appends a line to <c>log.txt</c>.</summary>
    internal void Log(string message)
    {
        _log ??= Appender(LogName);
        _log.Write(string.Create(CultureInfo.InvariantCulture, $"{DateTime.UtcNow:yyyy-MM-dd HH:mm:ss}Z {message}\n"));
        _log.Flush();
    }

    /// <summary>Writes <c>meta.json</c>.</summary>
    internal void WriteMetadata(RunMetadata metadata) =>
        AtomicFile.WriteText(
            Path.Combine(Folder, MetadataName),
            JsonSerializer.Serialize(metadata with { UpdatedAt = DateTimeOffset.UtcNow }, RunJson.Indented) + "\n");

    /// <inheritdoc/>
    public void Dispose()
    {
        _metrics?.Dispose();
        _log?.Dispose();
        _lock.Dispose();
    }

    private static FileStream Lock(string folder)
    {
        try
        {
            return new(
                Path.Combine(folder, LockName), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (IOException e) when (IsTaken(e))
        {
            throw new InvalidOperationException(
                $"Another process trains in {folder}: {e.Message} Wait for it to end, or choose another folder.", e);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new InvalidOperationException(
                $"{folder} cannot be written: {e.Message.TrimEnd('.')}. A run writes its metrics and checkpoints there: "
                + "make the folder writable, or copy the run to one that is.",
                e);
        }
    }

    /// <summary>Whether another process has the file open for itself, as Windows, macOS and Linux number that.</summary>
    private static bool IsTaken(IOException error) =>
        OperatingSystem.IsWindows() ? (error.HResult & 0xFFFF) is 32 or 33 : error.HResult == (OperatingSystem.IsMacOS() ? 35 : 11);

    /// <summary>A run's configuration: an object with model, training and data, and nothing else.</summary>
    private static JsonObject ReadDescription(string path)
    {
        string[] parts = ["model", "training", "data"];
        var description = StrictJson.Parse(File.ReadAllText(path)) as JsonObject ?? throw new JsonException(
            "expected an object with model, training and data");
        return description.Select(part => part.Key).FirstOrDefault(name => !parts.Contains(name)) is { } unknown
            ? throw new JsonException($"there is no '{unknown}'.{NearestName.Hint(unknown, parts)} Known are {string.Join(", ", parts)}.")
            : parts[..2].FirstOrDefault(name => description[name] is not JsonObject) is { } missing
                ? throw new JsonException($"it has no object '{missing}'")
                : description;
    }

    private void Prepare(
        TrainingConfig config, LanguageModelConfig model, object? data, bool startOver, IReadOnlyDictionary<string, byte[]?> attachments)
    {
        var path = Path.Combine(Folder, ConfigName);
        var description = new JsonObject
        {
            ["model"] = JsonNode.Parse(ModelConfigJson.Text(model)),
            ["training"] = JsonSerializer.SerializeToNode(config, RunJson.Indented),
            ["data"] = JsonSerializer.SerializeToNode(data, RunJson.Indented),
        };
        if (!File.Exists(path))
        {
            var others = Directory.EnumerateFileSystemEntries(Folder)
                .Select(Path.GetFileName)
                .Where(name => name != LockName && !attachments.ContainsKey(name!) && !name!.Contains(".tmp-", StringComparison.Ordinal))
                .ToArray();
            if (others.Length > 0)
            {
                throw new InvalidOperationException(
                    $"{Folder} is not a run's folder: it has no {ConfigName}, but {string.Join(", ", others.Take(5))}. "
                    + "Choose a new or an empty folder.");
            }
        }
        else if (startOver)
        {
            DeleteRun();
        }
        else
        {
            RefuseOtherConfig(path, description, config);
        }

        // What a run cannot go on without comes first: with its configuration a folder is a run.
        foreach (var (name, content) in attachments)
        {
            if (content is null)
            {
                File.Delete(Path.Combine(Folder, name));
            }
            else
            {
                AtomicFile.Write(Path.Combine(Folder, name), stream => stream.Write(content));
            }
        }

        AtomicFile.WriteText(path, description.ToJsonString(RunJson.Indented) + "\n");
        TrainingCheckpoint.RemoveLeftovers(Folder);
        foreach (var leftover in Directory.EnumerateFiles(Folder, "*.tmp-*"))
        {
            File.Delete(leftover);
        }
    }

    private void DeleteRun()
    {
        // The configuration goes last: without it the rest would be no run's folder, and a killed deletion could not be repeated.
        string[] written = [MetricsName, MetadataName, LogName];
        foreach (var file in Directory.EnumerateFiles(Folder, EventPattern).Concat(written.Select(name => Path.Combine(Folder, name))))
        {
            File.Delete(file);
        }

        TrainingCheckpoint.RemoveAll(Folder);

        File.Delete(Path.Combine(Folder, ConfigName));
    }

    private void RefuseOtherConfig(string path, JsonNode description, TrainingConfig config)
    {
        // A setting that the old file lacks had today's default: it goes through the record.
        var earlier = ReadTrainingConfig(Folder);
        var old = ReadDescription(path);
        old["training"] = JsonSerializer.SerializeToNode(earlier, RunJson.Indented);
        var done = TrainingCheckpoint.List(Folder) is { Count: > 0 } checkpoints ? checkpoints[^1].Step : 0;
        var sameRates = config.Steps >= done
            && Enumerable.Range(1, done).All(step => earlier.LearningRate(step) == config.LearningRate(step));
        var differences = RunJson.Differences(
            JsonNode.Parse(old.ToJsonString()), JsonNode.Parse(description.ToJsonString()),
            key => HarmlessSettings.Contains(key) || (key == "training.steps" && sameRates));
        if (differences.Length > 0)
        {
            throw new InvalidOperationException(
                $"The run in {Folder} was started with another configuration:\n{string.Join("\n", differences)}\n"
                + "Go on with the old one, choose another folder, or ask explicitly to start over (that deletes the old run)."
                + (earlier.Steps != config.Steps && !sameRates
                    ? $" The number of steps may change only if that leaves the learning rates of the {done} steps done as they were."
                    : ""));
        }
    }

    private static IEnumerable<(string Text, TrainingMetrics Metrics)> ReadMetricLines(string folder, ICollection<string>? damaged)
    {
        var path = Path.Combine(folder, MetricsName);
        if (!File.Exists(path))
        {
            yield break;
        }

        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        using var reader = new StreamReader(file);
        var text = reader.ReadToEnd();
        var number = 0;
        for (int start = 0, end; (end = text.IndexOf('\n', start)) >= 0; start = end + 1)
        {
            number++;
            TrainingMetrics metrics;
            try
            {
                metrics = JsonSerializer.Deserialize<TrainingMetrics>(text.AsSpan(start, end - start), RunJson.Line)
                    ?? throw new JsonException("It is null.");
            }
            catch (JsonException e)
            {
                var what = $"Line {number} of {path} is not a line of metrics: {e.Message.TrimEnd('.')}";
                if (damaged is null)
                {
                    throw new InvalidDataException($"{what}. Delete the line; or go on with the run, which leaves it out.", e);
                }

                damaged.Add(what);
                continue;
            }

            yield return (text[start..end], metrics);
        }
    }

    private void AppendEvents(TrainingMetrics metrics)
    {
        _events ??= torch.utils.tensorboard.SummaryWriter(Folder);
        foreach (var (name, value) in new (string, double?)[]
        {
            ("train/loss", metrics.Loss),
            ("train/learning_rate", metrics.LearningRate),
            ("train/gradient_norm", metrics.GradientNorm),
            ("train/tokens_per_second", metrics.TokensPerSecond),
            ("train/parameter_norm", metrics.ParameterNorm),
            ("validation/loss", metrics.ValidationLoss),
            ("validation/bits_per_byte", metrics.ValidationBitsPerByte),
            ("validation/ema_loss", metrics.EmaValidationLoss),
        })
        {
            if (value is { } number)
            {
                _events.add_scalar(name, (float)number, metrics.Step);
            }
        }

        foreach (var gate in metrics.Gates ?? [])
        {
            _events.add_scalar($"{gate.Name}/block{gate.Block:D2}_mean", (float)gate.Mean, metrics.Step);
        }
    }

    private StreamWriter Appender(string name) =>
        new(new FileStream(Path.Combine(Folder, name), FileMode.Append, FileAccess.Write, FileShare.ReadWrite), new UTF8Encoding(false));
}
