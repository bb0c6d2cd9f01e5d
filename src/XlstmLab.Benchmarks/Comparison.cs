using System.Diagnostics;
using System.Globalization;
using static System.FormattableString;

namespace XlstmLab.Benchmarks;

/// <summary>Measures this library's work, each in a process of its own, and sets beside it what others take.</summary>
public sealed record Comparison
{
    /// <summary>The works.</summary>
    public required IReadOnlyList<Workload> Works { get; init; }

    /// <summary>Where to compute: cpu, cuda or cuda:1.</summary>
    public required string Device { get; init; }

    /// <summary>The device's name; null for the CPU.</summary>
    public required string? DeviceName { get; init; }

    /// <summary>The type of the activations: bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>The thread counts; on a GPU one is enough.</summary>
    public required IReadOnlyList<int> Threads { get; init; }

    /// <summary>Seconds to measure each row for.</summary>
    public required double MinSeconds { get; init; }

    /// <summary>Repetitions of each row.</summary>
    public required int Repetitions { get; init; }

    /// <summary>Seconds after which no row is begun; null for no end.</summary>
    public double? Seconds { get; init; }

    /// <summary>The script that measures rivals; null for none.</summary>
    public RivalScript? Script { get; init; }

    /// <summary>Whether trainings on a GPU, each alone on it, tell where their time goes.</summary>
    public bool Profiles { get; init; }

    private bool IsOnGpu => Device != "cpu";

    /// <summary>Measures all rows; a row that fails says why and ends nothing.</summary>
    /// <param name="process">Measures a row.</param>
    /// <param name="progress">Told before each row.</param>
    /// <param name="soFar">Given the rows of this library after each.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    public async Task<IReadOnlyList<Measurement>> RunAsync(
        BenchProcess process, IProgress<BenchProgress> progress, Action<IReadOnlyList<Measurement>>? soFar,
        CancellationToken cancellationToken)
    {
        var own = new List<Measurement>();
        var watch = Stopwatch.StartNew();
        var total = (double)Works.Count * Threads.Count * (Script is null ? 1 : 2);
        foreach (var threads in Threads)
        {
            foreach (var work in Works)
            {
                progress.Report(new(own.Count / total, Describe(work)));
                own.Add(await MeasureAsync(process, work, threads, watch, cancellationToken));
                soFar?.Invoke(own);
            }
        }

        var others = Script is null ? [] : await Script.RunAsync(
            [.. Works.Where(w => !w.IsOwnOnly)], Device, ComputeType, text => progress.Report(new(0.5, text)), cancellationToken);
        var now = others.Where(row => row.Remark is null).ToArray();
        var before = IsOnGpu && ComputeType == "bf16" ? Rivals.Measured.Where(row => !now.Any(row.Replaces)) : [];
        return [.. Works.SelectMany(work => own.Concat(before).Concat(others).Where(row => row.Work == work))];
    }

    /// <summary>How many times as fast this library is as the fastest of the others that the same device measured.</summary>
    public IEnumerable<string> Findings(IEnumerable<Measurement> rows)
    {
        foreach (var work in rows.GroupBy(r => r.Work))
        {
            foreach (var own in work.Where(r => r.IsOwn))
            {
                var others = work.Where(r => !r.IsOwn && (r.Source.StartsWith(RivalScript.ThisRun, StringComparison.Ordinal)
                    || DeviceName?.Contains(Rivals.Device, StringComparison.Ordinal) == true)).ToArray();
                var parts = new[]
                {
                    Factor(work.Key is MLstmWork or SLstmWork ? "forward " : "", own, others, r => r.ForwardSeconds),
                    Factor(work.Key is MLstmWork or SLstmWork ? "forward and backward " : "", own, others, r => r.TrainingSeconds),
                }.OfType<string>().ToArray();
                if (parts.Length > 0)
                {
                    yield return $"{Describe(work.Key)}: {string.Join("; ", parts)}.";
                }
            }
        }
    }

    /// <summary>The work in a few words.</summary>
    public static string Describe(Workload work) => work switch
    {
        MLstmWork w => Invariant($"mLSTM, {w.Gate} gate, B={w.Batch} NH={w.Heads} S={w.Length} DK={w.QkHeadDim} DV={w.VHeadDim}"),
        SLstmWork w => Invariant($"sLSTM, B={w.Batch} S={w.Length} NH={w.Heads} D={w.HeadDim}"),
        TrainingWork w => Invariant(
            $"{(w.Runs > 1 ? $"{w.Runs} runs of " : "")}{w.Preset}, {w.Batch} x {w.Context}{(w.ByHost ? ", by the host" : "")}"),
        PrefillWork w => Invariant($"{w.Preset}, prompts of {w.Batch} x {w.Length}"),
        DecodeWork w => string.Create(
            CultureInfo.InvariantCulture,
            $"{w.Preset}, B={w.Batch}"
            + $"{(w.Weights is { } format ? $", {format} weights" : "")}{(w.States is { } states ? $", {states} states" : "")}"),
        _ => work.ToString(),
    };

    private async Task<Measurement> MeasureAsync(
        BenchProcess process, Workload work, int threads, Stopwatch watch, CancellationToken cancellationToken)
    {
        var row = new Measurement(work, Measurement.Own, RivalScript.ThisRun) { Threads = IsOnGpu ? null : threads };
        if (Seconds is { } end && watch.Elapsed.TotalSeconds > end)
        {
            return row with { Remark = Invariant($"left out: the {end:0} s of --seconds were over") };
        }

        try
        {
            var task = new WorkTask
            {
                Work = work,
                Device = Device,
                ComputeType = ComputeType,
                Threads = threads,
                MinSeconds = MinSeconds,
                Repetitions = Repetitions,
                Profiles = Profiles && work is TrainingWork { Runs: 1 } or PrefillWork or DecodeWork,
            };

            // A row that is begun may take what its models take to make, and no more.
            const double patience = 120;
            var result = await process.RunAsync(task, cancellationToken, Seconds is null ? null : TimeSpan.FromSeconds(patience));
            return row with
            {
                ForwardSeconds = result.ForwardSeconds,
                TrainingSeconds = result.TrainingSeconds,
                PeakBytes = result.TrainingPeak,
                Repetitions = result.Repetitions,
                Profile = result.Profile,
                TokenBytes = result.TokenBytes,
            };
        }
        catch (InvalidOperationException e)
        {
            return row with { Remark = e.Message, Failed = true };
        }
    }

    private static string? Factor(string what, Measurement own, IReadOnlyList<Measurement> others, Func<Measurement, double?> seconds)
    {
        var best = others.Where(r => seconds(r) is not null && !r.IsOtherWork).MinBy(seconds);
        return best is null || seconds(own) is not { } mine
            ? null
            : Invariant($"{what}{seconds(best) / mine:0.00} times as fast as the fastest other, {best.Implementation}");
    }
}
