using System.Text.Json.Nodes;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>Tests that share the process's console, working directory or formatters run one after the other.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class NotebookTestSetup
{
    public const string Name = "notebooks";
}

/// <summary>Notebooks in a folder of a test, and what their cells started.</summary>
internal static class NotebookFolders
{
    /// <summary>Whether a process is there (on Linux), and no mere entry of one that has ended.</summary>
    public static bool IsRunning(string process)
    {
        try
        {
            return !File.ReadAllText($"/proc/{process.Trim()}/status").Contains("State:\tZ", StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return false;
        }
    }

    /// <summary>Saves a notebook of code cells; a cell may start with a tag in the form <c>[tag]</c>.</summary>
    public static string Notebook(this TempFolder folder, params string[] cells)
    {
        Notebook notebook = new();
        foreach (string text in cells)
        {
            bool tagged = text.StartsWith('[');
            NotebookCell cell = new(CellKind.Code, tagged ? text[(text.IndexOf(']', StringComparison.Ordinal) + 1)..] : text);
            if (tagged)
            {
                cell.Metadata["tags"] = new JsonArray(text[1..text.IndexOf(']', StringComparison.Ordinal)]);
            }

            notebook.Cells.Add(cell);
        }

        notebook.Save(folder["in.ipynb"]);
        return folder["in.ipynb"];
    }
}

/// <summary>Reads outputs.</summary>
internal static class OutputExtensions
{
    public static string Type(this JsonNode? output) => (string)output!["output_type"]!;

    public static string Text(this JsonNode? output, string? mimeType = null)
    {
        var node = mimeType is null ? output!["text"] : output!["data"]![mimeType];
        return string.Concat(node!.AsArray().Select(line => (string)line!));
    }
}
