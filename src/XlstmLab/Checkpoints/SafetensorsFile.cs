using System.Globalization;
using System.Runtime.ExceptionServices;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A safetensors file: opening reads the header only, and tensors are read when asked for.</summary>
/// <remarks>The header is checked as a whole before anything is used. Reading is thread-safe.</remarks>
public sealed class SafetensorsFile : IDisposable
{
    /// <summary>The bytes read at a time: enough for full speed, little beside a tensor that is cast or sent to a device.</summary>
    internal const int DefaultPieceBytes = 16 << 20;

    /// <summary>Pieces read at once: one after the other, a disk waits for its next request, and a cached file for one core.</summary>
    private static readonly ParallelOptions AtOnce = new() { MaxDegreeOfParallelism = 4 };

    private readonly SafeFileHandle _file;
    private readonly Dictionary<string, SafetensorsEntry> _entries;
    private readonly int _pieceBytes;
    private bool _isDisposed;

    private SafetensorsFile(string path, SafetensorsHeader header, SafeFileHandle file, int pieceBytes)
    {
        Path = path;
        Metadata = header.Metadata;
        Names = [.. header.Entries.Select(entry => entry.Name)];
        SizeInBytes = header.Entries.Sum(entry => entry.SizeInBytes);
        _entries = header.Entries.ToDictionary(entry => entry.Name, StringComparer.Ordinal);
        _file = file;
        _pieceBytes = pieceBytes;
    }

    /// <summary>The file's path.</summary>
    public string Path { get; }

    /// <summary>The names of the tensors in the order of their data.</summary>
    public IReadOnlyList<string> Names { get; }

    /// <summary>The texts under <c>__metadata__</c>; none if the file has none.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>The size of all tensors in bytes.</summary>
    public long SizeInBytes { get; }

    /// <summary>Opens a file and checks its header.</summary>
    /// <exception cref="CheckpointException">The file cannot be opened or is no whole safetensors file.</exception>
    public static SafetensorsFile Open(string path) => Open(path, DefaultPieceBytes);

