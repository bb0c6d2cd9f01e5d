using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>The repository's notebooks against the library as it is.</summary>
public sealed class NotebookSourcesTests
{
    [Fact]
    public void RepositoryNotebooks_EveryCell_Compiles()
    {
        string folder = Path.Combine(TestSetup.RepositoryRoot, "notebooks");
        string[] files = [.. Directory.GetFiles(folder, "*.ipynb").Where(IsCSharp).Order(StringComparer.Ordinal)];
        Assert.NotEmpty(files);
        CSharpCompilationOptions options = new(
            OutputKind.DynamicallyLinkedLibrary,
            usings: ["System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks",
                "System.Linq", typeof(NotebookApi).FullName!]);
        var framework = Directory.GetFiles(Path.GetDirectoryName(typeof(object).Assembly.Location)!, "*.dll").Where(IsManaged);
        MetadataReference[] references = [.. framework.Concat(HostPackages.References()).Select(
            path => MetadataReference.CreateFromFile(path))];
        foreach (string file in LongTests.Cases(all: files, few: files[..1]))
        {
            CSharpCompilation? previous = null;
            foreach (var (index, cell) in Notebook.Load(file).CodeCells.Index())
            {
                var code = HostPackages.Prepare(cell.Source, CellLanguage.CSharp, folder);
                var tree = CSharpSyntaxTree.ParseText(
                    code, CellEngine.Script, $"cell {index + 1}", cancellationToken: TestContext.Current.CancellationToken);
                previous = CSharpCompilation.CreateScriptCompilation($"Cell{index + 1}", tree, references, options, previous);
                var errors = previous.GetDiagnostics(TestContext.Current.CancellationToken).Where(
                    d => d.Severity == DiagnosticSeverity.Error);
                Assert.True(!errors.Any(), $"{Path.GetFileName(file)}: {string.Join("\n", errors)}");
            }
        }
    }

    [Fact]
    public async Task Tour_WithFewSteps_Runs()
    {
        LongTests.Skip();
        using TempFolder folder = new();
        string tour = Path.Combine(TestSetup.RepositoryRoot, "notebooks", "00-tour.ipynb");
        var result = await CommandLine.RunAsync(
            "notebook", "run", tour, "-o", folder["tour.ipynb"], "--html", folder["tour.html"], "-p", "steps=3");

        Assert.True(result.Code == 0, result.Error);
        var cells = Notebook.Load(folder["tour.ipynb"]).CodeCells.ToArray();
        Assert.Equal(10, cells.Count(cell => !cell.Tags.Contains(NotebookParameters.InjectedTag)));
        Assert.Contains("step 3 of 3", cells[4].Outputs.Single().Text("text/plain"), StringComparison.Ordinal);
        Assert.StartsWith("Frame, 5 x 2", cells[6].Outputs.Last().Text("text/plain"), StringComparison.Ordinal);
        Assert.Equal(2, cells[7].Outputs.Count());
    }

    [Fact]
    public void RepositoryNotebooks_Charts_AreFiguresWithPicturesAndNoLibrary()
    {
        foreach (string file in Directory.GetFiles(Path.Combine(TestSetup.RepositoryRoot, "notebooks"), "*.ipynb"))
        {
            Assert.InRange(new FileInfo(file).Length, 1000, 500_000);
            var charts = Notebook.Load(file).CodeCells.SelectMany(cell => cell.Outputs).Select(output => output["data"])
                .OfType<System.Text.Json.Nodes.JsonObject>().Where(data => data.ContainsKey(ChartHtml.FigureType)).ToArray();
            Assert.NotEmpty(charts);
            Assert.All(charts, data => Assert.NotNull(data[ChartHtml.PictureType]));
            Assert.All(charts, data => Assert.Null(data["text/html"]));
        }
    }

    private static bool IsCSharp(string file) => !Notebook.Load(file).CodeCells.Any(
        cell => cell.Source.StartsWith("#!fsharp", StringComparison.Ordinal));

    private static bool IsManaged(string path)
    {
        using System.Reflection.PortableExecutable.PEReader reader = new(File.OpenRead(path));
        return reader.HasMetadata;
    }
}
