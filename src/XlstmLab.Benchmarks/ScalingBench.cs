using System.Diagnostics;
using TorchSharp;
using XlstmLab.Collectives;
using XlstmLab.Native;
using XlstmLab.Training;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>One training that is measured on one rank and on several.</summary>
/// <param name="Preset">The model.</param>
/// <param name="Batch">Sequences of a rank.</param>
/// <param name="Context">Tokens of a sequence.</param>
public sealed record ScalingWork(string Preset, int Batch, int Context);

/// <summary>What the ranks are to measure.</summary>
public sealed record ScalingTask
{
    /// <summary>The trainings, one after the other.</summary>
    public required IReadOnlyList<ScalingWork> Works { get; init; }

    /// <summary>The type of the activations: bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>The seconds to measure for, at least.</summary>
    public required double MinSeconds { get; init; }

    /// <summary>The steps to measure, at least.</summary>
    public required int Repetitions { get; init; }

    /// <summary>Where the ranks compute: cpu, or cuda with a GPU each.</summary>
    public required string Device { get; init; }

    /// <summary>The type in which gradients go from rank to rank: bf16 or float32.</summary>
    public required string GradientType { get; init; }
}

/// <summary>What a training took on one rank, on all with and without overlap, and what its sums take by themselves.</summary>
public sealed record ScalingRow
{
    /// <summary>The training.</summary>
    public required ScalingWork Work { get; init; }

    /// <summary>The number of ranks.</summary>
    public required int World { get; init; }

    /// <summary>What connects them.</summary>
    public required string Collective { get; init; }

    /// <summary>The bytes of gradients that are summed at each step.</summary>
    public required long Bytes { get; init; }

    /// <summary>The seconds of a step of one rank that is alone.</summary>
    public required double AloneSeconds { get; init; }

    /// <summary>The seconds of a step of all ranks, gradients going while the backward pass goes on.</summary>
    public required double SharedSeconds { get; init; }

    /// <summary>The seconds of a step of all ranks, gradients going when the backward pass has ended.</summary>
    public required double SerialSeconds { get; init; }

    /// <summary>The seconds that the sums of all gradients take while nothing else goes on, the median.</summary>
    public required double ReduceSeconds { get; init; }

    /// <summary>Tokens a second of one rank that is alone.</summary>
    public double AloneRate => (double)Work.Batch * Work.Context / AloneSeconds;

    /// <summary>Tokens a second of all ranks.</summary>
    public double SharedRate => World * (double)Work.Batch * Work.Context / SharedSeconds;

    /// <summary>The share of as many times one rank's rate as there are ranks.</summary>
    public double Efficiency => AloneSeconds / SharedSeconds;

    /// <summary>The share of the sums' time by which steps are shorter since gradients go while the backward pass goes on.</summary>
    public double Hidden => (SerialSeconds - SharedSeconds) / ReduceSeconds;
}

/// <summary>Measures how much faster several ranks train than one: in the same processes, one after the other.</summary>
public static class ScalingBench
{
    private const int WarmUp = 6;
    private const int ReduceRepetitions = 20;
    private const int ReduceWarmUp = 3;

    /// <summary>The columns of its table.</summary>
    public static IReadOnlyList<BenchColumn<ScalingRow>> Columns { get; } =
    [
        new("preset", r => r.Work.Preset),
        new("B a rank", r => r.Work.Batch),
        new("S", r => r.Work.Context),
        new("ranks", r => r.World),
        new("collective", r => r.Collective),
        new("tokens/s of one", r => r.AloneRate),
        new("tokens/s of all", r => r.SharedRate),
        new("efficiency", r => r.Efficiency, 3),
        new("step ms of one", r => 1e3 * r.AloneSeconds, 2),
        new("step ms of all", r => 1e3 * r.SharedSeconds, 2),
        new("step ms without overlap", r => 1e3 * r.SerialSeconds, 2),
        new("gradients MB", r => r.Bytes / 1e6, 1),
        new("all-reduce ms", r => 1e3 * r.ReduceSeconds, 3),
        new("bus GB/s", r => r.Bytes * 2.0 * (r.World - 1) / r.World / r.ReduceSeconds / 1e9, 2),
        new("hidden", r => r.Hidden, 2),
    ];

    /// <summary>How it measures.</summary>
    public static string Method =>
        "Wall time of whole steps of the trainer on random tokens after 6 of warm-up, waiting for the device at both ends: "
        + "of rank 0 while the others wait, then of all ranks at once, each with as many sequences as the one had, "
        + "then the same with all gradients going after the backward pass. The all-reduce is the median of the sums of all gradients with "
        + "nothing beside them; hidden is the share of its time by which a step is shorter with overlap than without. "
        + "Efficiency is the share of as many times one rank's tokens a second.";

