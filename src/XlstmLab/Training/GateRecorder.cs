using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Collects the gates that pass by, over all micro-batches of an update.</summary>
internal sealed class GateRecorder
{
    private static readonly string[] ObservedGates = ["igate_preact", "fgate_preact"];

    private readonly SortedDictionary<(int Block, string Name), (double Minimum, double Sum, long Count, double Maximum)> _seen = [];

    public void Observe(int block, string name, Tensor value)
    {
        if (!ObservedGates.Contains(name))
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        var all = value.detach().to(ScalarType.Float64);
        var nothing = (double.PositiveInfinity, 0.0, 0L, double.NegativeInfinity);
        var (minimum, sum, count, maximum) = _seen.GetValueOrDefault((block, name), nothing);
        _seen[(block, name)] = (
            Math.Min(minimum, all.min().item<double>()),
            sum + all.sum().item<double>(),
            count + all.NumberOfElements,
            Math.Max(maximum, all.max().item<double>()));
    }

    public GateStatistics[] Statistics() =>
        [.. _seen.Select(g => new GateStatistics(g.Key.Block, g.Key.Name, g.Value.Minimum, g.Value.Sum / g.Value.Count, g.Value.Maximum))];
}
