using System.Globalization;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;

namespace XlstmLab.Cli.Benchmarks;

/// <summary>Training steps of one preset at one context length.</summary>
internal sealed record TrainingRow(
    string Preset, long Parameters, int Context, int Batch, int Threads, double? TokensPerSecond, double? StepMs, double? Gflops, double? MemoryMiB, int Repetitions, string? Remark);

/// <summary>Whole training steps against preset, context length and threads.</summary>
internal sealed record TrainingBench
{
    /// <summary>The presets.</summary>
    public required IReadOnlyList<string> Presets { get; init; }

    /// <summary>The context lengths S.</summary>
    public required IReadOnlyList<int> Contexts { get; init; }

    /// <summary>Tokens of an update, about.</summary>
    public required int TokensPerStep { get; init; }

    /// <summary>bf16 or float32.</summary>
    public required string ComputeType { get; init; }

    /// <summary>The thread counts.</summary>
    public required IReadOnlyList<int> Threads { get; init; }

    /// <summary>Seconds to measure each row for.</summary>
    public required double MinSeconds { get; init; }

    /// <summary>Repetitions of each row.</summary>
    public required int Repetitions { get; init; }

    private static IReadOnlyList<BenchColumn<TrainingRow>> Columns { get; } =
    [
        new("preset", r => r.Preset),
        new("parameters", r => r.Parameters),
        new("S", r => r.Context),
        new("B", r => r.Batch),
        new("threads", r => r.Threads),
        new("tokens/s", r => r.TokensPerSecond is { } rate ? Math.Round(rate) : null),
        new("step ms", r => r.StepMs, 1),
        new("GFLOP/s", r => r.Gflops, 1),
        new("memory MiB", r => r.MemoryMiB, 1),
        new("remark", r => r.Remark),
    ];

    /// <summary>Measures all rows.</summary>
    public async Task<BenchReport<TrainingRow>> RunAsync(string command, ProgressTracker tracker, CancellationToken cancellationToken)
    {
        var configs = Presets.Select(p => (Name: p, Config: XlstmPresets.ByName(p))).ToArray();
        var rows = new List<TrainingRow>();
        var total = (double)Presets.Count * Contexts.Count * Threads.Count;
        foreach (var (preset, config) in configs)
        {
            foreach (var context in Contexts)
            {
                foreach (var threads in Threads)
                {
                    tracker.Report(rows.Count / total, $"{preset}, S={context}, {threads} threads");
                    rows.Add(await MeasureAsync(preset, config, context, threads, cancellationToken));
                }
            }
        }

        return new(
            $"Training: {ComputeType}, AdamW, forward, backward and update",
            command,
            string.Create(CultureInfo.InvariantCulture, $"Each row in a process of its own: 3 steps of warm-up, then the median of at least {Repetitions} steps and {MinSeconds} s, on random tokens. ")
            + "Memory is the growth of the resident set's peak over what libraries take: weights, moments, gradients and activations. "
            + "Operations are those of the model's formulas, forward and twice as much backward.",
            Columns,
            rows,
            []);
    }

    private async Task<TrainingRow> MeasureAsync(string preset, XlstmConfig config, int context, int threads, CancellationToken cancellationToken)
    {
        var batch = Math.Max(1, TokensPerStep / context);
        var row = new TrainingRow(preset, XlstmAccounting.ParameterCount(config), context, batch, threads, null, null, null, null, 0, null);
        try
        {
            var result = await BenchProcess.RunAsync(
                new TrainingTask
                {
                    Preset = preset,
                    Context = context,
                    Batch = batch,
                    ComputeType = ComputeType,
                    Threads = threads,
                    MinSeconds = MinSeconds,
                    Repetitions = Repetitions,
                },
                cancellationToken);
            var rate = batch * context / result.TrainingSeconds!.Value;
            return row with
            {
                TokensPerSecond = rate,
                StepMs = 1e3 * result.TrainingSeconds,
                Gflops = rate * XlstmAccounting.TrainingFlopsPerToken(config, context) / 1e9,
                MemoryMiB = result.TrainingPeak / 1048576.0,
                Repetitions = result.Repetitions,
            };
        }
        catch (InvalidOperationException e)
        {
            return row with { Remark = e.Message };
        }
    }
}
