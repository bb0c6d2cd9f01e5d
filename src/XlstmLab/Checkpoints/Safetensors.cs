using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>Writes safetensors files, in the bytes that the format's reference implementation would write.</summary>
/// <remarks>
/// A file is whole or absent: see <see cref="AtomicFile"/>. Tensors may be on any device, of any stride and part of a gradient
/// graph; they are copied and cast piece by piece.
/// </remarks>
public static class Safetensors
{
    /// <summary>The size of a shard that Hugging Face's tools write by default, in bytes.</summary>
    public const long DefaultShardBytes = 5_000_000_000;

    /// <summary>The name of a folder's only file of weights.</summary>
    public const string SingleFileName = "model.safetensors";

    /// <summary>The name of the file that says which shard holds which tensor.</summary>
    public const string IndexFileName = "model.safetensors.index.json";

    private static readonly JsonSerializerOptions IndexFormat =
        new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes a file.</summary>
    /// <param name="path">The file, replaced if it is there.</param>
    /// <param name="tensors">The tensors by name; the file has them by falling size of their type, then by name.</param>
    /// <param name="metadata">Texts that readers find beside the tensors.</param>
    /// <param name="dtype">The type that floating-point tensors are cast to; null leaves them as they are. Others are never cast.</param>
    /// <param name="progress">Told after each piece.</param>
    /// <param name="cancellationToken">Stops the writing; no file is left.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a tensor is of a kind that the format lacks.</exception>
    /// <exception cref="IOException">The file cannot be written.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public static void Write(
        string path,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        IEnumerable<KeyValuePair<string, string>>? metadata = null,
        ScalarType? dtype = null,
        IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        Write(path, tensors, metadata, dtype, progress, SafetensorsFile.DefaultPieceBytes, cancellationToken);

    /// <summary>As the public one, with another number of bytes copied at a time.</summary>
    internal static void Write(
        string path,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        IEnumerable<KeyValuePair<string, string>>? metadata,
        ScalarType? dtype,
        IProgress<ByteProgress>? progress,
        int pieceBytes,
        CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var list = Checked(tensors, dtype);
        var writer = new PieceWriter(dtype, pieceBytes, list.Sum(pair => Bytes(pair.Value, dtype)), progress, cancellationToken);
        writer.WriteFile(path, list, metadata);
    }

    /// <summary>Writes <c>model.safetensors</c> into a folder, or shards with an index if the tensors are larger than one shard.</summary>
    /// <param name="folder">The folder, made if there is none. It must hold no weights yet.</param>
    /// <param name="tensors">The tensors by name; shards are filled in the order of the names.</param>
    /// <param name="maxShardBytes">The most bytes of tensors in a file; a larger tensor gets a file to itself.</param>
    /// <param name="metadata">Texts for every file.</param>
    /// <param name="dtype">The type that floating-point tensors are cast to; null leaves them as they are.</param>
    /// <param name="progress">Told after each piece, of all files together.</param>
    /// <param name="cancellationToken">Stops the writing; no file of it is left.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a tensor is of a kind that the format lacks.</exception>
    /// <exception cref="IOException">The folder holds weights already, or cannot be written.</exception>
    /// <exception cref="OperationCanceledException">It was stopped.</exception>
    public static void WriteSharded(
        string folder,
        IEnumerable<KeyValuePair<string, Tensor>> tensors,
        long maxShardBytes = DefaultShardBytes,
        IEnumerable<KeyValuePair<string, string>>? metadata = null,
        ScalarType? dtype = null,
        IProgress<ByteProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(folder);
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxShardBytes, 1);
        var list = Checked(tensors, dtype);
        if (Directory.Exists(folder) && Directory.EnumerateFiles(folder, "model*.safetensors*").FirstOrDefault() is { } there)
        {
            throw new CheckpointException($"{there} is there already: old and new weights would mix. Choose another folder or delete it.");
        }