    /// <inheritdoc cref="Open(string)"/>
    internal static SafetensorsFile Open(string path, int pieceBytes)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        try
        {
            var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            try
            {
                var length = RandomAccess.GetLength(file);
                Span<byte> prefix = stackalloc byte[SafetensorsHeader.PrefixBytes];
                var got = RandomAccess.Read(file, prefix, 0);
                var text = new byte[SafetensorsHeader.ParseLength(prefix[..got], length, path)];
                ReadExactly(file, path, text, prefix.Length);
                return new SafetensorsFile(path, SafetensorsHeader.Parse(text, length, path), file, pieceBytes);
            }
            catch
            {
                file.Dispose();
                throw;
            }
        }
        catch (Exception e) when (e is IOException and not CheckpointException or UnauthorizedAccessException or NotSupportedException)
        {
            throw new CheckpointException($"{path}: the file cannot be opened: {e.Message}", e);
        }
    }

    /// <summary>Whether the file has a tensor of that name.</summary>
    public bool Contains(string name) => _entries.ContainsKey(name);

    /// <summary>The type, shape and place of a tensor.</summary>
    /// <exception cref="CheckpointException">The file has no tensor of that name.</exception>
    public SafetensorsEntry Info(string name) =>
        _entries.TryGetValue(name, out var entry)
            ? entry
            : throw new CheckpointException(
                $"{Path}: there is no tensor {CheckpointException.Quote(name)}; there are {CheckpointException.List(Names)}.");

    /// <summary>A copy of a tensor, in the caller's dispose scope.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="device">Where it shall be; null is the CPU.</param>
    /// <param name="dtype">The type it shall have; null is the type it is stored in.</param>
    /// <exception cref="CheckpointException">The file has no tensor of that name.</exception>
    public Tensor Read(string name, Device? device = null, ScalarType? dtype = null)
    {
        var entry = Info(name);
        var tensor = empty(entry.Shape, dtype ?? entry.Dtype, device ?? CPU);
        try
        {
            ReadInto(name, tensor);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>Copies a tensor into one that is there, casting it to that one's type and device.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="target">A tensor of the same shape; a parameter's gradient history is left out of it.</param>
    /// <exception cref="CheckpointException">The file has no tensor of that name, or one of another shape.</exception>
    public void ReadInto(string name, Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        var entry = Info(name);
        if (!entry.Shape.AsSpan().SequenceEqual(target.shape))
        {
            throw new CheckpointException(
                $"{Path}: tensor {CheckpointException.Quote(name)} has shape [{string.Join(", ", entry.Shape)}]; "
                + $"[{string.Join(", ", target.shape)}] was expected.");
        }

        if (entry.SizeInBytes == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        var destination = target.detach();
        if (destination.is_contiguous())
        {
            Fill(entry, destination.view(-1));
            return;
        }

        var packed = empty(entry.Shape, target.dtype, target.device);
        Fill(entry, packed.view(-1));
        destination.copy_(packed);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _isDisposed = true;
        _file.Dispose();
    }

    /// <summary>Reads a tensor's elements into a contiguous vector, piece by piece: it may be larger than a span can be.</summary>
    private void Fill(SafetensorsEntry entry, Tensor vector)
    {
        // Any byte but zero means true in a file; libtorch relies on zero and one, which a cast from bytes gives.
        var stored = entry.Dtype == ScalarType.Bool ? ScalarType.Byte : entry.Dtype;
        if (vector.dtype == stored && vector.device_type == TorchSharp.DeviceType.CPU)
        {
            ReadPieces(vector, entry.Begin, stored);
            return;
        }

        // While one part is cast or sent, the next is read.
        var count = vector.NumberOfElements;
        var most = Math.Min(count, Math.Max(1, (long)_pieceBytes / SafetensorsHeader.ElementBytes(stored)) * AtOnce.MaxDegreeOfParallelism);
        var staging = Enumerable.Range(0, most < count ? 2 : 1).Select(_ => Staging(most, stored, vector.device)).ToArray();
        var reading = Read(0);
        try
        {
            for (var (start, turn) = (0L, 0); start < count; start += most, turn++)
            {
                using var read = reading.GetAwaiter().GetResult();
                reading = start + most < count ? Read(start + most, turn + 1) : reading;
                using var part = vector.narrow(0, start, read.NumberOfElements);
                part.copy_(read);
            }
        }
        finally
        {
            // Nothing may write into memory that is given back.
            Task.WhenAny(reading).Wait();
        }

        Task<Tensor> Read(long start, int turn = 0)
        {
            var part = staging[turn % staging.Length].narrow(0, 0, Math.Min(most, count - start));
            var offset = entry.Begin + start * SafetensorsHeader.ElementBytes(stored);
            return Task.Run(() =>
            {
                ReadPieces(part, offset, stored);
                return part;
            });
        }
    }

    /// <summary>Memory to read into before a cast or a transfer, which is fastest from where pages are locked.</summary>
    private static Tensor Staging(long count, ScalarType stored, Device device)
    {
        var pageable = empty(count, stored, CPU);
        return device.type == TorchSharp.DeviceType.CUDA ? pageable.pin_memory() : pageable;
    }

    /// <summary>Reads the file from an offset into a contiguous vector of the CPU.</summary>
    private void ReadPieces(Tensor vector, long offset, ScalarType stored)
    {
        var elementBytes = SafetensorsHeader.ElementBytes(stored);
        var most = Math.Max(1, _pieceBytes / elementBytes);
        var pieces = (vector.NumberOfElements + most - 1) / most;
        if (pieces == 1)
        {
            Piece(0);
            return;
        }

        try
        {
            Parallel.For(0L, pieces, AtOnce, Piece);
        }
        catch (AggregateException e)
        {
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }

        void Piece(long piece)
        {
            using var scope = NewDisposeScope();
            var start = piece * most;
            var part = vector.narrow(0, start, Math.Min(most, vector.NumberOfElements - start));
            ReadExactly(_file, Path, part.bytes, offset + start * elementBytes);
        }
    }

    private static void ReadExactly(SafeFileHandle file, string path, Span<byte> destination, long offset)
    {
        while (destination.Length > 0)
        {
            int got;
            try
            {
                got = RandomAccess.Read(file, destination, offset);
            }
            catch (IOException e)
            {
                throw new CheckpointException($"{path}: the file cannot be read: {e.Message}", e);
            }

            if (got == 0)
            {
                throw new CheckpointException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"{path}: the file ends at byte {offset:N0} and has become shorter since it was opened; "
                    + $"it is being written, or damaged."));
            }

            destination = destination[got..];
            offset += got;
        }
    }
}