    /// <summary>Measures, as one of the ranks.</summary>
    /// <param name="task">What.</param>
    /// <param name="communicator">The ranks.</param>
    /// <param name="device">This rank's device.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <returns>The rows; those of rank 0 are the result.</returns>
    public static IReadOnlyList<ScalingRow> Run(
        ScalingTask task, ICommunicator communicator, Device device, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(task);
        ArgumentNullException.ThrowIfNull(communicator);
        ArgumentNullException.ThrowIfNull(device);
        var rows = new List<ScalingRow>();
        foreach (var work in task.Works)
        {
            var type = Compute.Type(task.GradientType) ?? ScalarType.Float32;
            var (reduce, bytes) = Reduce(work, type, communicator, device);
            var alone = communicator.Rank == 0 ? Train(work, task, null, device, cancellationToken) : 0;
            communicator.Gather([]);
            var parallelism = new TrainingParallelism { Communicator = communicator, GradientType = type };
            var shared = Train(work, task, parallelism, device, cancellationToken);
            var serial = Train(work, task, parallelism with { Overlaps = false }, device, cancellationToken);
            rows.Add(new()
            {
                Work = work,
                World = communicator.World,
                Collective = communicator.Name,
                Bytes = bytes,
                AloneSeconds = alone,
                SharedSeconds = shared,
                SerialSeconds = serial,
                ReduceSeconds = reduce,
            });
        }

        return rows;
    }

    /// <summary>The seconds of the sums by themselves, and their bytes.</summary>
    private static (double Seconds, long Bytes) Reduce(ScalingWork work, ScalarType type, ICommunicator communicator, Device device)
    {
        using var scope = NewDisposeScope();
        using var model = BenchModels.ByName(work.Preset).CreateModel(seed: 1);
        Tensor[] gradients = [.. model.parameters().Where(p => p.requires_grad).Select(p => zeros(p.shape, type, device))];
        var seconds = new double[ReduceRepetitions];
        for (var k = -ReduceWarmUp; k < ReduceRepetitions; k++)
        {
            WorkBench.Wait(device);
            communicator.Gather([]);
            var start = Stopwatch.GetTimestamp();
            communicator.BeginAllReduce(gradients);
            communicator.Finish();
            communicator.Await(() =>
            {
                WorkBench.Wait(device);
                return 0;
            });
            if (k >= 0)
            {
                seconds[k] = Stopwatch.GetElapsedTime(start).TotalSeconds;
            }
        }

        Array.Sort(seconds);
        return (seconds[ReduceRepetitions / 2], gradients.Sum(g => g.NumberOfElements * g.element_size()));
    }

    /// <summary>The seconds of a step; of ranks other than the first, of no meaning.</summary>
    private static double Train(
        ScalingWork work, ScalingTask task, TrainingParallelism? parallelism, Device device, CancellationToken cancellationToken)
    {
        var architecture = BenchModels.ByName(work.Preset);
        var world = parallelism?.Communicator.World ?? 1;
        var config = new TrainingConfig
        {
            Steps = 1_000_000,
            BatchSize = work.Batch * world,
            ContextLength = work.Context,
            StatisticsEvery = 0,
            ComputeType = Compute.Type(task.ComputeType) ?? ScalarType.Float32,
        };
        using var model = architecture.CreateModel(seed: 1);
        model.to(device);
        var watch = new Stopwatch();
        var seconds = 0.0;
        void Look(TrainingMoment moment)
        {
            var measured = moment.Metrics.Step - WarmUp;
            if (parallelism?.Communicator.Rank > 0 || measured < 0 || seconds > 0)
            {
                return;
            }

            if (measured > 0 && (measured < task.Repetitions || watch.Elapsed.TotalSeconds < task.MinSeconds))
            {
                return;
            }

            WorkBench.Wait(device);
            if (measured == 0)
            {
                watch.Start();
                return;
            }

            seconds = watch.Elapsed.TotalSeconds / measured;
            moment.Stop();
        }

        new Trainer(
            model, config, WorkBench.RandomTokens(architecture.VocabularySize, config.BatchSize, config.ContextLength), [], runFolder: null)
        {
            Parallelism = parallelism,
            Hooks = new() { AfterStep = Look },
        }.Run(cancellationToken);
        cancellationToken.ThrowIfCancellationRequested();
        return seconds;
    }
}
