using System.Diagnostics;
using System.Text;
using System.Text.Json;
using XlstmLab.Notebooks;

namespace XlstmLab.Cli.Commands;

/// <summary>What a process that runs a notebook is asked.</summary>
/// <param name="Notebook">The notebook, an absolute path.</param>
/// <param name="Output">Where the executed notebook goes, an absolute path.</param>
/// <param name="Parameters">Values for its parameters.</param>
/// <param name="TimeoutSeconds">The limit; null for none.</param>
/// <param name="CellTimeoutSeconds">The limit for a cell; null for none.</param>
internal sealed record NotebookRequest(
    string Notebook, string Output, IReadOnlyList<NotebookParameter> Parameters, double? TimeoutSeconds, double? CellTimeoutSeconds);

/// <summary>A value for a parameter. The name is no key of the request: those are written in another case.</summary>
internal sealed record NotebookParameter(string Name, string? Value);

/// <summary>A line of what that process says: one of the three.</summary>
internal sealed record NotebookReport
{
    /// <summary>How far it is.</summary>
    public CellProgress? Progress { get; init; }

    /// <summary>How the run ended.</summary>
    public NotebookRunResult? Result { get; init; }

    /// <summary>Why the notebook cannot be run at all.</summary>
    public string? Refusal { get; init; }
}

/// <summary>
/// Runs a notebook in a process of its own. Whatever a cell does to that process, this one lives to say so, to write it into the notebook,
/// and to end what the cells have started.
/// </summary>
/// <param name="request">What is run.</param>
/// <param name="start">How a process is started that works (<see cref="WorkAsync"/>).</param>
/// <param name="progress">Told of each cell and of its output.</param>
/// <param name="stray">
/// Told of lines that reached the process's own output: those of native code and of processes that a cell started.
/// </param>
internal sealed class NotebookProcess(NotebookRequest request, ProcessStartInfo start, Action<CellProgress> progress, Action<string> stray)
{
    /// <summary>The hidden command that runs notebooks in its own process.</summary>
    public const string WorkerName = "worker";

    /// <summary>What a report starts with, so that it is told from other lines.</summary>
    private const string ReportMark = "\u0001xlstm-notebook:";

    private const int StrayLinesKept = 10;
    private const int ConsoleKept = 2_000_000;

    /// <summary>A line of native code or of another process is cut there; a report is never so long.</summary>
    private const int LongestLine = 1 << 16;
    private const int LongestReport = 1 << 26;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan DrainPatience = TimeSpan.FromSeconds(3);

    private readonly Lock _gate = new();
    private readonly List<(string Stream, string Text)> _console = [];
    private readonly List<string> _firstStrays = [];
    private readonly Queue<string> _lastStrays = [];
    private long _consoleLength;
    private CellProgress? _running;
    private NotebookReport _end = new();
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private CancellationTokenSource? _limit;

    /// <summary>Runs the notebook.</summary>
    /// <param name="cancellationToken">Asks the process to stop; it is ended if it does not.</param>
    /// <exception cref="NotebookException">The notebook cannot be run.</exception>
    /// <exception cref="InvalidOperationException">The process ended before its first cell.</exception>
    /// <exception cref="OperationCanceledException">The run was cancelled.</exception>
    public async Task<NotebookRunResult> RunAsync(CancellationToken cancellationToken)
    {
        var mark = CellProcesses.NewMark();
        start.RedirectStandardInput = true;
        start.StandardInputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
        start.Environment[CellProcesses.Variable] = mark;
        using var process = Process.Start(start)!;
        var isStopped = false;
        try
        {
            var lines = Task.WhenAll(
                ReadAsync(process.StandardOutput, cancellationToken), ReadAsync(process.StandardError, cancellationToken));
            await AskAsync(process);
            isStopped = !await EndsAsync(process, cancellationToken);
            if (isStopped)
            {
                process.Kill();
                await process.WaitForExitAsync(CancellationToken.None);
            }

            // What the cells started may hold the output open.
            CellProcesses.End(mark);
            await Task.WhenAny(lines, Task.Delay(DrainPatience, CancellationToken.None));
            if (!HasEnd())
            {
                // On a busy machine its last words may still be on their way.
                await Task.WhenAny(lines, Task.Delay(Patience, CancellationToken.None));
            }
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill();
            }

            CellProcesses.End(mark);
        }

