using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

/// <summary>Trainings in cells.</summary>
[Collection(NotebookTestSetup.Name)]
public sealed class TrainingCellTests
{
    [Theory]
    [InlineData("csharp")]
    [InlineData("fsharp")]
    public async Task Interruption_EndsATrainingWithACheckpointAndAModelThatIsUsed(string language)
    {
        using TempFolder folder = new();
        using CellEngine engine = new(language: language);
        bool isFSharp = language == CellLanguage.FSharp;
        string[] namespaces = ["XlstmLab.Models", "XlstmLab.Runs", "XlstmLab.Text", "XlstmLab.Training"];
        string setup = string.Join('\n', namespaces.Select(name => isFSharp ? $"open {name}" : $"using {name};")) + (isFSharp
            ? """

            let config = Presets.All["bytes-1m"] :?> XlstmConfig
            let recipe = LabDefaults.Training 100000
            """
            : """

            var config = XlstmPresets.Bytes1M with { EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
            var recipe = LabDefaults.Training(100_000) with { BatchSize = 1, ContextLength = 8, ValidationTokens = 64, TensorBoard = false };
            """);
        var first = await engine.RunAsync(setup, cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(first.Error is null, first.Error?.ToString());

        using CancellationTokenSource interruption = new();
        string path = folder["run"].Replace('\\', '/');
        string train = isFSharp
            ? $"let run = Lab.Train(config, Corpus.Open \"tinyshakespeare\", recipe, LabOptions(Folder = \"{path}\"))"
            : $"var run = Lab.Train(config, Corpus.Open(\"tinyshakespeare\"), recipe, new() {{ Folder = \"{path}\" }});";
        CellOutputs outputs = new(null, (_, _) => interruption.CancelAfter(50));
        var result = await engine.RunAsync(train, outputs, null, isCounted: true, interruption.Token);

        Assert.Equal(CellStatus.Interrupted, result.Status);
        Assert.Equal(["display_data", "error"], result.Outputs.Select(output => output.Type()));
        Assert.StartsWith("stopped after step ", result.Outputs[0].Text("text/plain"), StringComparison.Ordinal);
        var after = await engine.RunAsync(
            isFSharp
                ? "$\"{run.Result.Status} {run.Evaluate(Split.Validation, documents = 1).Loss > 0.0} "
                    + "{System.IO.Directory.Exists run.Result.Checkpoint}\""
                : "$\"{run.Result.Status} {run.Evaluate(Split.Validation, documents: 1).Loss > 0} "
                    + "{System.IO.Directory.Exists(run.Result.Checkpoint)}\"",
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(after.Error is null, after.Error?.ToString());
        Assert.Equal("Stopped True True", after.Outputs.Single().Text("text/plain"));
    }
}
