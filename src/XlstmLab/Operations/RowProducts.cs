using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace XlstmLab.Operations;

/// <summary>What a matrix's elements are kept as.</summary>
public enum WeightFormat
{
    /// <summary>32 bits: the weights as they are.</summary>
    Float32,

    /// <summary>bfloat16, the upper 16 bits, rounded to nearest even.</summary>
    BFloat16,

    /// <summary>8 bits: whole numbers from -127 to 127, in units of a number that each row has of its own.</summary>
    Int8,

    /// <summary>
    /// 8 bits: e4m3, of 4 bits of exponent and 3 of fraction, up to 448, in units of a number that each row has of its own. Read by kernels
    /// of a GPU only.
    /// </summary>
    Float8,
}

/// <summary>y = W x of a few vectors x, on the CPU, by vectors as wide as the machine has: as fast as W comes from memory.</summary>
/// <remarks>
/// The elements of W become float32 in registers; sums are float32. An element of y is summed in the same order whatever stands beside it,
/// and however the rows of W are shared out.
/// </remarks>
internal static unsafe class RowProducts
{
    /// <summary>
    /// How many rows before it is read a narrow row is asked for: the machine looks ahead by itself, but not past the end of a page, of
    /// which narrow rows have so few that it was half as fast.
    /// </summary>
    private const int Ahead = 8;

    /// <summary>y = scale (W x) + bias.</summary>
    /// <param name="w">[outputs, inputs], contiguous.</param>
    /// <param name="format">What its elements are; not <see cref="WeightFormat.Float8"/>.</param>
    /// <param name="scales">[outputs], or null: what is multiplied to each row.</param>
    /// <param name="outputs">The width of y.</param>
    /// <param name="inputs">The width of x.</param>
    /// <param name="bias">[outputs], or null.</param>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="xRow">The elements from one row of x to the next.</param>
    /// <param name="rows">The rows of x and y.</param>
    /// <param name="y">[rows, outputs].</param>
    /// <param name="yRow">The elements from one row of y to the next.</param>
    public static void Multiply(
        void* w, WeightFormat format, float* scales, int outputs, int inputs, float* bias, float* x, nint xRow, int rows, float* y,
        nint yRow)
    {
        switch (format)
        {
            case WeightFormat.Float32:
                Multiply((float*)w, outputs, inputs, x, xRow, rows, y, yRow);
                break;
            case WeightFormat.BFloat16:
                Multiply((ushort*)w, outputs, inputs, x, xRow, rows, y, yRow);
                break;
            case WeightFormat.Int8:
                Multiply((sbyte*)w, outputs, inputs, x, xRow, rows, y, yRow);
                break;
            default:
                throw UnknownValue.Of(format);
        }

        for (var row = 0; row < rows; row++)
        {
            if (scales is not null)
            {
                VectorLoops.Multiply(y + row * yRow, scales, outputs);
            }

            if (bias is not null)
            {
                VectorLoops.Add(y + row * yRow, bias, outputs);
            }
        }
    }

    private static void Multiply<T>(T* w, int outputs, int inputs, float* x, nint xRow, int rows, float* y, nint yRow)
        where T : unmanaged
    {
        if (Vector512.IsHardwareAccelerated)
        {
            Multiply<T, Vector512<float>, Lanes512>(w, outputs, inputs, x, xRow, rows, y, yRow);
        }
        else
        {
            Multiply<T, Vector256<float>, Lanes256>(w, outputs, inputs, x, xRow, rows, y, yRow);
        }
    }

