using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A Hugging Face folder with a language model: <c>config.json</c> and its weights under the names of the state dict.</summary>
/// <remarks>
/// An xLSTM's names are <c>backbone.embeddings.weight</c>, <c>backbone.blocks.N...</c>, <c>backbone.out_norm.weight</c> and <c>lm_head.weight</c>;
/// <c>embedding.weight</c>, as NX-AI's own package calls the first of them, is understood. Where the config ties the head to the
/// embedding, the folder may lack <c>lm_head.weight</c>.
/// </remarks>
public sealed class HuggingFaceFolder : IDisposable
{
    /// <summary>The name of the file with the configuration.</summary>
    public const string ConfigFileName = "config.json";

    private const string OriginalEmbedding = "embedding.weight";
    private const string Head = "lm_head.weight";

    private readonly SafetensorsFolder _weights;
    private readonly Dictionary<string, string> _stored;

    private HuggingFaceFolder(string path, LanguageModelConfig config, SafetensorsFolder weights)
    {
        Path = path;
        Config = config;
        _weights = weights;
        _stored = weights.Names.ToDictionary(
            name => name == OriginalEmbedding && !weights.Contains(config.EmbeddingName) ? config.EmbeddingName : name, StringComparer.Ordinal);
        Names = [.. _stored.Keys.Order(StringComparer.Ordinal)];
    }

    /// <summary>The folder's path.</summary>
    public string Path { get; }

    /// <summary>The architecture.</summary>
    public LanguageModelConfig Config { get; }

    /// <summary>The names of all tensors in the spelling of the state dict, in ordinal order.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Opens a folder; no weights are read yet.</summary>
    /// <exception cref="CheckpointException">A file is missing or damaged, or the embedding's shape is not the config's.</exception>
    /// <exception cref="ConfigException">The configuration is of a kind that this library does not know, or cannot be.</exception>
    public static HuggingFaceFolder Open(string folder)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        if (!Directory.Exists(folder))
        {
            throw new CheckpointException($"{folder}: there is no such folder.");
        }

