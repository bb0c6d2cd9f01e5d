using System.Globalization;
using XlstmLab.Models;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A Hugging Face folder with a language model: <c>config.json</c> and its weights under the names of the state dict.</summary>
/// <remarks>
/// An xLSTM's names are <c>backbone.embeddings.weight</c>, <c>backbone.blocks.N...</c>, <c>backbone.out_norm.weight</c> and
/// <c>lm_head.weight</c>; <c>embedding.weight</c>, as NX-AI's own package calls the first of them, is understood, and so are names without
/// the <c>backbone.</c> or <c>model.</c> that a model without a head lacks. Where the config ties the head to the embedding, the folder may
/// lack either of the two; if it has both, they must be equal. Of buffers that follow from the configuration, as published files have them,
/// rotary frequencies are compared with it and the rest is passed over.
/// </remarks>
public sealed class HuggingFaceFolder : IDisposable
{
    /// <summary>The name of the file with the configuration.</summary>
    public const string ConfigFileName = "config.json";

    /// <summary>What wrappers put before every name.</summary>
    private static readonly string[] Wrappers = ["module.", "_orig_mod."];

    private const string OriginalEmbedding = "embedding.weight";
    private const string Head = "lm_head.weight";

    private readonly SafetensorsFolder _weights;
    private readonly Dictionary<string, string> _stored;

    private HuggingFaceFolder(string path, LanguageModelConfig config, SafetensorsFolder weights)
    {
        Path = path;
        Config = config;
        _weights = weights;
        _stored = Stored(weights, config.EmbeddingName);
        Names = [.. _stored.Keys.Order(StringComparer.Ordinal)];
    }

    /// <summary>The folder's path.</summary>
    public string Path { get; }

    /// <summary>The architecture.</summary>
    public LanguageModelConfig Config { get; }

    /// <summary>The names of all tensors in the spelling of the state dict, in ordinal order.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The type of its largest tensor; float32 where there is none.</summary>
    public ScalarType StoredType =>
        _weights.Names.Select(_weights.Info).MaxBy(entry => entry.SizeInBytes)?.Dtype ?? ScalarType.Float32;

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
            var table = config.TieWordEmbeddings && !opened._stored.ContainsKey(config.EmbeddingName) ? Head : config.EmbeddingName;
            if (opened._stored.ContainsKey(table)
                && opened.Info(table).Shape is var shape
                && !shape.AsSpan().SequenceEqual([config.VocabularySize, config.EmbeddingDim]))
            {
                throw new CheckpointException(
                    $"{folder}: {table} has shape [{string.Join(", ", shape)}], but {ConfigFileName} says [{config.VocabularySize}, "
                    + $"{config.EmbeddingDim}] (vocabulary, width).");
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
            RequireOneTable();
            if (sources.GetValueOrDefault(Config.EmbeddingName, sources.GetValueOrDefault(Head, "")) is { Length: > 0 } table)
            {
                sources[Config.EmbeddingName] = table;
                sources[Head] = table;
            }

            if (!parameters.ContainsKey(Head))
            {
                sources.Remove(Head);
            }
        }

        foreach (var name in sources.Keys.Where(name => !parameters.ContainsKey(name) && IsDerived(name)).ToArray())
        {
            sources.Remove(name);
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
        Replace(folder, [], aside => WriteInto(aside, config, stateDict, dtype, maxShardBytes, progress, cancellationToken));
    }

    /// <summary>Writes a folder in the place of one that holds a model and nothing else.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="beside">Names of files that may lie beside a model.</param>
    /// <param name="write">Fills the empty folder whose path it is given.</param>
    /// <exception cref="IOException">The folder holds other files, or cannot be written.</exception>
    internal static void Replace(string folder, IReadOnlyCollection<string> beside, Action<string> write)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        if (Directory.Exists(folder)
            && Directory.EnumerateFileSystemEntries(folder)
                .FirstOrDefault(entry => !IsOwn(entry) && !beside.Contains(System.IO.Path.GetFileName(entry))) is { } other)
        {
            throw new CheckpointException(
                $"{folder}: the folder holds '{System.IO.Path.GetFileName(other)}', which writing a model in its place would delete. "
                + "Choose another folder.");
        }

        AtomicFile.WriteFolder(folder, write, replace: true);
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
        var tensors =
            stateDict.Where(pair => !(config.TieWordEmbeddings && pair.Key == Head && stateDict.ContainsKey(config.EmbeddingName)))
                .ToList();
        var stored = dtype ?? (tensors.Count > 0 ? tensors.MaxBy(pair => pair.Value.NumberOfElements).Value.dtype : ScalarType.Float32);
        AtomicFile.WriteText(System.IO.Path.Combine(folder, ConfigFileName), ModelConfigJson.Text(config, stored));

