using System.Numerics;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>Loops over single rows of a layer's activations on the CPU.</summary>
internal static unsafe class VectorLoops
{
    private static int Width => Vector<float>.Count;

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

    /// <summary>x *= y.</summary>
    public static void Multiply(float* x, float* y, int count)
    {
        for (var c = 0; c < count; c += Width)
        {
            StorePart(LoadPart(x + c, count - c) * LoadPart(y + c, count - c), x + c, count - c);
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
}
