using System.Diagnostics;
using XlstmLab.Cells;
using XlstmLab.Cli.Machine;
using XlstmLab.Models;
using XlstmLab.Text;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Benchmarks;

/// <summary>Makes one measurement in this process.</summary>
internal static class BenchWorker
{
    /// <summary>Measures.</summary>
    /// <param name="task">What.</param>
    /// <param name="cancellationToken">Stops between repetitions.</param>
    public static BenchResult Run(BenchTask task, CancellationToken cancellationToken)
    {
        Compute.Begin(task.Threads);
        return task switch
        {
            MatrixProductTask t => new() { ForwardSeconds = 2.0 * 1024 * 1024 * 1024 / Rates.MatrixProduct(ScalarType.Float32, 1024, t.MinSeconds, cancellationToken) },
            MLstmTask t => MLstm(t, cancellationToken),
            SLstmTask t => SLstm(t, cancellationToken),
            TrainingTask t => Training(t, cancellationToken),
            _ => throw new ArgumentException($"There is no measurement of kind {task.GetType().Name}.", nameof(task)),
        };
    }

    private static BenchResult MLstm(MLstmTask task, CancellationToken cancellationToken)
    {
        var options = new MLstmOptions { Form = Enum.Parse<MLstmForm>(task.Form, ignoreCase: true), ChunkSize = task.ChunkSize };
        Tensor[] Inputs(long length) =>
        [
            randn(task.Batch, task.Heads, length, task.QkHeadDim),
            randn(task.Batch, task.Heads, length, task.QkHeadDim),
            randn(task.Batch, task.Heads, length, task.VHeadDim),
            randn(task.Batch, task.Heads, length),
            randn(task.Batch, task.Heads, length) + 3,
        ];
        return Cell(Inputs, x => MLstmCell.ForwardOutput(x[0], x[1], x[2], x[3], x[4], options: options), task.Length, task, cancellationToken);
    }

    private static BenchResult SLstm(SLstmTask task, CancellationToken cancellationToken)
    {
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

    private static BenchResult Cell(Func<long, Tensor[]> inputs, Func<Tensor[], Tensor> forward, int length, BenchTask task, CancellationToken cancellationToken)
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
        var (forwardSeconds, _) = Rates.Median(() => Pass(x, forward, backward: false), task.MinSeconds, task.Repetitions, cancellationToken);
        var (trainingSeconds, count) = Rates.Median(() => Pass(x, forward, backward: true), task.MinSeconds, task.Repetitions, cancellationToken);
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
        forward(leaves).sum().backward();
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

    private static BenchResult Training(TrainingTask task, CancellationToken cancellationToken)
    {
        var config = XlstmPresets.ByName(task.Preset);
        SystemMemory.ResetPeak();
        var before = SystemMemory.Resident;
        var folder = Directory.CreateTempSubdirectory("xlstm-bench-").FullName;
        try
        {
            using var model = new XlstmLanguageModel(config);
            var seconds = new List<double>();
            var measured = Stopwatch.StartNew();
            var done = false;
            var progress = new ImmediateProgress<TrainingMetrics>(metrics =>
            {
                const int warmUp = 3;
                if (metrics.Step <= warmUp)
                {
                    measured.Restart();
                    return;
                }

                seconds.Add(metrics.BatchSize * (double)task.Context / metrics.TokensPerSecond);
                done = seconds.Count >= task.Repetitions && measured.Elapsed.TotalSeconds >= task.MinSeconds;
                if (done)
                {
                    // Cancelling would write a checkpoint that nobody wants.
                    throw new OperationCanceledException("Measured enough.");
                }
            });
            var training = new TrainingConfig
            {
                Steps = 1_000_000,
                BatchSize = task.Batch,
                ContextLength = task.Context,
                CheckpointEvery = 1_000_000,
                StatisticsEvery = 0,
                LogEvery = 1_000_000,
                TensorBoard = false,
                ComputeType = Compute.Type(task.ComputeType)!.Value,
            };
            try
            {
                new Trainer(model, training, RandomTokens(config.VocabularySize, task), [], folder, progress).Run(cancellationToken);
            }
            catch (OperationCanceledException) when (done)
            {
            }

            cancellationToken.ThrowIfCancellationRequested();
            seconds.Sort();
            return new()
            {
                TrainingSeconds = seconds[seconds.Count / 2],
                TrainingPeak = SystemMemory.PeakResident - before,
                Repetitions = seconds.Count,
            };
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Random tokens: a step takes the same time whatever they are.</summary>
    private static PackedTokens RandomTokens(int vocabulary, TrainingTask task)
    {
        var draw = new Random(1);
        var documents = Enumerable.Range(0, 16)
            .Select(_ => Enumerable.Range(0, 2 + task.Batch * task.Context / 8).Select(t => t == 0 ? vocabulary - 1 : draw.Next(vocabulary - 1)).ToArray())
            .ToArray();
        return new(documents, vocabulary - 1, task.Context);
    }
}
