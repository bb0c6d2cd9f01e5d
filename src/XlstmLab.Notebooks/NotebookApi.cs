using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Html;

namespace XlstmLab.Notebooks;

/// <summary>What every cell can call without a <c>using</c>, under the names of .NET Interactive's C# kernel.</summary>
#pragma warning disable CA1708 // display(x) and x.Display() are the names that notebooks use.
public static class NotebookApi
{
    /// <summary>Set when the run is to stop: a cell that awaits long work passes it on.</summary>
    public static CancellationToken CellCancellation => CellContext.Current?.Cancellation ?? CancellationToken.None;

    /// <summary>Shows a value in the cell's output.</summary>
    /// <param name="value">Any value; charts, tables and tensors have formats of their own.</param>
    /// <param name="mimeTypes">The formats wanted, such as <c>text/plain</c>; by default those of the value's type.</param>
    /// <returns>A handle with which the output can be replaced.</returns>
    /// <exception cref="InvalidOperationException">The caller runs in no notebook cell.</exception>
    public static DisplayedValue display(object? value, params string[] mimeTypes)
    {
        var cell = CellContext.Current ?? throw new InvalidOperationException("display(...) works in a notebook cell only.");
        return new DisplayedValue(cell.Outputs, cell.Outputs.Display(MimeBundle.Of(value, mimeTypes)));
    }

    /// <summary>Shows a value in the cell's output, as <see cref="display"/> does.</summary>
    /// <param name="value">Any value.</param>
    /// <param name="mimeTypes">The formats wanted; by default those of the value's type.</param>
    /// <returns>A handle with which the output can be replaced.</returns>
    /// <exception cref="InvalidOperationException">The caller runs in no notebook cell.</exception>
    public static DisplayedValue Display(this object? value, params string[] mimeTypes) => display(value, mimeTypes);

    /// <summary>Marks text as HTML, so that showing it shows what it describes.</summary>
    /// <param name="content">HTML that is trusted: it is not escaped.</param>
    public static IHtmlContent HTML(string content) => new HtmlString(content);
}
#pragma warning restore CA1708

/// <summary>An output that can be replaced.</summary>
public sealed class DisplayedValue
{
    private readonly CellOutputs _outputs;
    private readonly JsonObject _output;

    internal DisplayedValue(CellOutputs outputs, JsonObject output) => (_outputs, _output) = (outputs, output);

    /// <summary>Shows another value in place of the one shown. It has no effect after the cell that showed it has ended.</summary>
    /// <param name="value">Any value.</param>
    public void Update(object? value) => _outputs.Update(_output, MimeBundle.Of(value));
}
