using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>In which language a notebook says that its cells are written. A notebook that says nothing is one of C#.</summary>
internal static class NotebookLanguage
{
    /// <summary>What <c>language_info</c> names where cells have languages of their own.</summary>
    private const string Polyglot = "polyglot-notebook";

    private static readonly string[] CSharpKernels = ["csharp", "c#", "xlstm"];

    /// <summary>The place in the metadata that names another language than C#, and that language; null if none does.</summary>
    public static (string Place, string Language)? Foreign(Notebook notebook)
    {
        var metadata = notebook.Metadata;
        (string Place, string? Language)[] named =
        [
            ("kernelspec.language", Text(metadata["kernelspec"], "language")),
            ("kernelspec.name", KernelLanguage(metadata)),
            ("language_info.name", Text(metadata["language_info"], "name") is var name && IsPolyglot(name) ? null : name),
            (
                "polyglot_notebook.kernelInfo.defaultKernelName",
                Text((metadata["polyglot_notebook"] as JsonObject)?["kernelInfo"], "defaultKernelName")),
            ("dotnet_interactive.language", Text(metadata["dotnet_interactive"], "language")),
        ];
        return named.FirstOrDefault(entry => entry.Language is { } language && !IsCSharp(language)) is { Language: { } foreign } found
            ? (found.Place, foreign) : null;
    }

    /// <summary>The language that a cell's metadata name (<c>csharp</c>, <c>fsharp</c>, ...), or null for the notebook's own.</summary>
    public static string? Of(NotebookCell cell) =>
        Text(cell.Metadata["polyglot_notebook"], "kernelName")
        ?? Text(cell.Metadata["dotnet_interactive"], "language")
        ?? (Text(cell.Metadata["vscode"], "languageId") is var id && IsPolyglot(id) ? null : id);

    /// <summary>Refuses a notebook or cell of another language before anything of it runs.</summary>
    /// <exception cref="NotebookException">It is written in another language; the message names it and what can be run.</exception>
    public static void RequireCSharp(Notebook notebook, string path)
    {
        if (Foreign(notebook) is (var place, var named))
        {
            throw new NotebookException(
                $"{path} is a notebook in '{named}' ({place}): only C# notebooks can be run here, those of the kernel .net-csharp. "
                + "Nothing was run or written.");
        }

        foreach (var (index, cell) in notebook.CodeCells.Index())
        {
            string? language = Of(cell);
            language = language is null || IsCSharp(language) ? CellEngine.ForeignMagic(cell.Source) : language;
            if (language is not null)
            {
                throw new NotebookException(
                    $"Code cell {index + 1} of {path} is written in '{language}': only C# cells can be run, with the magics #!csharp and "
                    + "#!time. Nothing was run or written.");
            }
        }
    }

    public static bool IsCSharp(string language) =>
        language.Equals("csharp", StringComparison.OrdinalIgnoreCase) || language.Equals("c#", StringComparison.OrdinalIgnoreCase);

    /// <summary>A kernel's name stands for its language only where the kernel does not name it.</summary>
    private static string? KernelLanguage(JsonObject metadata)
    {
        string? name = Text(metadata["kernelspec"], "name") ?? Text(metadata["kernelspec"], "display_name");
        return Text(metadata["kernelspec"], "language") is not null || name is null
            || CSharpKernels.Any(part => name.Contains(part, StringComparison.OrdinalIgnoreCase)) ? null : name;
    }

    private static bool IsPolyglot(string? language) => string.Equals(language, Polyglot, StringComparison.OrdinalIgnoreCase);

    private static string? Text(JsonNode? owner, string key) =>
        owner is JsonObject json && MultilineText.IsString(json[key]) && json[key]!.GetValue<string>().Trim() is { Length: > 0 } text
            ? text : null;
}