        var config = ModelConfigJson.Read(System.IO.Path.Combine(folder, ConfigFileName));
        var opened = new HuggingFaceFolder(folder, config, SafetensorsFolder.Open(folder));
        try
        {
            // A config that lies about sizes is found here, before a model is built that does not fit into memory.
            if (opened._stored.ContainsKey(config.EmbeddingName)
                && opened.Info(config.EmbeddingName).Shape is var shape
                && !shape.AsSpan().SequenceEqual([config.VocabularySize, config.EmbeddingDim]))
            {
                throw new CheckpointException(
                    $"{folder}: {config.EmbeddingName} has shape [{string.Join(", ", shape)}], but {ConfigFileName} says [{config.VocabularySize}, {config.EmbeddingDim}] (vocabulary, width).");
            }

            return opened;
        }
        catch
        {
            opened.Dispose();
            throw;
        }
    }

    /// <summary>The type, shape and place of a tensor in its file.</summary>
    /// <exception cref="CheckpointException">There is no tensor of that name.</exception>
    public SafetensorsEntry Info(string name) => _weights.Info(_stored.GetValueOrDefault(name, name));

    /// <inheritdoc cref="SafetensorsFile.Read"/>
    public Tensor Read(string name, Device? device = null, ScalarType? dtype = null) =>
        _weights.Read(_stored.GetValueOrDefault(name, name), device, dtype);

    /// <summary>Copies the weights into a module's parameters and buffers, cast to their types and devices.</summary>
    /// <inheritdoc cref="Load"/>
    public void LoadInto(nn.Module module, IProgress<ByteProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(module);
        Load(module.state_dict(), progress, cancellationToken);
    }

    /// <summary>Copies the weights into tensors of the same names, cast to their types and devices.</summary>
    /// <param name="parameters">A model's tensors by their names in the state dict.</param>
    /// <param name="progress">Told after each tensor.</param>
    /// <param name="cancellationToken">Stops the reading; some tensors have been read then.</param>
    /// <exception cref="CheckpointException">Names or shapes differ; the message lists all, and nothing has been read.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public void Load(
        IReadOnlyDictionary<string, Tensor> parameters,
        IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        var sources = new Dictionary<string, string>(_stored, StringComparer.Ordinal);
        if (Config.TieWordEmbeddings)
        {
            if (!parameters.ContainsKey(Head))
            {
                sources.Remove(Head);
            }
            else if (!sources.ContainsKey(Head) && sources.TryGetValue(Config.EmbeddingName, out var embedding))
            {
                sources.Add(Head, embedding);
            }
        }

        CheckFit(parameters, sources);
        var total = sources.Values.Sum(name => _weights.Info(name).SizeInBytes);
        var done = 0L;
        foreach (var (name, source) in sources.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            cancellationToken.ThrowIfCancellationRequested();
            _weights.ReadInto(source, parameters[name]);
            done += _weights.Info(source).SizeInBytes;
            progress?.Report(new ByteProgress(done, total));
        }
    }

    /// <summary>Writes a folder that is complete or absent.</summary>
    /// <param name="folder">The folder. One that holds an earlier model is replaced; one with other files is refused.</param>
    /// <param name="config">The architecture.</param>
    /// <param name="stateDict">The model's tensors by their names in the state dict.</param>
    /// <param name="dtype">The type that floating-point tensors are cast to; null leaves them as they are.</param>
    /// <param name="maxShardBytes">The most bytes of tensors in a file.</param>
    /// <param name="progress">Told after each piece.</param>
    /// <param name="cancellationToken">Stops the writing; the folder is as it was before.</param>
    /// <exception cref="ConfigException">The configuration cannot be.</exception>
    /// <exception cref="ArgumentException">A tensor cannot be written.</exception>
    /// <exception cref="IOException">The folder holds other files, or cannot be written.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public static void Save(
        string folder,
        LanguageModelConfig config,
        IReadOnlyDictionary<string, Tensor> stateDict,
        ScalarType? dtype = null,
        long maxShardBytes = Safetensors.DefaultShardBytes,
        IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        if (Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).FirstOrDefault(entry => !IsOwn(entry)) is { } other)
        {
            throw new CheckpointException(
                $"{folder}: the folder holds '{System.IO.Path.GetFileName(other)}', which writing a model in its place would delete. Choose another folder.");
        }

        AtomicFile.WriteFolder(
            folder, aside => WriteInto(aside, config, stateDict, dtype, maxShardBytes, progress, cancellationToken), replace: true);
    }

    /// <summary>Writes config and weights into a folder that the caller is filling, as in <see cref="AtomicFile.WriteFolder"/>.</summary>
    /// <inheritdoc cref="Save"/>
    public static void WriteInto(
        string folder,
        LanguageModelConfig config,
        IReadOnlyDictionary<string, Tensor> stateDict,
        ScalarType? dtype = null,
        long maxShardBytes = Safetensors.DefaultShardBytes,
        IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(config);
        ArgumentNullException.ThrowIfNull(stateDict);

        // transformers stores a tied matrix once.
        var tensors = stateDict.Where(pair => !(config.TieWordEmbeddings && pair.Key == Head && stateDict.ContainsKey(config.EmbeddingName))).ToList();
        var stored = dtype ?? (tensors.Count > 0 ? tensors.MaxBy(pair => pair.Value.NumberOfElements).Value.dtype : ScalarType.Float32);
        AtomicFile.WriteText(System.IO.Path.Combine(folder, ConfigFileName), ModelConfigJson.Text(config, stored));

        // transformers asks for this text before it reads a file.
        Safetensors.WriteSharded(
            folder, tensors, maxShardBytes, [KeyValuePair.Create("format", "pt")], dtype, progress, cancellationToken);
    }

    /// <inheritdoc/>
    public void Dispose() => _weights.Dispose();

    private void CheckFit(IReadOnlyDictionary<string, Tensor> parameters, Dictionary<string, string> sources)
    {
        static string Text(IEnumerable<long> shape) => $"[{string.Join(", ", shape)}]";

        var missing = parameters.Keys.Where(name => !sources.ContainsKey(name)).Order(StringComparer.Ordinal).ToList();
        var unexpected = sources.Keys.Where(name => !parameters.ContainsKey(name)).Order(StringComparer.Ordinal).ToList();
        var misfits = sources
            .Where(pair => parameters.TryGetValue(pair.Key, out var target)
                && !_weights.Info(pair.Value).Shape.AsSpan().SequenceEqual(target.shape))
            .OrderBy(pair => pair.Key, StringComparer.Ordinal)
            .Select(pair => $"{pair.Key} is {Text(_weights.Info(pair.Value).Shape)} and the model's {Text(parameters[pair.Key].shape)}")
            .ToList();
        List<string> faults = [];
        void Add(string what, List<string> names)
        {
            if (names.Count > 0)
            {
                faults.Add($"{what}: {CheckpointException.List(names)}");
            }
        }

        Add("The folder lacks", missing);
        Add("The model has no", unexpected);
        Add("Shapes differ", misfits);
        if (faults.Count > 0)
        {
            throw new CheckpointException(
                $"{Path}: the weights do not fit the model; nothing was loaded. {string.Join(". ", faults)}. Build the model from this folder's {ConfigFileName}.");
        }
    }

    private static bool IsOwn(string entry)
    {
        var name = System.IO.Path.GetFileName(entry);
        return File.Exists(entry)
            && (name is ConfigFileName or Safetensors.IndexFileName
                || name.StartsWith("model", StringComparison.Ordinal) && name.EndsWith(".safetensors", StringComparison.Ordinal));
    }
}
