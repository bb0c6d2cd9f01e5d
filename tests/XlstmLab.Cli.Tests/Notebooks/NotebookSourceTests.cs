using System.Text.RegularExpressions;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>Notebooks that are made, and what is made notebooks of.</summary>
[Collection(NotebookTestSetup.Name)]
public sealed class NotebookSourceTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Create_RunsWithItsParameters(bool isFSharp)
    {
        using TempFolder folder = new();
        var notebook = NotebookSource.Create("A question", isFSharp, folder.Path);
        notebook.Cells.Last().Source = isFSharp ? "steps + seed + XlstmPresets.Bytes1M.BlockCount"
            : "steps + seed + XlstmPresets.Bytes1M.BlockCount";
        notebook.Save(folder["new.ipynb"]);
        var result = await NotebookRunner.RunAsync(
            folder["new.ipynb"], folder["out.ipynb"], new Dictionary<string, object?> { ["steps"] = 7 },
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.True(result.Outcome == NotebookOutcome.Succeeded, result.FirstError?.ToString());
        int expected = 8 + XlstmLab.Models.XlstmPresets.Bytes1M.BlockCount;
        Assert.Equal($"{expected}", Notebook.Load(folder["out.ipynb"]).Cells.Last().Outputs.Single().Text("text/plain"));
    }

    [Fact]
    public void Convert_Document_CellsOfItsCodeAndTheFirstCell()
    {
        using TempFolder folder = new();
        string path = folder.Write(
            "a.md",
            "# Title\n\nProse\n\n```csharp\nvar a = 1;\n\na\n```\n\n- list\n\n  ```csharp\n  no cell\n  ```\n\n```fs\nlet b = 2\n"
            + "```\n```sh\nls\n```\n");
        var notebook = NotebookSource.Convert(path, folder.Path);

        Assert.Contains("using XlstmLab.Models;", notebook.Cells[0].Source, StringComparison.Ordinal);
        Assert.Equal(
            ["# Title\n\nProse", "var a = 1;\n\na", "- list\n\n  ```csharp\n  no cell\n  ```", "let b = 2", "```sh\nls\n```"],
            notebook.Cells.Skip(1).Select(cell => cell.Source));
        Assert.Equal("fsharp", (string?)notebook.Cells[4].Metadata["polyglot_notebook"]!["kernelName"]);
        Assert.Equal(notebook.ToJson(), Notebook.Parse(notebook.ToJson()).ToJson());
    }

    [Fact]
    public void Convert_Program_IsCutAtItsMarksOrAfterItsUsings()
    {
        using TempFolder folder = new();
        string marked = folder.Write(
            "a.cs",
            "#!/usr/bin/env dotnet\n#:package Humanizer@2.14.1\nusing System.IO;\n// %% [markdown]\n// # Title\n// Prose\n"
            + "// %% next\nvar a = 1;\n");
        Assert.Equal(
            [(CellKind.Code, "#r \"nuget: Humanizer, 2.14.1\"\nusing System.IO;"), (CellKind.Markdown, "# Title\nProse"),
                (CellKind.Code, "var a = 1;")],
            NotebookSource.Convert(marked, folder.Path).Cells.Select(cell => (cell.Kind, cell.Source)));

        string plain = folder.Write("b.fsx", "open System\nopen System.IO\n\nlet a = 1\nprintfn \"%d\" a\n");
        var notebook = NotebookSource.Convert(plain, folder.Path);
        Assert.Equal(["open System\nopen System.IO", "let a = 1\nprintfn \"%d\" a"], notebook.Cells.Select(cell => cell.Source));
        Assert.Equal(".net-fsharp", (string?)notebook.Metadata["kernelspec"]!["name"]);

        string project = folder.Write("c.cs", "#:project ../lib\nvar a = 1;");
        Assert.Contains(
            "#:project", Assert.Throws<NotebookException>(() => NotebookSource.Convert(project, folder.Path)).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Convert_Dib_KeepsLanguages()
    {
        using TempFolder folder = new();
        string path = folder.Write(
            "a.dib", "#!markdown\n\n# Title\n\n#!csharp\n\nvar a = 1;\n\n#!fsharp\n\nlet b = 2\n\n#!mermaid\n\ngraph LR\n");
        var cells = NotebookSource.Convert(path, folder.Path).Cells;

        Assert.Equal(["# Title", "var a = 1;", "let b = 2", "graph LR"], cells.Select(cell => cell.Source));
        Assert.Equal([null, null, "fsharp", "mermaid"], cells.Select(cell => (string?)cell.Metadata["dotnet_interactive"]?["language"]));
    }

    [Fact]
    public async Task Commands_WriteNotebooksAndOverwriteNone()
    {
        using TempFolder folder = new();
        Assert.Equal(0, (await CommandLine.RunAsync("notebook", "new", folder["n.ipynb"], "--fsharp")).Code);
        Assert.StartsWith("#r \"", Notebook.Load(folder["n.ipynb"]).Cells[1].Source, StringComparison.Ordinal);
        folder.Write("a.md", "Text\n\n```html\n<b>x</b>\n```\n");
        Assert.Equal(0, (await CommandLine.RunAsync("notebook", "from", folder["a.md"])).Code);
        Assert.Equal(2, Notebook.Load(folder["a.ipynb"]).Cells.Count);

        string before = File.ReadAllText(folder["a.ipynb"]);
        var refused = await CommandLine.RunAsync("notebook", "from", folder["a.md"]);
        Assert.Equal(2, refused.Code);
        Assert.Contains("is there already", refused.Error, StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllText(folder["a.ipynb"]));
        var other = await CommandLine.RunAsync("notebook", "from", folder.Write("a.txt", "x"));
        Assert.Equal(1, other.Code);
        Assert.Contains(".md, .cs", other.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("using var s = new System.IO.MemoryStream();\nawait using System.IO.Stream t = s;\ns.Length + t.Length", "0")]
    [InlineData("int F() { using var s = new System.IO.MemoryStream(); return 1; }\nF()", "1")]
    [InlineData("using Numbers = System.Collections.Generic.List<int>;\nusing System.IO;\nnew Numbers().Count", "0")]
    public async Task TopLevelUsings_AreVariablesOfTheNotebook(string source, string value)
    {
        using CellEngine engine = new();
        var result = await engine.RunAsync(source, cancellationToken: TestContext.Current.CancellationToken);

        Assert.True(result.Status == CellStatus.Succeeded, result.Error?.ToString());
        Assert.Equal(value, result.Outputs.Single().Text("text/plain"));
    }

    [Fact]
    public async Task SampleOfTheReadme_RunsInACell()
    {
        using TempFolder folder = new();
        string readme = File.ReadAllText(Path.Combine(TestSetup.RepositoryRoot, "README.md")).ReplaceLineEndings("\n");
        string sample = Regex.Match(readme, "```csharp\n(?<code>.*?)```", RegexOptions.Singleline).Groups["code"].Value;
        string small = sample.Replace(
            "steps: 600)", "steps: 2) with { BatchSize = 2, ContextLength = 32, ValidationTokens = 64 }", StringComparison.Ordinal)
            .Replace("runs/sigmoid", folder["sigmoid"], StringComparison.Ordinal)
            .Replace("Evaluate(Split.Test)", "Evaluate(Split.Test, documents: 1)", StringComparison.Ordinal)
            .Replace("Temperature = 0.8", "MaxNewTokens = 5, Temperature = 0.8", StringComparison.Ordinal);
        Assert.Contains("documents: 1", small, StringComparison.Ordinal);
        using CellEngine engine = new();
        var result = await engine.RunAsync(
            small + "\ngates.Length + again.Metrics.Count", cancellationToken: TestContext.Current.CancellationToken);

        Assert.True(result.Status == CellStatus.Succeeded, result.Error?.ToString());
        Assert.NotEmpty(result.Outputs);
    }
}
