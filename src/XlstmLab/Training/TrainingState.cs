using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>All that updates change and a checkpoint keeps: weights, moments, average, chance, and where run and data stand.</summary>
internal sealed class TrainingState<TBatch> : IDisposable
    where TBatch : IBatch<TBatch>
{
    private const string LossPrefix = "loss.";

    private readonly BatchSource<TBatch> _source;

    /// <summary>Makes the optimiser that the configuration asks for, and the average.</summary>
    /// <param name="model">The model.</param>
    /// <param name="lossModule">The parameters of the loss's own, or null.</param>
    /// <param name="source">Where the batches come from.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="keepsProducts">
    /// Whether passes may keep what they need of the weights' products: a loss that asks for gradients by itself would find none, since passes
    /// give them to the weights.
    /// </param>
    public TrainingState(LanguageModel model, nn.Module? lossModule, BatchSource<TBatch> source, TrainingConfig config, bool keepsProducts)
    {
        (Model, LossModule, _source) = (model, lossModule, source);
        (string Name, Parameter Parameter, ParameterRole Role)[] all =
        [
            .. WithRoles(model, ""),
            .. lossModule is null ? [] : WithRoles(lossModule, LossPrefix),
        ];
        Parameters = [.. all.Select(p => (p.Name, p.Parameter))];
        Optimizer = config.Optimizer switch
        {
            OptimizerKind.AdamW => new AdamW(
                all.Select(p => (p.Name, p.Parameter, p.Role.Decays())),
                config.Beta1, config.Beta2, config.AdamEpsilon, config.WeightDecay),
            OptimizerKind.Muon => MuonWithAdamW.Of(model.GetName(), all, config),
            _ => throw UnknownValue.Of(config.Optimizer),
        };
        Average = config.EmaDecay is { } decay ? new WeightAverage(Parameters, decay) : null;
        Products = keepsProducts && Optimizer is IDeviceOptimizer { HasKernel: true } && TrainedProducts.IsPossible
            ? new(
                all.Where(p => p.Parameter.requires_grad).Select(p => p.Parameter),
                all.Where(p => p.Parameter.requires_grad && p.Role is ParameterRole.HiddenMatrix or ParameterRole.Head && p.Parameter.dim() == 2)
                    .Select(p => p.Parameter))
            : null;
    }

    public LanguageModel Model { get; }

    public nn.Module? LossModule { get; }

    /// <summary>The model's parameters by their names, and those of the loss.</summary>
    public (string Name, Parameter Parameter)[] Parameters { get; }

    public IOptimizer Optimizer { get; }

    public WeightAverage? Average { get; }

    /// <summary>What passes keep of the weights of their products; null where they may not, or the optimiser has no kernel.</summary>
    public TrainedProducts? Products { get; }

    /// <summary>What an update writes beside the weights.</summary>
    public WeightCopies Copies => new(Average, Products);

    public TrainingPosition Position { get; } = new();

    public Device Device => Parameters[0].Parameter.device;

    public long ParameterCount => Parameters.Sum(p => p.Parameter.NumberOfElements);

    public double ParameterNorm() => GlobalNorm.Of([.. Parameters.Select(p => p.Parameter)]);

    public double GradientNorm()
    {
        using var scope = NewDisposeScope();
        return GlobalNorm.Of([.. Parameters.Select(p => p.Parameter.grad).OfType<Tensor>()]);
    }

    public void ZeroGradients()
    {
        foreach (var (_, parameter) in Parameters)
        {
            parameter.grad = null;
        }

        Products?.BeginGradients();
    }

    /// <summary>Computes with what is kept of the weights' products.</summary>
    public T Compute<T>(Func<T> compute) => Products is null ? compute() : Products.Serve(compute);

    /// <summary>Where weights are not finite, and that a checkpoint of them is not worth keeping; null if all are finite.</summary>
    public string? BrokenWeights()
    {
        if (double.IsFinite(ParameterNorm()))
        {
            return null;
        }

        var broken = Parameters.Where(p => !double.IsFinite(GlobalNorm.Of([p.Parameter]))).Select(p => p.Name).ToArray();
        return $"After step {Position.Step} the weights are not finite in {broken.Length} of {Parameters.Length} parameters "
            + $"({string.Join(", ", broken.Take(3))})";
    }

    /// <summary>Writes a checkpoint into a run's folder.</summary>
    /// <returns>The checkpoint's folder.</returns>
    public string Save(RunFolder run, int keep, Action<string>? written) =>
        TrainingCheckpoint.Write(
            run.Folder, Position.ToState(_source.Position, Model.Dropout.State, get_num_threads()), Model.state_dict(), Model.Config,
            OwnTensors(), keep, written);

    /// <summary>Takes over a checkpoint.</summary>
    public void Restore(string checkpoint)
    {
        var state = TrainingCheckpoint.Read(checkpoint, Model.state_dict(), OwnTensors());
        Model.Dropout.State = state.RandomState;
        _source.Resume(state.Loader);
        Position.Restore(state);
    }

    public void Dispose()
    {
        Optimizer.Dispose();
        Average?.Dispose();
        Products?.Dispose();
    }

    private static IEnumerable<(string Name, Parameter Parameter, ParameterRole Role)> WithRoles(nn.Module module, string prefix)
    {
        var roles = ParameterRoles.Of(module);
        return module.named_parameters().Select(p => (prefix + p.name, p.parameter, roles[p.name]));
    }

    /// <summary>What a checkpoint keeps beside the model's weights.</summary>
    private Dictionary<string, Tensor> OwnTensors()
    {
        var tensors = new Dictionary<string, Tensor>(Optimizer.StateDict());
        foreach (var (name, tensor) in Average?.StateDict() ?? new Dictionary<string, Tensor>())
        {
            tensors.Add(name, tensor);
        }

        foreach (var (name, tensor) in LossModule?.state_dict() ?? [])
        {
            tensors.Add(LossPrefix + name, tensor);
        }

        return tensors;
    }
}
