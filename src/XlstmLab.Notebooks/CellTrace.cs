using System.Globalization;
using System.Reflection;
using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;

namespace XlstmLab.Notebooks;

/// <summary>Says where an error of a cell came from, in terms of cells and lines.</summary>
internal static partial class CellTrace
{
    private const int MessageLimit = 20_000;

    /// <summary>The name under which the compiler and stack traces know a cell.</summary>
    public static string PathOf(int cell) => $"cell {cell}";

    /// <summary>What the compiler calls the class around a cell's code, but for the cell's number; no C# name can be the same.</summary>
    public const string ScriptClass = "Submission#";

    /// <summary>What F# Interactive calls the classes around a cell's code, but for a number.</summary>
    private const string InteractiveClass = "FSI_";

    /// <summary>The error of an exception thrown by a cell, without the frames of the engine below the cell.</summary>
    public static CellError Describe(Exception exception, int cell)
    {
        if (exception is TargetInvocationException or TypeInitializationException or AggregateException { InnerExceptions.Count: 1 }
            && exception.InnerException is { } inner)
        {
            exception = inner;
        }

        List<string> lines = [];
        for (var e = exception; e is not null; e = e.InnerException)
        {
            lines.AddRange($"{(ReferenceEquals(e, exception) ? "" : "caused by ")}{e.GetType().FullName}: {Message(e)}".Split('\n'));
            lines.AddRange(Frames(e));
        }

        int? line = lines.Select(text => OwnLine().Match(text))
            .Where(match => match.Success && match.Groups["cell"].Value == cell.ToString(CultureInfo.InvariantCulture))
            .Select(match => (int?)int.Parse(match.Groups["line"].Value, CultureInfo.InvariantCulture)).FirstOrDefault();
        return new CellError(cell, line, exception.GetType().FullName!, Message(exception), lines);
    }

    /// <summary>The exception's message; a cell's own exception may have one of any length, or fail to give it.</summary>
    private static string Message(Exception exception)
    {
        try
        {
            string message = exception.Message;
            int leftOut = Math.Max(0, message.Length - MessageLimit);
            return leftOut == 0 ? message : string.Create(
                CultureInfo.InvariantCulture, $"{message.AsSpan(0, MessageLimit)}\n... {leftOut:N0} more characters are left out");
        }
        catch (Exception e)
        {
            return $"(its message cannot be had: {e.GetType().FullName})";
        }
    }

    /// <summary>A compile error with its source line and a mark under the place.</summary>
    public static IEnumerable<string> Describe(Diagnostic error)
    {
        string message = $"error {error.Id}: {error.GetMessage(CultureInfo.InvariantCulture)}";
        if (!error.Location.IsInSource)
        {
            return [message];
        }

        var span = error.Location.GetMappedLineSpan();
        string source = error.Location.SourceTree!.GetText().Lines[error.Location.GetLineSpan().StartLinePosition.Line].ToString();
        int column = span.StartLinePosition.Character;
        int width = span.EndLinePosition.Line == span.StartLinePosition.Line ? Math.Max(1, span.EndLinePosition.Character - column) : 1;
        string indent = new([.. source.Take(column).Select(c => c == '\t' ? '\t' : ' ')]);
        return
        [
            $"{Path.GetFileName(span.Path)}, line {span.StartLinePosition.Line + 1}: {message}",
            $"    {source}",
            $"    {indent}{new string('^', width)}",
        ];
    }

    /// <summary>A compile error of F# with its source line and a mark under the place.</summary>
    public static IEnumerable<string> Describe(FSharp.Compiler.Diagnostics.FSharpDiagnostic error, string path, string[] lines)
    {
        string head = $"{path}, line {error.StartLine}: error {error.ErrorNumberText}: {error.Message}";
        if (error.StartLine < 1 || error.StartLine > lines.Length)
        {
            return [head];
        }

        int width = error.EndLine == error.StartLine ? Math.Max(1, error.EndColumn - error.StartColumn) : 1;
        return [head, $"    {lines[error.StartLine - 1]}", $"    {new string(' ', error.StartColumn)}{new string('^', width)}"];
    }

    private static IEnumerable<string> Frames(Exception exception)
    {
        var frames = (exception.StackTrace ?? "").Split('\n').Select(frame => frame.TrimEnd())
            .Where(frame => frame.StartsWith("   at ", StringComparison.Ordinal)).ToList();
        int last = frames.FindLastIndex(frame =>
            frame.Contains(ScriptClass, StringComparison.Ordinal) || frame.Contains(InteractiveClass, StringComparison.Ordinal));

        // F# Interactive keeps no lines: of the cell itself there is nothing to say.
        return frames.Take(last + 1).Where(frame => !frame.Contains("<StartupCode$", StringComparison.Ordinal))
            .Select(frame => Statement().Replace(Submission().Replace(frame, ""), "${where}"))
            .Select(frame => CellLine().Replace(frame, "cell ${cell}, line ${line}"));
    }

    [GeneratedRegex(@"Submission#\d+\.|(?<!\$)FSI_\d+\.")]
    private static partial Regex Submission();

    [GeneratedRegex(@"<<Initialize>>d__\d+\.MoveNext\(\) in (?:.*[/\\])?(?<where>cell \d+:line \d+)$")]
    private static partial Regex Statement();

    [GeneratedRegex(@"(?:(?<= in )(?:.*[/\\])?|(?<=^   at ))cell (?<cell>\d+):line (?<line>\d+)$")]
    private static partial Regex CellLine();

    [GeneratedRegex(@"^   at .*\bcell (?<cell>\d+), line (?<line>\d+)$")]
    private static partial Regex OwnLine();
}
