using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Extensions.Logging;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Tasks;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Experiments;

/// <summary>How far a study has come.</summary>
/// <param name="Run">The run that tells.</param>
/// <param name="Metrics">Its latest update; null when it has ended.</param>
/// <param name="Row">Its row, when it has ended.</param>
/// <param name="Finished">The runs that have ended, with those of earlier calls.</param>
/// <param name="Total">All runs.</param>
public sealed record StudyProgress(StudyRun Run, TrainingMetrics? Metrics, StudyRow? Row, int Finished, int Total);

/// <summary>What a study came to.</summary>
/// <param name="Study">The study.</param>
/// <param name="Rows">The rows of its runs that have ended, in the order of the runs.</param>
public sealed record StudyResult(Study Study, IReadOnlyList<StudyRow> Rows)
{
    /// <summary>The runs that have no result yet.</summary>
    public IReadOnlyList<StudyRun> Missing
    {
        get
        {
            var done = Rows.Where(row => row.IsDone).Select(row => row.Id).ToHashSet();
            return [.. Study.Expand().Where(run => !done.Contains(run.Id))];
        }
    }
}

/// <summary>
/// A question that is answered by trainings which differ in a few settings: a base, axes, seeds and a budget, which expand to runs.
/// </summary>
/// <remarks>
/// Its folder holds the table <c>runs.jsonl</c>, and under <c>runs</c> a folder for each run that is under way. Run again, it skips runs
/// that are done and goes on with those that were stopped or killed. A run that diverges, or dies, leaves the others as they are.
/// Several processes may each do a <see cref="Share"/> of it; their rows count from when they are written.
/// </remarks>
/// <example>
/// <code>
/// var study = new Study { Name = "bias", Axes = [new("igate_bias_init", 0, -2, -5, -10)], Seeds = [1, 2, 3], Tokens = 4_000_000 };
/// var result = study.Run();
/// Plots.StudyCurves(result)
/// </code>
/// </example>
public sealed partial record Study
{
    private const int HashLength = 8;

    /// <summary>Names in settings that are no property of a configuration.</summary>
    private static readonly string[] OwnNames = ["model", "data", "task", "tokens", "flops"];

    /// <summary>The settings that change no result.</summary>
    private static readonly HashSet<string> Harmless =
        ["seed", "micro_batch_size", "log_every", "statistics_every", "checkpoint_every", "keep_checkpoints",
            "max_bad_steps", "tensor_board"];

    /// <summary>Its name, which is that of its folder.</summary>
    public required string Name { get; init; }

    /// <summary>What is asked.</summary>
    public string Question { get; init; } = "";

    /// <summary>The published claims that it tries.</summary>
    public IReadOnlyList<StudyClaim> Claims { get; init; } = [];

    /// <summary>The variant that others are compared with; null for the first.</summary>
    public string? Base { get; init; }

    /// <summary>The architecture; null for that of <see cref="ModelName"/>.</summary>
    public LanguageModelConfig? Model { get; init; }

    /// <summary>
    /// The architecture by its name: a preset, a <c>config.json</c> or, with a <see cref="Shape"/> or a task, a kind such as
    /// <c>xlstm[1:1]</c> or <c>llama</c>.
    /// </summary>
    public string ModelName { get; init; } = LabDefaults.Preset;

    /// <summary>The sizes of models that are named by their kind; null for those of the task's recipe.</summary>
    public StudyShape? Shape { get; init; }

    /// <summary>
    /// The text: a dataset's name, a file or folder, or token folders with weights. A model trains on it unless there is a task.
    /// </summary>
    public string Data { get; init; } = LabDefaults.Data;

    /// <summary>The name of a synthetic task; null to train on text.</summary>
    public string? Task { get; init; }

    /// <summary>The training; null for <see cref="LabDefaults.Training"/>, or for the task's recipe.</summary>
    public TrainingConfig? Training { get; init; }

    /// <summary>
    /// Settings of all runs, as <c>NAME=VALUE</c>: any property of model, training, schedule or optimiser by the names that <c>--set</c>
    /// takes, and <c>model</c>, <c>data</c>, <c>task</c>, <c>tokens</c> and <c>flops</c>. The last two are a budget, which the number of
    /// updates follows from.
    /// </summary>
    public IReadOnlyList<string> Settings { get; init; } = [];

