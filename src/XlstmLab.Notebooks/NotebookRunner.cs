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
/// <param name="Text">For output: the text, which need not end with a line.</param>
/// <param name="Status">For a finished cell: how it ended.</param>
public sealed record CellProgress(
    CellEvent Event, int Index, int Count, string FirstLine, TimeSpan Elapsed, string? Stream = null, string? Text = null, CellStatus? Status = null);

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
    /// <param name="progress">Told of each cell and of console output as it comes, on the thread that made it.</param>
    /// <param name="cancellationToken">Stops the run; the output file is complete when the exception comes.</param>
    /// <returns>How the run ended. A cell that fails is a result, not an exception. Runs of one process wait for each other.</returns>
    /// <remarks>
    /// The processes that were started meanwhile end with the run, at the latest when its time is up (on Linux). A cell that ends its own
    /// process ends the caller's: <c>xlstm notebook run</c> has a process for the cells, and tells what became of it.
    /// </remarks>
    /// <exception cref="NotebookException">The notebook, its parameters or a cell's language cannot be used, or the output cannot be written.</exception>
    /// <exception cref="OperationCanceledException">The run was cancelled.</exception>
    public static Task<NotebookRunResult> RunAsync(
        string notebookPath,
        string outputPath,
        IReadOnlyDictionary<string, object?>? parameters = null,
        TimeSpan? timeout = null,
        IProgress<CellProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        RunAsync(notebookPath, outputPath, parameters, timeout, progress, TimeProvider.System, cancellationToken);

    /// <summary>The same, with the clock that the time limit goes by.</summary>
    internal static async Task<NotebookRunResult> RunAsync(
        string notebookPath,
        string outputPath,
        IReadOnlyDictionary<string, object?>? parameters,
        TimeSpan? timeout,
        IProgress<CellProgress>? progress,
        TimeProvider clock,
        CancellationToken cancellationToken)
    {
        notebookPath = Path.GetFullPath(notebookPath);
        outputPath = Path.GetFullPath(outputPath);
        var notebook = Notebook.Load(notebookPath);
        NotebookLanguage.RequireCSharp(notebook, notebookPath);
        NotebookParameters.Inject(notebook, parameters ?? new Dictionary<string, object?>());

        await OneRun.WaitAsync(cancellationToken).ConfigureAwait(false);
        string before = Environment.CurrentDirectory;
        string? outerMark = Environment.GetEnvironmentVariable(CellProcesses.Variable);
        string mark = CellProcesses.NewMark();
        try
        {
            string folder = Path.GetDirectoryName(notebookPath)!;
            Environment.CurrentDirectory = folder;
            Environment.SetEnvironmentVariable(CellProcesses.Variable, mark);
            return await RunCellsAsync(notebook, folder, outputPath, timeout, progress, mark, clock, cancellationToken)
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
        Notebook notebook,
        string folder,
        string outputPath,
        TimeSpan? timeout,
        IProgress<CellProgress>? progress,
        string mark,
        TimeProvider clock,
        CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        using CancellationTokenSource timer = new(timeout ?? Timeout.InfiniteTimeSpan, clock);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(timer.Token, cancellationToken);

        // A cell that waits for a process goes on when that has ended.
        using var interruption = limit.Token.Register(() => CellProcesses.End(mark));

        CellEngine engine = new(folder);
        List<NotebookCell> cells = [.. notebook.CodeCells];
        foreach (var cell in cells)
        {
            cell.ClearOutputs();
            cell.Metadata.Remove("execution");
        }

        notebook.Save(outputPath);
        for (int i = 0; i < cells.Count; i++)
        {
            var result = await RunCellAsync(engine, cells[i], i + 1, cells.Count, () => notebook.Save(outputPath), progress, limit.Token).ConfigureAwait(false);
            cancellationToken.ThrowIfCancellationRequested();
            if (result.Error is not { } error || (result.Status == CellStatus.Failed && cells[i].Tags.Contains(RaisesExceptionTag)))
            {
                continue;
            }

            bool timedOut = result.Status == CellStatus.Interrupted;
            return new NotebookRunResult(
                timedOut ? NotebookOutcome.TimedOut : NotebookOutcome.Failed,
                outputPath,
                cells.Count,
                i + 1,
                Stopwatch.GetElapsedTime(start),
                timedOut ? error with { Message = string.Create(CultureInfo.InvariantCulture, $"The run reached its time limit of {timeout:c}.") } : error);
        }

        return new NotebookRunResult(NotebookOutcome.Succeeded, outputPath, cells.Count, cells.Count, Stopwatch.GetElapsedTime(start), null);
    }

    private static async Task<CellResult> RunCellAsync(
        CellEngine engine, NotebookCell cell, int index, int count, Action save, IProgress<CellProgress>? progress, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        CellProgress report = new(CellEvent.Started, index, count, cell.FirstLine, TimeSpan.Zero);
        progress?.Report(report);
        var began = DateTime.UtcNow;
        var result = await engine.RunAsync(
            cell.Source,
            (stream, text) => progress?.Report(report with
            {
                Event = CellEvent.Output,
                Elapsed = Stopwatch.GetElapsedTime(start),
                Stream = stream,
                Text = text,
            }),
            cancellationToken).ConfigureAwait(false);
        cell.SetOutputs(result.Outputs, result.ExecutionCount);

        // The keys under which JupyterLab keeps and shows a cell's times.
        cell.Metadata["execution"] = new JsonObject
        {
            ["iopub.execute_input"] = Timestamp(began),
            ["shell.execute_reply"] = Timestamp(began + result.Elapsed),
        };
        save();
        progress?.Report(report with { Event = CellEvent.Finished, Elapsed = result.Elapsed, Status = result.Status });
        return result;
    }

    private static string Timestamp(DateTime time) => time.ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", CultureInfo.InvariantCulture);
}