    /// <summary>The sums with vectors of one width, which a test compares with the other.</summary>
    internal static void Multiply<T, TVector, TLanes>(T* w, int outputs, int inputs, float* x, nint xRow, int rows, float* y, nint yRow)
        where T : unmanaged
        where TVector : struct
        where TLanes : struct, ILanes<TVector>
    {
        var row = 0;

        // A pair of W's rows is widened once for four vectors.
        for (; row <= rows - 4; row += 4)
        {
            var output = 0;
            for (; output <= outputs - 2; output += 2)
            {
                TwoByFour<T, TVector, TLanes>(w + (nint)output * inputs, inputs, x + row * xRow, xRow, y + row * yRow + output, yRow);
            }

            for (var k = row; output < outputs && k < row + 4; k++)
            {
                y[k * yRow + output] = One<T, TVector, TLanes>(w + (nint)output * inputs, inputs, x + k * xRow);
            }
        }

        var rest = 0;
        for (; rest <= outputs - 4; rest += 4)
        {
            for (var k = row; k < rows; k++)
            {
                Four<T, TVector, TLanes>(w + (nint)rest * inputs, inputs, x + k * xRow, y + k * yRow + rest);
            }
        }

        for (; rest < outputs; rest++)
        {
            for (var k = row; k < rows; k++)
            {
                y[k * yRow + rest] = One<T, TVector, TLanes>(w + (nint)rest * inputs, inputs, x + k * xRow);
            }
        }
    }

    /// <summary>The products of x with four rows that follow each other.</summary>
    /// <remarks>Nothing is called before the sums are stored: they would leave their registers in every round for it.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Four<T, TVector, TLanes>(T* w, int count, float* x, float* sums)
        where T : unmanaged
        where TVector : struct
        where TLanes : struct, ILanes<TVector>
    {
        T* w1 = w + count, w2 = w1 + count, w3 = w2 + count;
        TVector s0 = default, s1 = default, s2 = default, s3 = default, t0 = default, t1 = default, t2 = default, t3 = default;
        var k = 0;
        for (; k <= count - 2 * TLanes.Count; k += 2 * TLanes.Count)
        {
            if (sizeof(T) < sizeof(float) && Sse.IsSupported)
            {
                Sse.Prefetch0(w + k + Ahead * (nint)count);
                Sse.Prefetch0(w1 + k + Ahead * (nint)count);
                Sse.Prefetch0(w2 + k + Ahead * (nint)count);
                Sse.Prefetch0(w3 + k + Ahead * (nint)count);
            }

            TVector x0 = TLanes.Load(x + k), x1 = TLanes.Load(x + k + TLanes.Count);
            s0 = TLanes.MultiplyAdd(TLanes.Load(w + k), x0, s0);
            t0 = TLanes.MultiplyAdd(TLanes.Load(w + k + TLanes.Count), x1, t0);
            s1 = TLanes.MultiplyAdd(TLanes.Load(w1 + k), x0, s1);
            t1 = TLanes.MultiplyAdd(TLanes.Load(w1 + k + TLanes.Count), x1, t1);
            s2 = TLanes.MultiplyAdd(TLanes.Load(w2 + k), x0, s2);
            t2 = TLanes.MultiplyAdd(TLanes.Load(w2 + k + TLanes.Count), x1, t2);
            s3 = TLanes.MultiplyAdd(TLanes.Load(w3 + k), x0, s3);
            t3 = TLanes.MultiplyAdd(TLanes.Load(w3 + k + TLanes.Count), x1, t3);
        }

        if (k <= count - TLanes.Count)
        {
            var x0 = TLanes.Load(x + k);
            s0 = TLanes.MultiplyAdd(TLanes.Load(w + k), x0, s0);
            s1 = TLanes.MultiplyAdd(TLanes.Load(w1 + k), x0, s1);
            s2 = TLanes.MultiplyAdd(TLanes.Load(w2 + k), x0, s2);
            s3 = TLanes.MultiplyAdd(TLanes.Load(w3 + k), x0, s3);
            k += TLanes.Count;
        }

        sums[0] = TLanes.Sum(s0, t0);
        sums[1] = TLanes.Sum(s1, t1);
        sums[2] = TLanes.Sum(s2, t2);
        sums[3] = TLanes.Sum(s3, t3);
        for (var output = 0; k < count && output < 4; output++)
        {
            sums[output] = Rest(w + (nint)output * count, count, x, k, sums[output]);
        }
    }

