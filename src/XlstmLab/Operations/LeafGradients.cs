using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Gives weights their gradients in the backward passes of a training: the engine would copy each, since it sees that a hand-written pass still
/// holds what it returns.
/// </summary>
internal sealed class LeafGradients
{
    private readonly Tensor?[] _weights;

    private LeafGradients(Tensor?[] weights) => _weights = weights;

    /// <summary>For an operation's call by a training's pass; null otherwise, where the engine does it.</summary>
    /// <param name="weights">What the operation was given, null for what it was not.</param>
    public static LeafGradients? Of(params Tensor?[] weights) =>
        TrainedProducts.IsCurrent ? new([.. weights.Select(w => w is null ? null : TrainedProducts.WeightOf(w))]) : null;

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
}
