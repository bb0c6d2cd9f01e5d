using System.Numerics;
using System.Runtime.CompilerServices;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>Loops over single rows of a layer's activations on the CPU.</summary>
internal static unsafe class VectorLoops
{
    private static int Width => Vector<float>.Count;

    /// <summary>y = W x + b of a few rows x. What a row's is does not depend on the others.</summary>
    /// <param name="w">[outputs, inputs], contiguous.</param>
    /// <param name="outputs">The width of y.</param>
    /// <param name="inputs">The width of x.</param>
    /// <param name="bias">[outputs], or null.</param>
    /// <param name="x">[rows, inputs].</param>
    /// <param name="xRow">The elements from one row of x to the next.</param>
    /// <param name="rows">The rows.</param>
    /// <param name="y">[rows, outputs].</param>
    /// <param name="yRow">The elements from one row of y to the next.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply(float* w, int outputs, int inputs, float* bias, float* x, nint xRow, int rows, float* y, nint yRow)
    {
        var output = 0;
        for (; output <= outputs - 4; output += 4)
        {
            for (var row = 0; row < rows; row++)
            {
                FourSums(w + (nint)output * inputs, inputs, x + row * xRow, y + row * yRow + output);
            }
        }

        for (; output < outputs; output++)
        {
            for (var row = 0; row < rows; row++)
            {
                y[row * yRow + output] = Sum(w + (nint)output * inputs, inputs, x + row * xRow);
            }
        }

        for (var row = 0; bias is not null && row < rows; row++)
        {
            Add(y + row * yRow, bias, outputs);
        }
    }

    /// <summary>y = weight norm(x) + bias in groups of neighbouring channels, under sigmoid(o) if there is an o.</summary>
    /// <param name="x">[channels].</param>
    /// <param name="channels">The channels, in whole groups.</param>
    /// <param name="group">The channels that are normed together.</param>
    /// <param name="center">Whether the mean is taken out.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="weight">[channels].</param>
    /// <param name="bias">[channels], or null.</param>
    /// <param name="o">[channels], or null.</param>
    /// <param name="y">[channels]; may be x.</param>
    public static void Norm(float* x, int channels, int group, bool center, float epsilon, float* weight, float* bias, float* o, float* y)
    {
        for (var first = 0; first < channels; first += group)
        {
            var (mean, scale) = Moments(x + first, group, center, epsilon);
            var (m, s) = (new Vector<float>(mean), new Vector<float>(scale));
            for (var c = first; c < first + group; c += Width)
            {
                var left = first + group - c;
                var normed = (LoadPart(x + c, left) - m) * s * LoadPart(weight + c, left);
                normed = bias is null ? normed : normed + LoadPart(bias + c, left);
                StorePart(o is null ? normed : normed * Sigmoid(LoadPart(o + c, left)), y + c, left);
            }
        }
    }

    /// <summary>The mean of a group, or 0, and what makes its mean square 1.</summary>
    public static (float Mean, float Scale) Moments(float* x, int group, bool center, float epsilon)
    {
        var sum = Vector<float>.Zero;
        for (var c = 0; center && c < group; c += Width)
        {
            sum += LoadPart(x + c, group - c);
        }

        var mean = center ? Vector.Sum(sum) / group : 0;
        var m = new Vector<float>(mean);
        var squares = Vector<float>.Zero;
        for (var c = 0; c < group; c += Width)
        {
            var centered = Part(LoadPart(x + c, group - c) - m, group - c);
            squares = MultiplyAdd(centered, centered, squares);
        }

        return (mean, 1 / MathF.Sqrt(Vector.Sum(squares) / group + epsilon));
    }

    /// <summary>x = cap tanh(x / cap); without a cap x as it is.</summary>
    public static void Cap(float* x, int count, double? cap)
    {
        if (cap is not { } limit)
        {
            return;
        }

        var bound = (float)limit;
        for (var c = 0; c < count; c += Width)
        {
            StorePart(Tanh(LoadPart(x + c, count - c) / bound) * bound, x + c, count - c);
        }
    }

