using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Markdig;
using Markdig.Syntax;

namespace XlstmLab.Notebooks;

/// <summary>Makes notebooks: fresh ones, and ones of documents and programs.</summary>
public static partial class NotebookSource
{
    private static readonly string[] Namespaces =
        ["XlstmLab", "XlstmLab.Analysis", "XlstmLab.Models", "XlstmLab.Notebooks", "XlstmLab.Runs", "XlstmLab.Text",
            "XlstmLab.Training", "XlstmLab.Visualization"];

    /// <summary>The endings of files that can be converted.</summary>
    public static IReadOnlyList<string> Endings { get; } = [".md", ".cs", ".csx", ".fs", ".fsx", ".dib"];

    /// <summary>A notebook with a title, a first cell that brings the library, and a cell of parameters.</summary>
    /// <param name="title">The title.</param>
    /// <param name="isFSharp">Whether its cells are F# where they do not say.</param>
    /// <param name="folder">Where it will be: <c>#r</c> starts there.</param>
    public static Notebook Create(string title, bool isFSharp, string folder)
    {
        var notebook = Empty(isFSharp);
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, $"# {title}"));
        notebook.Cells.Add(FirstCell(isFSharp, folder));
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, "What `xlstm notebook run -p steps=200` changes:"));
        NotebookCell parameters = new(CellKind.Code, isFSharp ? "let steps = 100\nlet seed = 1" : "var steps = 100;\nvar seed = 1;");
        parameters.Metadata["tags"] = new JsonArray(NotebookParameters.Tag);
        notebook.Cells.Add(parameters);
        notebook.Cells.Add(new NotebookCell(CellKind.Code, ""));
        return notebook;
    }

    /// <summary>Makes a notebook of a Markdown document, a C# or F# program or script, or a <c>.dib</c> notebook.</summary>
    /// <param name="path">The file.</param>
    /// <param name="folder">Where the notebook will be.</param>
    /// <remarks>
    /// Of a document, fenced code of a language that cells can have becomes cells; one that does not name the library gets the cell that
    /// brings it along. A program is cut at lines that begin with <c>// %%</c>, or else after its first lines with usings; <c>#:package</c>
    /// becomes <c>#r "nuget: ..."</c>.
    /// </remarks>
    /// <exception cref="NotebookException">The file cannot be read, or is of another kind.</exception>
    public static Notebook Convert(string path, string folder)
    {
        ArgumentNullException.ThrowIfNull(path);
        string ending = Path.GetExtension(path).ToLowerInvariant();
        if (!Endings.Contains(ending))
        {
            throw new NotebookException($"{path} cannot be made a notebook: expected a file that ends in {string.Join(", ", Endings)}.");
        }

        string text;
        try
        {
            text = File.ReadAllText(path).ReplaceLineEndings("\n");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new NotebookException($"{path} cannot be read: {e.Message}", e);
        }

        var parts = ending switch
        {
            ".md" => Document(text),
            ".dib" => [.. CellImports.Parts(text, path).Select(part => (part.Text.Trim('\n'), (string?)part.Language))],
            ".cs" or ".csx" => Program(text, CellLanguage.CSharp),
            _ => Program(text, CellLanguage.FSharp),
        };
        var languages =
            parts.Where(part => part.Language is CellLanguage.CSharp or CellLanguage.FSharp).Select(part => part.Language).ToList();
        bool isFSharp = languages.Count > 0 && languages.TrueForAll(language => language == CellLanguage.FSharp);
        var notebook = Empty(isFSharp);
        if (ending == ".md" && languages.Count > 0 && !parts.Exists(part => part.Language is not null && Namespace().IsMatch(part.Text)))
        {
            notebook.Cells.Add(FirstCell(isFSharp, folder));
        }

        string usual = isFSharp ? CellLanguage.FSharp : CellLanguage.CSharp;
        foreach (var (source, language) in parts.Where(part => part.Text.Length > 0))
        {
            NotebookCell cell = new(language is null or CellLanguage.Markdown ? CellKind.Markdown : CellKind.Code, source);
            if (cell.Kind == CellKind.Code && language != usual)
            {
                cell.Metadata["dotnet_interactive"] = new JsonObject { ["language"] = language };
                cell.Metadata["polyglot_notebook"] = new JsonObject { ["kernelName"] = language };
            }

            notebook.Cells.Add(cell);
        }

        return notebook;
    }

    private static Notebook Empty(bool isFSharp)
    {
        Notebook notebook = new();
        if (isFSharp)
        {
            notebook.Metadata["kernelspec"] = new JsonObject
            {
                ["display_name"] = ".NET (F#)",
                ["language"] = "F#",
                ["name"] = ".net-fsharp",
            };
        }

        return notebook;
    }

    /// <summary>The first cell of the repository's notebooks. This program needs no <c>#r</c>; .NET Interactive's own does.</summary>
    private static NotebookCell FirstCell(bool isFSharp, string folder)
    {
        string Library(string name) =>
            $"#r \"{Path.GetRelativePath(folder, Path.Combine(AppContext.BaseDirectory, name)).Replace('\\', '/')}\"";
        IEnumerable<string> lines =
        [
            Library("XlstmLab.dll"),
            Library("XlstmLab.Notebooks.dll"),
            "",
            .. Namespaces.Select(name => isFSharp ? $"open {name}" : $"using {name};"),
            "",
            isFSharp ? "LabFormatters.Register()" : "LabFormatters.Register();",
        ];
        return new NotebookCell(CellKind.Code, string.Join('\n', lines));
    }

    /// <summary>Prose, with a part for each fenced code that can run.</summary>
    private static List<(string Text, string? Language)> Document(string text)
    {
        List<(string, string?)> parts = [];
        int at = 0;
        foreach (var code in Markdown.Parse(text).OfType<FencedCodeBlock>())
        {
            string named = (code.Info ?? "").Trim('{', '}', '.', ' ');
            if ((CellLanguage.Kernel(named) ?? Short(named)) is not { } language)
            {
                continue;
            }

            parts.Add((text[at..code.Span.Start].Trim('\n'), null));
            parts.Add((code.Lines.ToString().ReplaceLineEndings("\n").Trim('\n'), language));
            at = code.Span.End + 1;
        }

        parts.Add((text[at..].Trim('\n'), null));
        return parts;
    }

    private static string? Short(string name) =>
        name.ToLowerInvariant() switch { "cs" => CellLanguage.CSharp, "fs" => CellLanguage.FSharp, _ => null };

    private static List<(string Text, string? Language)> Program(string text, string language)
    {
        var lines = text.Split('\n').Where((line, i) => i > 0 || !line.StartsWith("#!", StringComparison.Ordinal))
            .Select(line => Package().Replace(line, "#r \"nuget: ${name}, ${version}\"")).ToArray();
        if (Array.Find(lines, line => line.StartsWith("#:", StringComparison.Ordinal)) is { } setting)
        {
            throw new NotebookException(
                $"The line '{setting}' has no counterpart in a notebook: take it out, or name packages by #:package NAME@VERSION.");
        }

        List<(string, string?)> parts = [];
        int[] marks = [.. lines.Index().Where(line => Mark().IsMatch(line.Item)).Select(line => line.Index)];
        if (marks.Length == 0)
        {
            // What a program begins with is a cell of its own: it is run once, and what follows more often.
            int head = lines.TakeWhile(line => line.Trim().Length == 0 || Head().IsMatch(line)).Count();
            return [Part(lines[..head], null), Part(lines[head..], null)];
        }

        parts.Add(Part(lines[..marks[0]], null));
        foreach (var (index, mark) in marks.Index())
        {
            parts.Add(Part(lines[(mark + 1)..(index + 1 < marks.Length ? marks[index + 1] : lines.Length)], lines[mark]));
        }

        return parts;

        (string, string?) Part(string[] of, string? mark) => mark?.Contains("[markdown]", StringComparison.OrdinalIgnoreCase) == true
            ? (string.Join('\n', of.Select(line => Comment().Replace(line, ""))).Trim('\n'), null)
            : (string.Join('\n', of).Trim('\n'), language);
    }

    [GeneratedRegex(@"^\s*(using|open) XlstmLab\b", RegexOptions.Multiline)]
    private static partial Regex Namespace();

    [GeneratedRegex(@"^#:package\s+(?<name>[^@\s]+)@(?<version>\S+)\s*$")]
    private static partial Regex Package();

    [GeneratedRegex(@"^\s*//\s*%%")]
    private static partial Regex Mark();

    [GeneratedRegex(@"^\s*(using\s+(static\s+)?[\w.]+(\s*=[^;]*)?;|open\s+[\w. ]+$|#r\b|#load\b|//)")]
    private static partial Regex Head();

    [GeneratedRegex(@"^\s*// ?")]
    private static partial Regex Comment();
}
