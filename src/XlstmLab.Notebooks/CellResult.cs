using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>How a cell ended.</summary>
public enum CellStatus
{
    /// <summary>The code ran to its end.</summary>
    Succeeded,

    /// <summary>The code did not compile, or threw.</summary>
    Failed,

    /// <summary>The code was stopped from outside.</summary>
    Interrupted,
}

/// <summary>Why a cell failed.</summary>
/// <param name="Cell">The number of the cell among those run, from 1: what <c>In [n]</c> shows.</param>
/// <param name="Line">The line of the cell, from 1, if it is known.</param>
/// <param name="Kind">The exception's full type name, <c>CompilationError</c> or <c>Interrupted</c>.</param>
/// <param name="Message">The error in one or more lines.</param>
/// <param name="Traceback">The message and where it came from, line by line, without frames of the engine.</param>
public sealed record CellError(int Cell, int? Line, string Kind, string Message, IReadOnlyList<string> Traceback)
{
    /// <summary>The cell, the line and the message.</summary>
    public override string ToString() => Line is { } line ? $"cell {Cell}, line {line}: {Message}" : $"cell {Cell}: {Message}";
}

/// <summary>What running a cell gave.</summary>
/// <param name="Status">How it ended.</param>
/// <param name="ExecutionCount">The number of the run in its engine, from 1.</param>
/// <param name="Outputs">The outputs in their order, as nbformat objects without a parent.</param>
/// <param name="Error">Why it failed or was interrupted; null if it succeeded.</param>
/// <param name="Elapsed">The wall time, compilation included.</param>
public sealed record CellResult(CellStatus Status, int ExecutionCount, JsonArray Outputs, CellError? Error, TimeSpan Elapsed)
{
    /// <summary>The outputs themselves: a later cell may replace a value among them.</summary>
    internal CellOutputs? Live { get; init; }
}
