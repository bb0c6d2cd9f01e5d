using System.Runtime.InteropServices;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Operations;

/// <summary>A copy of a float32 matrix in fewer bits, which follows it.</summary>
internal sealed unsafe class PackedRows : IDisposable
{
    /// <summary>What a piece of a matrix takes in float32, where it is rounded piece by piece.</summary>
    private const long PieceBytes = 64 << 20;

    private const float LargestWhole = 127;

    private readonly float* _source;
    private readonly int _rows;
    private readonly int _columns;

    /// <summary>Room for a copy, to be filled by <see cref="Pack()"/>.</summary>
    /// <param name="format">Not float32, which is read where it is.</param>
    /// <param name="source">[rows, columns], which lives longer.</param>
    /// <param name="rows">The rows.</param>
    /// <param name="columns">The columns.</param>
    public PackedRows(WeightFormat format, float* source, int rows, int columns)
    {
        (Format, _rows, _columns) = (format, rows, columns);
        _source = source;
        Data = NativeMemory.AlignedAlloc((nuint)((nint)rows * columns * Size(format)), 64);
        Scales = HasUnits(format) ? (float*)NativeMemory.AlignedAlloc((nuint)rows * sizeof(float), 64) : null;
    }

    /// <summary>What the elements are.</summary>
    public WeightFormat Format { get; }

    /// <summary>[rows, columns].</summary>
    public void* Data { get; }

    /// <summary>[rows]: the unit of each row's numbers; null where there are none.</summary>
    public float* Scales { get; }

    /// <summary>The bytes of an element.</summary>
    public static int Size(WeightFormat format) => format switch
    {
        WeightFormat.Float32 => sizeof(float),
        WeightFormat.BFloat16 => sizeof(ushort),
        WeightFormat.Int8 => sizeof(sbyte),
        WeightFormat.Float8 => sizeof(byte),
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>Whether the rows of a format have a unit each.</summary>
    public static bool HasUnits(WeightFormat format) => format.Known() is WeightFormat.Int8 or WeightFormat.Float8;

    /// <summary>Makes the copy, anew where there is one.</summary>
    public void Pack() => Pack(Format, _source, _rows, _columns, Data, Scales);

    /// <summary>Writes a copy of a matrix.</summary>
    /// <param name="format">Not float32.</param>
    /// <param name="source">[rows, columns].</param>
    /// <param name="rows">The rows.</param>
    /// <param name="columns">The columns.</param>
    /// <param name="data">[rows, columns], of as many bytes as <see cref="Size"/> says.</param>
    /// <param name="scales">[rows], where the format <see cref="HasUnits"/>.</param>
    public static void Pack(WeightFormat format, float* source, int rows, int columns, void* data, float* scales)
    {
        CpuMemory.Share(rows, (long)rows * columns, PackRow);

        void PackRow(int row)
        {
            var start = (nint)row * columns;
            var from = new ReadOnlySpan<float>(source + start, columns);
            switch (format)
            {
                case WeightFormat.BFloat16:
                    var halves = new Span<ushort>((ushort*)data + start, columns);
                    for (var k = 0; k < halves.Length; k++)
                    {
                        halves[k] = UpperHalves.Of(from[k]);
                    }

                    break;
                case WeightFormat.Int8:
                    scales[row] = ToWholeNumbers(from, new((sbyte*)data + start, columns));
                    break;
                case WeightFormat.Float8:
                    scales[row] = ToFloat8(from, new((byte*)data + start, columns));
                    break;
                default:
                    throw UnknownValue.Of(format);
            }
        }
    }

    /// <summary>
    /// Writes a copy of a matrix where it lies, by libtorch's operations: the same numbers and units, bit for bit, as the loops make. No
    /// more of the matrix than a piece is in float32 at once.
    /// </summary>
    /// <param name="format">One whose rows have units.</param>
    /// <param name="weight">[rows, columns], float32 or narrower.</param>
    /// <param name="numbers">[rows, columns], int8, or bytes for e4m3.</param>
    /// <param name="units">[rows] float32.</param>
    /// <param name="pieceBytes">What a piece takes in float32; a row at least is one.</param>
    public static void Pack(WeightFormat format, Tensor weight, Tensor numbers, Tensor units, long pieceBytes = PieceBytes)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var largest = empty(weight.shape[0], ScalarType.Float32, weight.device);
        ForPieces(
            weight, pieceBytes, (first, count) => largest.narrow(0, first, count).copy_(weight.narrow(0, first, count).abs().amax([1])));
        float[] each = [.. largest.cpu().data<float>().Select(x => Unit(x, format == WeightFormat.Int8 ? LargestWhole : Float8.Largest))];
        units.copy_(tensor(each));
        var boundaries = format == WeightFormat.Float8 ? tensor(Float8.Boundaries(), device: weight.device) : null;
        ForPieces(weight, pieceBytes, (first, count) =>
        {
            var unit = units.narrow(0, first, count).unsqueeze(1); // (rows, 1)
            var multiples = (weight.narrow(0, first, count).to(ScalarType.Float32) / unit).masked_fill_(unit.gt(0).logical_not(), 0);
            numbers.narrow(0, first, count).copy_(format switch
            {
                WeightFormat.Int8 => multiples.round_().clamp_(-LargestWhole, LargestWhole),
                WeightFormat.Float8 => bucketize(multiples.abs(), boundaries!, outInt32: true, right: true).add_(multiples.signbit(), 0x80),
                _ => throw UnknownValue.Of(format),
            });
        });
    }