        var total = list.Sum(pair => Bytes(pair.Value, dtype));
        var shards = Split(list, maxShardBytes, dtype);
        var names = shards.Count == 1
            ? [SingleFileName]
            : shards.Select((_, i) => string.Create(CultureInfo.InvariantCulture, $"model-{i + 1:D5}-of-{shards.Count:D5}.safetensors"))
                .ToArray();
        var paths = names.Select(name => Path.Combine(folder, name)).ToArray();
        var writer = new PieceWriter(dtype, SafetensorsFile.DefaultPieceBytes, total, progress, cancellationToken);
        var shared = metadata?.ToList();
        try
        {
            for (var i = 0; i < shards.Count; i++)
            {
                writer.WriteFile(paths[i], shards[i], shared);
            }

            if (shards.Count > 1)
            {
                AtomicFile.WriteText(Path.Combine(folder, IndexFileName), Index(shards, names, total));
            }
        }
        catch
        {
            Array.ForEach(paths, File.Delete);
            throw;
        }
    }

    private static string Index(List<List<KeyValuePair<string, Tensor>>> shards, string[] files, long totalBytes)
    {
        var weightMap = new JsonObject();
        foreach (var (shard, file) in shards.Zip(files))
        {
            foreach (var (name, _) in shard)
            {
                weightMap.Add(name, file);
            }
        }

        var index = new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = totalBytes }, ["weight_map"] = weightMap };
        return index.ToJsonString(IndexFormat) + "\n";
    }

    private static List<List<KeyValuePair<string, Tensor>>> Split(
        List<KeyValuePair<string, Tensor>> tensors, long maxShardBytes, ScalarType? dtype)
    {
        List<List<KeyValuePair<string, Tensor>>> shards = [[]];
        var filled = 0L;
        foreach (var pair in tensors)
        {
            var bytes = Bytes(pair.Value, dtype);
            if (shards[^1].Count > 0 && bytes > maxShardBytes - filled)
            {
                shards.Add([]);
                filled = 0;
            }

            shards[^1].Add(pair);
            filled += bytes;
        }

        return shards;
    }

    private static List<KeyValuePair<string, Tensor>> Checked(IEnumerable<KeyValuePair<string, Tensor>> tensors, ScalarType? dtype)
    {
        if (dtype is { } type && !IsFloatingPoint(type))
        {
            throw new ArgumentException(
                $"Weights cannot be written as {type}; expected a floating-point type such as bfloat16.", nameof(dtype));
        }

        var list = tensors.OrderBy(pair => pair.Key, StringComparer.Ordinal).ToList();
        foreach (var (name, tensor) in list)
        {
            if (tensor.is_meta || tensor.is_sparse)
            {
                throw new ArgumentException(
                    $"Tensor {CheckpointException.Quote(name)} is {(tensor.is_meta ? "on the meta device and has no values" : "sparse")}; "
                    + "only dense tensors with values can be written.");
            }
        }

        // The plan names what else cannot be written, before a byte is.
        SafetensorsHeader.Plan(list.Select(pair => (pair.Key, Stored(pair.Value, dtype), pair.Value.shape)), null);
        return list;
    }

    private static ScalarType Stored(Tensor tensor, ScalarType? dtype) =>
        dtype is { } type && IsFloatingPoint(tensor.dtype) ? type : tensor.dtype;

    private static bool IsFloatingPoint(ScalarType dtype) =>
        dtype is ScalarType.Float64 or ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16;

    private static long Bytes(Tensor tensor, ScalarType? dtype) =>
        tensor.NumberOfElements * SafetensorsHeader.ElementBytes(Stored(tensor, dtype));

    /// <summary>Writes the files of one checkpoint and counts their bytes.</summary>
    private sealed class PieceWriter(
        ScalarType? dtype, int pieceBytes, long totalBytes, IProgress<ByteProgress>? progress, CancellationToken cancellationToken)
    {
        private long _doneBytes;

        public void WriteFile(string path, List<KeyValuePair<string, Tensor>> tensors, IEnumerable<KeyValuePair<string, string>>? metadata)
        {
            var byName = tensors.ToDictionary(StringComparer.Ordinal);
            var header = SafetensorsHeader.Plan(tensors.Select(pair => (pair.Key, Stored(pair.Value, dtype), pair.Value.shape)), metadata);
            var head = header.ToBytes();
            AtomicFile.Write(path, stream =>
            {
                stream.Write(head);
                foreach (var entry in header.Entries)
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    WriteTensor(stream, byName[entry.Name], entry.Dtype);
                }
            });
        }

        private void WriteTensor(FileStream stream, Tensor tensor, ScalarType stored)
        {
            using var scope = NewDisposeScope();
            var vector = tensor.detach().contiguous().view(-1);
            var count = vector.NumberOfElements;
            var most = Math.Max(1, pieceBytes / Math.Max(vector.ElementSize, SafetensorsHeader.ElementBytes(stored)));
            for (var start = 0L; start < count; start += most)
            {
                cancellationToken.ThrowIfCancellationRequested();
                using var pieceScope = NewDisposeScope();
                var bytes = vector.narrow(0, start, Math.Min(most, count - start)).to(stored).cpu().bytes;
                stream.Write(bytes);
                _doneBytes += bytes.Length;
                progress?.Report(new ByteProgress(_doneBytes, totalBytes));
            }
        }
    }
}
