using System.Text.Json.Nodes;

namespace XlstmLab.Notebooks;

/// <summary>In which language a notebook says that its cells are written. A notebook that says nothing is one of C#.</summary>
internal static class NotebookLanguage
{
    /// <summary>What <c>language_info</c> names where cells have languages of their own.</summary>
    private const string Polyglot = "polyglot-notebook";

    /// <summary>The kernel of cells that name none; null if the notebook is of a language that is not known here.</summary>
    /// <remarks>The kernel that ran it comes first: the rest is at times left over from another.</remarks>
    public static string? Default(Notebook notebook)
    {
        string?[] kernels = [.. Named(notebook).Select(named => CellLanguage.Kernel(named.Language))];
        return kernels.Length == 0 ? CellLanguage.CSharp : kernels.Contains(null) ? null : kernels[0];
    }

    /// <summary>The kernel that a cell's metadata name, or null for the notebook's own.</summary>
    public static string? Of(NotebookCell cell) => OwnName(cell) is { } name ? CellLanguage.Kernel(name) ?? name : null;

    /// <summary>Refuses a notebook or cell of another language before anything of it runs.</summary>
    /// <returns>The kernel of cells that name none.</returns>
    /// <exception cref="NotebookException">It is written in another language; the message names it and what can be run.</exception>
    public static string RequireKnown(Notebook notebook, string path)
    {
        if (Named(notebook).FirstOrDefault(named =>
            CellLanguage.Kernel(named.Language) is null) is { Language: { } foreign, Place: var place })
        {
            throw new NotebookException(
                $"{path} is a notebook in '{foreign}' ({place}). {CellLanguage.Refusal(foreign)} Nothing was run or written.");
        }

        foreach (var (index, cell) in notebook.CodeCells.Index())
        {
            string? named = OwnName(cell) is { } own && CellLanguage.Kernel(own) is null ? own : ForeignMagic(cell.Source);
            if (named is not null)
            {
                throw new NotebookException(
                    $"Code cell {index + 1} of {path} is written in '{named}'. {CellLanguage.Refusal(named)} Nothing was run or written.");
            }
        }

        return Default(notebook)!;
    }

    /// <summary>The first magic of a language that is not known here.</summary>
    private static string? ForeignMagic(string source) => source.Split('\n').FirstOrDefault(line =>
        line.StartsWith("#!", StringComparison.Ordinal) && CellLanguage.IsKnownElsewhere(line[2..].Split(' ')[0].Trim()))?.Trim();

    private static IEnumerable<(string Place, string Language)> Named(Notebook notebook)
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
        return named.Where(entry => entry.Language is not null).Select(entry => (entry.Place, entry.Language!));
    }

    private static string? OwnName(NotebookCell cell) =>
        Text(cell.Metadata["polyglot_notebook"], "kernelName")
        ?? Text(cell.Metadata["dotnet_interactive"], "language")
        ?? (Text(cell.Metadata["vscode"], "languageId") is var id && IsPolyglot(id) ? null : id);

    /// <summary>A kernel's name stands for its language only where the kernel does not name it.</summary>
    private static string? KernelLanguage(JsonObject metadata)
    {
        string? name = Text(metadata["kernelspec"], "name") ?? Text(metadata["kernelspec"], "display_name");
        if (Text(metadata["kernelspec"], "language") is not null || name is null)
        {
            return null;
        }

        bool Has(params string[] parts) => parts.Any(part => name.Contains(part, StringComparison.OrdinalIgnoreCase));
        return Has("fsharp", "f#") ? CellLanguage.FSharp : Has("csharp", "c#", "xlstm") ? CellLanguage.CSharp : name;
    }

    private static bool IsPolyglot(string? language) => string.Equals(language, Polyglot, StringComparison.OrdinalIgnoreCase);

    private static string? Text(JsonNode? owner, string key) =>
        owner is JsonObject json && MultilineText.IsString(json[key]) && json[key]!.GetValue<string>().Trim() is { Length: > 0 } text
            ? text : null;
}