        // transformers asks for this text before it reads a file.
        Safetensors.WriteSharded(
            folder, tensors, maxShardBytes, [KeyValuePair.Create("format", "pt")], dtype, progress, cancellationToken);
    }

    /// <inheritdoc/>
    public void Dispose() => _weights.Dispose();

    /// <summary>The names in the files by those of the state dict.</summary>
    private static Dictionary<string, string> Stored(SafetensorsFolder weights, string embedding)
    {
        var names = weights.Names.Select(name => (Stored: name, Name: name)).ToArray();
        while (names.Length > 0
            && Wrappers.FirstOrDefault(w => names.All(n => n.Name.StartsWith(w, StringComparison.Ordinal))) is { } wrapper)
        {
            names = [.. names.Select(n => (n.Stored, n.Name[wrapper.Length..]))];
        }

        // A model that was saved without its head has its names without the part that stands for it.
        var body = embedding[..(embedding.IndexOf('.', StringComparison.Ordinal) + 1)];
        var bare = !names.Any(n => n.Name.StartsWith(body, StringComparison.Ordinal))
            && names.Any(n => n.Name.Split('.')[0] is "layers" or "blocks");
        if (bare)
        {
            names = [.. names.Select(n => (n.Stored, n.Name.StartsWith("lm_head.", StringComparison.Ordinal) ? n.Name : body + n.Name))];
        }

        // Mamba's and xLSTM's own packages have the embedding in the singular, the latter's outside of the body.
        var singular = embedding == $"{body}embeddings.weight" && !names.Any(n => n.Name == embedding)
            ? names.FirstOrDefault(n => n.Name == OriginalEmbedding || n.Name == $"{body}{OriginalEmbedding}").Name
            : null;
        return names.ToDictionary(n => n.Name == singular ? embedding : n.Name, n => n.Stored, StringComparer.Ordinal);
    }

    /// <summary>Refuses a head that the config ties to the embedding, and that differs from it.</summary>
    private void RequireOneTable()
    {
        if (!_stored.TryGetValue(Config.EmbeddingName, out var embedding) || !_stored.TryGetValue(Head, out var head) || embedding == head)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var (first, second) = (_weights.Read(embedding), _weights.Read(head));
        if (!first.shape.AsSpan().SequenceEqual(second.shape)
            || !first.to(ScalarType.Float32).equal(second.to(ScalarType.Float32)).all().item<bool>())
        {
            throw new CheckpointException(
                $"{Path}: {ConfigFileName} ties the head to the embedding, but {embedding} and {head} differ. "
                + $"If the head is a matrix of its own, set tie_word_embeddings to false; if not, remove {head}.");
        }
    }

    /// <summary>Whether a tensor is a buffer that published files store though it follows from the configuration.</summary>
    /// <exception cref="CheckpointException">It does not follow from this one.</exception>
    private bool IsDerived(string name)
    {
        var buffer = name[(name.LastIndexOf('.') + 1)..];
        switch (buffer)
        {
            case "num_batches_tracked" or "masked_bias" or "position_ids":
                return true;
            case "bias":
                // A causal mask [1, 1, N, N] under the name of a bias.
                return name.EndsWith("attn.bias", StringComparison.Ordinal)
                    && Info(name).Shape is [1, 1, var rows, var columns]
                    && rows == columns;
            case "inv_freq" or "original_inv_freq" or "cos_cached" or "sin_cached" when Config is LlamaConfig llama:
                RequireFrequencies(name, buffer, llama);
                return true;
            default:
                return false;
        }
    }

    private void RequireFrequencies(string name, string buffer, LlamaConfig config)
    {
        using var scope = NewDisposeScope();
        var half = config.HeadDim / 2;
        var stored = Read(name, dtype: ScalarType.Float64).flatten();
        var isTable = buffer.EndsWith("_cached", StringComparison.Ordinal);

        // The second row of a table is that of position 1.
        stored = isTable && stored.NumberOfElements >= 4 * half ? stored.narrow(0, 2 * half, half) : stored;
        for (var j = 0; j < half; j++)
        {
            var frequency = Math.Pow(config.RopeTheta, -2.0 * j / config.HeadDim);
            var expected = buffer switch { "cos_cached" => Math.Cos(frequency), "sin_cached" => Math.Sin(frequency), _ => frequency };
            if (stored.NumberOfElements != half || Math.Abs(stored[j].item<double>() - expected) > 0.01 * Math.Abs(expected) + 1e-6)
            {
                throw new CheckpointException(
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"{Path}: {name} is not what {ConfigFileName} says, theta^(-2j/D) with theta = {config.RopeTheta} and D = "
                        + $"{config.HeadDim}: ")
                    + "the model was trained with other rotary frequencies, which this library would not use.");
            }
        }
    }

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
                $"{Path}: the weights do not fit the model; nothing was loaded. {string.Join(". ", faults)}. "
                + $"Build the model from this folder's {ConfigFileName}.");
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
