using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;

namespace XlstmLab.Benchmarks;

/// <summary>A Python script that measures others' implementations of the same works in the same run.</summary>
/// <remarks>
/// It reads a JSON document from its standard input, <c>{"device", "compute", "min_seconds", "works": [...], "done": [...]}</c>, where a
/// work of a model has the model's <c>config.json</c> as <c>config</c>, and writes a line of JSON for each measurement: <c>index</c> of the
/// work, <c>implementation</c>, <c>versions</c>, and what there is of <c>forward_seconds</c>, <c>training_seconds</c>, <c>peak_bytes</c>,
/// <c>other_work</c> and <c>remark</c>. Whatever else it writes is passed over. A line with <c>begins</c> before a measurement says which
/// one ended the process, if one does: the script is then started again, told what is <c>done</c>, pairs of index and implementation.
/// </remarks>
/// <param name="File">The script.</param>
/// <param name="Seconds">How long it may take.</param>
/// <param name="MinSeconds">Seconds to measure each row for.</param>
public sealed record RivalScript(string File, double Seconds, double MinSeconds)
{
    /// <summary>The source of what was measured now.</summary>
    public const string ThisRun = "this run";

    /// <summary>The environment variable that names another Python.</summary>
    public const string PythonVariable = "XLSTM_PYTHON";

    /// <summary>
    /// The script that comes with the program: Llama and others by transformers, attention, and NX-AI's packages where they are installed.
    /// </summary>
    public static string Own => Path.Combine(AppContext.BaseDirectory, "rivals.py");

    /// <summary>The Python that runs it.</summary>
    public string Python { get; init; } =
        Environment.GetEnvironmentVariable(PythonVariable) is { Length: > 0 } set ? set
            : OperatingSystem.IsWindows() ? "python" : "python3";

    /// <summary>The lines with a measurement that the script has written so far, as it wrote them.</summary>
    public List<string> Raw { get; } = [];

    private string Name => Path.GetFileName(File);

    /// <summary>Measures; where it cannot, rows say why.</summary>
    public async Task<IReadOnlyList<Measurement>> RunAsync(
        IReadOnlyList<Workload> works, string device, string compute, Action<string> report, CancellationToken cancellationToken)
    {
        var rows = new List<Measurement>();
        var done = new List<(int Index, string Implementation)>();
        string? end;
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(TimeSpan.FromSeconds(Seconds));
        try
        {
            Line? begun;
            do
            {
                (end, begun) = await RunAsync(works, Request(works, device, compute, done), rows, done, report, limit.Token);
                if (end is not null && begun is not null)
                {
                    rows.Add(new(works[begun.Index], begun.Implementation!, ThisRun) { Remark = $"it ended the process: {end}" });
                    done.Add((begun.Index, begun.Implementation!));
                }
            }
            while (end is not null && begun is not null);
        }
        catch (OperationCanceledException)
        {
            cancellationToken.ThrowIfCancellationRequested();
            end = string.Create(CultureInfo.InvariantCulture, $"{Name} was ended: the {Seconds:0} s of --rival-seconds were over");
        }

        // A work without a line would leave open whether anybody tried.
        var missing = works.Where(work => rows.All(row => row.Work != work));
        return [.. rows, .. missing.Select(
            work => new Measurement(work, Name, ThisRun) { Remark = end ?? $"{Name} has nothing for this" })];
    }

    /// <returns>Why the script ended, null if by itself, and the measurement that had begun.</returns>
    private async Task<(string? End, Line? Begun)> RunAsync(
        IReadOnlyList<Workload> works, string request, List<Measurement> rows, List<(int Index, string Implementation)> done,
        Action<string> report,
        CancellationToken cancellationToken)
    {
        if (!System.IO.File.Exists(File))
        {
            return ($"there is no file '{File}'", null);
        }

        var start = new ProcessStartInfo(Python, [File])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception)
        {
            return ($"'{Python}' could not be started: name a Python that has PyTorch by {PythonVariable}", null);
        }

        using (process)
        {
            try
            {
                var errors = process.StandardError.ReadToEndAsync(cancellationToken);
                try
                {
                    await process.StandardInput.WriteAsync(request.AsMemory(), cancellationToken);
                    process.StandardInput.Close();
                }
                catch (IOException)
                {
                    // It ended before it read: its own words say why.
                }

                Line? begun = null;
                while (await process.StandardOutput.ReadLineAsync(cancellationToken) is { } text)
                {
                    if (Parse(text, works) is not { } line)
                    {
                        continue;
                    }

                    if (line.Begins)
                    {
                        begun = line;
                        continue;
                    }

                    begun = null;
                    done.Add((line.Index, line.Implementation!));
                    var row = line.ToMeasurement(works);
                    Raw.Add(text);
                    rows.Add(row with { Source = row.Source.Length > 0 ? $"{ThisRun}, {row.Source}" : ThisRun });
                    report($"{row.Implementation}: {Comparison.Describe(row.Work)}");
                }

                await process.WaitForExitAsync(cancellationToken);
                var said = (await errors).Trim().Split('\n')[^1].Trim();
                return (process.ExitCode == 0 ? null : said.Length > 0 ? said : $"{Name} ended with code {process.ExitCode}", begun);
            }
            catch (OperationCanceledException)
            {
                process.Kill(entireProcessTree: true);
                throw;
            }
        }
    }

    private string Request(
        IReadOnlyList<Workload> works, string device, string compute, IEnumerable<(int Index, string Implementation)> done)
    {
        var list = new JsonArray();
        foreach (var work in works)
        {
            var fields = JsonSerializer.SerializeToNode(work, ResultJson.Options)!.AsObject();
            if (fields["preset"] is { } preset)
            {
                fields["config"] = JsonNode.Parse(ModelConfigJson.Text(BenchModels.ByName(preset.GetValue<string>())));
            }

            list.Add((JsonNode)fields);
        }

        var pairs = new JsonArray([.. done.Select(pair => new JsonArray(pair.Index, pair.Implementation))]);
        return new JsonObject
        {
            ["device"] = device,
            ["compute"] = compute,
            ["min_seconds"] = MinSeconds,
            ["works"] = list,
            ["done"] = pairs,
        }.ToJsonString();
    }

    /// <summary>The measurement in a line; null if there is none.</summary>
    internal static Measurement? Read(string line, IReadOnlyList<Workload> works) =>
        Parse(line, works) is { Begins: false } read ? read.ToMeasurement(works) : null;

    private static Line? Parse(string line, IReadOnlyList<Workload> works)
    {
        try
        {
            return JsonSerializer.Deserialize<Line>(line, ResultJson.Options) is { Implementation: not null } read && read.Index >= 0
                && read.Index < works.Count
                ? read
                : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    private sealed record Line(
        int Index, string? Implementation, string? Versions, double? ForwardSeconds, double? TrainingSeconds, double? PeakBytes,
        bool OtherWork, string? Remark,
        bool Begins)
    {
        public Measurement ToMeasurement(IReadOnlyList<Workload> works) => new(works[Index], Implementation!, Versions ?? "")
        {
            ForwardSeconds = ForwardSeconds,
            TrainingSeconds = TrainingSeconds,
            PeakBytes = PeakBytes,
            IsOtherWork = OtherWork,
            Remark = Remark,
        };
    }
}