        lock (_gate)
        {
            return _end.Refusal is { } refusal ? throw new NotebookException(refusal)
                : _end.Result is { } result ? result
                : End(process.ExitCode, isStopped, _watch.Elapsed, cancellationToken);
        }
    }

    private bool HasEnd()
    {
        lock (_gate)
        {
            return _end.Result is not null || _end.Refusal is not null;
        }
    }

    /// <summary>Does the work of the process: takes the request from its input, and stops when that is closed.</summary>
    /// <param name="cancellationToken">Stops the run too.</param>
    public static async Task<int> WorkAsync(CancellationToken cancellationToken)
    {
        CellEngine.WarmUp();
        using var input = new StreamReader(Console.OpenStandardInput(), Encoding.UTF8);
        using var output = Console.OpenStandardOutput();
        Console.SetIn(TextReader.Null);
        var request = JsonSerializer.Deserialize<NotebookRequest>(await input.ReadLineAsync(cancellationToken) ?? "null", ResultJson.Line)
            ?? throw new InvalidOperationException("This command is for 'xlstm notebook run', which tells it what to do.");
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var asked = new Thread(() =>
        {
            input.ReadToEnd();
            stop.Cancel();
        })
        {
            IsBackground = true,
        };
        asked.Start();
        try
        {
            var result = await NotebookRunner.RunAsync(
                request.Notebook,
                request.Output,
                request.Parameters.ToDictionary(p => p.Name, p => (object?)p.Value),
                request.TimeoutSeconds is { } seconds ? TimeSpan.FromSeconds(seconds) : null,
                request.CellTimeoutSeconds is { } cellSeconds ? TimeSpan.FromSeconds(cellSeconds) : null,
                new ImmediateProgress<CellProgress>(p => Say(new() { Progress = p })),
                stop.Token);
            Say(new() { Result = result });
            return result.Outcome == NotebookOutcome.Succeeded ? ExitCode.Success : ExitCode.Failure;
        }
        catch (NotebookException e)
        {
            Say(new() { Refusal = e.Message });
            return ExitCode.Failure;
        }
        catch (OperationCanceledException)
        {
            return ExitCode.Interrupted;
        }

        void Say(NotebookReport report)
        {
            var line = Encoding.UTF8.GetBytes($"{ReportMark}{JsonSerializer.Serialize(report, ResultJson.Line)}\n");
            lock (output)
            {
                output.Write(line);
                output.Flush();
            }
        }
    }

    private async Task AskAsync(Process process)
    {
        try
        {
            await process.StandardInput.WriteLineAsync(JsonSerializer.Serialize(request, ResultJson.Line));
            await process.StandardInput.FlushAsync(CancellationToken.None);
        }
        catch (IOException)
        {
            // It has ended already; its exit code says more.
        }
    }

    /// <summary>Waits for the process; past a time limit or a cancellation for a while only.</summary>
    private async Task<bool> EndsAsync(Process process, CancellationToken cancellationToken)
    {
        using var limit = new CancellationTokenSource();
        lock (_gate)
        {
            _limit = limit;
            SetLimit();
        }

        await using var stop = cancellationToken.Register(() =>
        {
            limit.CancelAfter(Patience);
            try
            {
                process.StandardInput.Close();
            }
            catch (IOException)
            {
                // It has ended already.
            }
        });
        try
        {
            await process.WaitForExitAsync(limit.Token);
            return true;
        }
        catch (OperationCanceledException)
        {
            return false;
        }
        finally
        {
            lock (_gate)
            {
                _limit = null;
            }
        }
    }

    /// <summary>Counts on from now to the end of the run's or the cell's time, whichever comes first.</summary>
    private void SetLimit()
    {
        double?[] left = [request.TimeoutSeconds - _watch.Elapsed.TotalSeconds, _running is null ? null : request.CellTimeoutSeconds];
        if (left.Min() is { } seconds)
        {
            _limit?.CancelAfter(TimeSpan.FromSeconds(Math.Max(0, seconds)) + Patience);
        }
    }

    private async Task ReadAsync(StreamReader reader, CancellationToken cancellationToken)
    {
        await foreach (var line in LinesAsync(reader))
        {
            var at = line.IndexOf(ReportMark, StringComparison.Ordinal);
            lock (_gate)
            {
                if (at != 0 && line.Length > 0)
                {
                    var text = at < 0 ? line : line[..at];
                    Keep(text);

                    // Interrupted, both processes say so: once is enough.
                    if (!cancellationToken.IsCancellationRequested)
                    {
                        stray(text);
                    }
                }

                if (at >= 0)
                {
                    Take(JsonSerializer.Deserialize<NotebookReport>(line.AsSpan(at + ReportMark.Length), ResultJson.Line)!);
                }
            }
        }
    }

    /// <summary>The lines of a stream, in which a process may have written gigabytes without a line end.</summary>
    private static async IAsyncEnumerable<string> LinesAsync(StreamReader reader)
    {
        var buffer = new char[1 << 14];
        var line = new StringBuilder();
        bool? isReport = null;
        for (int read; (read = await reader.ReadAsync(buffer)) > 0;)
        {
            for (int start = 0; start < read;)
            {
                var end = Array.IndexOf(buffer, '\n', start, read - start);
                var length = (end < 0 ? read : end) - start;
                if (isReport is null && line.Length + length > LongestLine)
                {
                    isReport = $"{line}{buffer.AsSpan(start, length)}".Contains(ReportMark, StringComparison.Ordinal);
                }

                line.Append(buffer, start, Math.Min(length, Math.Max(0, (isReport == true ? LongestReport : LongestLine) - line.Length)));
                start += length + 1;
                if (end >= 0)
                {
                    yield return line.ToString().TrimEnd('\r');
                    line.Clear();
                    isReport = null;
                }
            }
        }

        if (line.Length > 0)
        {
            yield return line.ToString();
        }
    }

    /// <summary>Keeps a line for the account of a process that dies: the first ones and the last.</summary>
    private void Keep(string line)
    {
        if (_firstStrays.Count < StrayLinesKept)
        {
            _firstStrays.Add(line);
            return;
        }

        _lastStrays.Enqueue(line);
        if (_lastStrays.Count > StrayLinesKept)
        {
            _lastStrays.Dequeue();
        }
    }

    private void Take(NotebookReport report)
    {
        if (report.Progress is not { } cell)
        {
            _end = report;

            // A thread that a cell has started may keep the process for ever.
            _limit?.CancelAfter(DrainPatience);
            return;
        }

        switch (cell.Event)
        {
            case CellEvent.Started:
                _running = cell;
                SetLimit();
                _console.Clear();
                _firstStrays.Clear();
                _lastStrays.Clear();
                _consoleLength = 0;
                break;
            case CellEvent.Output when _consoleLength < ConsoleKept:
                _console.Add((cell.Stream!, cell.Text!));
                _consoleLength += cell.Text!.Length;
                break;
            case CellEvent.Output or CellEvent.Status:
                break;
            case CellEvent.Finished:
                _running = null;
                break;
            default:
                throw new InvalidOperationException($"There is no cell event {cell.Event}.");
        }

        progress(cell);
    }

    /// <summary>What became of a process that did not say it: its cell has the error, in the notebook too.</summary>
    private NotebookRunResult End(int exitCode, bool isStopped, TimeSpan elapsed, CancellationToken cancellationToken)
    {
        if (!isStopped && exitCode == ExitCode.Interrupted)
        {
            cancellationToken.ThrowIfCancellationRequested();
        }

        var how = isStopped ? "it did not stop when it was asked to, and was ended" : Ending(exitCode);
        if (_running is not { } cell)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw new InvalidOperationException(string.Join(
                '\n', [$"The process that runs the notebook ended outside of its cells: {how}.", .. _firstStrays, .. _lastStrays]));
        }

        var message = isStopped
            ? $"The cell did not stop within {Readable.Duration(Patience.TotalSeconds)} of its interruption, and its process was ended."
            : $"The cell ended the process that ran the notebook: {how}.";
        var error = new CellError(cell.Index, null, "ProcessEnded", message, [message, .. _firstStrays, .. _lastStrays]);
        var notebook = Notebook.Load(request.Output);
        notebook.CodeCells.ElementAt(cell.Index - 1).SetFailure(_console, error);
        notebook.Save(request.Output);
        cancellationToken.ThrowIfCancellationRequested();
        return new(isStopped ? NotebookOutcome.TimedOut : NotebookOutcome.Failed, request.Output, cell.Count, cell.Index, elapsed, error);
    }

    private static string Ending(int exitCode) => exitCode switch
    {
        134 => "signal 6 (SIGABRT), as after Environment.FailFast, an exception on another thread, a stack overflow "
            + "or a failure of native code",
        135 or 139 => $"signal {exitCode - 128}, a failure of native code",
        137 => "signal 9 (SIGKILL), as the system ends a process when memory runs out",
        > 128 and < 192 => $"signal {exitCode - 128}",
        _ => $"exit code {exitCode}, as after Environment.Exit",
    };
}
