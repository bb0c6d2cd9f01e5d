using TorchSharp.Modules;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>Measures one update of each parameter group: made when the gradients are there, asked when the update is done.</summary>
internal sealed class UpdateRecorder : IDisposable
{
    private readonly (string Name, Parameter[] Weights, Tensor[] Before, double GradientNorm)[] _groups;

    /// <summary>Notes gradients and weights, which takes a copy of the weights.</summary>
    public UpdateRecorder(IEnumerable<(string Name, Parameter Parameter)> parameters)
    {
        using var scope = NewDisposeScope();
        using var noGrad = no_grad();
        _groups =
        [
            .. parameters.GroupBy(p => Group(p.Name), p => p.Parameter).Select(group => (
                group.Key,
                group.ToArray(),
                group.Select(weight => weight.detach().clone().DetachFromDisposeScope()).ToArray(),
                NormOfGradients(group))),
        ];
    }

    public ParameterStatistics[] Statistics() =>
        [.. _groups.Select(group =>
        {
            using var scope = NewDisposeScope();
            using var noGrad = no_grad();
            var updates = group.Weights.Zip(group.Before, (after, before) => after.detach() - before).ToArray();
            return new ParameterStatistics(
                group.Name, group.Before.Sum(w => w.NumberOfElements), group.GradientNorm, GlobalNorm.Of(group.Before),
                GlobalNorm.Of(updates));
        })];

    public void Dispose()
    {
        foreach (var before in _groups.SelectMany(g => g.Before))
        {
            before.Dispose();
        }
    }

    /// <summary>The module that a parameter belongs to: its name without the last part.</summary>
    private static string Group(string name) => name.LastIndexOf('.') is > 0 and var end ? name[..end] : name;

    private static double NormOfGradients(IEnumerable<Parameter> weights) => GlobalNorm.Of(
        [.. weights.Select(w => w.grad).OfType<Tensor>()]);
}