    /// <summary>What varies. Every value of one goes with every value of the others.</summary>
    public IReadOnlyList<StudyAxis> Axes { get; init; } = [];

    /// <summary>Settings that hold for all runs, whatever the axes say: for a trial.</summary>
    public IReadOnlyList<string> Overrides { get; init; } = [];

    /// <summary>The seeds, each but once: every variant has a run with each.</summary>
    public IReadOnlyList<int> Seeds { get; init; } = [1, 2, 3];

    /// <summary>The training tokens of a run, rounded to whole updates; null for the training's own number of updates.</summary>
    public long? Tokens { get; init; }

    /// <summary>Variants to which the budget gives fewer updates are left out; null for none.</summary>
    public int? LeastUpdates { get; init; }

    /// <summary>Variants to which the budget gives more updates are left out; null for none.</summary>
    public int? MostUpdates { get; init; }

    /// <summary>What is measured.</summary>
    public StudySettings Measure { get; init; } = new();

    /// <summary>The folder; null for one of its name in <c>runs/studies</c>.</summary>
    public string? Folder { get; init; }

    /// <summary>Whether the folders of runs with their checkpoints are kept when they are done.</summary>
    public bool KeepRuns { get; init; }

    /// <summary>The most runs side by side on a GPU; null for as many as fit.</summary>
    public int? SideBySide { get; init; }

    /// <summary>What this process does of it; null for all that is left.</summary>
    public StudyShare? Share { get; init; }

    /// <summary>The folder in force.</summary>
    public string FolderOrUsual => Path.GetFullPath(Folder ?? Path.Combine("runs", "studies", Name));

    /// <summary>Where processes that do a share of it keep their tables.</summary>
    public string SharesFolder => Path.Combine(FolderOrUsual, "tasks");

    /// <summary>The labels of all variants, in the order of the axes.</summary>
    public IReadOnlyList<string> Variants => [.. Combinations([]).Select(Label)];

    /// <summary>The variant that others are compared with.</summary>
    /// <exception cref="ArgumentException">There is no such variant.</exception>
    public string BaseVariant => Base is null ? Variants[0]
        : Variants.Contains(Base) ? Base
        : throw new ArgumentException(
            $"The study {Name} has no variant '{Base}'.{NearestName.Hint(Base, Variants)} Variants: {string.Join("; ", Variants)}.");

    /// <summary>All runs: seed by seed, so that a study that is stopped has whole comparisons.</summary>
    /// <exception cref="ArgumentException">
    /// There is no such setting, a value is of another kind, or what comes of them cannot be.
    /// </exception>
    public IReadOnlyList<StudyRun> Expand()
    {
        RequireSense();
        var vocabularies = new Dictionary<string, int>();
        var combinations = Combinations(vocabularies).ToArray();
        StudyRun[] runs = [.. Seeds.SelectMany(seed => combinations.Select(values => Resolve(values, seed, vocabularies).Run))];

        // A trial may take away what tells two budgets apart.
        var same = runs.GroupBy(run => (run.Training.Seed, run.Id[^HashLength..])).FirstOrDefault(group => group.Count() > 1);
        return Overrides.Count == 0 && same is not null
            ? throw new ArgumentException(
                $"The study {Name} has {same.Count()} runs that are the same: "
                + $"'{string.Join("' and '", same.Select(run => run.Variant))}'.")
            : runs;
    }

    /// <summary>The rows that there are already, also those of shares that are not merged yet.</summary>
    /// <exception cref="InvalidDataException">A table is damaged.</exception>
    public StudyResult Read() => Result(Expand(), StudyTable.ReadAll(Tables()));

    /// <summary>Brings the rows of shares into the study's own table.</summary>
    /// <returns>How many rows were added.</returns>
    /// <exception cref="InvalidDataException">A table is damaged.</exception>
    /// <exception cref="InvalidOperationException">Another process runs the study, or merges.</exception>
    public int Merge()
    {
        using var taken = StudyRunner.Lock(FolderOrUsual);
        return StudyTable.Merge(FolderOrUsual, ShareTables());
    }

