using System.Buffers.Binary;
using System.Globalization;
using System.IO.Compression;
using System.Runtime.InteropServices;
using System.Text;

namespace XlstmLab.Exports;

/// <summary>An array with a name, as NumPy and safetensors hold it.</summary>
/// <param name="Name">The name.</param>
/// <param name="Values">The values row by row: an array of float, double, int, long, bool or string.</param>
/// <param name="Shape">The length of each dimension.</param>
public sealed record NamedArray(string Name, Array Values, params IReadOnlyList<int> Shape);

/// <summary>NumPy's <c>.npz</c>: a ZIP of arrays, one <c>.npy</c> each, read by <c>numpy.load</c>.</summary>
public static class NumpyFile
{
    private static readonly byte[] Magic = [0x93, .. "NUMPY"u8, 1, 0];

    /// <summary>Writes arrays. The file is whole or absent.</summary>
    /// <param name="path">The file, replaced if it is there.</param>
    /// <param name="arrays">The arrays, each name but once.</param>
    /// <exception cref="ArgumentException">An array is of another type, or its values are not as many as its shape says.</exception>
    /// <exception cref="IOException">The file cannot be written.</exception>
    public static void Write(string path, IEnumerable<NamedArray> arrays)
    {
        ArgumentNullException.ThrowIfNull(arrays);
        AtomicFile.Write(path, stream =>
        {
            using var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true);
            var names = new HashSet<string>(StringComparer.Ordinal);
            foreach (var array in arrays)
            {
                if (!names.Add(array.Name))
                {
                    throw new ArgumentException($"Two arrays are named '{array.Name}'.", nameof(arrays));
                }

                var entry = zip.CreateEntry(array.Name + ".npy", CompressionLevel.Fastest);
                entry.LastWriteTime = new DateTimeOffset(1980, 1, 1, 0, 0, 0, TimeSpan.Zero);
                using var content = entry.Open();
                Write(content, array);
            }
        });
    }

    private static void Write(Stream stream, NamedArray array)
    {
        if (array.Shape.Aggregate(1L, (product, length) => product * length) != array.Values.Length)
        {
            throw new ArgumentException(
                $"'{array.Name}' has {array.Values.Length} values, and its shape is [{string.Join(", ", array.Shape)}].", nameof(array));
        }

        var (type, values) = Bytes(array);
        var shape = string.Join(", ", array.Shape.Select(n => n.ToString(CultureInfo.InvariantCulture)))
            + (array.Shape.Count == 1 ? "," : "");
        var header = $"{{'descr': '{type}', 'fortran_order': False, 'shape': ({shape}), }}";

        // The data begin at a multiple of 64, after a line feed.
        var padded = (Magic.Length + 2 + header.Length + 1 + 63) / 64 * 64 - Magic.Length - 2;
        var length = new byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(length, checked((ushort)padded));
        stream.Write(Magic);
        stream.Write(length);
        stream.Write(Encoding.ASCII.GetBytes(header.PadRight(padded - 1) + "\n"));
        stream.Write(values);
    }

    private static (string Type, byte[] Bytes) Bytes(NamedArray array) => array.Values switch
    {
        float[] values => ("<f4", MemoryMarshal.AsBytes<float>(values).ToArray()),
        double[] values => ("<f8", MemoryMarshal.AsBytes<double>(values).ToArray()),
        int[] values => ("<i4", MemoryMarshal.AsBytes<int>(values).ToArray()),
        long[] values => ("<i8", MemoryMarshal.AsBytes<long>(values).ToArray()),
        bool[] values => ("|b1", MemoryMarshal.AsBytes<bool>(values).ToArray()),
        string[] values => Characters(values),
        _ => throw new ArgumentException(
            $"'{array.Name}' is a {array.Values.GetType().Name}; expected float, double, int, long, bool or string."),
    };

    /// <summary>Texts as NumPy holds them: UTF-32, each as long as the longest.</summary>
    private static (string Type, byte[] Bytes) Characters(string[] values)
    {
        var runes = values.Select(v => v.EnumerateRunes().Select(r => r.Value).ToArray()).ToArray();
        var width = Math.Max(1, runes.Select(r => r.Length).DefaultIfEmpty().Max());
        var codes = new int[values.Length * width];
        for (var row = 0; row < values.Length; row++)
        {
            runes[row].CopyTo(codes.AsSpan(row * width));
        }

        return (string.Create(CultureInfo.InvariantCulture, $"<U{width}"), MemoryMarshal.AsBytes<int>(codes).ToArray());
    }
}
