using System.Diagnostics;
using System.Globalization;
using XlstmLab.Benchmarks;
using XlstmLab.Notebooks;

namespace XlstmLab.Cli.Commands;

/// <summary>What a notebook costs before anything of it computes.</summary>
/// <param name="Figure">What was measured, with its unit.</param>
/// <param name="Median">The median of the repetitions.</param>
/// <param name="Least">The least of them.</param>
/// <param name="Most">The most of them.</param>
/// <param name="Prototype">What a host of the same engine took before it was part of this program.</param>
/// <param name="Goal">What was wanted.</param>
internal sealed record NotebookRow(string Figure, double Median, double Least, double Most, double Prototype, double Goal);

/// <summary>Measures starts, cells and memory of notebooks by running them as a user does, in processes of their own.</summary>
/// <param name="start">How this program is started with a command line.</param>
/// <param name="repetitions">How often each notebook runs.</param>
internal sealed class NotebookBench(Func<string[], ProcessStartInfo> start, int repetitions)
{
    private const int WarmCells = 30;
    private const int FirstCells = 5;

    private static readonly string[] Eight =
    [
        "int first = 1;\nfirst + 1",
        "using TorchSharp;\nusing XlstmLab.Analysis;\nusing XlstmLab.Models;\nusing XlstmLab.Visualization;",
        "var a = torch.randn(256, 256);\na.mm(a)",
        "Plots.Lines([new PlotSeries(\"squares\", [1, 2, 3, 4], [1, 4, 9, 16])], \"side\", \"area\")",
        "Plots.Lines([new PlotSeries(\"cubes\", [1, 2, 3, 4], [1, 8, 27, 64])], \"side\", \"volume\", logY: true)",
        "Enumerable.Range(1, 20).Select(n => new { Number = n, Square = n * n }).ToDataFrame()",
        "var model = new XlstmLanguageModel(XlstmPresets.Bytes1M);\nmodel",
        "System.Diagnostics.Process.GetCurrentProcess().PeakWorkingSet64",
    ];

    private static readonly string[] FSharp = ["#!fsharp\nlet squares = [ for i in 1 .. 10 -> i * i ]\nList.sum squares"];

    private static readonly string[] Warm = [.. Enumerable.Range(1, WarmCells).Select(n => $"var root{n} = Math.Sqrt({n}) + 1;\nroot{n}")];

    private static IReadOnlyList<BenchColumn<NotebookRow>> Columns { get; } =
    [
        new("figure", r => r.Figure),
        new("median", r => r.Median, 2),
        new("least", r => r.Least, 2),
        new("most", r => r.Most, 2),
        new("prototype", r => r.Prototype, 2),
        new("goal", r => r.Goal, 2),
    ];

    /// <summary>Runs the notebooks.</summary>
    /// <param name="command">The command line that measures it again.</param>
    /// <param name="progress">Told before each run.</param>
    /// <param name="cancellationToken">Ends the measurement.</param>
    /// <exception cref="InvalidOperationException">A notebook failed.</exception>
    public async Task<BenchReport<NotebookRow>> RunAsync(
        string command, IProgress<BenchProgress> progress, CancellationToken cancellationToken)
    {
        List<double> starts = [], warm = [], charts = [], fsharp = [], memory = [];
        for (int repetition = 0; repetition < repetitions; repetition++)
        {
            progress.Report(new((double)repetition / repetitions, string.Create(
                CultureInfo.InvariantCulture, $"repetition {repetition + 1} of {repetitions}")));
            var (seconds, cells) = await MeasureAsync(Eight, cancellationToken);
            starts.Add(seconds);
            charts.Add(cells[3].Seconds!.Value);
            memory.Add(
                double.Parse(cells[^1].Outputs.Single()["data"]!["text/plain"]![0]!
                    .GetValue<string>(), CultureInfo.InvariantCulture) / (1 << 20));
            (_, cells) = await MeasureAsync(FSharp, cancellationToken);
            fsharp.Add(cells[0].Seconds!.Value);
            (_, cells) = await MeasureAsync(Warm, cancellationToken);
            warm.Add(Median(cells.Skip(FirstCells).Select(cell => 1000 * cell.Seconds!.Value)));
        }

        NotebookRow[] rows =
        [
            Row("start and first C# cell, s", starts, 4.5, 1.5),
            Row("warm cell, ms", warm, 50, 30),
            Row("first chart, s", charts, 2.9, 1),
            Row("first F# cell, s", fsharp, 5.1, 3),
            Row("peak memory of eight cells with torch and charts, MiB", memory, 625, 450),
        ];
        return new(
            "Notebooks: starts, cells, memory",
            command,
            $"'xlstm notebook run' of a notebook of eight C# cells, of one F# cell and of {WarmCells} small C# cells, "
            + $"each {repetitions} times. The start is that of the command, until it says that the first cell has run; "
            + "a warm cell is the median of those after the fifth; times of cells are those that the notebook keeps.",
            Columns,
            rows,
            [.. rows.Select(row => row.Median <= row.Goal
                ? $"{row.Figure}: as wanted."
                : string.Create(CultureInfo.InvariantCulture, $"{row.Figure}: {row.Median / row.Goal:F2} of the goal."))]);
    }

    private static NotebookRow Row(string figure, List<double> values, double prototype, double goal) =>
        new(figure, Median(values), values.Min(), values.Max(), prototype, goal);

    private static double Median(IEnumerable<double> values) => values.Order().ToArray() is var sorted ? sorted[sorted.Length / 2] : 0;

    /// <summary>Runs a notebook.</summary>
    /// <returns>
    /// The seconds from the start of the program to the end of the first cell, and the cells with their outputs and times.
    /// </returns>
    private async Task<(double Seconds, NotebookCell[] Cells)> MeasureAsync(string[] cells, CancellationToken cancellationToken)
    {
        var folder = Directory.CreateTempSubdirectory("xlstm-bench-").FullName;
        try
        {
            var file = Path.Combine(folder, "bench.ipynb");
            Notebook notebook = new();
            foreach (var cell in cells)
            {
                notebook.Cells.Add(new(CellKind.Code, cell));
            }

            notebook.Save(file);
            long begin = Stopwatch.GetTimestamp();
            using var process = Process.Start(start(["notebook", "run", file]))!;
            try
            {
                double? first = null;
                List<string> said = [];
                var output = process.StandardOutput.ReadToEndAsync(cancellationToken);
                while (await process.StandardError.ReadLineAsync(cancellationToken) is { } line)
                {
                    said.Add(line);
                    first ??= line.StartsWith("cell 1 of", StringComparison.Ordinal) ? Stopwatch.GetElapsedTime(begin).TotalSeconds : null;
                }

                await output;
                await process.WaitForExitAsync(cancellationToken);
                return process.ExitCode == 0 && first is { } seconds
                    ? (seconds, [.. Notebook.Load(file).CodeCells])
                    : throw new InvalidOperationException($"A notebook that is measured failed:\n{string.Join('\n', said)}");
            }
            finally
            {
                if (!process.HasExited)
                {
                    process.Kill(entireProcessTree: true);
                }
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
