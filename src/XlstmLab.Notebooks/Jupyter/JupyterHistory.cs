using System.IO.Enumeration;
using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks.Jupyter;

/// <summary>The cells that this kernel has run; there is none from before its start.</summary>
internal sealed class JupyterHistory
{
    private const int Session = 1;

    private readonly List<(int Number, string Source, string? Result)> _cells = [];

    /// <summary>Keeps a cell.</summary>
    /// <param name="number">Its execution count.</param>
    /// <param name="source">Its text.</param>
    /// <param name="result">The value of its last expression, as text.</param>
    public void Add(int number, string source, string? result) => _cells.Add((number, source, result));

    /// <summary>Answers a <c>history_request</c>.</summary>
    public JsonObject Answer(JupyterMessage request)
    {
        var found = request.Text("hist_access_type") switch
        {
            "range" => Range(request.Number("session") ?? 0, request.Number("start") ?? 0, request.Number("stop")),
            "search" => Search(request.Text("pattern"), request.Flag("unique", false)),
            _ => _cells,
        };
        if (request.Text("hist_access_type") != "range")
        {
            found = found.TakeLast(request.Number("n") ?? int.MaxValue);
        }

        bool hasOutput = request.Flag("output", false);
        return new()
        {
            ["status"] = "ok",
            ["history"] = new JsonArray([
                .. found.Select(
                    cell => new JsonArray(Session, cell.Number, hasOutput ? new JsonArray(cell.Source, cell.Result) : cell.Source)),
            ]),
        };
    }

    /// <summary>A range of numbers; the session is this one (0 or 1), and no other is known.</summary>
    private IEnumerable<(int Number, string Source, string? Result)> Range(int session, int start, int? stop) =>
        session is 0 or Session ? _cells.Where(cell => cell.Number >= start && (stop is not { } end || cell.Number < end)) : [];

    /// <summary>The cells whose whole text matches a pattern with * and ?; of equal ones the last, if wanted.</summary>
    private IEnumerable<(int Number, string Source, string? Result)> Search(string pattern, bool isUnique)
    {
        var found = _cells.Where(
            cell => FileSystemName.MatchesSimpleExpression(pattern.Length == 0 ? "*" : pattern, cell.Source, ignoreCase: false));
        return isUnique ? found.Reverse().DistinctBy(cell => cell.Source).Reverse() : found;
    }
}
