using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>What a progress report is about.</summary>
public enum CellEvent
{
    /// <summary>The cell begins to run.</summary>
    Started,

    /// <summary>The cell wrote to the console.</summary>
    Output,

    /// <summary>The cell is so far; the text says how far.</summary>
    Status,

    /// <summary>The cell ended, well or not; the output file holds its outputs.</summary>
    Finished,
}

/// <summary>A report of a running notebook.</summary>
/// <param name="Event">What happened.</param>
/// <param name="Index">The code cell, from 1.</param>
/// <param name="Count">How many code cells the notebook has.</param>
/// <param name="FirstLine">The first line of the cell's source.</param>
/// <param name="Elapsed">How long the cell has run.</param>
/// <param name="Stream">For output: <c>stdout</c> or <c>stderr</c>.</param>
/// <param name="Text">For output: the text, which need not end with a line; for a status: the line.</param>
/// <param name="Status">For a finished cell: how it ended.</param>
public sealed record CellProgress(
    CellEvent Event, int Index, int Count, string FirstLine, TimeSpan Elapsed, string? Stream = null, string? Text = null,
    CellStatus? Status = null)
{
    /// <summary>The share of the notebook that lies before the cell, from 0 to 1, by the times of its last run where it has any.</summary>
    public double Share { get; init; }

    /// <summary>The share of the notebook that the cell is.</summary>
    public double Weight { get; init; }

    /// <summary>How many seconds the cell took in the notebook's last run; null if that is not known.</summary>
    public double? UsualSeconds { get; init; }
}

/// <summary>How a run ended.</summary>
public enum NotebookOutcome
{
    /// <summary>Every code cell ran to its end.</summary>
    Succeeded,

    /// <summary>A cell failed; those after it did not run.</summary>
    Failed,

    /// <summary>The time limit was reached; the cell that ran was interrupted, those after it did not run.</summary>
    TimedOut,
}

/// <summary>What running a notebook gave.</summary>
/// <param name="Outcome">How the run ended.</param>
/// <param name="OutputPath">The executed notebook, an absolute path.</param>
/// <param name="CodeCells">How many code cells the notebook has, the injected parameters included.</param>
/// <param name="Executed">How many of them ran, the failed one included.</param>
/// <param name="Elapsed">The wall time.</param>
/// <param name="FirstError">Why it failed or timed out; null if it succeeded.</param>
public sealed record NotebookRunResult(
    NotebookOutcome Outcome, string OutputPath, int CodeCells, int Executed, TimeSpan Elapsed, CellError? FirstError);

/// <summary>Runs notebooks from their first cell to their last, without a Jupyter server.</summary>
public static class NotebookRunner
{
    /// <summary>A cell with this tag is meant to fail: its error is kept and the run goes on.</summary>
    public const string RaisesExceptionTag = "raises-exception";

    // The working directory belongs to the process.
    private static readonly SemaphoreSlim OneRun = new(1);

