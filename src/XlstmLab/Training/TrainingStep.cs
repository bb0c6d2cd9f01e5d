using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Training;

/// <summary>One update: the gradients of a batch, their norm and its clipping, the optimiser's step, the average of weights.</summary>
internal sealed class TrainingStep<TBatch>(
    TrainingState<TBatch> state, TrainingConfig config, BatchSource<TBatch> source, BatchLoss<TBatch> loss, TrainingGraphs<TBatch> graphs,
    TrainingRanks ranks)
    where TBatch : IBatch<TBatch>
{
    private readonly IDeviceOptimizer? _onDevice = state.Optimizer is IDeviceOptimizer { HasKernel: true } optimizer ? optimizer : null;
    private bool _isPrepared;

    /// <summary>
    /// Whether a GPU makes updates by itself: what it made of one is asked for when the next was begun, so that it never waits.
    /// </summary>
    public bool IsLate => _onDevice is not null;

    /// <summary>Makes an update, or tells the GPU to.</summary>
    /// <param name="step">Its number, from 1.</param>
    public StartedUpdate Begin(int step)
    {
        var (rows, rate) = (config.BatchSizeAt(step), config.LearningRate(step));
        var measures = config.StatisticsEvery > 0 && step % config.StatisticsEvery == 0;
        var gates = measures ? new GateRecorder() : null;
        var all = source.Next(rows);
        var (batch, targets) = (ranks.Own(all), all.TargetCount);
        state.SeedDropout(step);
        Prepare(batch, targets);
        state.Products?.Refresh();
        using var scope = NewDisposeScope();
        UpdateRecorder? changes = null;
        Tensor GradientsByHost()
        {
            var value = Gradients(batch, targets, gates);
            changes = measures ? new UpdateRecorder(state.Parameters) : null;
            return value;
        }

        var result = _onDevice is not null ? UpdateOnDevice(_onDevice, batch, targets, measures, GradientsByHost, rate)
            : Update(ranks.Await(() => GradientsByHost().item<double>()), rate);
        var statistics = changes?.Statistics();
        changes?.Dispose();
        state.ZeroGradients();
        return new(step, rows, rate, measures, gates?.Statistics(), statistics, result);
    }

    /// <summary>
    /// Has all kernels of an update compiled at once, by going through it without starting them: one after the other, each when it is first
    /// asked for, they take several times as long. Of models that compute slowly without kernels that would be one step more.
    /// </summary>
    private void Prepare(TBatch batch, long targets)
    {
        if (_isPrepared || state.Products is null || state.Model.Observer is not null
            || KernelCoverage.Warning(state.Model, config.ComputeType) is not null)
        {
            return;
        }

        _isPrepared = true;
        var random = state.Model.Dropout.State;
        try
        {
            AdamWKernel.Prepare(state.Parameters[0].Parameter);
            var rows = Math.Min(config.MicroBatchSize ?? batch.Rows, batch.Rows);
            Kernel.Prepare(true, () =>
            {
                using var scope = NewDisposeScope();
                _ = Accumulate(rows, (first, count) => loss(state.Model, batch.Slice(first, count), targets), null);
            });
        }
        finally
        {
            state.ZeroGradients();
            state.Products.Reset();
            state.Model.Dropout.State = random;
        }
    }

    /// <summary>Adds up the gradients of a whole batch, and shows its gates to who measures them.</summary>
    /// <param name="batch">This rank's rows.</param>
    /// <param name="targets">The number of targets of all ranks' rows.</param>
    /// <param name="gates">Measures gates, or null.</param>
    /// <returns>The mean loss over all ranks' targets, [1] float64.</returns>
    private Tensor Gradients(TBatch batch, long targets, GateRecorder? gates)
    {
        var observer = state.Model.Observer;
        state.Model.Observer += gates is null ? null : gates.Observe;
        try
        {
            return Accumulate(batch.Rows, (first, rows) => loss(state.Model, batch.Slice(first, rows), targets), state.Reduction);
        }
        finally
        {
            state.Model.Observer = observer;
        }
    }

    /// <summary>Adds up the gradients of a batch's rows, in pieces that fit the memory, and then over the ranks.</summary>
    /// <param name="count">The number of rows.</param>
    /// <param name="lossOf">The loss of some of them.</param>
    /// <param name="reduction">Adds over the ranks, or null.</param>
    private Tensor Accumulate(int count, Func<int, int, Tensor> lossOf, GradientReduction? reduction)
    {
        using var scope = NewDisposeScope();
        var total = zeros(1, ScalarType.Float64, state.Device);
        for (var first = 0; first < count;)
        {
            using var micro = NewDisposeScope();
            var rows = Math.Min(config.MicroBatchSize ?? count, count - first);
            Tensor Forward() => state.Compute(() => lossOf(first, rows));
            var part = reduction is not null && first + rows == count ? reduction.Loss(Forward) : Forward(); // ()
            Operations.Gradients.Backward(part);
            state.Products?.EndGradients();
            total.add_(part.detach());
            first += rows;
        }

        reduction?.Finish(total);
        return total.MoveToOuterDisposeScope();
    }

    /// <summary>An update by the host, unless loss or gradient forbid it.</summary>
    private Func<UpdateResult> Update(double value, double rate)
    {
        var norm = state.GradientNorm();
        var skipped = Unusable(value, norm)
            ?? (config.Spikes is { SkipUpdate: true } ? state.Position.Spike(value, norm, config.Spikes) : null);
        if (skipped is null)
        {
            state.Optimizer.Step(rate, config.GradientClip is { } clip && norm > clip ? clip / norm : 1);
            state.Average?.Update();
        }

        return () => new(value, norm, skipped);
    }

    /// <summary>The same by the GPU, which clips, updates, averages or leaves out without a word from the host.</summary>
    private Func<UpdateResult> UpdateOnDevice(
        IDeviceOptimizer kernel, TBatch batch, long targets, bool measures, Func<Tensor> gradients, double rate)
    {
        var (lossLimit, normLimit) = config.Spikes is { SkipUpdate: true } ? state.Position.SpikeLimits(config.Spikes) : default;
        var settings = new AdamWSettings
        {
            Rate = rate,
            Clip = config.GradientClip ?? 0,
            LossLimit = lossLimit,
            NormLimit = normLimit,
            AverageDecay = state.Average?.Decay ?? 0,
        };
        var byHost = () => kernel.StepOnDevice(settings, gradients(), state.Copies);
        var later = measures ? graphs.ByHost(byHost)
            : graphs.Update(
                batch, targets, settings, byHost, kept => Accumulate(
                    batch.Rows, (first, rows) => kept.Loss(state.Model, first, rows), state.Reduction));
        return () =>
        {
            var record = ranks.Await(later);
            var skipped = record.Applied == 1 ? null
                : state.Position.Spike(record.Loss, record.Norm, config.Spikes)
                ?? FormattableString.Invariant($"the loss is {record.Loss} and the gradients' norm {record.Norm}");
            return new(record.Loss, record.Norm, skipped);
        };
    }

    /// <summary>Why no update can be made of these gradients; null if one can.</summary>
    private string? Unusable(double value, double norm)
    {
        if (double.IsFinite(value) && double.IsFinite(norm))
        {
            return null;
        }

        using var scope = NewDisposeScope();
        var all = state.Parameters;
        var names = all.Where(p => p.Parameter.grad is { } g && !g.isfinite().all().item<bool>()).Select(p => p.Name).ToArray();
        var first = string.Join(", ", names.Take(3)) + (names.Length > 3 ? ", ..." : "");
        return FormattableString.Invariant($"the loss is {value}") + (names.Length == 0
            ? ", though every gradient is finite"
            : $" and the gradient is not finite in {names.Length} of {all.Length} parameters ({first})");
    }
}

/// <summary>An update that was begun; its result waits for it to be done.</summary>
internal sealed record StartedUpdate(
    int Step, int Rows, double Rate, bool Measures, GateStatistics[]? Gates, ParameterStatistics[]? Parameters, Func<UpdateResult> Result);

/// <summary>What an update came to; <see cref="Skipped"/> says why it was left out, if it was.</summary>
internal readonly record struct UpdateResult(double Loss, double Norm, string? Skipped);
