using TorchSharp.Modules;
using XlstmLab.Layers;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Muon for a model's hidden matrices, AdamW for all its other parameters.</summary>
/// <param name="matrices">The hidden matrices' optimiser; it belongs to this one.</param>
/// <param name="others">The others' optimiser; it belongs to this one.</param>
/// <param name="rateFactor">The matrices' learning rate in units of the others'.</param>
public sealed class MuonWithAdamW(Muon matrices, AdamW others, double rateFactor = 1) : IOptimizer
{
    /// <summary>The optimiser of a model, as a configuration has it.</summary>
    /// <param name="model">The model.</param>
    /// <param name="trained">Its parameters by their names, and others that are trained with them.</param>
    /// <param name="config">The configuration.</param>
    /// <exception cref="ArgumentException">The model has no hidden matrices.</exception>
    internal static MuonWithAdamW Of(nn.Module model, IEnumerable<(string Name, Parameter Parameter)> trained, TrainingConfig config)
    {
        var hidden = HiddenMatrices(model);
        if (hidden.Count == 0)
        {
            throw new ArgumentException(
                $"{model.GetName()} has no hidden matrices, projections inside a list of blocks, that Muon could update: "
                + "train it by AdamW.");
        }

        var parameters = trained.ToLookup(p => hidden.Contains(p.Name));
        return new(
            new(parameters[true], config.Muon, config.Muon.WeightDecay ?? config.WeightDecay),
            new(parameters[false], config.Beta1, config.Beta2, config.AdamEpsilon, config.WeightDecay),
            (config.Muon.PeakLearningRate ?? config.PeakLearningRate) / config.PeakLearningRate);
    }

    /// <summary>
    /// The names of a model's hidden matrices: the weights [output, input] of its projections and recurrent layers inside blocks. All
    /// else is none: embeddings, the head, norms, biases, convolutions, head-wise matrices, an mLSTM's gates of one number a head, and
    /// parameters that a module holds itself, as Mamba its rates.
    /// </summary>
    /// <remarks>Told by what modules are, not by names: a block is an element of a <see cref="ModuleList{T}"/>.</remarks>
    /// <param name="model">A model, or a part of one.</param>
    public static IReadOnlySet<string> HiddenMatrices(nn.Module model) =>
        model.named_modules()
            .Where(m => m.module.GetType() is { IsGenericType: true } type && type.GetGenericTypeDefinition() == typeof(ModuleList<>))
            .SelectMany(list => list.module.named_modules().Select(m => (Name: $"{list.name}.{m.name}", Module: m.module)))
            .Where(m => m.Module is Dense or Linear or LSTM or GRU)
            .SelectMany(m => m.Module.named_parameters(recurse: false).Where(p => p.parameter.dim() == 2).Select(p => $"{m.Name}.{p.name}"))
            .ToHashSet(StringComparer.Ordinal);

    /// <inheritdoc/>
    public void Step(double learningRate, double gradientScale = 1)
    {
        matrices.Step(learningRate * rateFactor, gradientScale);
        others.Step(learningRate, gradientScale);
    }

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor> StateDict() =>
        new Dictionary<string, Tensor>(others.StateDict().Concat(matrices.StateDict()));

    /// <inheritdoc/>
    public void LoadStateDict(IReadOnlyDictionary<string, Tensor> state) => StateDict().Load(state);

    /// <inheritdoc/>
    public void Dispose()
    {
        matrices.Dispose();
        others.Dispose();
    }
}
