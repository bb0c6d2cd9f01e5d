using TorchSharp.Modules;
using XlstmLab.Layers;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Muon for a model's hidden matrices, AdamW for all its other parameters.</summary>
/// <param name="matrices">The hidden matrices' optimiser; it belongs to this one.</param>
/// <param name="others">The others' optimiser; it belongs to this one.</param>
/// <param name="rateFactor">The matrices' learning rate in units of the others'.</param>
public sealed class MuonWithAdamW(Muon matrices, AdamW others, double rateFactor = 1) : IDeviceOptimizer
{
    private WeightCopies _copies = new();

    /// <summary>The optimiser of a model, as a configuration has it.</summary>
    /// <param name="model">The model's name.</param>
    /// <param name="parameters">All that is trained.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="updates">Which of the parameters it is to update; null for all.</param>
    /// <exception cref="ArgumentException">The model has no hidden matrices.</exception>
    internal static MuonWithAdamW Of(
        string model, IReadOnlyList<(string Name, Parameter Parameter, ParameterRole Role)> parameters, TrainingConfig config,
        Func<Parameter, bool>? updates = null)
    {
        var hidden = parameters.Where(p => p.Role == ParameterRole.HiddenMatrix).Select(p => (p.Name, p.Parameter)).ToArray();
        if (hidden.Length == 0)
        {
            throw new ArgumentException(
                $"{model} has no hidden matrices, projections inside a list of blocks, that Muon could update: "
                + "train it by AdamW.");
        }

        bool Updated(Parameter parameter) => updates?.Invoke(parameter) ?? true;
        var others = parameters.Where(p => p.Role != ParameterRole.HiddenMatrix && Updated(p.Parameter)).Select(
            p => (p.Name, p.Parameter, p.Role.Decays()));
        return new(
            new(hidden.Where(p => Updated(p.Parameter)), config.Muon, config.Muon.WeightDecay ?? config.WeightDecay),
            new(others, config.Beta1, config.Beta2, config.AdamEpsilon, config.WeightDecay),
            (config.Muon.PeakLearningRate ?? config.PeakLearningRate) / config.PeakLearningRate);
    }

    /// <summary>
    /// The names of a model's hidden matrices: the weights [output, input] of its projections and recurrent layers inside blocks. All
    /// else is none: embeddings, the head, norms, biases, convolutions, head-wise matrices, an mLSTM's gates of one number a head, and
    /// parameters that a module holds itself, as Mamba its rates.
    /// </summary>
    /// <remarks>Told by what modules are, not by names (<see cref="ParameterRoles"/>).</remarks>
    /// <param name="model">A model, or a part of one.</param>
    public static IReadOnlySet<string> HiddenMatrices(nn.Module model) =>
        ParameterRoles.Of(model).Where(p => p.Value == ParameterRole.HiddenMatrix).Select(p => p.Key).ToHashSet(StringComparer.Ordinal);

    /// <inheritdoc/>
    public void Step(double learningRate, double gradientScale = 1)
    {
        matrices.Step(learningRate * rateFactor, gradientScale);
        others.Step(learningRate, gradientScale);
    }

    /// <inheritdoc/>
    bool IDeviceOptimizer.HasKernel => others.HasKernel && matrices.Matrices.All(m => Kernel.Reaches(m.Parameter));

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.StepOnDevice(AdamWSettings settings, Tensor loss, WeightCopies copies)
    {
        var kernel = OnDevice(copies);
        kernel.Step(others.Completed(settings), loss);
        matrices.StepOnDevice(kernel, rateFactor, copies);
        return others.Later(kernel);
    }

    /// <inheritdoc/>
    DeviceInput<long> IDeviceOptimizer.NewTable(WeightCopies copies)
    {
        _copies = copies;
        return OnDevice(copies).NewTable();
    }

    /// <inheritdoc/>
    void IDeviceOptimizer.Record(DeviceInput<long> table, Tensor loss)
    {
        var kernel = OnDevice(_copies);
        kernel.Record(table, loss);
        matrices.StepOnDevice(kernel, rateFactor, _copies);
    }

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.Start(AdamWSettings settings, IRecordedWork update) =>
        ((IDeviceOptimizer)others).Start(settings, update);

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

    private AdamWKernel OnDevice(WeightCopies copies) => others.OnDevice(copies, others.Parameters.Concat(matrices.Matrices));
}
