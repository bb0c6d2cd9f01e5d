using Microsoft.DotNet.Interactive.Documents;

namespace XlstmLab.Notebooks;

/// <summary>Reads what <c>#!import</c> runs: notebooks and scripts.</summary>
internal static class CellImports
{
    /// <summary>The parts of a file that run, with their kernels.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="NotebookException">The file is not there, or is nothing that can be run here.</exception>
    public static IReadOnlyList<(string Text, string Language)> Read(string path)
    {
        if (!File.Exists(path))
        {
            throw new NotebookException($"#!import: there is no file {path}. Paths are relative to the notebook's folder.");
        }

        switch (Path.GetExtension(path).ToUpperInvariant())
        {
            case ".CSX" or ".CS":
                return [(File.ReadAllText(path), CellLanguage.CSharp)];
            case ".FSX" or ".FS":
                return [(File.ReadAllText(path), CellLanguage.FSharp)];
            case ".IPYNB":
                var notebook = Notebook.Load(path);
                string language = NotebookLanguage.RequireKnown(notebook, path);
                return [.. notebook.CodeCells.Select(cell => (cell.Source, NotebookLanguage.Of(cell) ?? language))];
            case ".DIB":
                return Parts(File.ReadAllText(path), path);
            default:
                throw new NotebookException($"#!import {path}: it ends in none of .dib, .ipynb, .csx, .cs, .fsx and .fs.");
        }
    }

    /// <summary>The parts of a <c>.dib</c> notebook, with their kernels.</summary>
    /// <param name="text">The file's text.</param>
    /// <param name="path">The file.</param>
    /// <exception cref="NotebookException">It has a part of another language.</exception>
    public static IReadOnlyList<(string Text, string Language)> Parts(string text, string path)
    {
        KernelInfoCollection kernels = [];
        kernels.AddRange(CellLanguage.Aliases.Select(kernel => new KernelInfo(kernel.Key, kernel.Key, kernel.Value)));
        kernels.DefaultKernelName = CellLanguage.CSharp;
        return [.. CodeSubmission.Parse(text, kernels).Elements.Select(cell => (cell.Contents, Known(cell.KernelName, path)))];
    }

    private static string Known(string? language, string path) =>
        CellLanguage.Kernel(language ?? CellLanguage.CSharp) ?? throw new NotebookException($"{path}: {CellLanguage.Refusal(language!)}");
}
