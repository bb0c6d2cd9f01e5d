using System.Numerics;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>The loops of <see cref="NormFused"/>: rows of channels, normed in groups of neighbours.</summary>
/// <param name="rows">The rows.</param>
/// <param name="channels">The channels of a row, in whole groups.</param>
/// <param name="group">The channels that are normed together.</param>
/// <param name="center">Whether the mean is taken out.</param>
/// <param name="epsilon">Added to the mean square.</param>
internal sealed unsafe class NormLoops(int rows, int channels, int group, bool center, float epsilon)
{
    private static readonly int Width = Vector<float>.Count;

    /// <summary>How the rows are shared out.</summary>
    public RowPieces Pieces => new(rows);

    private long Work => (long)rows * channels * 16;

    /// <summary>y = sigmoid(o) (weight norm(x + delta) + bias).</summary>
    /// <param name="x">[rows, channels].</param>
    /// <param name="delta">[rows, channels], or null.</param>
    /// <param name="weight">[channels].</param>
    /// <param name="bias">[channels], or null.</param>
    /// <param name="o">
    /// [rows, channels], a row beginning <paramref name="oRow"/> elements behind the one before; or null for no gate.
    /// </param>
    /// <param name="oRow">The distance of its rows.</param>
    /// <param name="sum">Is given x + delta; null without delta.</param>
    /// <param name="y">Is given y.</param>
    public void Forward(float* x, float* delta, float* weight, float* bias, float* o, nint oRow, float* sum, float* y) =>
        CpuMemory.Share(Pieces.Count, Work, piece =>
        {
            var (first, end) = Pieces[piece];
            for (var row = first; row < end; row++)
            {
                var at = (nint)row * channels;
                if (delta is not null)
                {
                    Add(x + at, delta + at, sum + at);
                }

                var source = (delta is null ? x : sum) + at;
                VectorLoops.Norm(source, channels, group, center, epsilon, weight, bias, o is null ? null : o + row * oRow, y + at);
            }
        });

    /// <summary>The gradients.</summary>
    /// <param name="x">[rows, channels] what was normed.</param>
    /// <param name="weight">[channels].</param>
    /// <param name="bias">[channels], or null.</param>
    /// <param name="o">The gate's pre-activation, or null.</param>
    /// <param name="oRow">The distance of its rows.</param>
    /// <param name="dY">[rows, channels].</param>
    /// <param name="past">The gradient that reaches x + delta from elsewhere; or null.</param>
    /// <param name="dX">Is given the gradient of x.</param>
    /// <param name="dO">Is given that of o, [rows, channels]; null without a gate.</param>
    /// <param name="dWeight">Is given that of the weight in parts, [pieces, channels].</param>
    /// <param name="dBias">The same of the bias; or null.</param>
    public void Backward(
        float* x, float* weight, float* bias, float* o, nint oRow, float* dY, float* past, float* dX, float* dO, float* dWeight,
        float* dBias) =>
        CpuMemory.Share(Pieces.Count, 2 * Work, piece =>
        {
            var ofWeight = dWeight + (nint)piece * channels;
            var ofBias = dBias is null ? null : dBias + (nint)piece * channels;
            new Span<float>(ofWeight, channels).Clear();
            if (ofBias is not null)
            {
                new Span<float>(ofBias, channels).Clear();
            }

            var (first, end) = Pieces[piece];
            for (var row = first; row < end; row++)
            {
                var at = (nint)row * channels;
                for (var c = 0; c < channels; c += group)
                {
                    var (mean, scale) = VectorLoops.Moments(x + at + c, group, center, epsilon);
                    var (m, s) = (new Vector<float>(mean), new Vector<float>(scale));
                    var (sum, products) = (Vector<float>.Zero, Vector<float>.Zero);
                    for (var d = c; d < c + group; d += Width)
                    {
                        var left = c + group - d;
                        var normed = Part((LoadPart(x + at + d, left) - m) * s, left);
                        var g = LoadPart(dY + at + d, left);
                        var w = LoadPart(weight + d, left);
                        if (o is not null)
                        {
                            var open = Sigmoid(LoadPart(o + row * oRow + d, left));
                            var gated = bias is null ? normed * w : MultiplyAdd(normed, w, LoadPart(bias + d, left));
                            g *= open;
                            StorePart(g * gated * (Vector<float>.One - open), dO + at + d, left);
                        }

                        StorePart(MultiplyAdd(g, normed, LoadPart(ofWeight + d, left)), ofWeight + d, left);
                        if (ofBias is not null)
                        {
                            StorePart(LoadPart(ofBias + d, left) + g, ofBias + d, left);
                        }

                        var ofNormed = g * w;
                        sum += ofNormed;
                        products = MultiplyAdd(ofNormed, normed, products);
                        StorePart(ofNormed, dX + at + d, left);
                    }

                    var ofMean = new Vector<float>(center ? Vector.Sum(sum) / group : 0);
                    var ofScale = new Vector<float>(Vector.Sum(products) / group);
                    for (var d = c; d < c + group; d += Width)
                    {
                        var left = c + group - d;
                        var normed = (LoadPart(x + at + d, left) - m) * s;
                        var g = (LoadPart(dX + at + d, left) - ofMean - normed * ofScale) * s;
                        StorePart(past is null ? g : g + LoadPart(past + at + d, left), dX + at + d, left);
                    }
                }
            }
        });

    private void Add(float* x, float* delta, float* sum)
    {
        for (var d = 0; d < channels; d += Width)
        {
            StorePart(LoadPart(x + d, channels - d) + LoadPart(delta + d, channels - d), sum + d, channels - d);
        }
    }
}
