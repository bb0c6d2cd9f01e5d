using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Runs;

/// <summary>Trains a model in one call, with the settings that the command line has too.</summary>
/// <example>
/// <code>
/// using var run = Lab.Train(XlstmPresets.Bytes1M, Corpus.Open("state-of-the-union"), LabDefaults.Training(steps: 500));
/// run.Evaluate(Split.Test)
/// </code>
/// </example>
public static class Lab
{
    /// <summary>Trains on a corpus, and hands back the run with the model that came of it.</summary>
    /// <param name="config">The architecture; its vocabulary holds the tokenizer's ids at least.</param>
    /// <param name="corpus">The text.</param>
    /// <param name="recipe">The settings; null is <see cref="LabDefaults.Training"/>.</param>
    /// <param name="options">Where and how; null is the default.</param>
    /// <param name="progress">Told the metrics of every update.</param>
    /// <param name="cancellationToken">Stops the training after the running update, with a checkpoint.</param>
    /// <exception cref="ArgumentException">The configurations cannot be used, or do not fit together.</exception>
    /// <exception cref="InvalidOperationException">The folder is in use, is not a run's, or has a run of another configuration.</exception>
    /// <exception cref="CheckpointException">The weights to start or go on from are damaged, or do not fit.</exception>
    /// <exception cref="TrainingDivergedException">The training was given up.</exception>
    public static TrainedRun Train(
        LanguageModelConfig config, Corpus corpus, TrainingConfig? recipe = null, LabOptions? options = null,
        IProgress<TrainingMetrics>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(corpus);
        using var source = new TextSource(corpus);
        return Train(config, source, corpus, corpus.Options, recipe, options, progress, cancellationToken);
    }

    /// <summary>Trains on a dataset, files or token folders by their name.</summary>
    /// <param name="config">As above.</param>
    /// <param name="data">A dataset's name, a file of text or a folder of such, a token folder, or token folders with weights.</param>
    /// <param name="recipe">As above.</param>
    /// <param name="options">As above.</param>
    /// <param name="progress">As above.</param>
    /// <param name="cancellationToken">As above.</param>
    /// <inheritdoc
    /// cref="Train(LanguageModelConfig, Corpus, TrainingConfig?, LabOptions?, IProgress{TrainingMetrics}?, CancellationToken)"/>
    public static TrainedRun Train(
        LanguageModelConfig config, string data = LabDefaults.Data, TrainingConfig? recipe = null, LabOptions? options = null,
        IProgress<TrainingMetrics>? progress = null, CancellationToken cancellationToken = default)
    {
        using var source = TextSource.Open(data, null, cancellationToken);
        return Train(config, source, null, null, recipe, options, progress, cancellationToken);
    }

    /// <summary>Copies the weights of a run, a checkpoint or a Hugging Face folder into a model of the same shapes.</summary>
    /// <param name="model">The model.</param>
    /// <param name="folder">The folder; of a run, its last checkpoint counts.</param>
    /// <param name="progress">Told how far the reading is.</param>
    /// <param name="cancellationToken">Stops the reading.</param>
    /// <returns>The folder of the weights.</returns>
    /// <exception cref="FileNotFoundException">The folder holds no weights.</exception>
    /// <exception cref="CheckpointException">Names or shapes differ; the message names all that do, and nothing was read.</exception>
    public static string LoadWeights(
        LanguageModel model, string folder, IProgress<ByteProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (!Directory.Exists(folder))
        {
            throw new FileNotFoundException($"There is no folder '{folder}' to take weights from; expected a run's folder or a model's.");
        }

        var (checkpoint, _) = TrainedRun.Find(folder);
        using var weights = HuggingFaceFolder.Open(checkpoint);
        weights.LoadInto(model, progress, cancellationToken);
        return Path.GetFullPath(checkpoint);
    }

    private static TrainedRun Train(
        LanguageModelConfig config, TextSource source, Corpus? corpus, CorpusOptions? read, TrainingConfig? recipe, LabOptions? options,
        IProgress<TrainingMetrics>? progress, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(config);
        (recipe, options) = (recipe ?? LabDefaults.Training(), options ?? new());
        recipe.Validate();
        var tokenizer = options.Tokenizer ?? source.UsualTokenizer();
        RequireVocabulary(config, tokenizer, "The configuration");
        var device = options.Device ?? CPU;
        TrainingMemory.Require(config, recipe, device);
        var from = options.InitialWeights is { } initial ? Path.GetFullPath(initial) : null;
        var text = RunText.Of(source.Name, tokenizer, read) with { InitialWeights = from };
        var folder = options.Folder ?? Name(config, recipe, text, tokenizer);
        var batches = source.Batches(
            tokenizer, recipe.ContextLength, recipe.BatchSize, recipe.Seed, recipe.ValidationTokens, null, cancellationToken);
        var model = config.CreateModel(recipe.Seed);
        try
        {
            if (from is { } weights && (options.StartOver || RunFolder.LatestCheckpoint(folder) is null))
            {
                LoadWeights(model, weights, null, cancellationToken);
            }

            model.to(device);
            new Trainer(model, recipe, batches.Training, batches.Validation, folder, progress, options.Logger)
            {
                DataDescription = text.Data,
                Tokenizer = tokenizer,
                Text = text,
                StartOver = options.StartOver,
                Hooks = options.Hooks,
            }.Run(cancellationToken);
            return TrainedRun.Of(folder, model, tokenizer, text, corpus);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Refuses a vocabulary with fewer ids than a tokenizer has.</summary>
    /// <exception cref="ArgumentException">It has fewer.</exception>
    internal static void RequireVocabulary(LanguageModelConfig config, ITokenizer tokenizer, string what)
    {
        if (config.VocabularySize < tokenizer.VocabularySize)
        {
            throw new ArgumentException(
                $"{what} has a vocab_size of {config.VocabularySize}, and the tokenizer has {tokenizer.VocabularySize} ids: "
                + "they do not fit together.");
        }
    }

    /// <summary>A folder for a run, the same for the same settings: what was begun there goes on.</summary>
    private static string Name(LanguageModelConfig config, TrainingConfig recipe, RunText text, ITokenizer tokenizer)
    {
        var (settings, read) = (JsonSerializer.Serialize(recipe, RunJson.Line), JsonSerializer.Serialize(text, RunJson.Line));
        var all = ModelConfigJson.Text(config) + settings + read + tokenizer.Fingerprint;
        var hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(all)))[..8];
        var millions = config.CountParameters() / 1e6;
        return Path.Combine(
            "runs", string.Create(CultureInfo.InvariantCulture, $"{config.ModelType}-{millions:0.##}m-{recipe.Steps}-{hash}"));
    }
}