    /// <summary>Trains and measures all runs that are not done: side by side on a GPU, one after another on a CPU.</summary>
    /// <param name="device">Where to compute; null for the CPU.</param>
    /// <param name="progress">Told each update, and each run's end; from several threads where runs are side by side.</param>
    /// <param name="logger">Told what also goes to the runs' <c>log.txt</c>, and of damaged rows and of runs that failed.</param>
    /// <param name="cancellationToken">Stops the runs with checkpoints.</param>
    /// <returns>The rows of all runs that have ended, also of those that failed: see <see cref="StudyRow.Status"/>.</returns>
    /// <exception cref="ArgumentException">The study cannot be run as it is.</exception>
    /// <exception cref="InvalidOperationException">
    /// Another process runs it, or its <see cref="Share"/> has a run that it has not.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled; run again, it goes on.</exception>
    public StudyResult Run(
        Device? device = null, IProgress<StudyProgress>? progress = null, ILogger? logger = null,
        CancellationToken cancellationToken = default) =>
        Result(Expand(), new StudyRunner(this, device ?? CPU, progress, logger).Run(cancellationToken));

    /// <summary>The synthetic experiment of one of its runs.</summary>
    internal SyntheticExperiment Experiment(StudyRun run, int? microBatchSize)
    {
        var recipe = SyntheticRecipes.For(run.Task!);
        return SyntheticExperiment.Of(recipe, run.Model) with
        {
            Training = run.Training with { MicroBatchSize = microBatchSize },
            TrainingLengths = Measure.TrainLengths,
            ValidationLengths = Measure.ValidationLengths,
            SampleCount = Measure.Samples is { } samples ? (samples == 0 ? null : samples) : recipe.SampleCount,
            ValidationRows = Measure.ValidationRows ?? recipe.ValidationRows,
            TestLengths = Measure.TestLengths.Count > 0 ? Measure.TestLengths : recipe.TestLengths,
            TestRows = Measure.TestRows ?? recipe.TestRows,
            Until = Measure.Until,
        };
    }

    /// <summary>Its own table, and those of shares.</summary>
    internal IReadOnlyList<string> Tables() => [FolderOrUsual, .. ShareTables()];

    private string[] ShareTables() => Directory.Exists(SharesFolder)
        ? [.. Directory.EnumerateFiles(SharesFolder, "*.jsonl", SearchOption.AllDirectories).Order(StringComparer.Ordinal)]
        : [];

    private StudyResult Result(IReadOnlyList<StudyRun> runs, IReadOnlyList<StudyRow> rows)
    {
        var byId = rows.ToDictionary(row => row.Id);
        return new(this, [.. runs.Where(run => byId.ContainsKey(run.Id)).Select(run => byId[run.Id])]);
    }

    private void RequireSense()
    {
        if (Seeds.Count == 0 || Seeds.Distinct().Count() != Seeds.Count)
        {
            throw new ArgumentException(
                $"The study {Name} needs at least one seed, each but once; "
                + $"it has {(Seeds.Count == 0 ? "none" : string.Join(", ", Seeds))}.");
        }

        foreach (var axis in Axes)
        {
            if (axis.Values.Count == 0 || axis.Values.DistinctBy(v => v.Label).Count() != axis.Values.Count)
            {
                throw new ArgumentException($"The axis {axis.Name} of the study {Name} needs at least one value, each but once.");
            }
        }

        if (Axes.DistinctBy(axis => axis.Name).Count() != Axes.Count)
        {
            throw new ArgumentException($"The study {Name} has an axis twice: {string.Join(", ", Axes.Select(axis => axis.Name))}.");
        }

        _ = BaseVariant;
        foreach (var claim in Claims)
        {
            StudyRow.RequireMeasure(claim.Metric);
            if (claim.Metric == StudyRow.Speed && SideBySide != 1)
            {
                throw new ArgumentException(
                    $"A claim of the study {Name} compares {StudyRow.Speed}, which runs side by side share: "
                    + "expected side_by_side 1 in such a study.");
            }
        }

        var variants = Variants;
        foreach (var name in Claims.SelectMany(claim => new[] { claim.Better, claim.Worse }).Where(name => !variants.Contains(name)))
        {
            throw new ArgumentException(
                $"A claim of the study {Name} is about a variant '{name}' that there is not.{NearestName.Hint(name, variants)} "
                + $"Variants: {string.Join("; ", variants)}.");
        }
    }

