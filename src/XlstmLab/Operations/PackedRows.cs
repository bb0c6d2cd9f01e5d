using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace XlstmLab.Operations;

/// <summary>A copy of a float32 matrix in fewer bits, which follows it.</summary>
internal sealed unsafe class PackedRows : IDisposable
{
    private readonly float* _source;
    private readonly int _rows;
    private readonly int _columns;

    /// <summary>Room for a copy, to be filled by <see cref="Pack"/>.</summary>
    /// <param name="format">Not float32, which is read where it is.</param>
    /// <param name="source">[rows, columns], which lives longer.</param>
    /// <param name="rows">The rows.</param>
    /// <param name="columns">The columns.</param>
    public PackedRows(WeightFormat format, float* source, int rows, int columns)
    {
        (Format, _rows, _columns) = (format, rows, columns);
        _source = source;
        Data = NativeMemory.AlignedAlloc((nuint)((nint)rows * columns * Size(format)), 64);
        Scales = format == WeightFormat.Int8 ? (float*)NativeMemory.AlignedAlloc((nuint)rows * sizeof(float), 64) : null;
    }

    /// <summary>What the elements are.</summary>
    public WeightFormat Format { get; }

    /// <summary>[rows, columns].</summary>
    public void* Data { get; }

    /// <summary>[rows]: the unit of each row's whole numbers; null where there are none.</summary>
    public float* Scales { get; }

    /// <summary>The bytes of an element.</summary>
    public static int Size(WeightFormat format) => format switch
    {
        WeightFormat.Float32 => sizeof(float),
        WeightFormat.BFloat16 => sizeof(ushort),
        WeightFormat.Int8 => sizeof(sbyte),
        _ => throw UnknownValue.Of(format),
    };

    /// <summary>Makes the copy, anew where there is one.</summary>
    public void Pack() => CpuMemory.Share(_rows, (long)_rows * _columns, row =>
    {
        var source = new ReadOnlySpan<float>(_source + (nint)row * _columns, _columns);
        switch (Format)
        {
            case WeightFormat.BFloat16:
                var halves = new Span<ushort>((ushort*)Data + (nint)row * _columns, _columns);
                for (var k = 0; k < halves.Length; k++)
                {
                    halves[k] = UpperHalves.Of(source[k]);
                }

                break;
            case WeightFormat.Int8:
                Scales[row] = ToWholeNumbers(source, new((sbyte*)Data + (nint)row * _columns, _columns));
                break;
            default:
                throw UnknownValue.Of(Format);
        }
    });

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

        var numbers = new sbyte[columns];
        for (; rows.Length > 0; rows = rows[columns..])
        {
            var row = rows[..columns];
            if (format == WeightFormat.BFloat16)
            {
                foreach (ref var x in row)
                {
                    x = UpperHalves.Widen(UpperHalves.Of(x));
                }

                continue;
            }

            _ = format.Known();
            var scale = ToWholeNumbers(row, numbers);
            for (var k = 0; k < columns; k++)
            {
                row[k] = numbers[k] * scale;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(Data);
        NativeMemory.AlignedFree(Scales);
    }

    /// <summary>Rounds a row to multiples of its unit, 127 of which are its largest number; the unit.</summary>
    /// <remarks>
    /// A unit has 16 bits of fraction, so that its multiples are floats and rounding what is rounded changes nothing. A row that is not finite keeps
    /// a unit that is not, which its products show.
    /// </remarks>
    private static float ToWholeNumbers(ReadOnlySpan<float> row, Span<sbyte> numbers)
    {
        const int droppedBits = 7;
        var largest = MathF.Abs(TensorPrimitives.MaxMagnitude(row));
        var up = BitConverter.SingleToInt32Bits(largest / 127) + (1 << droppedBits) - 1;
        var unit = float.IsFinite(largest) ? BitConverter.Int32BitsToSingle(up >> droppedBits << droppedBits) : float.NaN;
        for (var k = 0; k < row.Length; k++)
        {
            numbers[k] = unit > 0 ? (sbyte)Math.Clamp(MathF.Round(row[k] / unit), -127, 127) : (sbyte)0;
        }

        return unit;
    }
}
