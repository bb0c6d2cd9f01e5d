using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>What a trainer asks of an optimiser: updates, and a state that goes into checkpoints.</summary>
public interface IOptimizer : IDisposable
{
    /// <summary>One update from the parameters' gradients; a parameter without one is left as it is.</summary>
    /// <param name="learningRate">The learning rate.</param>
    /// <param name="gradientScale">What every gradient is multiplied by, such as the factor of clipping.</param>
    /// <exception cref="ObjectDisposedException">The optimiser was disposed.</exception>
    void Step(double learningRate, double gradientScale = 1);

    /// <summary>What the optimiser keeps between updates, by name.</summary>
    /// <returns>The optimiser's own tensors, not copies: what is written into them counts.</returns>
    IReadOnlyDictionary<string, Tensor> StateDict();

    /// <summary>Takes over what <see cref="StateDict"/> gave.</summary>
    /// <exception cref="ArgumentException">
    /// A tensor is missing or has another shape: the state belongs to another model or optimiser.
    /// </exception>
    void LoadStateDict(IReadOnlyDictionary<string, Tensor> state);
}

/// <summary>How an optimiser takes over a state.</summary>
internal static class OptimizerState
{
    /// <summary>Copies every tensor of a state into the optimiser's own of that name.</summary>
    /// <exception cref="ArgumentException">A tensor is missing or has another shape.</exception>
    public static void Load(this IReadOnlyDictionary<string, Tensor> targets, IReadOnlyDictionary<string, Tensor> state)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        foreach (var (name, target) in targets)
        {
            if (!state.TryGetValue(name, out var source) || !source.shape.AsSpan().SequenceEqual(target.shape))
            {
                var found = source is null ? "no" : $"the shape [{string.Join(", ", source.shape)}] for";
                throw new ArgumentException(
                    $"The optimiser's state has {found} '{name}', and the model needs [{string.Join(", ", target.shape)}]: "
                    + "it was saved by the training of another model, or by another optimiser.");
            }

            target.copy_(source);
        }
    }
}