    /// <summary>The products of two rows that follow each other with four vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void TwoByFour<T, TVector, TLanes>(T* w, int count, float* x, nint xRow, float* y, nint yRow)
        where T : unmanaged
        where TVector : struct
        where TLanes : struct, ILanes<TVector>
    {
        T* w1 = w + count;
        float* x1 = x + xRow, x2 = x1 + xRow, x3 = x2 + xRow;
        TVector s00 = default, s01 = default, s02 = default, s03 = default, s10 = default, s11 = default, s12 = default, s13 = default;
        TVector t00 = default, t01 = default, t02 = default, t03 = default, t10 = default, t11 = default, t12 = default, t13 = default;
        var k = 0;
        for (; k <= count - 2 * TLanes.Count; k += 2 * TLanes.Count)
        {
            if (sizeof(T) < sizeof(float) && Sse.IsSupported)
            {
                Sse.Prefetch0(w + k + Ahead * (nint)count);
                Sse.Prefetch0(w1 + k + Ahead * (nint)count);
            }

            TVector a = TLanes.Load(w + k), b = TLanes.Load(w1 + k);
            s00 = TLanes.MultiplyAdd(a, TLanes.Load(x + k), s00);
            s10 = TLanes.MultiplyAdd(b, TLanes.Load(x + k), s10);
            s01 = TLanes.MultiplyAdd(a, TLanes.Load(x1 + k), s01);
            s11 = TLanes.MultiplyAdd(b, TLanes.Load(x1 + k), s11);
            s02 = TLanes.MultiplyAdd(a, TLanes.Load(x2 + k), s02);
            s12 = TLanes.MultiplyAdd(b, TLanes.Load(x2 + k), s12);
            s03 = TLanes.MultiplyAdd(a, TLanes.Load(x3 + k), s03);
            s13 = TLanes.MultiplyAdd(b, TLanes.Load(x3 + k), s13);
            var next = k + TLanes.Count;
            (a, b) = (TLanes.Load(w + next), TLanes.Load(w1 + next));
            t00 = TLanes.MultiplyAdd(a, TLanes.Load(x + next), t00);
            t10 = TLanes.MultiplyAdd(b, TLanes.Load(x + next), t10);
            t01 = TLanes.MultiplyAdd(a, TLanes.Load(x1 + next), t01);
            t11 = TLanes.MultiplyAdd(b, TLanes.Load(x1 + next), t11);
            t02 = TLanes.MultiplyAdd(a, TLanes.Load(x2 + next), t02);
            t12 = TLanes.MultiplyAdd(b, TLanes.Load(x2 + next), t12);
            t03 = TLanes.MultiplyAdd(a, TLanes.Load(x3 + next), t03);
            t13 = TLanes.MultiplyAdd(b, TLanes.Load(x3 + next), t13);
        }

        if (k <= count - TLanes.Count)
        {
            TVector a = TLanes.Load(w + k), b = TLanes.Load(w1 + k);
            s00 = TLanes.MultiplyAdd(a, TLanes.Load(x + k), s00);
            s10 = TLanes.MultiplyAdd(b, TLanes.Load(x + k), s10);
            s01 = TLanes.MultiplyAdd(a, TLanes.Load(x1 + k), s01);
            s11 = TLanes.MultiplyAdd(b, TLanes.Load(x1 + k), s11);
            s02 = TLanes.MultiplyAdd(a, TLanes.Load(x2 + k), s02);
            s12 = TLanes.MultiplyAdd(b, TLanes.Load(x2 + k), s12);
            s03 = TLanes.MultiplyAdd(a, TLanes.Load(x3 + k), s03);
            s13 = TLanes.MultiplyAdd(b, TLanes.Load(x3 + k), s13);
            k += TLanes.Count;
        }

        (y[0], y[1]) = (TLanes.Sum(s00, t00), TLanes.Sum(s10, t10));
        (y[yRow], y[yRow + 1]) = (TLanes.Sum(s01, t01), TLanes.Sum(s11, t11));
        (y[2 * yRow], y[2 * yRow + 1]) = (TLanes.Sum(s02, t02), TLanes.Sum(s12, t12));
        (y[3 * yRow], y[3 * yRow + 1]) = (TLanes.Sum(s03, t03), TLanes.Sum(s13, t13));
        for (var row = 0; k < count && row < 4; row++)
        {
            y[row * yRow] = Rest(w, count, x + row * xRow, k, y[row * yRow]);
            y[row * yRow + 1] = Rest(w1, count, x + row * xRow, k, y[row * yRow + 1]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float One<T, TVector, TLanes>(T* w, int count, float* x)
        where T : unmanaged
        where TVector : struct
        where TLanes : struct, ILanes<TVector>
    {
        TVector s = default, t = default;
        var k = 0;
        for (; k <= count - 2 * TLanes.Count; k += 2 * TLanes.Count)
        {
            s = TLanes.MultiplyAdd(TLanes.Load(w + k), TLanes.Load(x + k), s);
            t = TLanes.MultiplyAdd(TLanes.Load(w + k + TLanes.Count), TLanes.Load(x + k + TLanes.Count), t);
        }

        if (k <= count - TLanes.Count)
        {
            s = TLanes.MultiplyAdd(TLanes.Load(w + k), TLanes.Load(x + k), s);
            k += TLanes.Count;
        }

        return Rest(w, count, x, k, TLanes.Sum(s, t));
    }

    private static float Rest<T>(T* w, int count, float* x, int first, float sum)
        where T : unmanaged
    {
        for (var k = first; k < count; k++)
        {
            var element = typeof(T) == typeof(float) ? *(float*)(w + k)
                : typeof(T) == typeof(ushort) ? UpperHalves.Widen(*(ushort*)(w + k))
                : *(sbyte*)(w + k);
            sum += element * x[k];
        }

        return sum;
    }
}

/// <summary>Vectors of floats of one width.</summary>
[SuppressMessage("Design", "CA1000", Justification = "The width is chosen by a type argument.")]
internal unsafe interface ILanes<TVector>
    where TVector : struct
{
    /// <summary>The elements of a vector.</summary>
    static abstract int Count { get; }

    /// <summary>As many elements, widened to floats: float, the upper halves of floats (ushort), or sbyte.</summary>
    static abstract TVector Load<T>(T* source)
        where T : unmanaged;

    /// <summary>left * right + sum, rounded once where the machine can.</summary>
    static abstract TVector MultiplyAdd(TVector left, TVector right, TVector sum);

    /// <summary>The sum of the elements of both.</summary>
    static abstract float Sum(TVector one, TVector other);
}

/// <summary>16 floats: AVX-512.</summary>
internal readonly struct Lanes512 : ILanes<Vector512<float>>
{
    /// <inheritdoc/>
    public static int Count => Vector512<float>.Count;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector512<float> Load<T>(T* source)
        where T : unmanaged
    {
        if (typeof(T) == typeof(float))
        {
            return Vector512.Load((float*)source);
        }

        if (typeof(T) == typeof(ushort))
        {
            return (Vector512.WidenLower(Vector256.Load((ushort*)source).ToVector512Unsafe()) << 16).AsSingle();
        }

        var bytes = Vector128.Load((sbyte*)source);
        return Vector512.ConvertToSingle(Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(bytes)
            : Vector512.WidenLower(Vector256.WidenLower(bytes.ToVector256Unsafe()).ToVector512Unsafe()));
    }

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyAdd(Vector512<float> left, Vector512<float> right, Vector512<float> sum) =>
        Vector512.MultiplyAddEstimate(left, right, sum);

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector512<float> one, Vector512<float> other) => Vector512.Sum(one + other);
}

/// <summary>8 floats: AVX2, or two halves where a machine has 4.</summary>
internal readonly struct Lanes256 : ILanes<Vector256<float>>
{
    /// <inheritdoc/>
    public static int Count => Vector256<float>.Count;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector256<float> Load<T>(T* source)
        where T : unmanaged
    {
        if (typeof(T) == typeof(float))
        {
            return Vector256.Load((float*)source);
        }

        if (typeof(T) == typeof(ushort))
        {
            return (Vector256.WidenLower(Vector128.Load((ushort*)source).ToVector256Unsafe()) << 16).AsSingle();
        }

        var bytes = Vector128.CreateScalarUnsafe(*(long*)source).AsSByte();
        return Vector256.ConvertToSingle(Avx2.IsSupported
            ? Avx2.ConvertToVector256Int32(bytes)
            : Vector256.WidenLower(Vector128.WidenLower(bytes).ToVector256Unsafe()));
    }

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MultiplyAdd(Vector256<float> left, Vector256<float> right, Vector256<float> sum) =>
        Vector256.MultiplyAddEstimate(left, right, sum);

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(Vector256<float> one, Vector256<float> other) => Vector256.Sum(one + other);
}
