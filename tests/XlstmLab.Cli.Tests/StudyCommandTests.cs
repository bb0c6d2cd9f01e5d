using System.Diagnostics;
using System.Globalization;
using XlstmLab.Cli;
using XlstmLab.Experiments;
using XlstmLab.Training;
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

        var elsewhere = await CommandLine.RunAsync(
            "study", "run", folder["more"], "--threads", "1", "--seeds", "2", "--out", folder["elsewhere"], "--json");
        Assert.Equal(2, elsewhere.Json[0]!["rows"]!.AsArray().Count);
        var merge = await CommandLine.RunAsync("study", "merge", file, "--from", folder["elsewhere", "more"]);
        Assert.Contains("2 runs added; the table has 4.", merge.Error, StringComparison.Ordinal);

        var show = await CommandLine.RunAsync(
            "study", "show", file, "--metric", "test_loss", "--axis", "beta1", "--save", folder["runs.parquet"]);
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

    /// <summary>A process that trains is killed again and again, wherever it is, and begins anew each time.</summary>
    [Fact]
    public async Task Run_KilledAtRandomMoments_LosesWhatCameAfterTheLastCheckpoints()
    {
        LongTests.Skip();
        using var folder = CommandLine.Folder();
        var file = folder.Write("more/study.json", Tiny.Replace("\"seeds\"", "\"side_by_side\": 1, \"seeds\"", StringComparison.Ordinal));
        string[] line = ["study", "run", file, "--threads", "1", "--keep-runs", "--set", "steps=40",
            "--set", "checkpoint_every=7", "--set", "validate_every=1000"];
        var draw = new Random(11);
        var kills = 0;
        for (var updates = 0; kills < 4; kills++)
        {
            updates += draw.Next(5, 40);
            using var process = Start(line);
            while (!process.HasExited && Metrics(folder["more/runs"]) < updates)
            {
                await Task.Delay(1, TestContext.Current.CancellationToken);
            }

            process.Kill();
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);
            var done = StudyTable.Read(folder["more"], []);
            string[] halfDone = [.. Directory.GetDirectories(folder["more/runs"]).Where(
                run => done.All(row => row.Id != Path.GetFileName(run)))];
            Assert.InRange(halfDone.Length, 0, 1);
            updates = 40 * done.Count + halfDone.Sum(run => Checkpoint(run));

            // At most the updates since the last checkpoint, and the one that was being made.
            Assert.All(halfDone, run => Assert.InRange(Metrics(run) - Checkpoint(run), 0, 8));
        }

        Assert.Equal(0, (await CommandLine.RunAsync(line)).Code);
        var logs = string.Concat(Directory.GetFiles(folder["more/runs"], "log.txt", SearchOption.AllDirectories).Select(File.ReadAllText));
        Assert.Contains("Going on after step", logs, StringComparison.Ordinal);
        Assert.Equal(4 * 40, Metrics(folder["more/runs"]));
        var straight = await CommandLine.RunAsync([.. line, "--out", folder["straight"]]);
        Assert.Equal(0, straight.Code);
        Assert.Equal(Losses(folder["straight/more"]), Losses(folder["more"]));

        static IEnumerable<(string, double?)> Losses(string study) => StudyTable.Read(study).Select(row => (row.Id, row.TestLoss));

        static int Checkpoint(string run) =>
            RunFolder.LatestCheckpoint(run) is { } at ? int.Parse(at[^6..], CultureInfo.InvariantCulture) : 0;

        static int Metrics(string folder) => !Directory.Exists(folder) ? 0
            : Directory.GetFiles(folder, "metrics.jsonl", SearchOption.AllDirectories).Sum(
                metrics => File.ReadAllText(metrics).Count(c => c == '\n'));
    }

    private static Process Start(string[] line)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(typeof(Program).Assembly.Location);
        Array.ForEach(line, start.ArgumentList.Add);
        return Process.Start(start)!;
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