    /// <summary>Gives a matrix the values that its copy in fewer bits has, where it lies: bit for bit those of the loops.</summary>
    /// <param name="format">The copy's.</param>
    /// <param name="weight">[..., columns] in one piece, changed.</param>
    /// <param name="pieceBytes">What a piece takes in float32; a row at least is one.</param>
    public static void Round(WeightFormat format, Tensor weight, long pieceBytes = PieceBytes)
    {
        if (format == WeightFormat.Float32)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var matrix = weight.view(-1, weight.shape[^1]);
        if (format == WeightFormat.BFloat16)
        {
            ForPieces(matrix, pieceBytes, (first, count) =>
            {
                var rows = matrix.narrow(0, first, count);
                rows.copy_(rows.to(ScalarType.BFloat16));
            });
            return;
        }

        var numbers = empty(matrix.shape, format == WeightFormat.Int8 ? ScalarType.Int8 : ScalarType.Byte, weight.device);
        var units = empty(matrix.shape[0], ScalarType.Float32, weight.device);
        Pack(format, matrix, numbers, units, pieceBytes);
        float[] each = format == WeightFormat.Float8 ? [.. Enumerable.Range(0, 1 << 8).Select(code => Float8.Widen((byte)code))] : [];
        var values = tensor(each, device: weight.device);
        ForPieces(matrix, pieceBytes, (first, count) =>
        {
            var rows = numbers.narrow(0, first, count);
            var multiples = format == WeightFormat.Float8
                ? values.index_select(0, rows.flatten().to(ScalarType.Int32)).view(rows.shape) : rows.to(ScalarType.Float32);
            matrix.narrow(0, first, count).copy_(multiples * units.narrow(0, first, count).unsqueeze(1));
        });
    }

    /// <summary>Gives float32 rows the values that their copy in fewer bits has.</summary>
    /// <param name="format">The copy's.</param>
    /// <param name="rows">[rows, columns].</param>
    /// <param name="columns">The columns.</param>
    public static void Round(WeightFormat format, Span<float> rows, int columns)
    {
        if (format == WeightFormat.Float32)
        {
            return;
        }

        var numbers = new byte[columns];
        for (; rows.Length > 0; rows = rows[columns..])
        {
            var row = rows[..columns];
            switch (format)
            {
                case WeightFormat.BFloat16:
                    foreach (ref var x in row)
                    {
                        x = UpperHalves.Widen(UpperHalves.Of(x));
                    }

                    break;
                case WeightFormat.Int8:
                    var whole = MemoryMarshal.Cast<byte, sbyte>(numbers.AsSpan());
                    var unit = ToWholeNumbers(row, whole);
                    for (var k = 0; k < columns; k++)
                    {
                        row[k] = whole[k] * unit;
                    }

                    break;
                case WeightFormat.Float8:
                    var scale = ToFloat8(row, numbers);
                    for (var k = 0; k < columns; k++)
                    {
                        row[k] = Float8.Widen(numbers[k]) * scale;
                    }

                    break;
                default:
                    throw UnknownValue.Of(format);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(Data);
        NativeMemory.AlignedFree(Scales);
    }

    /// <summary>Goes through a matrix by as many rows as take so many bytes in float32.</summary>
    private static void ForPieces(Tensor matrix, long pieceBytes, Action<long, long> read)
    {
        var (rows, most) = (matrix.shape[0], Math.Max(1, pieceBytes / (sizeof(float) * matrix.shape[1])));
        for (var first = 0L; first < rows; first += most)
        {
            using var scope = NewDisposeScope();
            read(first, Math.Min(most, rows - first));
        }
    }

    /// <summary>Rounds a row to multiples of its unit, 127 of which are its largest number; the unit.</summary>
    private static float ToWholeNumbers(ReadOnlySpan<float> row, Span<sbyte> numbers)
    {
        var unit = Unit(Largest(row), LargestWhole);
        for (var k = 0; k < row.Length; k++)
        {
            numbers[k] = unit > 0 ? (sbyte)Math.Clamp(MathF.Round(row[k] / unit), -LargestWhole, LargestWhole) : (sbyte)0;
        }

        return unit;
    }

    /// <summary>Rounds a row to e4m3 times its unit, 448 of which are its largest number; the unit.</summary>
    private static float ToFloat8(ReadOnlySpan<float> row, Span<byte> numbers)
    {
        var unit = Unit(Largest(row), Float8.Largest);
        for (var k = 0; k < row.Length; k++)
        {
            numbers[k] = unit > 0 ? Float8.Of(row[k] / unit) : (byte)0;
        }

        return unit;
    }

    private static float Largest(ReadOnlySpan<float> row) => MathF.Abs(TensorPrimitives.MaxMagnitude(row));

    /// <summary>What a row's largest number has so many of.</summary>
    /// <remarks>
    /// A unit has 16 bits of fraction, so that its multiples are floats and rounding what is rounded changes nothing. A row that is not
    /// finite keeps a unit that is not, which its products show.
    /// </remarks>
    private static float Unit(float largest, float count)
    {
        const int droppedBits = 7;
        var up = BitConverter.SingleToInt32Bits(largest / count) + (1 << droppedBits) - 1;
        return float.IsFinite(largest) ? BitConverter.Int32BitsToSingle(up >> droppedBits << droppedBits) : float.NaN;
    }
}
