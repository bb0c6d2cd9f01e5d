using System.Diagnostics;
using System.IO.Pipes;
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
    string Notebook, string Output, IReadOnlyList<NotebookParameter> Parameters, double? TimeoutSeconds, double? CellTimeoutSeconds)
{
    /// <summary>The code cell to begin with, from 1.</summary>
    public int From { get; init; } = 1;

    /// <summary>How long the process waits, after a cell that failed, for a run that goes on; null if it ends at once.</summary>
    public double? KeepMinutes { get; init; }
}

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

    /// <summary>How long the process stays, with the state of the cells, after a result or a refusal; null if it ends.</summary>
    public double? KeptMinutes { get; init; }
}

/// <summary>
/// Runs a notebook in a process of its own. Whatever a cell does to that process, this one lives to say so, to write it into the notebook,
/// and to end what the cells have started.
/// </summary>
/// <param name="request">What is run.</param>
/// <param name="start">How a process is started that works (<see cref="WorkAsync(CancellationToken)"/>).</param>
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
    private readonly TaskCompletionSource _kept = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Stopwatch _watch = Stopwatch.StartNew();
    private CancellationTokenSource? _limit;
    private bool _hasSaid;

    /// <summary>How long the process stays for a run that goes on; null if it ends.</summary>
    public double? KeptMinutes => _end.KeptMinutes;

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
            if (KeptMinutes is not null)
            {
                // It has what its cells made, and ends by itself.
                return Outcome();
            }

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
            if (KeptMinutes is null)
            {
                if (!process.HasExited)
                {
                    process.Kill();
                }

                CellProcesses.End(mark);
            }
        }

        lock (_gate)
        {
            return HasEnd() ? Outcome() : End(process.ExitCode, isStopped, _watch.Elapsed, cancellationToken);
        }
    }

    /// <summary>Runs the notebook in the process that an earlier run of it has left with the state of its cells.</summary>
    /// <param name="cancellationToken">Asks the process to stop; if it does not, it is left to end by itself.</param>
    /// <exception cref="NotebookException">There is no such process, or it cannot go on from that cell.</exception>
    /// <exception cref="OperationCanceledException">The run was cancelled.</exception>
    public async Task<NotebookRunResult> GoOnAsync(CancellationToken cancellationToken)
    {
        await using var pipe = await KeptNotebooks.FindAsync(request.Notebook) ?? throw NothingKept();
        var ask = new StreamWriter(pipe) { AutoFlush = true };
        try
        {
            await ask.WriteLineAsync(JsonSerializer.Serialize(request, ResultJson.Line));
        }
        catch (IOException)
        {
            throw NothingKept();
        }

        var lines = ReadAsync(new StreamReader(pipe, Encoding.UTF8), CancellationToken.None);
        await using var stop = cancellationToken.Register(() =>
        {
            try
            {
                ask.WriteLine();
            }
            catch (IOException)
            {
                // It has ended already.
            }
        });
        var limit = LimitAsync(cancellationToken);
        var end = await Task.WhenAny(lines, _ended.Task, limit);
        cancellationToken.ThrowIfCancellationRequested();
        lock (_gate)
        {
            // A process that was about to end when it was found says nothing.
            if (end == lines && !_hasSaid)
            {
                throw NothingKept();
            }

            return HasEnd() ? Outcome() : End(null, end == limit, _watch.Elapsed, cancellationToken);
        }
    }

    private NotebookException NothingKept() => new(
        $"No process has kept the state of {request.Notebook}, which cells from {request.From} on need: cells 1 to {request.From - 1} must "
        + "run again. Run the notebook without --from. With --keep MINUTES, a run leaves such a process when a cell has failed, "
        + "unless the cell ended it.");

    /// <summary>Ends when the process has had the time to stop after a cancellation.</summary>
    private static async Task LimitAsync(CancellationToken cancellationToken)
    {
        try
        {
            await Task.Delay(Timeout.Infinite, cancellationToken);
        }
        catch (OperationCanceledException)
        {
            await Task.Delay(Patience, CancellationToken.None);
        }
    }

    private NotebookRunResult Outcome()
    {
        lock (_gate)
        {
            return _end.Refusal is { } refusal ? throw new NotebookException(refusal) : _end.Result!;
        }
    }

    private bool HasEnd()
    {
        lock (_gate)
        {
            return _end.Result is not null || _end.Refusal is not null;
        }
    }

    /// <summary>
    /// Does the work of the process: takes the request from its input, and stops when that is closed. With the state that a failed cell
    /// leaves it waits for a while, and goes on when it is asked to.
    /// </summary>
    /// <param name="cancellationToken">Stops the run too.</param>
    public static async Task<int> WorkAsync(CancellationToken cancellationToken)
    {
        CellEngine.WarmUp();
        using var input = new StreamReader(Console.OpenStandardInput(), Encoding.UTF8);
        using var output = Console.OpenStandardOutput();
        Console.SetIn(TextReader.Null);
        using var session = new NotebookSession();
        var request = Request(await input.ReadLineAsync(cancellationToken))
            ?? throw new InvalidOperationException("This command is for 'xlstm notebook run', which tells it what to do.");
        NamedPipeServerStream? pipe = null;
        try
        {
            var code = await WorkAsync(
                session, request, input, output, () => pipe = KeptNotebooks.Serve(request.Notebook), cancellationToken);
            while (pipe is not null)
            {
                await using var kept = pipe;
                pipe = null;
                using var reader = new StreamReader(kept, Encoding.UTF8);
                if (await NextAsync(kept, reader, request.KeepMinutes!.Value, cancellationToken) is not { } next)
                {
                    return code;
                }

                // A further failure is kept as long as the first, if nothing else is said. Whoever goes on then finds the next pipe there.
                request = next with { KeepMinutes = next.KeepMinutes ?? request.KeepMinutes };
                code = await WorkAsync(
                    session, request, reader, kept, () => pipe = KeptNotebooks.Serve(request.Notebook), cancellationToken);
            }

            return code;
        }
        finally
        {
            pipe?.Dispose();
        }
    }

    /// <summary>Runs what was asked for, and says how it goes.</summary>
    /// <param name="session">The state of the cells.</param>
    /// <param name="request">What is run.</param>
    /// <param name="input">Stops the run when a line or its end comes.</param>
    /// <param name="output">Where it is said.</param>
    /// <param name="keep">Called before it says that a cell failed and the process stays.</param>
    /// <param name="cancellationToken">Stops the run.</param>
    private static async Task<int> WorkAsync(
        NotebookSession session, NotebookRequest request, StreamReader input, Stream output, Action keep,
        CancellationToken cancellationToken)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var isOver = false;
        var asked = new Thread(() =>
        {
            try
            {
                input.ReadLine();
            }
            catch (Exception e) when (e is IOException or ObjectDisposedException)
            {
                // Who asked is gone.
            }

            lock (session)
            {
                if (!isOver)
                {
                    stop.Cancel();
                }
            }
        })
        {
            IsBackground = true,
        };
        asked.Start();
        try
        {
            var result = await session.RunAsync(
                request.Notebook,
                request.Output,
                request.From,
                request.From > 1 && request.Parameters.Count == 0 ? null
                    : request.Parameters.ToDictionary(p => p.Name, p => (object?)p.Value),
                request.TimeoutSeconds is { } seconds ? TimeSpan.FromSeconds(seconds) : null,
                request.CellTimeoutSeconds is { } cellSeconds ? TimeSpan.FromSeconds(cellSeconds) : null,
                new ImmediateProgress<CellProgress>(p => Say(new() { Progress = p })),
                stop.Token);
            Say(new() { KeptMinutes = Kept(result.Outcome == NotebookOutcome.Failed), Result = result });
            return result.Outcome == NotebookOutcome.Succeeded ? ExitCode.Success : ExitCode.Failure;
        }
        catch (NotebookException e)
        {
            Say(new() { KeptMinutes = Kept(request.From > 1), Refusal = e.Message });
            return ExitCode.Failure;
        }
        catch (OperationCanceledException)
        {
            return ExitCode.Interrupted;
        }
        finally
        {
            lock (session)
            {
                isOver = true;
            }

            if (output is NamedPipeServerStream)
            {
                // Who asked closes the pipe when it has its answer: a pipe that is being read cannot be closed from here.
                asked.Join(DrainPatience);
            }
        }

        double? Kept(bool canGoOn)
        {
            if (!canGoOn || request.KeepMinutes is null)
            {
                return null;
            }

            keep();
            return request.KeepMinutes;
        }

        void Say(NotebookReport report)
        {
            var line = Encoding.UTF8.GetBytes($"{ReportMark}{JsonSerializer.Serialize(report, ResultJson.Line)}\n");
            lock (output)
            {
                try
                {
                    output.Write(line);
                    output.Flush();
                }
                catch (IOException)
                {
                    // Who asked is gone, and the run about to stop.
                }
            }
        }
    }

    /// <summary>Waits for somebody who asks to go on; null if nobody does in time, or the process is to end.</summary>
    private static async Task<NotebookRequest?> NextAsync(
        NamedPipeServerStream pipe, StreamReader reader, double minutes, CancellationToken cancellationToken)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(TimeSpan.FromMinutes(minutes));
        try
        {
            await pipe.WaitForConnectionAsync(limit.Token);
            return await reader.ReadLineAsync(limit.Token) is { } line && line != KeptNotebooks.EndRequest ? Request(line) : null;
        }
        catch (Exception e) when (e is OperationCanceledException or IOException)
        {
            return null;
        }
    }

    private static NotebookRequest? Request(string? line) => JsonSerializer.Deserialize<NotebookRequest>(line ?? "null", ResultJson.Line);

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
            await await Task.WhenAny(process.WaitForExitAsync(limit.Token), _kept.Task);
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
                _hasSaid = true;
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
            _ended.TrySetResult();
            if (report.KeptMinutes is not null)
            {
                _kept.TrySetResult();
                return;
            }

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
    private NotebookRunResult End(int? exitCode, bool isStopped, TimeSpan elapsed, CancellationToken cancellationToken)
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

    private static string Ending(int? exitCode) => exitCode switch
    {
        null => "nobody saw its exit code",
        134 => "signal 6 (SIGABRT), as after Environment.FailFast, an exception on another thread, a stack overflow "
            + "or a failure of native code",
        135 or 139 => $"signal {exitCode - 128}, a failure of native code",
        137 => "signal 9 (SIGKILL), as the system ends a process when memory runs out",
        > 128 and < 192 => $"signal {exitCode - 128}",
        _ => $"exit code {exitCode}, as after Environment.Exit",
    };
}
