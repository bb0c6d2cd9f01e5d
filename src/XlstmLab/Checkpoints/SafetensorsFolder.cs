using System.Text.Json;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A folder's weights as one set: <c>model.safetensors</c>, or the shards of <c>model.safetensors.index.json</c>.</summary>
/// <remarks>Where both are there the single file counts, as in Hugging Face's tools.</remarks>
public sealed class SafetensorsFolder : IDisposable
{
    private static readonly string[] OtherFormats = [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".safetensors"];

    private readonly List<SafetensorsFile> _files;
    private readonly Dictionary<string, SafetensorsFile> _locations;

    private SafetensorsFolder(string path, List<SafetensorsFile> files, Dictionary<string, SafetensorsFile> locations)
    {
        Path = path;
        Names = [.. locations.Keys.Order(StringComparer.Ordinal)];
        _files = files;
        _locations = locations;
    }

    /// <summary>The folder's path.</summary>
    public string Path { get; }

    /// <summary>The names of all tensors in ordinal order.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>Opens a folder and checks the header of every file, and that the index tells the truth.</summary>
    /// <exception cref="CheckpointException">The folder has no weights, or a file is missing or damaged.</exception>
    public static SafetensorsFolder Open(string folder)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        if (!Directory.Exists(folder))
        {
            throw new CheckpointException($"{folder}: there is no such folder.");
        }

        var single = System.IO.Path.Combine(folder, Safetensors.SingleFileName);
        var index = System.IO.Path.Combine(folder, Safetensors.IndexFileName);
        if (!File.Exists(single) && !File.Exists(index))
        {
            var others = Directory.EnumerateFiles(folder)
                .Where(file => OtherFormats.Contains(System.IO.Path.GetExtension(file)))
                .Select(System.IO.Path.GetFileName)
                .OfType<string>()
                .Order(StringComparer.Ordinal)
                .ToList();
            throw new CheckpointException(
                $"{folder}: there is neither {Safetensors.SingleFileName} nor {Safetensors.IndexFileName}"
                + (others.Count == 0 ? "." : $", but {CheckpointException.List(others)}.")
                + " Weights in other formats must be converted to safetensors, as transformers' save_pretrained writes them.");
        }

        var files = new List<SafetensorsFile>();
        try
        {
            if (File.Exists(single))
            {
                var file = SafetensorsFile.Open(single);
                files.Add(file);
                return new SafetensorsFolder(folder, files, file.Names.ToDictionary(name => name, _ => file, StringComparer.Ordinal));
            }

            return new SafetensorsFolder(folder, files, OpenShards(folder, index, files));
        }
        catch
        {
            files.ForEach(file => file.Dispose());
            throw;
        }
    }

    /// <summary>Whether there is a tensor of that name.</summary>
    public bool Contains(string name) => _locations.ContainsKey(name);

    /// <summary>The type, shape and place of a tensor in its file.</summary>
    /// <exception cref="CheckpointException">There is no tensor of that name.</exception>
    public SafetensorsEntry Info(string name) => FileOf(name).Info(name);

    /// <summary>The file that holds a tensor.</summary>
    /// <exception cref="CheckpointException">There is no tensor of that name.</exception>
    public SafetensorsFile FileOf(string name) =>
        _locations.TryGetValue(name, out var file)
            ? file
            : throw new CheckpointException(
                $"{Path}: there is no tensor {CheckpointException.Quote(name)}; there are {CheckpointException.List(Names)}.");

    /// <inheritdoc cref="SafetensorsFile.Read"/>
    public Tensor Read(string name, Device? device = null, ScalarType? dtype = null) => FileOf(name).Read(name, device, dtype);

    /// <inheritdoc cref="SafetensorsFile.ReadInto"/>
    public void ReadInto(string name, Tensor target) => FileOf(name).ReadInto(name, target);

    /// <inheritdoc/>
    public void Dispose() => _files.ForEach(file => file.Dispose());

    private static Dictionary<string, SafetensorsFile> OpenShards(string folder, string index, List<SafetensorsFile> files)
    {
        var map = ReadWeightMap(index);
        var shards = map.Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal).ToList();
        var absent = shards.FindAll(name => !File.Exists(System.IO.Path.Combine(folder, name)));
        if (absent.Count > 0)
        {
            throw new CheckpointException(
                $"{index}: names files that are not there: {CheckpointException.List(absent)}. Copy all shards into the folder.");
        }

        var byName = new Dictionary<string, SafetensorsFile>(StringComparer.Ordinal);
        foreach (var name in shards)
        {
            files.Add(byName[name] = SafetensorsFile.Open(System.IO.Path.Combine(folder, name)));
        }

        var lost = map
            .Where(pair => !byName[pair.Value].Contains(pair.Key))
            .Select(pair => $"{pair.Key} in {pair.Value}")
            .Order(StringComparer.Ordinal)
            .ToList();
        return lost.Count == 0
            ? map.ToDictionary(pair => pair.Key, pair => byName[pair.Value], StringComparer.Ordinal)
            : throw new CheckpointException(
                $"{index}: names tensors that their files do not have: {CheckpointException.List(lost)}. Index and shards are not "
                + "of one checkpoint.");
    }

    private static Dictionary<string, string> ReadWeightMap(string index)
    {
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(index), new JsonDocumentOptions { AllowDuplicateProperties = false });
            if (document.RootElement.ValueKind != JsonValueKind.Object
                || !document.RootElement.TryGetProperty("weight_map", out var weightMap)
                || weightMap.ValueKind != JsonValueKind.Object)
            {
                throw new CheckpointException(
                    $"{index}: there is no object 'weight_map'. The file is damaged or no index of safetensors files.");
            }

            var map = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach (var item in weightMap.EnumerateObject())
            {
                var file = item.Value.ValueKind == JsonValueKind.String ? item.Value.GetString()! : "";

                // An index may come from anyone: it names files beside it, never a way out of the folder.
                if (file.Length == 0 || file is "." or ".." || file.AsSpan().IndexOfAny('/', '\\', '\0') >= 0)
                {
                    throw new CheckpointException(
                        $"{index}: tensor {CheckpointException.Quote(item.Name)}: "
                        + $"its file is {CheckpointException.Quote(item.Value.ToString())}; expected the name of a file "
                        + "in the same folder.");
                }

                map.Add(item.Name, file);
            }

            return map;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or UnauthorizedAccessException)
        {
            throw new CheckpointException($"{index}: the index cannot be read: {e.Message}", e);
        }
    }
}
