using XlstmLab.Analysis;
using XlstmLab.Checkpoints;
using XlstmLab.Evaluation;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Runs;

/// <summary>A model with all that is known of how it came about: tokenizer, configurations, metrics, data.</summary>
/// <example>
/// <code>
/// using var run = TrainedRun.Open("runs/first");
/// var test = run.Evaluate(Split.Test);
/// var gates = run.Gates("Fellow citizens of the Senate");
/// var text = run.Generate("The year ").Text;
/// </code>
/// </example>
/// <remarks>
/// It opens what a trainer wrote, whoever called it; one checkpoint of a run; and a Hugging Face folder, which has a model and perhaps a
/// tokenizer only. It owns the model.
/// </remarks>
public sealed class TrainedRun : IDisposable
{
    private readonly ITokenizer? _tokenizer;
    private readonly Corpus? _corpus;
    private readonly string? _runFolder;
    private IReadOnlyList<TrainingMetrics>? _metrics;

    private TrainedRun(
        string folder, string checkpoint, string? runFolder, LanguageModel model, ITokenizer? tokenizer, RunText? text, Corpus? corpus)
    {
        Folder = folder;
        Checkpoint = checkpoint;
        Model = model;
        Text = text;
        _runFolder = runFolder;
        _tokenizer = tokenizer;
        _corpus = corpus;
        if (runFolder is not null && RunFolder.IsOne(runFolder))
        {
            Training = RunFolder.ReadTrainingConfig(runFolder);
            Data = RunFolder.ReadData(runFolder);
            Metadata = File.Exists(Path.Combine(runFolder, RunFolder.MetadataName)) ? RunFolder.ReadMetadata(runFolder) : null;
        }
    }

    /// <summary>The run's folder; for a model that is no run's, the model's.</summary>
    public string Folder { get; }

    /// <summary>The folder of the weights.</summary>
    public string Checkpoint { get; }

    /// <summary>The model, in evaluation mode.</summary>
    public LanguageModel Model { get; }

    /// <summary>The model's configuration.</summary>
    public LanguageModelConfig Config => Model.Config;

    /// <summary>The tokenizer.</summary>
    /// <exception cref="InvalidOperationException">The folder holds none; the message says what to do.</exception>
    public ITokenizer Tokenizer => _tokenizer ?? throw new InvalidOperationException(NoTokenizer(Folder, Text, Config.VocabularySize));

    /// <summary>How it was trained; null for a model that is no run's.</summary>
    public TrainingConfig? Training { get; }

    /// <summary>What it was trained on and how that was made into tokens; null where the folder does not say.</summary>
    public RunText? Text { get; }

    /// <summary>The description of the data in the run's configuration; null where there is none.</summary>
    public RunData? Data { get; }

    /// <summary>What it was trained by and how it ended; null for a model that is no run's.</summary>
    public RunMetadata? Metadata { get; }

    /// <summary>The metrics of every update that were kept; none for a model that is no run's. Damaged lines are left out.</summary>
    public IReadOnlyList<TrainingMetrics> Metrics => _metrics ??= _runFolder is null ? [] : RunFolder.ReadMetrics(_runFolder, []);

    /// <summary>What the training came to; null for a model that is no run's.</summary>
    public TrainingResult? Result => Metadata is null ? null : new(
        Metadata.Status,
        Metadata.Step,
        Metadata.Tokens,
        Metadata.Seconds,
        Metrics.Count > 0 ? Metrics[^1] : null,
        Metrics.LastOrDefault(m => m.IsValidated),
        Checkpoint);

    /// <summary>What is doubtful about it, a sentence each.</summary>
    public IReadOnlyList<string> Warnings { get; private init; } = [];

    /// <summary>What its folder does not hold, and what cannot be done for it, a sentence each.</summary>
    public IReadOnlyList<string> Missing =>
    [
        .. _tokenizer is null ? [NoTokenizer(Folder, Text, Config.VocabularySize)] : Array.Empty<string>(),
        .. Text is { Data.Length: > 0 } || _corpus is not null ? [] : new[] { NoText },
        .. Training is null ? ["It is no run's folder: there are no training settings and no metrics."] : Array.Empty<string>(),
    ];

    private string NoText => $"{Folder} does not say what the model was trained on: name the text to evaluate it on.";

