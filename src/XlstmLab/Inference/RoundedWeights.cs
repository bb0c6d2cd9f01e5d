using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>Projections in fewer bits than they were trained in: what a generation reads from memory is mostly they.</summary>
/// <remarks>
/// Rounded are the weights of all projections, the head's among them; embeddings, with a head that is tied to them, norms, biases,
/// convolutions, the mLSTM's gates and the sLSTM's recurrent weights stay as they are.
/// </remarks>
public static class RoundedWeights
{
    /// <summary>
    /// Gives a model's projections the values that they have in a format, so that whatever reads the model computes with those.
    /// </summary>
    /// <remarks>
    /// The weights stay float32, and rounding them once more changes nothing. <see cref="GenerationOptions.Weights"/> then makes a copy in
    /// that format without a loss. Weights of bfloat16 take the bfloat16 nearest to those values: it shows what a format costs them, and a
    /// copy is better made of what they were.
    /// </remarks>
    /// <param name="model">The model, of float32 or bfloat16 weights on any device, which are changed.</param>
    /// <param name="format">The format.</param>
    /// <exception cref="ArgumentException">A projection is of another type.</exception>
    public static void Round(LanguageModel model, WeightFormat format)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (format.Known() == WeightFormat.Float32)
        {
            return;
        }

        using var none = no_grad();
        foreach (var (name, weight) in Projections(model))
        {
            if (weight.dtype is not (ScalarType.Float32 or ScalarType.BFloat16))
            {
                throw new ArgumentException($"Expected float32 or bfloat16 weights to round, {name} is {weight.dtype}.", nameof(model));
            }

            PackedRows.Round(format, weight);
        }
    }

    /// <summary>The names of what is rounded, in the state dict.</summary>
    internal static IReadOnlySet<string> Names(LanguageModel model) =>
        Projections(model).Select(p => p.Name).ToHashSet(StringComparer.Ordinal);

    private static IEnumerable<(string Name, Tensor Weight)> Projections(LanguageModel model) =>
        from module in model.named_modules()
        where module.module is Dense or HeadwiseDense
        from parameter in module.module.named_parameters(recurse: false)
        where parameter.parameter.dim() > 1
        select ($"{module.name}.{parameter.name}", (Tensor)parameter.parameter);
}
