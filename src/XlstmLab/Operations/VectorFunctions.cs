using System.Numerics;
using System.Runtime.CompilerServices;

namespace XlstmLab.Operations;

/// <summary>Functions of the gates over whole vectors of float or double, to a few units in the last place.</summary>
/// <remarks>The runtime's own exponential of floats goes through doubles, at several times the cost.</remarks>
internal static class VectorFunctions
{
    /// <summary>left * right + sum, rounded once where the machine can.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> MultiplyAdd<T>(Vector<T> left, Vector<T> right, Vector<T> sum)
        where T : unmanaged =>
        typeof(T) == typeof(float)
            ? Vector.MultiplyAddEstimate(left.As<T, float>(), right.As<T, float>(), sum.As<T, float>()).As<float, T>()
            : Vector.MultiplyAddEstimate(left.As<T, double>(), right.As<T, double>(), sum.As<T, double>()).As<double, T>();

    /// <summary>e^x for x at most 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> ExpOfNegative<T>(Vector<T> x)
        where T : unmanaged =>
        typeof(T) == typeof(float) ? ExpOfNegative(x.As<T, float>()).As<float, T>() : Vector.Exp(x.As<T, double>()).As<double, T>();

    /// <summary>log(1 + x) for x in [0, 1], with all digits of small x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> LogOfOnePlus<T>(Vector<T> x)
        where T : unmanaged =>
        typeof(T) == typeof(float) ? LogOfOnePlus(x.As<T, float>()).As<float, T>() : LogOfOnePlus(x.As<T, double>()).As<double, T>();

    /// <summary>tanh(x), with all digits of small x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Tanh<T>(Vector<T> x)
        where T : unmanaged, INumberBase<T>
    {
        var magnitude = Vector.Abs(x);
        var e = ExpOfNegative(-(magnitude + magnitude));

        // Near zero the continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ... x^2 / 13))), as a quotient of polynomials.
        var square = x * x;
        var above = MultiplyAdd(MultiplyAdd(square + Number<T>(378), square, Number<T>(17325)), square, Number<T>(135135)) * magnitude;
        var below = MultiplyAdd(
            MultiplyAdd(MultiplyAdd(Number<T>(28), square, Number<T>(3150)), square, Number<T>(62370)), square, Number<T>(135135));
        var isSmall = Vector.LessThan(magnitude, Number<T>(0.55));
        var unsigned =
            Vector.ConditionalSelect(isSmall, above, Vector<T>.One - e) / Vector.ConditionalSelect(isSmall, below, Vector<T>.One + e);
        return Vector.CopySign(unsigned, x);
    }

    /// <summary>1 / (1 + e^-x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Sigmoid(Vector<float> x)
    {
        var e = ExpOfNegative<float>(-Vector.Abs(x));
        return Vector.ConditionalSelect(Vector.LessThan(x, Vector<float>.Zero), e, Vector<float>.One) / (Vector<float>.One + e);
    }

    /// <summary>log(1 / (1 + e^-x)), with all digits where it is all but 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> LogSigmoid(Vector<float> x) =>
        Vector.Min(x, Vector<float>.Zero) - LogOfOnePlus<float>(ExpOfNegative<float>(-Vector.Abs(x)));

    /// <summary>A vector, or the first elements of one and zeros.</summary>
    /// <param name="source">The elements.</param>
    /// <param name="count">How many there are, at least 1; more than a vector has are a whole one.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector<float> LoadPart(float* source, int count) =>
        count >= Vector<float>.Count ? Vector.Load(source) : LoadFirst(source, count);

    /// <summary>Stores a vector, or its first elements.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe void StorePart(Vector<float> value, float* target, int count)
    {
        if (count >= Vector<float>.Count)
        {
            Vector.Store(value, target);
        }
        else
        {
            StoreFirst(value, target, count);
        }
    }

    /// <summary>The first elements of a vector, and zeros.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<float> Part(Vector<float> value, int count) =>
        count >= Vector<float>.Count
            ? value
            : Vector.ConditionalSelect(Vector.LessThan(Vector<int>.Indices, new Vector<int>(count)), value, Vector<float>.Zero);

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe Vector<float> LoadFirst(float* source, int count)
    {
        var whole = Vector<float>.Zero;
        new ReadOnlySpan<float>(source, count).CopyTo(new Span<float>(&whole, count));
        return whole;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static unsafe void StoreFirst(Vector<float> value, float* target, int count) =>
        new ReadOnlySpan<float>(&value, count).CopyTo(new Span<float>(target, count));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<T> Number<T>(double value)
        where T : unmanaged, INumberBase<T> => new(T.CreateTruncating(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<float> ExpOfNegative(Vector<float> x)
    {
        // x = n ln 2 + r with |r| <= ln 2 / 2. Added to this number, n stands in the lowest bits and shifts into the exponent.
        var shifter = new Vector<float>(12582912f);
        var shifted = Vector.MultiplyAddEstimate(x, new Vector<float>(1.44269504f), shifter);
        var n = shifted - shifter;
        var r = Vector.MultiplyAddEstimate(n, new Vector<float>(-0.693359375f), x);
        r = Vector.MultiplyAddEstimate(n, new Vector<float>(2.12194440e-4f), r);

        // The Taylor polynomial of degree 7 errs by 5e-9 at most.
        var p = Vector.MultiplyAddEstimate(r, new Vector<float>(1f / 5040), new Vector<float>(1f / 720));
        p = Vector.MultiplyAddEstimate(p, r, new Vector<float>(1f / 120));
        p = Vector.MultiplyAddEstimate(p, r, new Vector<float>(1f / 24));
        p = Vector.MultiplyAddEstimate(p, r, new Vector<float>(1f / 6));
        p = Vector.MultiplyAddEstimate(p, r, new Vector<float>(0.5f));
        p = Vector.MultiplyAddEstimate(p, r, Vector<float>.One);
        p = Vector.MultiplyAddEstimate(p, r, Vector<float>.One);
        var scale = Vector.AsVectorSingle(Vector.ShiftLeft(Vector.AsVectorInt32(shifted), 23) + new Vector<int>(0x3f800000));
        return Vector.ConditionalSelect(Vector.LessThan(x, new Vector<float>(-87f)), Vector<float>.Zero, p * scale);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<float> LogOfOnePlus(Vector<float> x)
    {
        // 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with s = x / (2 + x), at most 1/3.
        var s = x / (x + new Vector<float>(2f));
        var square = s * s;
        var p = Vector.MultiplyAddEstimate(square, new Vector<float>(2f / 15), new Vector<float>(2f / 13));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f / 11));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f / 9));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f / 7));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f / 5));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f / 3));
        p = Vector.MultiplyAddEstimate(p, square, new Vector<float>(2f));
        return p * s;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<double> LogOfOnePlus(Vector<double> x)
    {
        // The quotient takes back the rounding of 1 + x.
        var sum = Vector<double>.One + x;
        var rounded = sum - Vector<double>.One;
        return Vector.ConditionalSelect(Vector.Equals(rounded, Vector<double>.Zero), x, Vector.Log(sum) * x / rounded);
    }
}
