using XlstmLab.Experiments;
using XlstmLab.Notebooks;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>Studies in cells.</summary>
[Collection(NotebookTestSetup.Name)]
public sealed class StudyCellTests
{
    private const string Settings =
        """["embedding_dim=16", "num_blocks=1", "num_heads=2", "context_length=32", "training.batch_size=2", "validation_tokens=64", "validate_every=2"]""";

    /// <summary>The sample of the documentation, with models of a size for tests.</summary>
    [Fact]
    public async Task Sample_OfTheDocumentation_ShowsOnePanelAPlotAndATable()
    {
        using TempFolder folder = new();
        var page = await File.ReadAllTextAsync(
            Path.Combine(TestSetup.RepositoryRoot, "docs", "studies.md"), TestContext.Current.CancellationToken);
        string sample = page.Split("```csharp\n")[1].Split("```")[0].Trim();
        Assert.InRange(sample.Split('\n').Length, 1, 15);
        string tiny = $"Tokens = 256, Settings = {Settings}, Folder = \"{folder["study"].Replace('\\', '/')}\", "
            + "Measure = new() { TestTokens = 64 }";
        string source = sample.Replace("Tokens = 2_000_000", tiny, StringComparison.Ordinal);
        Assert.NotEqual(sample, source);
        using CellEngine engine = new();
        List<string> lines = [];
        CellOutputs outputs = new(null, (_, _) => { }, lines.Add);
        var result = await engine.RunAsync(source, outputs, null, isCounted: true, TestContext.Current.CancellationToken);

        Assert.True(result.Error is null, result.Error?.ToString());
        Assert.Equal(3, result.Outputs.Count);
        Assert.Matches(@"^input-gate-bias: 12 of 12 runs done, \d[\d,]* tokens/s, took ", result.Outputs[0].Text("text/plain"));
        Assert.Contains("<svg", result.Outputs[0].Text("image/svg+xml"), StringComparison.Ordinal);
        Assert.Contains("igate_bias_init=-10", result.Outputs[1].Text("image/svg+xml"), StringComparison.Ordinal);
        Assert.Contains("igate_bias_init=-10", result.Outputs[2].Text("text/html"), StringComparison.Ordinal);
        Assert.Equal(12, StudyTable.Read(folder["study"]).Count);
        Assert.Contains(lines, line => line.StartsWith("input-gate-bias: 0 of 12 runs done, 1 running, ", StringComparison.Ordinal));
        Assert.Contains(lines, line => line.StartsWith("input-gate-bias: 11 of 12 runs done, 1 running, ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Interruption_StopsAStudyWithItsCheckpoints()
    {
        using TempFolder folder = new();
        using CellEngine engine = new();
        using CancellationTokenSource interruption = new();
        CellOutputs outputs = new(null, (_, _) => interruption.CancelAfter(50));
        string source =
            $"using XlstmLab.Experiments;\nvar result = new Study {{ Name = \"long\", Seeds = [1, 2], Settings = {Settings}, "
            + $"Overrides = [\"steps=100000\"], Folder = \"{folder.Path.Replace('\\', '/')}\" }}.Run();";
        var cell = await engine.RunAsync(source, outputs, null, isCounted: true, interruption.Token);

        Assert.True(cell.Status == CellStatus.Interrupted, cell.Error?.ToString());
        Assert.Equal(["display_data", "error"], cell.Outputs.Select(output => output.Type()));
        Assert.StartsWith("long: 0 of 2 runs done", cell.Outputs[0].Text("text/plain"), StringComparison.Ordinal);
        Assert.Empty(StudyTable.Read(folder.Path));
        string run = Directory.GetDirectories(folder["runs"]).Single();
        int last = RunFolder.ReadMetrics(run).Max(metrics => metrics.Step);
        Assert.EndsWith(FormattableString.Invariant($"step-{last:000000}"), RunFolder.LatestCheckpoint(run), StringComparison.Ordinal);
    }
}
