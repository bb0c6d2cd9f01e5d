using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Html;
using Microsoft.DotNet.Interactive;

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
    public static ShownValue display(object? value, params string[] mimeTypes)
    {
        var cell = CellContext.Current ?? throw new InvalidOperationException("display(...) works in a notebook cell only.");
        return new ShownValue(cell.Outputs, cell.Outputs.Display(MimeBundle.Of(value, mimeTypes)));
    }

    /// <summary>Shows a value in the cell's output, as <see cref="display"/> does.</summary>
    /// <param name="value">Any value.</param>
    /// <param name="mimeTypes">The formats wanted; by default those of the value's type.</param>
    /// <returns>A handle with which the output can be replaced.</returns>
    /// <exception cref="InvalidOperationException">The caller runs in no notebook cell.</exception>
    /// <typeparam name="T">
    /// The value's type: the engine has a method of this name for any object, whose handle replaces nothing.
    /// </typeparam>
    public static ShownValue Display<T>(this T value, params string[] mimeTypes) => display(value, mimeTypes);

    /// <summary>Marks text as HTML, so that showing it shows what it describes.</summary>
    /// <param name="content">HTML that is trusted: it is not escaped.</param>
    public static IHtmlContent HTML(string content) => new HtmlString(content);

    /// <summary>Runs a script where the output is shown, if scripts run there.</summary>
    /// <param name="script">JavaScript that is trusted.</param>
    /// <exception cref="InvalidOperationException">The caller runs in no notebook cell.</exception>
    public static void Javascript(string script) => display(HTML($"<script>{script}</script>"));

    /// <summary>Adds style rules where the output is shown.</summary>
    /// <param name="rules">CSS that is trusted.</param>
    /// <exception cref="InvalidOperationException">The caller runs in no notebook cell.</exception>
    public static void CSS(string rules) => display(HTML($"<style>{rules}</style>"));

    /// <summary>A formula in LaTeX, of several lines or with environments, so that showing it shows the formula.</summary>
    /// <param name="Text">The LaTeX.</param>
    public sealed record LaTeXString(string Text)
    {
        /// <summary>Marks text as LaTeX.</summary>
        public static explicit operator LaTeXString(string text) => new(text);

        /// <inheritdoc/>
        public override string ToString() => Text;
    }

    /// <summary>A formula of one line in LaTeX.</summary>
    /// <param name="Text">The LaTeX, without the dollar signs around it.</param>
    public sealed record MathString(string Text)
    {
        /// <summary>Marks text as a formula.</summary>
        public static explicit operator MathString(string text) => new(text);

        /// <inheritdoc/>
        public override string ToString() => $"$${Text}$$";
    }

    /// <summary>Asks whoever runs the notebook for a line.</summary>
    /// <param name="prompt">What is asked.</param>
    /// <param name="typeHint">What is expected, such as <c>text</c>.</param>
    /// <exception cref="InvalidOperationException">Nobody is there to answer, as in a run of <c>xlstm notebook run</c>.</exception>
    public static async Task<string> GetInputAsync(string prompt = "", string typeHint = "text")
    {
        var cell = CellContext.Current ?? throw new InvalidOperationException("GetInputAsync(...) works in a notebook cell only.");
        return await cell.Engine.AskAsync(prompt, typeHint, cell.Cancellation).ConfigureAwait(false);
    }

    /// <summary>Asks whoever runs the notebook for a secret, which is not shown as it is typed.</summary>
    /// <param name="prompt">What is asked.</param>
    /// <exception cref="InvalidOperationException">Nobody is there to answer, as in a run of <c>xlstm notebook run</c>.</exception>
    public static async Task<PasswordString> GetPasswordAsync(string prompt = "") =>
        new(await GetInputAsync(prompt, "password").ConfigureAwait(false));
}
#pragma warning restore CA1708

/// <summary>An output that can be replaced.</summary>
public sealed class ShownValue
{
    private readonly CellOutputs _outputs;
    private readonly JsonObject _output;

    internal ShownValue(CellOutputs outputs, JsonObject output) => (_outputs, _output) = (outputs, output);

    /// <summary>Shows another value in place of the one shown, from a later cell too.</summary>
    /// <param name="value">Any value.</param>
    public void Update(object? value) => _outputs.Update(_output, MimeBundle.Of(value));
}
