using System.Numerics;
using System.Runtime.CompilerServices;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>Products of small matrices that lie in the nearest caches.</summary>
/// <remarks>An element's products are added in the order of the depth, whatever stands beside it.</remarks>
internal static unsafe class MatrixLoops
{
    /// <summary>The elements of a vector.</summary>
    public static int Width => Vector<float>.Count;

    /// <summary>A number of columns rounded up to whole vectors.</summary>
    public static int Padded(int columns) => (columns + Width - 1) / Width * Width;

    /// <summary>c = a b, or c += a b.</summary>
    /// <param name="a">[rows, depth] at any distances.</param>
    /// <param name="aRow">The elements from one row of a to the next.</param>
    /// <param name="aDepth">Those from one column to the next.</param>
    /// <param name="rows">The rows of a and c.</param>
    /// <param name="depth">The columns of a and rows of b.</param>
    /// <param name="b">[depth, columns].</param>
    /// <param name="bRow">The elements from one row of b to the next.</param>
    /// <param name="columns">The columns of b and c; what is left of the last vector is neither read nor written.</param>
    /// <param name="c">[rows, columns].</param>
    /// <param name="cRow">The elements from one row of c to the next.</param>
    /// <param name="add">Whether c counts.</param>
    public static void Multiply(
        float* a, nint aRow, nint aDepth, int rows, int depth, float* b, nint bRow, int columns, float* c, nint cRow, bool add)
    {
        var column = 0;
        for (; column <= columns - 2 * Width; column += 2 * Width)
        {
            var row = 0;
            for (; row <= rows - 6; row += 6)
            {
                SixByTwo(a + row * aRow, aRow, aDepth, depth, b + column, bRow, c + row * cRow + column, cRow, add);
            }

            if (row <= rows - 4)
            {
                FourByTwo(a + row * aRow, aRow, aDepth, depth, b + column, bRow, c + row * cRow + column, cRow, add);
                row += 4;
            }

            for (; row < rows; row++)
            {
                OneByTwo(a + row * aRow, aDepth, depth, b + column, bRow, c + row * cRow + column, add);
            }
        }

        for (; column < columns; column += Width)
        {
            var count = columns - column;
            var row = 0;
            for (; row <= rows - 4; row += 4)
            {
                FourByOne(a + row * aRow, aRow, aDepth, depth, b + column, bRow, c + row * cRow + column, cRow, count, add);
            }

            for (; row < rows; row++)
            {
                OneByOne(a + row * aRow, aDepth, depth, b + column, bRow, c + row * cRow + column, count, add);
            }
        }
    }

    private static void SixByTwo(float* a, nint aRow, nint aDepth, int depth, float* b, nint bRow, float* c, nint cRow, bool add)
    {
        Vector<float> s00 = default, s01 = default, s10 = default, s11 = default, s20 = default, s21 = default;
        Vector<float> s30 = default, s31 = default, s40 = default, s41 = default, s50 = default, s51 = default;
        var a3 = a + 3 * aRow;
        for (var k = 0; k < depth; k++)
        {
            Vector<float> b0 = Vector.Load(b), b1 = Vector.Load(b + Width);
            var x = new Vector<float>(a[0]);
            s00 = MultiplyAdd(x, b0, s00);
            s01 = MultiplyAdd(x, b1, s01);
            x = new Vector<float>(a[aRow]);
            s10 = MultiplyAdd(x, b0, s10);
            s11 = MultiplyAdd(x, b1, s11);
            x = new Vector<float>(a[2 * aRow]);
            s20 = MultiplyAdd(x, b0, s20);
            s21 = MultiplyAdd(x, b1, s21);
            x = new Vector<float>(a3[0]);
            s30 = MultiplyAdd(x, b0, s30);
            s31 = MultiplyAdd(x, b1, s31);
            x = new Vector<float>(a3[aRow]);
            s40 = MultiplyAdd(x, b0, s40);
            s41 = MultiplyAdd(x, b1, s41);
            x = new Vector<float>(a3[2 * aRow]);
            s50 = MultiplyAdd(x, b0, s50);
            s51 = MultiplyAdd(x, b1, s51);
            a += aDepth;
            a3 += aDepth;
            b += bRow;
        }

        Store(s00, s01, c, add);
        Store(s10, s11, c + cRow, add);
        Store(s20, s21, c + 2 * cRow, add);
        Store(s30, s31, c + 3 * cRow, add);
        Store(s40, s41, c + 4 * cRow, add);
        Store(s50, s51, c + 5 * cRow, add);
    }

