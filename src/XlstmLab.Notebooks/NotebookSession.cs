namespace XlstmLab.Notebooks;

/// <summary>
/// Runs a notebook and keeps what its cells have made: when a cell has failed and been mended, the run goes on from it, in this process.
/// </summary>
public sealed class NotebookSession : IDisposable
{
    private readonly List<NotebookCell> _done = [];
    private CellEngine? _engine;

    /// <summary>The values that the parameters have.</summary>
    internal IReadOnlyDictionary<string, object?> Parameters { get; private set; } = new Dictionary<string, object?>();

    /// <summary>Runs a notebook, from its start or from one of its cells.</summary>
    /// <param name="notebookPath">As <see cref="NotebookRunner"/> has it.</param>
    /// <param name="outputPath">As above.</param>
    /// <param name="from">
    /// The code cell to begin with, from 1. Those before it must be as this session ran them last, each to its end; their outputs are those
    /// of then. From 1, all that was kept is given up.
    /// </param>
    /// <param name="parameters">As above; null, from a later cell, for those that the session has.</param>
    /// <param name="timeout">As above.</param>
    /// <param name="cellTimeout">As above.</param>
    /// <param name="progress">As above.</param>
    /// <param name="cancellationToken">As above.</param>
    /// <returns>As above.</returns>
    /// <exception cref="NotebookException">As above; or the notebook cannot go on from that cell, and nothing has changed.</exception>
    /// <exception cref="OperationCanceledException">As above.</exception>
    public Task<NotebookRunResult> RunAsync(
        string notebookPath,
        string outputPath,
        int from = 1,
        IReadOnlyDictionary<string, object?>? parameters = null,
        TimeSpan? timeout = null,
        TimeSpan? cellTimeout = null,
        IProgress<CellProgress>? progress = null,
        CancellationToken cancellationToken = default) => NotebookRunner.RunAsync(
            this, from, notebookPath, outputPath, parameters, new RunLimits(timeout, cellTimeout, TimeProvider.System), progress,
            cancellationToken);

    /// <summary>Ends the kernels.</summary>
    public void Dispose() => _engine?.Dispose();

    /// <summary>Makes a notebook ready to run from a cell: cells before it get the outputs that they had.</summary>
    internal void Prepare(Notebook notebook, int from, IReadOnlyDictionary<string, object?>? parameters)
    {
        if (from > 1)
        {
            parameters ??= Parameters;
        }

        NotebookParameters.Inject(notebook, parameters ?? new Dictionary<string, object?>());
        Restore([.. notebook.CodeCells], from);
        Parameters = parameters ?? new Dictionary<string, object?>();
    }

    /// <summary>The engine, of which cells before the one to begin with have made use.</summary>
    internal CellEngine Engine(int from, string folder, string language)
    {
        if (from == 1)
        {
            _engine?.Dispose();
            _engine = null;
        }

        return _engine ??= new CellEngine(folder, language);
    }

    /// <summary>Remembers a cell that ran to its end.</summary>
    internal void Keep(NotebookCell cell) => _done.Add(cell);

    private void Restore(List<NotebookCell> cells, int from)
    {
        if (from < 1 || from > cells.Count)
        {
            throw new NotebookException($"The run cannot go on from cell {from}: the notebook has {cells.Count} code cells.");
        }

        for (int i = 0; i < from - 1; i++)
        {
            if (i == _done.Count)
            {
                throw new NotebookException($"The run cannot go on from cell {from}: cell {i + 1} has not run to its end. Go on from it.");
            }

            if (_done[i].Source != cells[i].Source)
            {
                throw new NotebookException(
                    $"The run cannot go on from cell {from}: cell {i + 1} is not as it was run. Go on from it, so that it runs anew.");
            }
        }

        for (int i = 0; i < from - 1; i++)
        {
            cells[i].SetOutputs(_done[i].Json["outputs"]!.DeepClone().AsArray(), _done[i].ExecutionCount);
            cells[i].Metadata["execution"] = _done[i].Metadata["execution"]?.DeepClone();
        }

        _done.RemoveRange(from - 1, _done.Count - (from - 1));
    }
}
