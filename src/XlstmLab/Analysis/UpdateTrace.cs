using XlstmLab.Training;

namespace XlstmLab.Analysis;

/// <summary>One update of one group of parameters. Norms are Euclidean, over all elements of the group.</summary>
/// <param name="Step">The update, from 1.</param>
/// <param name="Group">The group.</param>
/// <param name="Count">The number of elements.</param>
/// <param name="GradientNorm">The norm of the gradient before clipping.</param>
/// <param name="WeightNorm">The norm of the weights before the update.</param>
/// <param name="UpdateNorm">The norm of the change of the weights, weight decay included.</param>
/// <param name="UpdateRatio">The update's over the weights' norm, without unit; NaN where the weights are all 0.</param>
public sealed record UpdateTrace(
    int Step, string Group, long Count, double GradientNorm, double WeightNorm, double UpdateNorm, double UpdateRatio);

/// <summary>Gradients and updates of groups of parameters over a training.</summary>
public static class UpdateTraces
{
    /// <summary>The updates that a run measured (every <see cref="TrainingConfig.StatisticsEvery"/> steps), by step and group.</summary>
    /// <param name="metrics">The run's metrics, as <see cref="RunFolder.ReadMetrics"/> gives them.</param>
    /// <param name="groupOf">
    /// The group of a module by its name in the state dict, such as <see cref="Role"/>, <see cref="Block"/> or one's own; null is
    /// <see cref="Role"/>.
    /// </param>
    public static IReadOnlyList<UpdateTrace> Updates(this IEnumerable<TrainingMetrics> metrics, Func<string, string>? groupOf = null)
    {
        ArgumentNullException.ThrowIfNull(metrics);
        return
        [
            .. from m in metrics
               from g in (m.Parameters ?? []).GroupBy(p => (groupOf ?? Role)(p.Group))
               let weights = Norm(g.Select(p => p.WeightNorm))
               let update = Norm(g.Select(p => p.UpdateNorm))
               select new UpdateTrace(
                   m.Step,
                   g.Key,
                   g.Sum(p => p.Count),
                   Norm(g.Select(p => p.GradientNorm)),
                   weights,
                   update,
                   weights > 0 ? update / weights : double.NaN),
        ];
    }

    /// <summary>
    /// What a module is in its block, whichever block that is: <c>mlstm_layer.q</c> of <c>backbone.blocks.0.mlstm_layer.q</c>.
    /// </summary>
    public static string Role(string module)
    {
        ArgumentNullException.ThrowIfNull(module);
        var parts = module.Split('.');
        var number = Array.FindLastIndex(parts, IsNumber);
        return number < 0 ? parts[^1]
            : number < parts.Length - 1 ? string.Join('.', parts[(number + 1)..])
            : parts[Math.Max(0, number - 1)];
    }

    /// <summary>
    /// The block a module is in: <c>block 0</c> of <c>backbone.blocks.0.mlstm_layer.q</c>; its own last name outside of blocks.
    /// </summary>
    public static string Block(string module)
    {
        ArgumentNullException.ThrowIfNull(module);
        var parts = module.Split('.');
        var number = Array.FindIndex(parts, IsNumber);
        return number < 0 ? parts[^1] : $"block {parts[number]}";
    }

    private static bool IsNumber(string part) => part.Length > 0 && part.All(char.IsAsciiDigit);

    private static double Norm(IEnumerable<double> norms) => Math.Sqrt(norms.Sum(n => n * n));
}
