using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Operations;
using static System.FormattableString;

namespace XlstmLab.Benchmarks;

/// <summary>A form of a cell at one length.</summary>
/// <param name="Form">The form.</param>
/// <param name="Chunk">Tokens of a chunk; null where there are none.</param>
/// <param name="Length">S.</param>
/// <param name="Threads">libtorch's threads.</param>
/// <param name="ForwardMs">Milliseconds of a forward pass; this and what follows is null where nothing was measured.</param>
/// <param name="TrainingMs">Milliseconds of forward and backward.</param>
/// <param name="TokensPerSecond">Tokens a second, forward and backward.</param>
/// <param name="Gflops">Operations a second, forward and backward, in thousand millions.</param>
/// <param name="ShareOfMatrixProduct">They in percent of a matrix product's.</param>
/// <param name="ForwardMiB">Memory that the first forward pass added at its peak.</param>
/// <param name="TrainingMiB">The same, forward and backward.</param>
/// <param name="Repetitions">Repetitions measured.</param>
/// <param name="Remark">Why there are no numbers.</param>
public sealed record CellRow(
    string Form,
    int? Chunk,
    int Length,
    int Threads,
    double? ForwardMs,
    double? TrainingMs,
    double? TokensPerSecond,
    double? Gflops,
    double? ShareOfMatrixProduct,
    double? ForwardMiB,
    double? TrainingMiB,
    int Repetitions,
    string? Remark)
{
    /// <summary>Whether it was to be measured and could not be.</summary>
    [JsonIgnore]
    public bool Failed { get; init; }
}

/// <summary>Each form of the mLSTM against the length, and the sLSTM fused against eager.</summary>
public sealed record CellBench
{
    private const string Fused = "sLSTM fused";
    private const string Eager = "sLSTM eager";

    /// <summary>The lengths S.</summary>
    public required IReadOnlyList<int> Lengths { get; init; }

    /// <summary>The chunk sizes of the chunkwise form.</summary>
    public required IReadOnlyList<int> ChunkSizes { get; init; }

    /// <summary>chunkwise, parallel, recurrent, slstm.</summary>
    public required IReadOnlyList<string> Forms { get; init; }

    /// <summary>B.</summary>
    public required int Batch { get; init; }

    /// <summary>NH.</summary>
    public required int Heads { get; init; }

    /// <summary>DK.</summary>
    public required int QkHeadDim { get; init; }

    /// <summary>DV.</summary>
    public required int VHeadDim { get; init; }

    /// <summary>The thread counts.</summary>
    public required IReadOnlyList<int> Threads { get; init; }

    /// <summary>Seconds to measure each row for.</summary>
    public required double MinSeconds { get; init; }

    /// <summary>Repetitions of each row.</summary>
    public required int Repetitions { get; init; }

    /// <summary>The longest pass in seconds that is measured.</summary>
    public required double PassLimit { get; init; }

    private static IReadOnlyList<BenchColumn<CellRow>> Columns { get; } =
    [
        new("form", r => r.Form),
        new("chunk", r => r.Chunk),
        new("S", r => r.Length),
        new("threads", r => r.Threads),
        new("forward ms", r => r.ForwardMs, 2),
        new("fwd+bwd ms", r => r.TrainingMs, 2),
        new("fwd+bwd tokens/s", r => r.TokensPerSecond is { } rate ? Math.Round(rate) : null),
        new("fwd+bwd GFLOP/s", r => r.Gflops, 1),
        new("% of matrix product", r => r.ShareOfMatrixProduct, 1),
        new("forward MiB", r => r.ForwardMiB, 1),
        new("fwd+bwd MiB", r => r.TrainingMiB, 1),
        new("remark", r => r.Remark),
    ];

