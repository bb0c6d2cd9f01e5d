using System.Globalization;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>The kinds of notebook cell.</summary>
public enum CellKind
{
    /// <summary>Code that runs, with its outputs.</summary>
    Code,

    /// <summary>Prose.</summary>
    Markdown,

    /// <summary>Text that is neither run nor rendered.</summary>
    Raw,
}

/// <summary>One cell of a <see cref="Notebook"/>. It keeps every key of the file, known or not.</summary>
public sealed class NotebookCell
{
    /// <summary>Wraps a cell that <see cref="NotebookReader"/> found valid.</summary>
    internal NotebookCell(JsonObject json) => Json = json;

    /// <summary>Creates a cell without outputs.</summary>
    /// <param name="kind">What the cell holds.</param>
    /// <param name="source">Its text, lines separated by <c>\n</c>.</param>
    /// <param name="id">1 to 64 letters, digits, <c>-</c> and <c>_</c>, unique in the notebook; a random one if absent.</param>
    public NotebookCell(CellKind kind, string source, string? id = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        Json = new JsonObject
        {
            ["cell_type"] = NotebookReader.CellTypes[(int)kind],
            ["id"] = id ?? Guid.NewGuid().ToString("N")[..8],
            ["metadata"] = new JsonObject(),
            ["source"] = MultilineText.Split(source),
        };
        if (kind == CellKind.Code)
        {
            ClearOutputs();
        }
    }

    /// <summary>The cell as the file holds it.</summary>
    internal JsonObject Json { get; }

    /// <summary>What the cell holds.</summary>
    public CellKind Kind => (CellKind)Array.IndexOf(NotebookReader.CellTypes, Json["cell_type"]!.GetValue<string>());

    /// <summary>The cell's identifier, unique in its notebook.</summary>
    public string Id => Json["id"]!.GetValue<string>();

    /// <summary>The cell's text, lines separated by <c>\n</c>.</summary>
    public string Source
    {
        get => MultilineText.Join(Json["source"]);
        set => Json["source"] = MultilineText.Split(value);
    }

    /// <summary>The cell's metadata; changes are saved with the notebook.</summary>
    public JsonObject Metadata => Json["metadata"]!.AsObject();

    /// <summary>The tags in the metadata.</summary>
    public IEnumerable<string> Tags =>
        Metadata["tags"] is JsonArray tags ? tags.Where(MultilineText.IsString).Select(tag => tag!.GetValue<string>()) : [];

    /// <summary>The number of the run that made the outputs, or null: the cell has not run, or is no code.</summary>
    public int? ExecutionCount => Json["execution_count"]?.GetValue<int>();

    /// <summary>The outputs in the form of the file (nbformat's <c>output</c> objects); empty unless <see cref="Kind"/> is code.</summary>
    public IEnumerable<JsonObject> Outputs => Json["outputs"] is JsonArray outputs ? outputs.Select(output => output!.AsObject()) : [];

    /// <summary>The first line that is not blank, trimmed; empty if there is none.</summary>
    public string FirstLine => Source.Split('\n').Select(line => line.Trim()).FirstOrDefault(line => line.Length > 0) ?? "";

    /// <summary>How long the cell took in its last run, in seconds; null if the file does not say.</summary>
    public double? Seconds =>
        Metadata["execution"] is JsonObject times && Time(times["iopub.execute_input"]) is { } began
            && Time(times["shell.execute_reply"]) is { } ended
            ? Math.Max(0, (ended - began).TotalSeconds) : null;

    /// <summary>Replaces the outputs of a code cell.</summary>
    /// <param name="outputs">nbformat output objects without a parent.</param>
    /// <param name="executionCount">The number of the run.</param>
    /// <exception cref="InvalidOperationException">The cell is no code cell.</exception>
    public void SetOutputs(JsonArray outputs, int? executionCount)
    {
        if (Kind != CellKind.Code)
        {
            throw new InvalidOperationException($"Cell '{Id}' is a {Json["cell_type"]} cell: only code cells have outputs.");
        }

        Json["outputs"] = outputs;
        Json["execution_count"] = executionCount;
    }

    /// <summary>Replaces the outputs of a code cell that did not live to give them itself.</summary>
    /// <param name="console">What it wrote to the console: stream name, text. What passes the limits of a cell is left out.</param>
    /// <param name="error">Why it ended.</param>
    /// <exception cref="InvalidOperationException">The cell is no code cell.</exception>
    public void SetFailure(IEnumerable<(string Stream, string Text)> console, CellError error)
    {
        CellOutputs outputs = new(null);
        foreach (var (stream, text) in console)
        {
            outputs.WriteStream(stream, text);
        }

        outputs.Error(error);
        SetOutputs(outputs.ToJson(), error.Cell);
    }

    /// <summary>Removes the outputs and the execution count of a code cell.</summary>
    public void ClearOutputs() => SetOutputs([], null);

    private static DateTimeOffset? Time(JsonNode? node) =>
        MultilineText.IsString(node)
        && DateTimeOffset.TryParse(node!.GetValue<string>(), CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal, out var time)
        ? time : null;
}