    /// <summary>x += y.</summary>
    public static void Add(float* x, float* y, int count)
    {
        for (var c = 0; c < count; c += Width)
        {
            StorePart(LoadPart(x + c, count - c) + LoadPart(y + c, count - c), x + c, count - c);
        }
    }

    /// <summary>x += y z.</summary>
    public static void AddProduct(float* x, float* y, float* z, int count)
    {
        for (var c = 0; c < count; c += Width)
        {
            StorePart(MultiplyAdd(LoadPart(y + c, count - c), LoadPart(z + c, count - c), LoadPart(x + c, count - c)), x + c, count - c);
        }
    }

    /// <summary>x *= sigmoid(o).</summary>
    public static void Gate(float* x, float* o, int count)
    {
        for (var c = 0; c < count; c += Width)
        {
            StorePart(LoadPart(x + c, count - c) * Sigmoid(LoadPart(o + c, count - c)), x + c, count - c);
        }
    }

    /// <summary>y = x.</summary>
    public static void Copy(float* x, float* y, int count) => new ReadOnlySpan<float>(x, count).CopyTo(new Span<float>(y, count));

    /// <summary>The products of x with four rows that follow each other.</summary>
    /// <remarks>Nothing is called before the sums are stored: they would leave their registers in every round for it.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FourSums(float* w, int count, float* x, float* sums)
    {
        float* w1 = w + count, w2 = w1 + count, w3 = w2 + count;
        Vector<float> s0 = default, s1 = default, s2 = default, s3 = default, t0 = default, t1 = default, t2 = default, t3 = default;
        var k = 0;
        for (; k <= count - 2 * Width; k += 2 * Width)
        {
            Vector<float> x0 = Vector.Load(x + k), x1 = Vector.Load(x + k + Width);
            s0 = MultiplyAdd(Vector.Load(w + k), x0, s0);
            t0 = MultiplyAdd(Vector.Load(w + k + Width), x1, t0);
            s1 = MultiplyAdd(Vector.Load(w1 + k), x0, s1);
            t1 = MultiplyAdd(Vector.Load(w1 + k + Width), x1, t1);
            s2 = MultiplyAdd(Vector.Load(w2 + k), x0, s2);
            t2 = MultiplyAdd(Vector.Load(w2 + k + Width), x1, t2);
            s3 = MultiplyAdd(Vector.Load(w3 + k), x0, s3);
            t3 = MultiplyAdd(Vector.Load(w3 + k + Width), x1, t3);
        }

        if (k <= count - Width)
        {
            var x0 = Vector.Load(x + k);
            s0 = MultiplyAdd(Vector.Load(w + k), x0, s0);
            s1 = MultiplyAdd(Vector.Load(w1 + k), x0, s1);
            s2 = MultiplyAdd(Vector.Load(w2 + k), x0, s2);
            s3 = MultiplyAdd(Vector.Load(w3 + k), x0, s3);
            k += Width;
        }

        sums[0] = Vector.Sum(s0 + t0);
        sums[1] = Vector.Sum(s1 + t1);
        sums[2] = Vector.Sum(s2 + t2);
        sums[3] = Vector.Sum(s3 + t3);
        if (k < count)
        {
            AddRest(w, count, x, k, sums);
        }
    }

    private static void AddRest(float* w, int count, float* x, int first, float* sums)
    {
        for (var row = 0; row < 4; row++)
        {
            for (var k = first; k < count; k++)
            {
                sums[row] += w[(nint)row * count + k] * x[k];
            }
        }
    }

    private static float Sum(float* w, int count, float* x)
    {
        var sum = Vector<float>.Zero;
        for (var k = 0; k < count; k += Width)
        {
            sum = MultiplyAdd(LoadPart(w + k, count - k), LoadPart(x + k, count - k), sum);
        }

        return Vector.Sum(sum);
    }
}
