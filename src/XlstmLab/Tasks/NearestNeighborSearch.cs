using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Tasks;

/// <summary>Rows of vectors with values, and the value that is due at each.</summary>
/// <param name="Inputs">[Rows, Length, 3]: a unit vector and its value.</param>
/// <param name="Targets">[Rows, Length]: the value of the vector so far that is nearest to the first; NaN at the first.</param>
/// <param name="Rows">The number of sequences, B.</param>
/// <param name="Length">The number of vectors of a row, the one that is searched for included, S.</param>
public sealed record VectorBatch(float[] Inputs, float[] Targets, int Rows, int Length) : IBatch<VectorBatch>
{
    /// <summary>The number of values that are due: at all positions but the first.</summary>
    public int TargetCount => Rows * (Length - 1);

    /// <summary>The inputs as a tensor [Rows, Length, 3] float32.</summary>
    public Tensor ToInputTensor(Device? device = null) => tensor(Inputs, [Rows, Length, 3], float32, device);

    /// <summary>The targets as a tensor [Rows, Length] float32.</summary>
    public Tensor ToTargetTensor(Device? device = null) => tensor(Targets, [Rows, Length], float32, device);

    /// <summary>Some of the rows.</summary>
    /// <param name="first">The first of them.</param>
    /// <param name="count">How many, at least 1.</param>
    public VectorBatch Slice(int first, int count)
    {
        const int dim = NearestNeighborSearch.InputDim;
        var (from, to) = (first * Length, (first + count) * Length);
        return new(Inputs[(dim * from)..(dim * to)], Targets[from..to], count, Length);
    }
}

/// <summary>
/// Nearest-neighbour search (Beck et al. 2024, figure 2; appendix D): of the vectors that have come, find the one nearest to the first, and
/// say its value; a model must revise what it stored whenever a nearer one comes.
/// </summary>
/// <remarks>
/// Each input is a random unit vector of two dimensions and a random value from 0 to 1; the first one's value is 0, since it is only
/// searched for. At each further input the value is due of the nearest so far. The paper trains on 8,192 rows of 64, and tests at lengths
/// up to 256. Guessing 0.5 has a mean squared error of 1/12.
/// </remarks>
public sealed record NearestNeighborSearch
{
    /// <summary>The name that the command line knows it by.</summary>
    public const string Name = "nearest-neighbor";

    /// <summary>The width of an input: two coordinates and a value.</summary>
    public const int InputDim = 3;

    /// <summary>The mean squared error of the best constant.</summary>
    public const double ChanceError = 1.0 / 12;

    /// <summary>The vectors of a training row.</summary>
    public int TrainingLength { get; init; } = 64;

    /// <summary>The training rows.</summary>
    public int SampleCount { get; init; } = 8192;

    /// <summary>Rows of the task.</summary>
    /// <param name="split">What they are for.</param>
    /// <param name="seed">Another seed gives other rows.</param>
    /// <param name="indices">The rows' indices, from 0.</param>
    /// <param name="length">The vectors of a row, at least 2.</param>
    public static VectorBatch Rows(SyntheticSplit split, long seed, ReadOnlySpan<int> indices, int length)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(length, 2);
        var inputs = new float[checked(indices.Length * length * InputDim)];
        var targets = new float[indices.Length * length];
        for (var r = 0; r < indices.Length; r++)
        {
            var random = new SplitMix64(seed, ((long)split << 60) + ((long)length << 36) + indices[r]);
            Fill(ref random, inputs.AsSpan(r * length * InputDim, length * InputDim), targets.AsSpan(r * length, length));
        }

        return new(inputs, targets, indices.Length, length);
    }

    private static void Fill(ref SplitMix64 random, Span<float> inputs, Span<float> targets)
    {
        var (nearest, answer) = (float.NegativeInfinity, float.NaN);
        for (var t = 0; t < targets.Length; t++)
        {
            var (sin, cos) = Math.SinCos(2 * Math.PI * random.NextDouble());
            var at = inputs[(InputDim * t)..];
            (at[0], at[1]) = ((float)cos, (float)sin);
            if (t > 0)
            {
                at[2] = (float)random.NextDouble();
                var similarity = at[0] * inputs[0] + at[1] * inputs[1];
                if (similarity > nearest)
                {
                    (nearest, answer) = (similarity, at[2]);
                }
            }

            targets[t] = answer;
        }
    }
}