    /// <summary>
    /// Runs every code cell with the notebook's folder as working directory, and writes the notebook with its outputs after each of them.
    /// </summary>
    /// <param name="notebookPath">The notebook to run; it is left as it is unless it is the output too.</param>
    /// <param name="outputPath">Where the executed notebook goes; a whole, valid notebook at every moment.</param>
    /// <param name="parameters">Values for the cell tagged <c>parameters</c>; see <see cref="NotebookParameters.Inject"/>.</param>
    /// <param name="timeout">The limit for the whole run; none if absent.</param>
    /// <param name="cellTimeout">The limit for each cell; none if absent.</param>
    /// <param name="progress">Told of each cell and of console output as it comes, on the thread that made it.</param>
    /// <param name="cancellationToken">Stops the run; the output file is complete when the exception comes.</param>
    /// <returns>How the run ended. A cell that fails is a result, not an exception. Runs of one process wait for each other.</returns>
    /// <remarks>
    /// The processes that were started meanwhile end with the run, at the latest when its time is up (on Linux). A cell that ends its own
    /// process ends the caller's: <c>xlstm notebook run</c> has a process for the cells, and tells what became of it.
    /// </remarks>
    /// <exception cref="NotebookException">
    /// The notebook, its parameters or a cell's language cannot be used, or the output cannot be written.
    /// </exception>
    /// <exception cref="OperationCanceledException">The run was cancelled.</exception>
    public static Task<NotebookRunResult> RunAsync(
        string notebookPath,
        string outputPath,
        IReadOnlyDictionary<string, object?>? parameters = null,
        TimeSpan? timeout = null,
        TimeSpan? cellTimeout = null,
        IProgress<CellProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        RunAsync(
            notebookPath, outputPath, parameters, new RunLimits(timeout, cellTimeout, TimeProvider.System), progress, cancellationToken);

    /// <summary>The same, with the clock that the time limits go by.</summary>
    internal static async Task<NotebookRunResult> RunAsync(
        string notebookPath,
        string outputPath,
        IReadOnlyDictionary<string, object?>? parameters,
        RunLimits limits,
        IProgress<CellProgress>? progress,
        CancellationToken cancellationToken)
    {
        using NotebookSession session = new();
        return await RunAsync(session, from: 1, notebookPath, outputPath, parameters, limits, progress, cancellationToken)
            .ConfigureAwait(false);
    }

    /// <summary>The same from a cell on, in the state of a session.</summary>
    internal static async Task<NotebookRunResult> RunAsync(
        NotebookSession session,
        int from,
        string notebookPath,
        string outputPath,
        IReadOnlyDictionary<string, object?>? parameters,
        RunLimits limits,
        IProgress<CellProgress>? progress,
        CancellationToken cancellationToken)
    {
        notebookPath = Path.GetFullPath(notebookPath);
        outputPath = Path.GetFullPath(outputPath);
        var notebook = Notebook.Load(notebookPath);
        string language = NotebookLanguage.RequireKnown(notebook, notebookPath);
        session.Prepare(notebook, from, parameters);

        await OneRun.WaitAsync(cancellationToken).ConfigureAwait(false);
        string before = Environment.CurrentDirectory;
        string? outerMark = Environment.GetEnvironmentVariable(CellProcesses.Variable);
        string mark = CellProcesses.NewMark();
        try
        {
            string folder = Path.GetDirectoryName(notebookPath)!;
            Environment.CurrentDirectory = folder;
            Environment.SetEnvironmentVariable(CellProcesses.Variable, mark);
            var engine = session.Engine(from, folder, language);
            return await RunCellsAsync(session, engine, from, notebook, outputPath, limits, progress, mark, cancellationToken)
                .ConfigureAwait(false);
        }
        finally
        {
            Environment.SetEnvironmentVariable(CellProcesses.Variable, outerMark);
            Environment.CurrentDirectory = before;
            CellProcesses.End(mark);
            OneRun.Release();
        }
    }

    private static async Task<NotebookRunResult> RunCellsAsync(
        NotebookSession session,
        CellEngine engine,
        int from,
        Notebook notebook,
        string outputPath,
        RunLimits limits,
        IProgress<CellProgress>? progress,
        string mark,
        CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        using CancellationTokenSource timer = new(limits.Run ?? Timeout.InfiniteTimeSpan, limits.Clock);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(timer.Token, cancellationToken);

        List<NotebookCell> cells = [.. notebook.CodeCells];
        double?[] usual = [.. cells.Select(cell => cell.Seconds)];
        foreach (var cell in cells.Skip(from - 1))
        {
            cell.ClearOutputs();
            cell.Metadata.Remove("execution");
        }

        List<(NotebookCell Cell, CellOutputs Outputs)> done = [];
        notebook.Save(outputPath);
        for (int i = from - 1; i < cells.Count; i++)
        {
            using CancellationTokenSource cellTimer = limits.Cell is { } most ? new(most, limits.Clock) : new();
            using var cellLimit = CancellationTokenSource.CreateLinkedTokenSource(limit.Token, cellTimer.Token);

            // A cell that waits for a process goes on when that has ended.
            using var interruption = cellLimit.Token.Register(() => CellProcesses.End(mark));
            var result = await RunCellAsync(engine, cells[i], Place(i), Save, progress, cellLimit.Token).ConfigureAwait(false);
            cancellationToken.ThrowIfCancellationRequested();
            if (result.Error is not { } error || (result.Status == CellStatus.Failed && cells[i].Tags.Contains(RaisesExceptionTag)))
            {
                session.Keep(cells[i]);
                continue;
            }

            bool timedOut = result.Status == CellStatus.Interrupted;
            return new NotebookRunResult(
                timedOut ? NotebookOutcome.TimedOut : NotebookOutcome.Failed,
                outputPath,
                cells.Count,
                i + 2 - from,
                Stopwatch.GetElapsedTime(start),
                error with { Cell = i + 1, Message = timedOut ? Limit() : error.Message });
        }

        return new NotebookRunResult(
            NotebookOutcome.Succeeded, outputPath, cells.Count, cells.Count + 1 - from, Stopwatch.GetElapsedTime(start), null);

        string Limit() => timer.IsCancellationRequested || limits.Cell is null
            ? $"The run reached its time limit of {limits.Run:c}." : $"The cell reached its time limit of {limits.Cell:c}.";

        CellProgress Place(int index)
        {
            // Cells without a time are taken to be short.
            double Weight(int i) => usual[i] ?? 1;
            double all = Enumerable.Range(0, cells.Count).Sum(Weight);
            return new CellProgress(CellEvent.Started, index + 1, cells.Count, cells[index].FirstLine, TimeSpan.Zero)
            {
                Share = Enumerable.Range(0, index).Sum(Weight) / all,
                Weight = Weight(index) / all,
                UsualSeconds = usual[index],
            };
        }

        void Save(NotebookCell cell, CellOutputs outputs)
        {
            // A cell may have replaced what an earlier one shows.
            foreach (var (earlier, shown) in done.Where(entry => entry.Outputs.HasChanged))
            {
                earlier.SetOutputs(shown.ToJson(), earlier.ExecutionCount);
            }

            done.Add((cell, outputs));
            notebook.Save(outputPath);
        }
    }

    private static async Task<CellResult> RunCellAsync(
        CellEngine engine, NotebookCell cell, CellProgress report, Action<NotebookCell, CellOutputs> save,
        IProgress<CellProgress>? progress,
        CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        progress?.Report(report);
        var began = DateTime.UtcNow;
        CellOutputs outputs = new(
            (stream, text) => Tell(report with { Event = CellEvent.Output, Stream = stream, Text = text }),
            status: text => Tell(report with { Event = CellEvent.Status, Text = text }));
        var result = await engine.RunAsync(cell.Source, outputs, NotebookLanguage.Of(cell), isCounted: true, cancellationToken)
            .ConfigureAwait(false);
        cell.SetOutputs(result.Outputs, result.ExecutionCount);

        // The keys under which JupyterLab keeps and shows a cell's times.
        cell.Metadata["execution"] = new JsonObject
        {
            ["iopub.execute_input"] = Timestamp(began),
            ["shell.execute_reply"] = Timestamp(began + result.Elapsed),
        };
        save(cell, result.Live!);
        progress?.Report(report with { Event = CellEvent.Finished, Elapsed = result.Elapsed, Status = result.Status });
        return result;

        void Tell(CellProgress told) => CellContext.Outside(
            () => progress?.Report(told with { Elapsed = Stopwatch.GetElapsedTime(start) }));
    }

    private static string Timestamp(DateTime time) => time.ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", CultureInfo.InvariantCulture);
}

/// <summary>How long a run may take.</summary>
/// <param name="Run">All of it.</param>
/// <param name="Cell">Each cell.</param>
/// <param name="Clock">The clock they go by.</param>
internal sealed record RunLimits(TimeSpan? Run, TimeSpan? Cell, TimeProvider Clock);
