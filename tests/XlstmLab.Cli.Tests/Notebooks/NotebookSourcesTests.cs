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
        string[] files = [.. Directory.GetFiles(folder, "*.ipynb").Order(StringComparer.Ordinal)];
        Assert.NotEmpty(files);
        foreach (string file in LongTests.Cases(all: files, few: files[..1]))
        {
            HostReferences references = new(folder);
            CSharpCompilation? previous = null;
            foreach (var (index, cell) in Notebook.Load(file).CodeCells.Index())
            {
                var tree = CSharpSyntaxTree.ParseText(cell.Source, CellEngine.Script, $"cell {index + 1}", cancellationToken: TestContext.Current.CancellationToken);
                previous = CellEngine.Submission(tree, index + 1, folder, references, previous);
                var errors = previous.GetDiagnostics(TestContext.Current.CancellationToken).Where(d => d.Severity == DiagnosticSeverity.Error);
                Assert.True(!errors.Any(), $"{Path.GetFileName(file)}: {string.Join("\n", errors)}");
            }
        }
    }
}
