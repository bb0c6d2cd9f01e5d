using System.IO.MemoryMappedFiles;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace XlstmLab.Checkpoints;

/// <summary>A safetensors file, mapped into memory: opening reads the header only, and tensors are copied out when asked for.</summary>
/// <remarks>
/// The header is checked as a whole before anything is used. Reading is thread-safe. The file must not be shortened by others while it is
/// open; files written by <see cref="Safetensors"/> never are, since a new file takes the place of the old one.
/// </remarks>
public sealed class SafetensorsFile : IDisposable
{
    /// <summary>The bytes copied at a time: enough for full speed, little beside a tensor that is cast or sent to a device.</summary>
    internal const int DefaultPieceBytes = 16 << 20;

    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, SafetensorsEntry> _entries;
    private readonly int _pieceBytes;
    private bool _isDisposed;

    private SafetensorsFile(string path, SafetensorsHeader header, MemoryMappedFile map, int pieceBytes)
    {
        Path = path;
        Metadata = header.Metadata;
        Names = [.. header.Entries.Select(entry => entry.Name)];
        SizeInBytes = header.Entries.Sum(entry => entry.SizeInBytes);
        _entries = header.Entries.ToDictionary(entry => entry.Name, StringComparer.Ordinal);
        _map = map;
        _view = map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
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
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, bufferSize: 0);
            Span<byte> prefix = stackalloc byte[SafetensorsHeader.PrefixBytes];
            var got = stream.ReadAtLeast(prefix, prefix.Length, throwOnEndOfStream: false);
            var text = new byte[SafetensorsHeader.ParseLength(prefix[..got], stream.Length, path)];
            stream.ReadExactly(text);
            var header = SafetensorsHeader.Parse(text, stream.Length, path);
            var map = MemoryMappedFile.CreateFromFile(
                stream, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
            try
            {
                return new SafetensorsFile(path, header, map, pieceBytes);
            }
            catch
            {
                map.Dispose();
                throw;
            }
        }
        catch (Exception e) when (e is IOException and not CheckpointException or UnauthorizedAccessException)
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
                $"{Path}: tensor {CheckpointException.Quote(name)} has shape [{string.Join(", ", entry.Shape)}]; [{string.Join(", ", target.shape)}] was expected.");
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
        _view.Dispose();
        _map.Dispose();
    }

    /// <summary>Copies a tensor's elements into a contiguous vector, piece by piece: it may be larger than a span can be.</summary>
    private void Fill(SafetensorsEntry entry, Tensor vector)
    {
        // Any byte but zero means true in a file; libtorch relies on zero and one, which a cast from bytes gives.
        var stored = entry.Dtype == ScalarType.Bool ? ScalarType.Byte : entry.Dtype;
        var direct = vector.dtype == stored && vector.device_type == TorchSharp.DeviceType.CPU;
        var elementBytes = SafetensorsHeader.ElementBytes(stored);
        var count = vector.NumberOfElements;
        var most = Math.Min(count, Math.Max(1, _pieceBytes / elementBytes));
        var staging = direct ? null : empty(most, stored, CPU);
        for (var start = 0L; start < count; start += most)
        {
            using var scope = NewDisposeScope();
            var length = Math.Min(most, count - start);
            var part = vector.narrow(0, start, length);
            var piece = staging?.narrow(0, 0, length) ?? part;
            CopyBytes(entry.Begin + start * elementBytes, piece.bytes);
            if (staging is not null)
            {
                part.copy_(piece);
            }
        }
    }

    private unsafe void CopyBytes(long offset, Span<byte> destination)
    {
        SafeMemoryMappedViewHandle handle = _view.SafeMemoryMappedViewHandle;
        byte* start = null;
        try
        {
            handle.AcquirePointer(ref start);
            new ReadOnlySpan<byte>(start + offset, destination.Length).CopyTo(destination);
        }
        finally
        {
            if (start is not null)
            {
                handle.ReleasePointer();
            }
        }
    }
}