    /// <summary>Measures all rows.</summary>
    /// <param name="process">Measures a row.</param>
    /// <param name="command">The command line that measures it again.</param>
    /// <param name="progress">Told before each row.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    public async Task<BenchReport<CellRow>> RunAsync(
        BenchProcess process, string command, IProgress<BenchProgress> progress, CancellationToken cancellationToken)
    {
        var rows = new List<CellRow>();
        var findings = new List<string>();
        var series = Forms.Where(f => f != "slstm")
            .SelectMany(f => f == "chunkwise" ? ChunkSizes.Select(c => (Form: f, Chunk: (int?)c)) : [(f, null)])
            .ToArray();
        var total = (double)Threads.Count * (series.Length * Lengths.Count + (Forms.Contains("slstm") ? 2 : 0));
        foreach (var threads in Threads)
        {
            progress.Report(new(rows.Count / total, "matrix product"));
            var limit = await process.RunAsync(
                new MatrixProductTask { Threads = threads, MinSeconds = MinSeconds, Repetitions = Repetitions }, cancellationToken);
            var rate = 2.0 * 1024 * 1024 * 1024 / limit.ForwardSeconds!.Value;
            findings.Add(Invariant($"Matrix product, {threads} threads: {rate / 1e9:0} GFLOP/s (float32, 1024 x 1024)."));
            foreach (var (form, chunk) in series)
            {
                CellRow? before = null;
                foreach (var length in Lengths.Order())
                {
                    progress.Report(new(rows.Count / total, $"{form} {chunk} S={length}, {threads} threads"));
                    var row = await MeasureAsync(process, form, chunk, length, threads, rate, before, cancellationToken);
                    before = row;
                    rows.Add(row);
                }
            }

            if (Forms.Contains("slstm"))
            {
                foreach (var fused in new[] { true, false })
                {
                    progress.Report(new(rows.Count / total, fused ? Fused : Eager));
                    rows.Add(await MeasureSLstmAsync(process, fused, threads, cancellationToken));
                }
            }
        }

        findings.AddRange(Findings(rows));
        return new(
            Invariant($"Cells: mLSTM at B={Batch} NH={Heads} DK={QkHeadDim} DV={VHeadDim}, float32; sLSTM at B=8 NH=4 D=64"),
            command,
            Invariant($"Each row in a process of its own: a warm-up, then the median of at least {Repetitions} passes and {MinSeconds} s. ")
            + "Memory is the growth of the resident set's peak in the first passes, over what inputs and libraries take. "
            + "Operations are those of the form's formulas, times 3 for forward and backward.",
            Columns,
            rows,
            findings);
    }

    private async Task<CellRow> MeasureAsync(
        BenchProcess process, string form, int? chunk, int length, int threads, double matrixProductRate, CellRow? before,
        CancellationToken cancellationToken)
    {
        var row = new CellRow(form, chunk, length, threads, null, null, null, null, null, null, null, 0, null);
        if (before is not null && WhyNot(before, length) is { } reason)
        {
            return row with { Remark = reason };
        }

        BenchResult result;
        try
        {
            result = await process.RunAsync(
                new MLstmTask
                {
                    Form = form,
                    ChunkSize = chunk ?? 64,
                    Length = length,
                    Batch = Batch,
                    Heads = Heads,
                    QkHeadDim = QkHeadDim,
                    VHeadDim = VHeadDim,
                    Threads = threads,
                    MinSeconds = MinSeconds,
                    Repetitions = Repetitions,
                },
                cancellationToken);
        }
        catch (InvalidOperationException e)
        {
            return row with { Remark = e.Message, Failed = true };
        }

        var config = new XlstmConfig
        {
            EmbeddingDim = Heads * VHeadDim,
            HeadCount = Heads,
            QkDimFactor = QkHeadDim / (double)VHeadDim,
            ChunkSize = chunk ?? 64,
            Form = Enum.Parse<MLstmForm>(form, ignoreCase: true),
        };
        var rate = 3.0 * Batch * XlstmAccounting.CellFlops(config, length) / result.TrainingSeconds!.Value;
        return Filled(row, result, Batch) with { Gflops = rate / 1e9, ShareOfMatrixProduct = 100 * rate / matrixProductRate };
    }

    private async Task<CellRow> MeasureSLstmAsync(BenchProcess process, bool fused, int threads, CancellationToken cancellationToken)
    {
        const int batch = 8, length = 512;
        var result = await process.RunAsync(
            new SLstmTask
            {
                Fused = fused,
                Length = length,
                Batch = batch,
                Heads = 4,
                HeadDim = 64,
                Threads = threads,
                MinSeconds = MinSeconds,
                Repetitions = Repetitions,
            },
            cancellationToken);
        return Filled(new(fused ? Fused : Eager, null, length, threads, null, null, null, null, null, null, null, 0, null), result, batch);
    }

    private static CellRow Filled(CellRow row, BenchResult result, int batch) => row with
    {
        ForwardMs = 1e3 * result.ForwardSeconds,
        TrainingMs = 1e3 * result.TrainingSeconds,
        TokensPerSecond = batch * (double)row.Length / result.TrainingSeconds,
        ForwardMiB = result.ForwardPeak / 1048576.0,
        TrainingMiB = result.TrainingPeak / 1048576.0,
        Repetitions = result.Repetitions,
    };

    /// <summary>Why a length is left out, judged by the one before it; null if it is not.</summary>
    private string? WhyNot(CellRow before, int length)
    {
        if (before.TrainingMs is not { } milliseconds || before.TrainingMiB is not { } mebibytes)
        {
            return "skipped, as the length before";
        }

        var growth = Math.Pow(length / (double)before.Length, before.Form == "parallel" ? 2 : 1);
        var (seconds, bytes) = (growth * milliseconds / 1e3, growth * mebibytes * 1048576);
        return seconds > PassLimit ? Invariant($"skipped: a pass would take about {Readable.Duration(seconds)}")
            : bytes > 0.6 * SystemMemory.Available ? Invariant($"skipped: it would need about {Readable.Size(bytes)}")
            : null;
    }

    private static IEnumerable<string> Findings(List<CellRow> rows)
    {
        foreach (var group in rows.Where(r => r.Form == "chunkwise" && r.TrainingMs is not null).GroupBy(r => (r.Threads, r.Chunk))
            .Where(g => g.Count() > 1))
        {
            var (first, last) = (group.First(), group.Last());
            yield return string.Create(
                CultureInfo.InvariantCulture,
                $"Chunkwise, chunks of {group.Key.Chunk}, {group.Key.Threads} threads: "
                + $"time grows as S^{Exponent(group, r => r.TrainingMs!.Value):0.00} forward and backward, "
                + $"S^{Exponent(group, r => r.ForwardMs!.Value):0.00} forward, from S={first.Length} to {last.Length}.");
        }

        foreach (var parallel in rows.Where(r => r.Form == "parallel" && r.TrainingMs is not null))
        {
            var best = rows.Where(
                r => r.Form == "chunkwise" && r.Length == parallel.Length && r.Threads == parallel.Threads && r.TrainingMs is not null)
                .MinBy(r => r.TrainingMs);
            if (best is not null)
            {
                yield return string.Create(
                    CultureInfo.InvariantCulture,
                    $"S={parallel.Length}, {parallel.Threads} threads: parallel takes {parallel.TrainingMs / best.TrainingMs:0.00} times "
                    + $"as long as chunkwise with chunks of {best.Chunk}, forward and backward.");
            }
        }

        foreach (var eager in rows.Where(r => r.Form == Eager))
        {
            var fused = rows.First(r => r.Form == Fused && r.Threads == eager.Threads);
            yield return string.Create(
                CultureInfo.InvariantCulture,
                $"sLSTM, {eager.Threads} threads: fused is {eager.TrainingMs / fused.TrainingMs:0.0} times as fast as eager forward and "
                + $"backward, {eager.ForwardMs / fused.ForwardMs:0.0} times forward.");
        }
    }

    /// <summary>The slope of log time over log length by least squares.</summary>
    private static double Exponent(IEnumerable<CellRow> rows, Func<CellRow, double> time)
    {
        var points = rows.Select(r => (X: Math.Log(r.Length), Y: Math.Log(time(r)))).ToArray();
        var (x, y) = (points.Average(p => p.X), points.Average(p => p.Y));
        return points.Sum(p => (p.X - x) * (p.Y - y)) / points.Sum(p => (p.X - x) * (p.X - x));
    }
}
