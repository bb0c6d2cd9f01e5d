using System.Globalization;
using System.Text.Json;
using XlstmLab.Analysis;
using XlstmLab.Training;

namespace XlstmLab.Runs;

/// <summary>How a run stands.</summary>
public enum RunState
{
    /// <summary>A process trains in it.</summary>
    Running,

    /// <summary>All its steps are done.</summary>
    Finished,

    /// <summary>It was stopped after a step, and can go on.</summary>
    Stopped,

    /// <summary>Its process ended without a word; it can go on from its last checkpoint.</summary>
    Killed,

    /// <summary>It was given up: losses, gradients or weights were not finite.</summary>
    Diverged,

    /// <summary>An error ended it.</summary>
    Failed,
}

/// <summary>A run in short, read without its weights.</summary>
public sealed record RunInfo
{
    /// <summary>The folder, as it is told from the others.</summary>
    public required string Name { get; init; }

    /// <summary>The path.</summary>
    public required string Folder { get; init; }

    /// <summary>How it stands.</summary>
    public required RunState State { get; init; }

    /// <summary>The updates done.</summary>
    public required int Step { get; init; }

    /// <summary>The updates of the whole run.</summary>
    public required int Steps { get; init; }

    /// <summary>The tokens predicted in training.</summary>
    public required long Tokens { get; init; }

    /// <summary>The seconds of training.</summary>
    public required double Seconds { get; init; }

    /// <summary>Tokens a second over the whole run.</summary>
    public double? TokensPerSecond => Seconds > 0 ? Tokens / Seconds : null;

    /// <summary>The number of parameters.</summary>
    public required long Parameters { get; init; }

    /// <summary>The last training loss in nats a token.</summary>
    public double? Loss { get; init; }

    /// <summary>The last validation loss in nats a token.</summary>
    public double? ValidationLoss { get; init; }

    /// <summary>The least validation loss in nats a token.</summary>
    public double? BestValidationLoss { get; init; }

    /// <summary>The update of the least validation loss.</summary>
    public int? BestStep { get; init; }

    /// <summary>The least validation loss in bits a byte.</summary>
    public double? BestBitsPerByte { get; init; }

    /// <summary>What made it fail.</summary>
    public string? Error { get; init; }

    /// <summary>All settings by name: the model's, the training's, and the text.</summary>
    public required IReadOnlyDictionary<string, string> Settings { get; init; }

    /// <summary>The runs in a folder and below it, in the order of their names.</summary>
    /// <param name="folder">The folder, or a run's.</param>
    /// <param name="damaged">
    /// Told what is wrong with each run that cannot be read, which is then left out; null for an exception instead.
    /// </param>
    /// <exception cref="DirectoryNotFoundException">There is no such folder.</exception>
    /// <exception cref="InvalidDataException">A run is damaged.</exception>
    public static IReadOnlyList<RunInfo> Find(string folder, ICollection<string>? damaged = null)
    {
        if (!Directory.Exists(folder))
        {
            throw new DirectoryNotFoundException($"There is no folder '{folder}' with runs.");
        }

        var runs = new List<RunInfo>();
        foreach (var path in Folders(folder))
        {
            try
            {
                var name = Path.GetRelativePath(folder, path);
                runs.Add(Read(path) with { Name = (name == "." ? Path.GetFileName(Path.GetFullPath(path)) : name).Replace('\\', '/') });
            }
            catch (Exception e) when (damaged is not null
                && e is IOException or InvalidDataException or ArgumentException or UnauthorizedAccessException)
            {
                damaged.Add($"{path}: {e.Message}");
            }
        }

        return runs;
    }