    /// <summary>Opens the last checkpoint of a run, a checkpoint of a run, or a Hugging Face folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="device">Where the model shall be; null is the CPU.</param>
    /// <param name="options">What is not as the folder says.</param>
    /// <param name="progress">Told how far the reading of the weights is.</param>
    /// <param name="cancellationToken">Stops the reading.</param>
    /// <exception cref="FileNotFoundException">
    /// The folder holds no model, or no tokenizer though one is required; the message says what to do.
    /// </exception>
    /// <exception cref="CheckpointException">The weights are damaged, or do not fit the configuration.</exception>
    /// <exception cref="ConfigException">The model is of a kind that this library does not know.</exception>
    /// <exception cref="InvalidDataException">Another file is damaged.</exception>
    /// <exception cref="ArgumentException">The tokenizer given is not the model's.</exception>
    public static TrainedRun Open(
        string folder, Device? device = null, OpenOptions? options = null, IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        options ??= new();
        if (!Directory.Exists(folder))
        {
            throw new FileNotFoundException($"There is no folder '{folder}'; expected a run's folder or a model's.");
        }

        var (checkpoint, run) = Find(folder);
        var text = run is null ? null : RunText.Read(run);
        using var weights = HuggingFaceFolder.Open(checkpoint);
        var vocabulary = weights.Config.VocabularySize;
        var tokenizer = options.Tokenizer ?? FindTokenizer(folder, run, text, vocabulary, options.EndOfDocument);
        if (tokenizer is null && options.RequiresTokenizer)
        {
            throw new FileNotFoundException(NoTokenizer(folder, text, vocabulary));
        }

        if (options.Tokenizer is not null)
        {
            RequireTokenizer(run, text, options.Tokenizer);
        }

        if (tokenizer?.VocabularySize > vocabulary)
        {
            throw new ArgumentException(
                $"The tokenizer has {tokenizer.VocabularySize} ids and the model only {vocabulary}: give the tokenizer that the "
                + "model was trained with.");
        }

        var model = weights.Config.CreateUnloaded(device, WeightType(options, weights.StoredType));
        try
        {
            weights.LoadInto(model, progress, cancellationToken);
            model.ComputeType = options.ComputeType;
            model.eval();
            return new(run ?? folder, checkpoint, run, model, tokenizer, text, null)
            {
                // Models are padded to round numbers of ids, not by a tenth.
                Warnings = tokenizer is not null && tokenizer.VocabularySize < 0.9 * vocabulary
                    ? [$"The tokenizer has {tokenizer.VocabularySize} ids and the model {vocabulary}: "
                        + "the tokenizer may be another model's, and results mean nothing then."]
                    : [],
            };
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    private static ScalarType WeightType(OpenOptions options, ScalarType stored) => options.WeightType switch
    {
        null => options.ComputeType == ScalarType.BFloat16 && stored == ScalarType.BFloat16 ? ScalarType.BFloat16 : ScalarType.Float32,
        ScalarType.Float32 or ScalarType.BFloat16 => options.WeightType.Value,
        var other => throw new ArgumentException($"Expected weights in Float32 or BFloat16, got {other}.", nameof(options)),
    };

    /// <summary>What a folder that can be opened says, without its weights.</summary>
    /// <exception cref="FileNotFoundException">There is no such folder, or it is a run without a checkpoint.</exception>
    internal static (LanguageModelConfig Config, ITokenizer? Tokenizer, RunText? Text) Describe(string folder)
    {
        if (!Directory.Exists(folder))
        {
            throw new FileNotFoundException($"There is no folder '{folder}'; expected a run's folder or a model's.");
        }

        var (checkpoint, run) = Find(folder);
        var text = run is null ? null : RunText.Read(run);
        var config = ModelConfigJson.Read(Path.Combine(checkpoint, HuggingFaceFolder.ConfigFileName));
        return (config, FindTokenizer(folder, run, text, config.VocabularySize, null), text);
    }

    /// <summary>A run whose model is at hand.</summary>
    internal static TrainedRun Of(string folder, LanguageModel model, ITokenizer tokenizer, RunText text, Corpus? corpus)
    {
        model.eval();
        return new(folder, RunFolder.LatestCheckpoint(folder) ?? folder, folder, model, tokenizer, text, corpus);
    }

    /// <summary>The folder of the weights that a folder means, and the run's; null for a model that is no run's.</summary>
    /// <exception cref="FileNotFoundException">It is a run without a checkpoint.</exception>
    internal static (string Checkpoint, string? Run) Find(string folder)
    {
        if (RunFolder.LatestCheckpoint(folder) is { } latest)
        {
            return (latest, folder);
        }

        if (Directory.Exists(Path.Combine(folder, "checkpoints")) || RunFolder.IsOne(folder))
        {
            throw new FileNotFoundException(
                File.Exists(Path.Combine(folder, RunFolder.MetadataName))
                    && RunFolder.ReadMetadata(folder) is { Status: TrainingStatus.Failed } failed
                    ? $"The run in '{folder}' failed at step {failed.Step} and left no checkpoint: {failed.Error}"
                    : $"The run in '{folder}' has no checkpoint yet: wait for its first one, or stop it by Ctrl-C, which writes one.");
        }

        // A checkpoint that was named itself lies two folders below its run.
        var above = Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)));
        return (folder, Path.GetFileName(above) == "checkpoints" ? Path.GetDirectoryName(above) : null);
    }

    /// <summary>A text as this model's tokens, opened by the end of document as every document in training.</summary>
    public int[] Tokens(string text) => Tokenizer.EncodeDocument(text);

    /// <summary>What each token spells, for the axis of a figure: the end of document is a pilcrow, a space an open box.</summary>
    public string[] Letters(IEnumerable<int> tokens) =>
        [.. tokens.Select(id => id == Tokenizer.EndOfDocument ? "¶" : Tokenizer.Decode([id]).Replace(' ', '␣'))];

    /// <summary>The text that it was trained on, or another; the caller disposes it.</summary>
    /// <param name="data">A dataset's name, a file of text or a folder of such, or a token folder; null for the run's own.</param>
    /// <param name="options">How files of text are read; null is as the run read its own.</param>
    /// <param name="cancellationToken">Stops the reading.</param>
    /// <exception cref="InvalidOperationException">The run does not say what it was trained on.</exception>
    public TextSource OpenText(string? data = null, CorpusOptions? options = null, CancellationToken cancellationToken = default) =>
        data is null && _corpus is not null && options is null
            ? new TextSource(_corpus)
            : TextSource.Open(
                data ?? (Text is { Data: { Length: > 0 } own } ? own : throw new InvalidOperationException(NoText)),
                options ?? Text?.CorpusOptions,
                cancellationToken);

    /// <summary>Measures how well the model predicts a part of the text it was trained on, or of another.</summary>
    /// <param name="part">The part.</param>
    /// <param name="options">How to measure; null is <see cref="LabDefaults.Evaluation"/>.</param>
    /// <param name="data">As in <see cref="OpenText"/>.</param>
    /// <param name="documents">Only the first documents; null for all.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="InvalidOperationException">The run does not say what it was trained on.</exception>
    /// <exception cref="InvalidDataException">The part is empty.</exception>
    public EvaluationResult Evaluate(
        Split part = Split.Validation, EvaluationOptions? options = null, string? data = null, int? documents = null,
        IProgress<EvaluationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        Evaluate(ReadDocuments(part, data, documents, cancellationToken), options, progress, cancellationToken);

    /// <summary>Measures how well the model predicts documents.</summary>
    /// <param name="documents">Token ids, each document opened by the end of document.</param>
    /// <param name="options">How to measure; null is <see cref="LabDefaults.Evaluation"/>.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    public EvaluationResult Evaluate(
        IReadOnlyList<int[]> documents, EvaluationOptions? options = null, IProgress<EvaluationProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        PerplexityEvaluator.Evaluate(Model, documents, Tokenizer, options ?? LabDefaults.Evaluation(), progress, cancellationToken);

    /// <summary>The loss by position within and beyond the training length, of the documents that are so long.</summary>
    /// <param name="longest">The tokens that are read of each document.</param>
    /// <param name="part">The part.</param>
    /// <param name="data">As in <see cref="OpenText"/>.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="InvalidOperationException">It is not known how long the training contexts were.</exception>
    public ExtrapolationResult Extrapolate(
        int longest, Split part = Split.Test, string? data = null, IProgress<EvaluationProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        var options = new ExtrapolationOptions
        {
            TrainedLength = Training?.ContextLength
                ?? throw new InvalidOperationException(
                    $"{Folder} is no run's and does not say how long its training contexts were: use {nameof(LengthExtrapolation)}."),
            Longest = longest,
            ChunkLength = LabDefaults.EvaluationContext,
            BatchSize = LabDefaults.EvaluationBatch,
        };
        return LengthExtrapolation.Measure(
            Model, ReadDocuments(part, data, null, cancellationToken), Tokenizer, options, progress, cancellationToken);
    }

    /// <summary>Puts a multiple-choice or cloze task to the model.</summary>
    /// <param name="task">The task's name, such as <c>hellaswag</c>.</param>
    /// <param name="path">Its questions: a file, a folder, or a folder with a pattern.</param>
    /// <param name="options">How to score; null is the default.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="ArgumentException">There is no such task.</exception>
    public async Task<TaskScore> ScoreAsync(
        string task, string path, TaskOptions? options = null, IProgress<ScoringProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        var names = LikelihoodTask.All.Select(t => t.Name);
        var known = LikelihoodTask.All.FirstOrDefault(t => t.Name == task)
            ?? throw new ArgumentException(
                $"There is no task '{task}'.{NearestName.Hint(task, names)} Tasks: {string.Join(", ", names)}.", nameof(task));
        var questions = await known.ReadAsync(path, cancellationToken).ConfigureAwait(true);
        return TaskEvaluator.Evaluate(Model, Tokenizer, known, questions, options ?? new(), questions, progress, cancellationToken);
    }

    /// <summary>Measures how much of a long context the model makes use of, by RULER's tasks.</summary>
    /// <param name="options">Tasks, lengths and samples; null is the default.</param>
    /// <param name="made">How samples are made; null is the default.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    public RulerResult Ruler(
        RulerEvaluationOptions? options = null, RulerOptions? made = null, IProgress<RulerProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        RulerEvaluator.Evaluate(Model, new(Tokenizer, made ?? new()), options ?? new(), progress, cancellationToken);

    /// <summary>Generates the text that follows the beginning of a document.</summary>
    /// <param name="prompt">The beginning.</param>
    /// <param name="options">How to choose tokens; null is <see cref="LabDefaults.Generation"/>.</param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    public GeneratedSequence Generate(
        string prompt = "", GenerationOptions? options = null, CancellationToken cancellationToken = default) =>
        new TextGenerator(Model, Tokenizer).Generate(prompt, options ?? LabDefaults.Generation, cancellationToken);

    /// <summary>Records the gates and the memory of every mLSTM block while the model reads a text.</summary>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public GateRecording Gates(string text) => GateCapture.Run(Model, Tokens(text));

    /// <summary>Records how the heads of the model read the tokens of a text.</summary>
    /// <exception cref="InvalidOperationException">The model has neither attention nor an mLSTM.</exception>
    public AttentionRecording Attention(string text) => AttentionCapture.Run(Model, Tokens(text));

    /// <summary>The model's state after it has read a text; the caller disposes it.</summary>
    public ModelState State(string text, CancellationToken cancellationToken = default) =>
        new TextGenerator(Model, Tokenizer).Read(Tokens(text), null, cancellationToken);

    /// <inheritdoc/>
    public override string ToString() =>
        FormattableString.Invariant($"{Folder}: {Config.ModelType}, {Config.CountParameters():N0} parameters")
        + (Metadata is null ? "" : FormattableString.Invariant($", step {Metadata.Step:N0}"));

    /// <inheritdoc/>
    public void Dispose() => Model.Dispose();

    private TokenDocuments ReadDocuments(Split part, string? data, int? most, CancellationToken cancellationToken)
    {
        using var source = OpenText(data, null, cancellationToken);
        return source.Documents(part, Tokenizer, most ?? int.MaxValue, cancellationToken);
    }

    private static ITokenizer? FindTokenizer(string folder, string? run, RunText? text, int vocabulary, string? endOfDocument)
    {
        if (text is not null)
        {
            return text.OpenTokenizer(run!);
        }

        var beside = Path.Combine(folder, RunText.TokenizerName);
        return File.Exists(beside) ? BpeTokenizer.Load(
            beside, endOfDocument ?? HuggingFaceExport.Opening(folder) ?? BpeTokenizer.DefaultEndOfDocument)
            : vocabulary == 257 ? new ByteTokenizer()
            : null;
    }

    private static string NoTokenizer(string folder, RunText? text, int vocabulary) =>
        text?.OwnTokenizer is { } own
            ? $"'{folder}' was trained with a tokenizer of its own (fingerprint {own}), which no file holds: open it with that tokenizer."
            : $"'{folder}' holds no {RunText.TokenizerName}, and {vocabulary} token ids are not bytes: "
                + $"name the tokenizer by --tokenizer ({nameof(OpenOptions)}.{nameof(OpenOptions.Tokenizer)}).";

    /// <summary>Refuses a tokenizer whose ids are not the model's, as far as that can be known.</summary>
    private static void RequireTokenizer(string? run, RunText? text, ITokenizer tokenizer)
    {
        if ((text?.OwnTokenizer ?? text?.OpenTokenizer(run!)?.Fingerprint) is { } trained && trained != tokenizer.Fingerprint)
        {
            throw new ArgumentException(
                $"The run in {run} was trained with another tokenizer (fingerprint {trained}, the one given has {tokenizer.Fingerprint}): "
                + "its ids mean other texts to the model. Leave out --tokenizer and --end-of-document.");
        }
    }
}
