using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>Makes one measurement in this process.</summary>
public static class BenchWorker
{
    /// <summary>Measures.</summary>
    /// <param name="task">What.</param>
    /// <param name="cancellationToken">Stops between repetitions.</param>
    public static BenchResult Run(BenchTask task, CancellationToken cancellationToken)
    {
        Compute.Begin(task.Threads);
        return task switch
        {
            MatrixProductTask t =>
                new()
                {
                    ForwardSeconds = 2.0 * 1024 * 1024 * 1024 / Rates.MatrixProduct(
                        ScalarType.Float32, 1024, t.MinSeconds, cancellationToken),
                },
            MLstmTask t => MLstm(t, cancellationToken),
            SLstmTask t => SLstm(t, cancellationToken),
            WorkTask t => WorkBench.Run(t, cancellationToken),
            GenerationTask t => GenerationBench.Run(t, cancellationToken),
            LoadTask t => LoadBench.Run(t, cancellationToken),
            _ => throw new ArgumentException($"There is no measurement of kind {task.GetType().Name}.", nameof(task)),
        };
    }

    private static BenchResult MLstm(MLstmTask task, CancellationToken cancellationToken)
    {
        Require(4.0 * task.Batch * task.Heads * task.Length * (2.0 * task.QkHeadDim + task.VHeadDim));
        var options = new MLstmOptions { Form = Enum.Parse<MLstmForm>(task.Form, ignoreCase: true), ChunkSize = task.ChunkSize };
        Tensor[] Inputs(long length) =>
        [
            randn(task.Batch, task.Heads, length, task.QkHeadDim),
            randn(task.Batch, task.Heads, length, task.QkHeadDim),
            randn(task.Batch, task.Heads, length, task.VHeadDim),
            randn(task.Batch, task.Heads, length),
            randn(task.Batch, task.Heads, length) + 3,
        ];
        return Cell(
            Inputs, x => MLstmCell.ForwardOutput(x[0], x[1], x[2], x[3], x[4], options: options), task.Length, task, cancellationToken);
    }

    private static BenchResult SLstm(SLstmTask task, CancellationToken cancellationToken)
    {
        Require(16.0 * task.Batch * task.Length * task.Heads * task.HeadDim);
        Tensor[] Inputs(long length) =>
        [
            randn([task.Batch, length, 4, task.Heads, task.HeadDim]),
            randn(task.Heads, 4, task.HeadDim, task.HeadDim) / Math.Sqrt(task.HeadDim),
            zeros(4, task.Heads, task.HeadDim),
        ];
        return Cell(
            Inputs,
            x => task.Fused ? SLstmFused.Forward(x[0], x[1], x[2]).H : SLstmRecurrent.Forward(x[0], x[1], x[2]).H,
            task.Length,
            task,
            cancellationToken);
    }

    private static void Require(double bytes) => MemoryNeed.Require(
        "A cell of this shape", bytes, CPU, "Choose a smaller batch, length or width.");

    private static BenchResult Cell(
        Func<long, Tensor[]> inputs, Func<Tensor[], Tensor> forward, int length, BenchTask task, CancellationToken cancellationToken)
    {
        random.manual_seed(1).Dispose();

        // What libtorch and the runtime set up once is no part of the cell's memory.
        Pass(inputs(Math.Min(length, 64)), forward, backward: true);
        var x = inputs(length);
        GC.Collect();
        SystemMemory.ResetPeak();
        var before = SystemMemory.Resident;
        Pass(x, forward, backward: false);
        var forwardPeak = SystemMemory.PeakResident - before;
        Pass(x, forward, backward: true);
        var trainingPeak = SystemMemory.PeakResident - before;
        var (forwardSeconds, _) = Rates.Median(
            () => Pass(x, forward, backward: false), task.MinSeconds, task.Repetitions, cancellationToken);
        var (trainingSeconds, count) = Rates.Median(
            () => Pass(x, forward, backward: true), task.MinSeconds, task.Repetitions, cancellationToken);
        return new()
        {
            ForwardSeconds = forwardSeconds,
            TrainingSeconds = trainingSeconds,
            ForwardPeak = Math.Max(0, forwardPeak),
            TrainingPeak = Math.Max(0, trainingPeak),
            Repetitions = count,
        };
    }

    private static void Pass(Tensor[] inputs, Func<Tensor[], Tensor> forward, bool backward)
    {
        using var scope = NewDisposeScope();
        if (!backward)
        {
            WithoutGradient(() => forward(inputs));
            return;
        }

        var leaves = inputs.Select(t => t.detach().requires_grad_()).ToArray();
        Gradients.Backward(forward(leaves).sum());
        foreach (var leaf in leaves)
        {
            leaf.grad?.Dispose();
        }
    }

    private static Tensor WithoutGradient(Func<Tensor> compute)
    {
        using var none = no_grad();
        return compute();
    }
}
