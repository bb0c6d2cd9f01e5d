using System.Text.Json;
using TorchSharp.Modules;
using XlstmLab.Collectives;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>
/// An optimiser of which each rank has the part that belongs to its share of the parameters: it updates those, and tells the others (ZeRO's
/// first stage, Rajbhandari et al. 2020).
/// </summary>
/// <remarks>
/// On a GPU AdamW makes its update there: every rank works out the norm of all gradients in the same order, as a rank alone would, updates
/// its share, and all tell each other, inside a graph too.
/// </remarks>
internal sealed class ShardedOptimizer : IDeviceOptimizer
{
    private readonly ICommunicator _communicator;
    private readonly (string Name, Parameter Parameter)[] _parameters;
    private readonly (Tensor Parameter, int Owner)[] _owned;
    private readonly IOptimizer _own;
    private AdamWKernel? _kernel;

    /// <summary>Makes this rank's part.</summary>
    /// <param name="communicator">The ranks.</param>
    /// <param name="parameters">All parameters that are trained, in the same order on all ranks.</param>
    /// <param name="make">Makes the optimiser of those for which it is true.</param>
    public ShardedOptimizer(
        ICommunicator communicator, IReadOnlyList<(string Name, Parameter Parameter)> parameters,
        Func<Func<Parameter, bool>, IOptimizer> make)
    {
        _communicator = communicator;
        _parameters = [.. parameters];
        var owners = Owners([.. parameters.Select(p => p.Parameter.NumberOfElements)], communicator.World);
        _owned = [.. parameters.Zip(owners, (p, owner) => ((Tensor)p.Parameter, owner))];
        var own = _owned.Where(p => p.Owner == communicator.Rank).Select(p => Kernel.Address(p.Parameter)).ToHashSet();
        _own = make(p => own.Contains(Kernel.Address(p)));
    }

    /// <inheritdoc/>
    public void Step(double learningRate, double gradientScale = 1)
    {
        _own.Step(learningRate, gradientScale);
        Tell();
    }

    /// <inheritdoc/>
    bool IDeviceOptimizer.HasKernel => _own is AdamW { HasKernel: true } && _parameters.Length >= _communicator.World;

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.StepOnDevice(AdamWSettings settings, Tensor loss, WeightCopies copies)
    {
        var kernel = OnDevice(copies);
        kernel.Step(OnGpu.Completed(settings), loss);
        Tell();
        kernel.Adopt();
        return OnGpu.Later(kernel);
    }

    /// <inheritdoc/>
    DeviceInput<long> IDeviceOptimizer.NewTable(WeightCopies copies) => OnDevice(copies).NewTable();

    /// <inheritdoc/>
    void IDeviceOptimizer.Record(DeviceInput<long> table, Tensor loss)
    {
        _kernel!.Record(table, loss);
        Tell();
        _kernel.Adopt(table);
    }

    /// <inheritdoc/>
    Func<AdamWRecord> IDeviceOptimizer.Start(AdamWSettings settings, IRecordedWork update) =>
        ((IDeviceOptimizer)OnGpu).Start(settings, update);

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, Tensor> StateDict() => _own.StateDict();

    /// <inheritdoc/>
    public void LoadStateDict(IReadOnlyDictionary<string, Tensor> state) => _own.LoadStateDict(state);

    /// <summary>
    /// The state of all ranks together, in the host's memory, as an optimiser that is not shared has it; to be called by all ranks.
    /// </summary>
    /// <returns>The caller's, to be disposed.</returns>
    public Dictionary<string, Tensor> Whole()
    {
        using var noGrad = no_grad();
        var whole = new Dictionary<string, Tensor>();
        foreach (var (owner, name, shape, type) in Entries())
        {
            var tensor = (owner == _communicator.Rank ? StateDict()[name].cpu().clone() : empty(shape, type, CPU)).DetachFromDisposeScope();
            _communicator.Broadcast(tensor, owner);
            if (!whole.TryAdd(name, tensor))
            {
                tensor.Dispose(); // the number of updates, which every rank has
            }
        }

        return whole;
    }

    /// <summary>Takes this rank's part of what rank 0 has; to be called by all ranks.</summary>
    /// <param name="whole">What <see cref="Whole"/> gave, with rank 0's numbers.</param>
    public void Take(IReadOnlyDictionary<string, Tensor> whole)
    {
        foreach (var name in whole.Keys)
        {
            _communicator.Broadcast(whole[name], 0);
        }

        LoadStateDict(whole);
    }

    /// <inheritdoc/>
    public void Dispose() => _own.Dispose();

    /// <summary>Who has which parameter: the largest first, each to who has least.</summary>
    internal static int[] Owners(IReadOnlyList<long> sizes, int world)
    {
        var loads = new long[world];
        var owners = new int[sizes.Count];
        foreach (var k in Enumerable.Range(0, sizes.Count).OrderByDescending(k => sizes[k]).ThenBy(k => k))
        {
            owners[k] = Array.IndexOf(loads, loads.Min());
            loads[owners[k]] += sizes[k];
        }

        return owners;
    }

    private AdamW OnGpu => (AdamW)_own;

    private AdamWKernel OnDevice(WeightCopies copies) => _kernel ??= OnGpu.OnDevice(copies, _parameters);

    /// <summary>Every rank tells the others what it has updated.</summary>
    private void Tell()
    {
        using var noGrad = no_grad();
        _communicator.Broadcast(_owned);
    }

    /// <summary>What each rank has, in their order.</summary>
    private IEnumerable<(int Owner, string Name, long[] Shape, ScalarType Type)> Entries()
    {
        var own = StateDict().Select(entry => new Entry(entry.Key, entry.Value.shape, (int)entry.Value.dtype)).ToArray();
        var all = _communicator.Gather(JsonSerializer.SerializeToUtf8Bytes(own, RunJson.Line));
        return all.SelectMany((said, owner) => JsonSerializer.Deserialize<Entry[]>(said, RunJson.Line)!.Select(
            e => (owner, e.Name, e.Shape, (ScalarType)e.Type)));
    }

    private sealed record Entry(string Name, long[] Shape, int Type);
}