    private static void FourByTwo(float* a, nint aRow, nint aDepth, int depth, float* b, nint bRow, float* c, nint cRow, bool add)
    {
        Vector<float> s00 = default, s01 = default, s10 = default, s11 = default;
        Vector<float> s20 = default, s21 = default, s30 = default, s31 = default;
        var a2 = a + 2 * aRow;
        for (var k = 0; k < depth; k++)
        {
            Vector<float> b0 = Vector.Load(b), b1 = Vector.Load(b + Width);
            var x = new Vector<float>(a[0]);
            s00 = MultiplyAdd(x, b0, s00);
            s01 = MultiplyAdd(x, b1, s01);
            x = new Vector<float>(a[aRow]);
            s10 = MultiplyAdd(x, b0, s10);
            s11 = MultiplyAdd(x, b1, s11);
            x = new Vector<float>(a2[0]);
            s20 = MultiplyAdd(x, b0, s20);
            s21 = MultiplyAdd(x, b1, s21);
            x = new Vector<float>(a2[aRow]);
            s30 = MultiplyAdd(x, b0, s30);
            s31 = MultiplyAdd(x, b1, s31);
            a += aDepth;
            a2 += aDepth;
            b += bRow;
        }

        Store(s00, s01, c, add);
        Store(s10, s11, c + cRow, add);
        Store(s20, s21, c + 2 * cRow, add);
        Store(s30, s31, c + 3 * cRow, add);
    }

    private static void OneByTwo(float* a, nint aDepth, int depth, float* b, nint bRow, float* c, bool add)
    {
        Vector<float> s0 = default, s1 = default;
        for (var k = 0; k < depth; k++)
        {
            var x = new Vector<float>(a[0]);
            s0 = MultiplyAdd(x, Vector.Load(b), s0);
            s1 = MultiplyAdd(x, Vector.Load(b + Width), s1);
            a += aDepth;
            b += bRow;
        }

        Store(s0, s1, c, add);
    }

    private static void FourByOne(
        float* a, nint aRow, nint aDepth, int depth, float* b, nint bRow, float* c, nint cRow, int count, bool add)
    {
        Vector<float> s0 = default, s1 = default, s2 = default, s3 = default;
        for (var k = 0; k < depth; k++)
        {
            var b0 = LoadPart(b, count);
            s0 = MultiplyAdd(new Vector<float>(a[0]), b0, s0);
            s1 = MultiplyAdd(new Vector<float>(a[aRow]), b0, s1);
            s2 = MultiplyAdd(new Vector<float>(a[2 * aRow]), b0, s2);
            s3 = MultiplyAdd(new Vector<float>(a[3 * aRow]), b0, s3);
            a += aDepth;
            b += bRow;
        }

        StorePart(s0, c, count, add);
        StorePart(s1, c + cRow, count, add);
        StorePart(s2, c + 2 * cRow, count, add);
        StorePart(s3, c + 3 * cRow, count, add);
    }

    private static void OneByOne(float* a, nint aDepth, int depth, float* b, nint bRow, float* c, int count, bool add)
    {
        Vector<float> s = default;
        for (var k = 0; k < depth; k++)
        {
            s = MultiplyAdd(new Vector<float>(a[0]), LoadPart(b, count), s);
            a += aDepth;
            b += bRow;
        }

        StorePart(s, c, count, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(Vector<float> first, Vector<float> second, float* c, bool add)
    {
        Vector.Store(add ? Vector.Load(c) + first : first, c);
        Vector.Store(add ? Vector.Load(c + Width) + second : second, c + Width);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StorePart(Vector<float> sum, float* c, int count, bool add) => VectorFunctions.StorePart(
        add ? LoadPart(c, count) + sum : sum, c, count);
}