    private IEnumerable<IReadOnlyList<StudyValue>> Combinations(Dictionary<string, int> vocabularies)
    {
        var all = Axes.Aggregate(
            (IEnumerable<IReadOnlyList<StudyValue>>)[[]],
            (before, axis) => before.SelectMany(values => axis.Values.Select(value => (IReadOnlyList<StudyValue>)[.. values, value])));
        return LeastUpdates is null && MostUpdates is null ? all : all.Where(values =>
            Resolve(values, seed: 1, vocabularies).Planned is var updates && updates >= (LeastUpdates ?? 0)
                && updates <= (MostUpdates ?? int.MaxValue));
    }

    private string Label(IReadOnlyList<StudyValue> values) => values.Count == 0 ? Name : string.Join(
        ", ", values.Select(value => value.Label));

    /// <summary>The run of a variant, and the updates that its budget gives it, whatever overrides say.</summary>
    private (StudyRun Run, int Planned) Resolve(IReadOnlyList<StudyValue> values, int seed, Dictionary<string, int> vocabularies)
    {
        var own = new Dictionary<string, string>();
        var (settings, overrides) = (new List<string>(), new List<string>());
        Sort(Settings.Concat(values.SelectMany(value => value.Settings)), settings);
        Sort(Overrides, overrides);
        try
        {
            return Resolve(values, seed, own, settings, overrides, vocabularies);
        }
        catch (ArgumentException e)
        {
            throw new ArgumentException($"The study {Name}, {Label(values)}: {e.Message}", e);
        }

        void Sort(IEnumerable<string> given, List<string> properties)
        {
            foreach (var setting in given)
            {
                var name = setting.Split('=')[0].Trim();
                if (OwnNames.Contains(name))
                {
                    own[name] = setting[(setting.IndexOf('=', StringComparison.Ordinal) + 1)..].Trim();
                }
                else
                {
                    properties.Add(setting);
                }
            }
        }
    }

    private (StudyRun Run, int Planned) Resolve(
        IReadOnlyList<StudyValue> values, int seed, Dictionary<string, string> own, List<string> settings, List<string> overrides,
        Dictionary<string, int> vocabularies)
    {
        var task = own.GetValueOrDefault("task", Task ?? "") is { Length: > 0 } named ? SyntheticRecipes.Task(named) : null;
        var data = task is null ? own.GetValueOrDefault("data", Data) : "";
        var given = Training ?? (task is null ? LabDefaults.Training() : SyntheticRecipes.For(task).Training);
        var architecture = Architecture(task, data, own.GetValueOrDefault("model"), vocabularies);
        var (changed, training) = ConfigSettings.Changed(architecture, given, settings);
        if (task is not null)
        {
            training = training! with { ContextLength = (Measure.TrainLengths ?? task.TrainingLengths).Maximum };
        }

        training = Stretched(training! with { Steps = BudgetSteps(changed!, training, own) ?? training.Steps }, given.Steps, settings);

        // A trial's number of updates takes the schedule along, whatever the settings say of it.
        var planned = training.Steps;
        (changed, training) = ConfigSettings.Changed(changed, training, overrides);
        training = Stretched(training!, planned, overrides) with
        {
            Seed = seed,
            TensorBoard = false,
            StatisticsEvery = 0,
            LogEvery = 1,
            KeepCheckpoints = 1,
        };
        var model = changed!;
        model.Validate();
        training.Validate();
        var label = Label(values);
        var differences = Axes.Zip(values).ToDictionary(pair => pair.First.Name, pair => pair.Second.Label);
        return (new(Id(label, seed, model, training, data, task), label, differences, model, training, data, task), planned);
    }

