using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Gives weights their gradients in the backward passes of a training: the engine would copy each, since it sees that a hand-written pass
/// still holds what it returns.
/// </summary>
internal sealed class LeafGradients
{
    private readonly Tensor?[] _weights;
    private readonly PartialSums _sums;

    private LeafGradients(Tensor?[] weights, PartialSums sums) => (_weights, _sums) = (weights, sums);

    /// <summary>For an operation's call by a training's pass; null otherwise, where the engine does it.</summary>
    /// <param name="weights">What the operation was given, null for what it was not.</param>
    public static LeafGradients? Of(params Tensor?[] weights) =>
        TrainedProducts.Sums is { } sums ? new([.. weights.Select(w => w is null ? null : TrainedProducts.WeightOf(w))], sums) : null;

    /// <summary>Gives a weight its gradient, or adds it to the one it has.</summary>
    /// <param name="leaves">What <see cref="Of"/> gave.</param>
    /// <param name="index">The weight's place there.</param>
    /// <param name="gradient">Its gradient, contiguous, of its own memory; or null.</param>
    /// <returns>What is left to the engine: the gradient of what is no trained weight, but a part of one perhaps; else null.</returns>
    public static Tensor? Give(LeafGradients? leaves, int index, Tensor? gradient)
    {
        if (gradient is null || leaves?._weights[index] is not { } weight)
        {
            return gradient;
        }

        using var before = weight.grad;
        if (before is null)
        {
            weight.grad = gradient;
        }
        else
        {
            before.add_(gradient);
        }

        return null;
    }

    /// <summary>Memory for what <see cref="GiveSums"/> is given next.</summary>
    /// <param name="leaves">What <see cref="Of"/> gave.</param>
    /// <param name="rows">Of how many parts the sums are made.</param>
    /// <param name="columns">How many sums there are.</param>
    /// <param name="device">Where.</param>
    /// <returns>[rows, columns] float32, contiguous.</returns>
    public static Tensor Partials(LeafGradients? leaves, long rows, long columns, Device device) =>
        leaves?._sums.Take(rows, columns) ?? empty(rows, columns, dtype: ScalarType.Float32, device: device);

    /// <summary>
    /// Gives weights gradients that are sums over rows, when the backward pass ends at the latest, if all are trained weights.
    /// </summary>
    /// <param name="leaves">What <see cref="Of"/> gave.</param>
    /// <param name="partials">What <see cref="Partials"/> gave, filled.</param>
    /// <param name="parts">Each weight's columns, in its place there; null has none.</param>
    /// <returns>What is left to the engine, as of <see cref="Give"/>.</returns>
    public static IReadOnlyList<Tensor?> GiveSums(LeafGradients? leaves, Tensor partials, params SumPart?[] parts)
    {
        if (leaves is not null && parts.Select((part, k) => part is null || leaves._weights[k] is not null).All(given => given))
        {
            for (var k = 0; k < parts.Length; k++)
            {
                if (parts[k] is { } part)
                {
                    leaves._sums.Add(leaves._weights[k]!, partials, part.First);
                }
            }

            if (!leaves._sums.Keeps(partials))
            {
                leaves._sums.Give();
            }

            return new Tensor?[parts.Length];
        }

        var sums = PartialSums.Of(partials);
        return [.. parts.Select((part, k) => part is null ? null : Give(leaves, k, part.Of(sums)))];
    }
}

/// <summary>The columns of partial sums that are one weight's.</summary>
/// <param name="First">The first of them.</param>
/// <param name="Shape">The weight's shape.</param>
internal sealed record SumPart(long First, params long[] Shape)
{
    /// <summary>Its part of all columns' sums.</summary>
    public Tensor Of(Tensor sums) => sums.narrow(0, First, Shape.Aggregate(1L, (count, size) => count * size)).view(Shape);
}
