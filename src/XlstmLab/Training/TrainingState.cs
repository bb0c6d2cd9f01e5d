using TorchSharp.Modules;
using XlstmLab.Collectives;
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
    private readonly TrainingRanks _ranks;
    private readonly int _seed;

    /// <summary>Makes the optimiser that the configuration asks for, and the average.</summary>
    /// <param name="model">The model.</param>
    /// <param name="lossModule">The parameters of the loss's own, or null.</param>
    /// <param name="source">Where the batches come from.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="keepsProducts">
    /// Whether passes may keep what they need of the weights' products: a loss that asks for gradients by itself would find none, since
    /// passes give them to the weights.
    /// </param>
    /// <param name="ranks">Who trains.</param>
    public TrainingState(
        LanguageModel model, nn.Module? lossModule, BatchSource<TBatch> source, TrainingConfig config, bool keepsProducts,
        TrainingRanks ranks)
    {
        (Model, LossModule, _source, _ranks, _seed) = (model, lossModule, source, ranks, config.Seed);
        (string Name, Parameter Parameter, ParameterRole Role)[] all =
        [
            .. WithRoles(model, ""),
            .. lossModule is null ? [] : WithRoles(lossModule, LossPrefix),
        ];
        Parameters = [.. all.Select(p => (p.Name, p.Parameter))];
        IOptimizer Make(Func<Parameter, bool> updates) => config.Optimizer switch
        {
            OptimizerKind.AdamW => new AdamW(
                all.Where(p => updates(p.Parameter)).Select(p => (p.Name, p.Parameter, p.Role.Decays())),
                config.Beta1, config.Beta2, config.AdamEpsilon, config.WeightDecay),
            OptimizerKind.Muon => MuonWithAdamW.Of(model.GetName(), all, config, updates),
            _ => throw UnknownValue.Of(config.Optimizer),
        };
        Optimizer = ranks.Parallelism is { ShardsOptimizer: true, Communicator: var communicator }
            ? new ShardedOptimizer(communicator, [.. Parameters.Where(p => p.Parameter.requires_grad)], Make)
            : Make(_ => true);
        Average = config.EmaDecay is { } decay ? new WeightAverage(Parameters, decay) : null;
        Products = keepsProducts && Optimizer is IDeviceOptimizer { HasKernel: true } && TrainedProducts.IsPossible
            ? new(
                all.Where(p => p.Parameter.requires_grad).Select(p => p.Parameter),
                all.Where(
                    p => p.Parameter.requires_grad && p.Role is ParameterRole.HiddenMatrix or ParameterRole.Head && p.Parameter.dim() == 2)
                    .Select(p => p.Parameter))
            : null;
        Reduction = ranks.Parallelism is { } parallelism ? new(parallelism, all, () => Products?.EndGradients()) : null;
    }

    public LanguageModel Model { get; }

    public nn.Module? LossModule { get; }

    /// <summary>The model's parameters by their names, and those of the loss.</summary>
    public (string Name, Parameter Parameter)[] Parameters { get; }

    public IOptimizer Optimizer { get; }

    public WeightAverage? Average { get; }

    /// <summary>What passes keep of the weights of their products; null where they may not, or the optimiser has no kernel.</summary>
    public TrainedProducts? Products { get; }

    /// <summary>Sums gradients over the ranks; null where there is one.</summary>
    public GradientReduction? Reduction { get; }

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
        Reduction?.Forget();
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

    /// <summary>
    /// Writes a checkpoint into a run's folder, of what is equal on all ranks bit for bit; to be called by all of them.
    /// </summary>
    /// <param name="run">The folder, on the rank that writes.</param>
    /// <param name="keep">The number of latest checkpoints to keep.</param>
    /// <param name="written">Told each file when it is written.</param>
    /// <returns>The checkpoint's folder; null on ranks that do not write.</returns>
    /// <exception cref="CollectiveException">Something differs between the ranks.</exception>
    public string? Save(RunFolder? run, int keep, Action<string>? written)
    {
        var sharded = Optimizer as ShardedOptimizer;
        _ranks.RequireEqual(Position.Step, Model.state_dict().Select(p => (p.Key, p.Value)).Concat(
            OwnTensors(sharded is null).Select(p => (p.Key, p.Value))));
        var moments = sharded?.Whole();
        try
        {
            return run is null ? null : TrainingCheckpoint.Write(
                run.Folder, Position.ToState(_source.Position, Model.Dropout.State, get_num_threads()), Model.state_dict(), Model.Config,
                With(OwnTensors(sharded is null), moments), keep, written);
        }
        finally
        {
            Dispose(moments);
        }
    }

    /// <summary>
    /// Brings all ranks to where the run stands: to a checkpoint, or to its start, with rank 0's weights; to be called by all of them.
    /// </summary>
    /// <param name="checkpoint">The checkpoint's folder, read by rank 0; null for the start.</param>
    public void Restore(string? checkpoint)
    {
        var sharded = _ranks.OfFirst(() => checkpoint is not null) ? Optimizer as ShardedOptimizer : null;
        var moments = sharded?.Whole();
        try
        {
            var own = OwnTensors(Optimizer is not ShardedOptimizer);
            var state = _ranks.OfFirst(
                () => checkpoint is null ? null : TrainingCheckpoint.Read(checkpoint, Model.state_dict(), With(own, moments)));
            _ranks.Share(Model.state_dict().Values.Concat(own.Values));
            sharded?.Take(moments!);
            if (state is null)
            {
                Model.Dropout.Seed(_seed);
                return;
            }

            Model.Dropout.State = state.RandomState;
            _source.Resume(state.Loader);
            Position.Restore(state);
        }
        finally
        {
            Dispose(moments);
        }
    }

    /// <summary>
    /// Has dropout draw what belongs to an update and a rank, where there are several: each drops other places, and a run that is gone on
    /// with drops the same.
    /// </summary>
    public void SeedDropout(int step)
    {
        if (_ranks.World > 1)
        {
            Model.Dropout.Seed(unchecked((long)new SplitMix64(_seed, ((long)step << 20) + _ranks.Rank).Next()));
        }
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

    private static void Dispose(Dictionary<string, Tensor>? tensors)
    {
        foreach (var (_, tensor) in tensors ?? [])
        {
            tensor.Dispose();
        }
    }

    private static Dictionary<string, Tensor> With(Dictionary<string, Tensor> own, Dictionary<string, Tensor>? others) =>
        new(own.Concat(others ?? []));

    /// <summary>What a checkpoint keeps beside the model's weights.</summary>
    /// <param name="withMoments">Whether the optimiser's are among it.</param>
    private Dictionary<string, Tensor> OwnTensors(bool withMoments)
    {
        var tensors = withMoments ? new Dictionary<string, Tensor>(Optimizer.StateDict()) : [];
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