    /// <summary>The updates of the budget; null where there is none.</summary>
    private int? BudgetSteps(LanguageModelConfig model, TrainingConfig training, Dictionary<string, string> own)
    {
        double? tokens = own.ContainsKey("flops") ? Number("flops") / (3 * model.ForwardFlopsPerToken(training.ContextLength))
            : own.ContainsKey("tokens") ? Number("tokens")
            : Tokens;
        return tokens is { } count ? (int)Math.Clamp(Math.Round(count / training.BatchSize / training.ContextLength), 1, int.MaxValue)
            : null;

        double Number(string name) =>
            double.TryParse(own[name], NumberStyles.Float, CultureInfo.InvariantCulture, out var number) && number > 0
            ? number
            : throw new ArgumentException($"{name}: expected a number above 0; got '{own[name]}'.");
    }

    /// <summary>The lengths of the schedule that no setting names, in their share of the updates.</summary>
    private static TrainingConfig Stretched(TrainingConfig training, int stepsBefore, List<string> settings)
    {
        var schedule = training.Schedule;
        return training with
        {
            Schedule = schedule with
            {
                WarmupSteps = Length("warmup_steps", schedule.WarmupSteps),
                CooldownSteps = Length("cooldown_steps", schedule.CooldownSteps),
                DecaySteps = schedule.DecaySteps is { } decay ? Math.Max(1, Length("decay_steps", decay)) : null,
            },
        };

        int Length(string name, int length) =>
            settings.Exists(setting => Names(setting, name)) ? length : (int)(length * (double)training.Steps / stepsBefore);
    }

    private static bool Names(string setting, string name) =>
        setting.Split('=')[0].Trim() is var given && (given == name || given.EndsWith($".{name}", StringComparison.Ordinal));

    private LanguageModelConfig Architecture(SyntheticTask? task, string data, string? named, Dictionary<string, int> vocabularies)
    {
        var vocabulary = task?.VocabularySize ?? Vocabulary(data, vocabularies);
        if (named is null && Model is { } model)
        {
            return task is not null ? model with { VocabularySize = vocabulary }
                : model.VocabularySize >= vocabulary ? model
                : throw new ArgumentException(
                    $"the model has a vocabulary of {model.VocabularySize}, and the text's tokenizer has {vocabulary} ids.");
        }

        var name = named ?? ModelName;
        var recipe = task is null ? null : SyntheticRecipes.For(task);
        var shape = Shape ?? (recipe is null ? null : new(recipe.EmbeddingDim, recipe.BlockCount, recipe.HeadCount));
        return shape is not null ? SyntheticModels.Parse(name, vocabulary, shape.Dim, shape.Blocks, shape.Heads)
            : name.EndsWith(".json", StringComparison.OrdinalIgnoreCase) ? ModelConfigJson.Read(name) with { VocabularySize = vocabulary }
            : Presets.ByName(name) with { VocabularySize = vocabulary };
    }

    private static int Vocabulary(string data, Dictionary<string, int> known)
    {
        if (!known.TryGetValue(data, out var size))
        {
            using var source = TextSource.Open(data);
            known[data] = size = source.UsualTokenizer().VocabularySize;
        }

        return size;
    }

    /// <summary>The label and the seed, with a hash of all that is not as usual: settings that come later leave it as it is.</summary>
    private string Id(string label, int seed, LanguageModelConfig model, TrainingConfig training, string data, SyntheticTask? task)
    {
        List<string> parts = [model.ModelType, data, task?.Describe() ?? ""];
        parts.AddRange(ConfigSettings.Of(model).Where(s => s.IsChanged).Select(s => $"{s.Name}={s.Value}"));
        parts.AddRange(
            ConfigSettings.Of(training).Where(s => s.IsChanged && !Harmless.Contains(s.Name)).Select(s => $"{s.Name}={s.Value}"));
        parts.Add(task is null
            ? FormattableString.Invariant($"{Measure.TestTokens} {Measure.ExtrapolateTo}")
            : string.Create(
                CultureInfo.InvariantCulture,
                $"{Measure.TrainLengths} {Measure.ValidationLengths} {string.Join(",", Measure.TestLengths)} {Measure.TestRows} "
                + $"{Measure.ValidationRows} {Measure.Samples} {Measure.Until}"));
        var hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join("\n", parts))))[..HashLength];
        var readable = string.Concat(label.Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '=' or '-' or '+' ? c : '_'));
        return string.Create(CultureInfo.InvariantCulture, $"{readable[..Math.Min(readable.Length, 80)]}_s{seed}_{hash}");
    }
}