    /// <summary>Reads a run.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    /// <exception cref="ConfigException">The model is of a kind that this library does not know.</exception>
    public static RunInfo Read(string folder)
    {
        var (model, training) = (RunFolder.ReadModelConfig(folder), RunFolder.ReadTrainingConfig(folder));
        var metadata = File.Exists(Path.Combine(folder, RunFolder.MetadataName)) ? RunFolder.ReadMetadata(folder) : null;
        var metrics = RunFolder.ReadMetrics(folder, []);
        var last = metrics.Count > 0 ? metrics[^1] : null;
        var best = metrics.Where(m => m.ValidationLoss is { } loss && double.IsFinite(loss)).MinBy(m => m.ValidationLoss);
        var text = RunText.Read(folder);
        var settings = new Dictionary<string, string> { ["model_type"] = model.ModelType };
        foreach (var setting in ConfigSettings.Of(model))
        {
            settings[setting.Name] = setting.Value;
        }

        foreach (var setting in ConfigSettings.Of(training).Where(s => s.Name != "spikes"))
        {
            settings[settings.ContainsKey(setting.Name) ? $"training.{setting.Name}" : setting.Name] = setting.Value;
        }

        settings["data"] = text is { Data.Length: > 0 } ? text.Data : RunFolder.ReadData(folder)?.Description ?? "unknown";
        settings["initial_weights"] = text?.InitialWeights ?? "null";
        return new()
        {
            Name = folder,
            Folder = Path.GetFullPath(folder),
            State = StateOf(folder, metadata, last),
            Step = Math.Max(metadata?.Step ?? 0, last?.Step ?? 0),
            Steps = training.Steps,
            Tokens = Math.Max(metadata?.Tokens ?? 0, last?.Tokens ?? 0),
            Seconds = Math.Max(metadata?.Seconds ?? 0, last?.Seconds ?? 0),
            Parameters = model.CountParameters(),
            Loss = last?.Loss,
            ValidationLoss = metrics.LastOrDefault(m => m.IsValidated)?.ValidationLoss,
            BestValidationLoss = best?.ValidationLoss,
            BestStep = best?.Step,
            BestBitsPerByte = best?.ValidationBitsPerByte,
            Error = metadata?.Error,
            Settings = settings,
        };
    }

    /// <summary>
    /// The settings in which runs differ, in their order, with the value of each run; null where a run has no such setting.
    /// </summary>
    public static IReadOnlyList<(string Name, IReadOnlyList<string?> Values)> Differences(IReadOnlyList<RunInfo> runs)
    {
        ArgumentNullException.ThrowIfNull(runs);
        return [.. runs.SelectMany(r => r.Settings.Keys).Distinct()
            .Select(name => (name, (IReadOnlyList<string?>)[.. runs.Select(r => r.Settings.GetValueOrDefault(name))]))
            .Where(difference => difference.Item2.Distinct().Count() > 1)];
    }

    /// <summary>Runs as a table: a row a run, its figures and the settings in which they differ.</summary>
    public static MetricsTable Table(IReadOnlyList<RunInfo> runs)
    {
        ArgumentNullException.ThrowIfNull(runs);
        return MetricsTable.Of(
        [
            Column("run", null, r => r.Name),
            Column("state", null, r => JsonNamingPolicy.SnakeCaseLower.ConvertName(r.State.ToString())),
            Column("step", null, r => r.Step),
            Column("steps", null, r => r.Steps),
            Column("tokens", null, r => r.Tokens),
            Column("seconds", "s", r => r.Seconds),
            Column("tokens_per_second", "tokens/s", r => r.TokensPerSecond),
            Column("parameters", null, r => r.Parameters),
            Column("loss", "nats/token", r => r.Loss),
            Column("validation_loss", "nats/token", r => r.ValidationLoss),
            Column("best_validation_loss", "nats/token", r => r.BestValidationLoss),
            Column("best_step", null, r => r.BestStep),
            Column("best_bits_per_byte", "bits/byte", r => r.BestBitsPerByte),
            .. Differences(runs).Select(d => new TableColumn($"setting.{d.Name}", typeof(string), d.Values)),
        ]);

        TableColumn Column<TValue>(string name, string? unit, Func<RunInfo, TValue> value) =>
            new(name, Nullable.GetUnderlyingType(typeof(TValue)) ?? typeof(TValue), [.. runs.Select(r => (object?)value(r))])
            {
                Unit = unit,
            };
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{Name}: {State}, step {Step:N0} of {Steps:N0}, loss {Loss:F4}");

    private static IEnumerable<string> Folders(string folder)
    {
        if (RunFolder.IsOne(folder))
        {
            return [folder];
        }

        var options =
            new EnumerationOptions { IgnoreInaccessible = true, AttributesToSkip = FileAttributes.Hidden | FileAttributes.ReparsePoint };
        return Directory.EnumerateDirectories(folder, "*", options).Where(f => !f.Contains(".tmp-", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal).SelectMany(Folders);
    }

    private static RunState StateOf(string folder, RunMetadata? metadata, TrainingMetrics? last)
    {
        switch (metadata?.Status)
        {
            case null or TrainingStatus.Running:
                return RunFolder.IsInUse(folder) ? RunState.Running : RunState.Killed;
            case TrainingStatus.Completed:
                return RunState.Finished;
            case TrainingStatus.Stopped:
                return RunState.Stopped;
            case TrainingStatus.Failed:
                var isBroken = last is not null
                    && (last.Skipped is not null || !double.IsFinite(last.Loss + last.GradientNorm + (last.ValidationLoss ?? 0)));
                return isBroken ? RunState.Diverged : RunState.Failed;
            default:
                throw UnknownValue.Of(metadata.Status);
        }
    }
}
