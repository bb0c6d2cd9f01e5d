using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class StudyCommandTests
{
    private const string Tiny =
        """
        {
          "question": "Is more more?",
          "claims": [{ "text": "Yes", "source": "nowhere, table 1", "metric": "validation_loss", "better": "beta1=0.9", "worse": "beta1=0.8", "published_better": 1.5, "published_worse": 2 }],
          "set": ["embedding_dim=16", "num_blocks=1", "num_heads=2", "context_length=32", "training.batch_size=2", "validation_tokens=64"],
          "axes": { "beta1": [0.8, 0.9] },
          "seeds": [1, 2],
          "tokens": 256,
          "test_tokens": 64
        }
        """;

    [Fact]
    public async Task Study_PlannedRunShownAndMerged_KeepsOneTable()
    {
        using var folder = CommandLine.Folder();
        var file = folder.Write("more/study.json", Tiny);
        var plan = await CommandLine.RunAsync("study", "plan", file, "--json");
        Assert.True(plan.Code == 0, plan.Error);
        Assert.Equal(4, plan.Json[0]!["runs"]!.AsArray().Count);
        Assert.Equal(4 * 256, plan.Json[0]!["tokens"]!.GetValue<long>());
        Assert.Contains("--measure", (await CommandLine.RunAsync("study", "plan", file)).Error, StringComparison.Ordinal);

        var run = await CommandLine.RunAsync("study", "run", folder["more"], "--threads", "1", "--seeds", "1");
        Assert.True(run.Code == 0, run.Error);
        Assert.Contains("Is more more?", run.Out, StringComparison.Ordinal);
        Assert.Contains("1.5 against 2", run.Out, StringComparison.Ordinal);
        Assert.Contains("not decided at this scale", run.Out, StringComparison.Ordinal);

        var elsewhere = await CommandLine.RunAsync("study", "run", folder["more"], "--threads", "1", "--seeds", "2", "--out", folder["elsewhere"], "--json");
        Assert.Equal(2, elsewhere.Json[0]!["rows"]!.AsArray().Count);
        var merge = await CommandLine.RunAsync("study", "merge", file, "--from", folder["elsewhere", "more"]);
        Assert.Contains("2 runs added; the table has 4.", merge.Error, StringComparison.Ordinal);

        var show = await CommandLine.RunAsync("study", "show", file, "--metric", "test_loss", "--axis", "beta1", "--save", folder["runs.parquet"]);
        Assert.True(show.Code == 0, show.Error);
        Assert.Contains("test_loss", show.Out, StringComparison.Ordinal);
        Assert.True(File.Exists(folder["runs.parquet"]));
        Assert.Contains("0 runs to do", (await CommandLine.RunAsync("study", "plan", file)).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_OutOfTime_IsInterruptedAndGoesOn()
    {
        using var folder = CommandLine.Folder();
        var file = folder.Write("more/study.json", Tiny);
        string[] line = ["study", "run", file, "--threads", "1", "--seeds", "1"];
        var stopped = await CommandLine.RunAsync([.. line, "--set", "steps=100000", "--seconds", "2"]);
        Assert.True(stopped.Code == 130, stopped.Error);
        Assert.Contains("stopped after 2 s", stopped.Error, StringComparison.Ordinal);
        Assert.Equal(0, (await CommandLine.RunAsync(line)).Code);
    }

    [Theory]
    [InlineData("--set nonsense=1", "There is no setting 'nonsense'")]
    [InlineData("--metric nonsense", "There is no measure 'nonsense'")]
    [InlineData("--axis beta2", "has no axis 'beta2'. Did you mean 'beta1'?")]
    public async Task Show_WhatThereIsNot_IsSaid(string options, string expected)
    {
        using var folder = CommandLine.Folder();
        var file = folder.Write("more/study.json", Tiny);
        var result = await CommandLine.RunAsync(["study", "show", file, .. options.Split(' ')]);
        Assert.Equal(1, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
    }
}
