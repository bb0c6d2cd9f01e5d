using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using XlstmLab.Cli;
using XlstmLab.Experiments;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>Studies whose runs Slurm has, on a cluster of its real daemons.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class StudyOnSlurmTests
{
    private const string Tiny =
        """
        {
          "question": "Is more more?",
          "set": ["embedding_dim=16", "num_blocks=1", "num_heads=2", "context_length=32", "training.batch_size=2", "validation_tokens=64", "checkpoint_every=5", "validate_every=1000"],
          "axes": { "beta1": [0.8, 0.9] },
          "seeds": [1, 2],
          "tokens": 256,
          "test_tokens": 64
        }
        """;

    private static readonly string[] One = ["--threads", "1"];

    /// <summary>More updates than a task makes before it is ended.</summary>
    private static readonly string[] Endless = ["--set", "steps=100000", .. One];

    [Fact]
    public async Task Run_Waited_TrainsInTasksOfOneGpuEachAndMerges()
    {
        LongTests.Skip();
        using var cluster = await SlurmCluster.StartAsync();
        var file = cluster.Folder.Write("more/study.json", Tiny);
        var run = await CommandLine.RunAsync(
            ["study", "run", file, "--slurm", "--wait", "--runs-per-task", "2", "--gres", "gpu:1", "--partition", "main",
                "--time", "0:30:00", "--memory", "500M", "--sbatch=--comment=tiny", "--json", .. One]);
        Assert.True(run.Code == 0, $"{run.Error}{cluster.Logs()}{TaskLogs(cluster)}");
        Assert.Equal(4, run.Json[0]!["rows"]!.AsArray().Count);
        Assert.Empty(run.Json[0]!["missing"]!.AsArray());
        Assert.Contains("4 runs in 2 tasks of job ", run.Error, StringComparison.Ordinal);
        Assert.Contains("4 runs added", run.Error, StringComparison.Ordinal);
        Assert.Equal(4, StudyTable.Read(cluster.Folder["more"]).Count);
        Assert.Equal(
            ["task-0-0.jsonl", "task-1-0.jsonl"],
            Directory.GetFiles(cluster.Folder["more/tasks/0001"], "*.jsonl").Select(Path.GetFileName).Order());
        var job = JsonNode.Parse(File.ReadAllText(cluster.Folder["more/tasks/0001/job.json"]))!["id"]!.GetValue<string>();
        var told = (await SlurmCluster.RunAsync("scontrol", "show", "job", job)).Out;
        Assert.Equal(2, told.Split("TresPerNode=gres:gpu:1").Length - 1);
        Assert.Contains("TimeLimit=00:30:00", told, StringComparison.Ordinal);
        Assert.Contains("MinMemoryNode=500M", told, StringComparison.Ordinal);
        Assert.Contains("Comment=tiny", told, StringComparison.Ordinal);

        // Losses are those of runs without Slurm.
        var here = await CommandLine.RunAsync(["study", "run", file, "--out", cluster.Folder["here"], "--json", .. One]);
        Assert.Equal(Losses(here.Json), Losses(run.Json));
        Assert.Contains(
            "nothing was submitted",
            (await CommandLine.RunAsync(["study", "run", file, "--slurm", .. One])).Error, StringComparison.Ordinal);
        Assert.Contains(
            "0 runs added; the table has 4.", (await CommandLine.RunAsync("study", "merge", file)).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_NodeLostTaskKilledAndJobCancelled_GoesOnFromCheckpoints()
    {
        LongTests.Skip();
        using var cluster = await SlurmCluster.StartAsync();
        var file = cluster.Folder.Write("more/study.json", Tiny);
        string[] line = ["study", "run", file, "--slurm", "--seeds", "1", .. Endless];
        var submitted = await CommandLine.RunAsync(line);
        Assert.True(submitted.Code == 0, submitted.Error);
        var ids = (Study.ReadFile(file) with { Seeds = [1], Overrides = ["steps=100000"] }).Expand().Select(run => run.Id).ToArray();
        await HasCheckpointsAsync(cluster, ids, 5);
        Assert.Contains("RUNNING", (await CommandLine.RunAsync(["study", "show", file, .. line[4..8]])).Out, StringComparison.Ordinal);
        Assert.Contains("the 2 runs that are missing are with tasks", (await CommandLine.RunAsync(line)).Error, StringComparison.Ordinal);

        // The node goes down with its tasks; Slurm gives them to it again, and they go on.
        cluster.KillNode();
        var at = ids.Select(id => Checkpoint(cluster, id)).Min();
        await cluster.StartNodeAsync();
        await HasCheckpointsAsync(cluster, ids, at + 20);
        Assert.All(ids, id => Assert.Contains(
            "Going on after step", File.ReadAllText(cluster.Folder["more/runs", id, "log.txt"]), StringComparison.Ordinal));

        // The node's daemon dies alone: its tasks know nothing of it.
        cluster.KillDaemon();
        await cluster.StartNodeAsync(isLost: false);
        Assert.Equal(2, (await SlurmCluster.StatesAsync()).Values.Count(state => state == "RUNNING"));

        // A task dies: the other goes on. Then Slurm is asked to end that one, which writes a checkpoint for it.
        var job = JsonNode.Parse(File.ReadAllText(cluster.Folder["more/tasks/0001/job.json"]))!["id"]!.GetValue<string>();
        cluster.KillTask(0);
        await SlurmCluster.UntilAsync(
            "the task's end", async () => (await SlurmCluster.StatesAsync())[$"{job}_0"] == "FAILED", cluster.Logs);
        Assert.Equal("RUNNING", (await SlurmCluster.StatesAsync())[$"{job}_1"]);
        Assert.Equal(0, (await SlurmCluster.RunAsync("scancel", job)).Code);
        await SlurmCluster.UntilAsync(
            "the cancellation", async () => (await SlurmCluster.StatesAsync())[$"{job}_1"] == "CANCELLED", cluster.Logs);
        await SlurmCluster.UntilAsync(
            "the last checkpoint", () => Task.FromResult(Checkpoint(cluster, ids[1]) == Steps(cluster, ids[1])), () => TaskLogs(cluster));
        var show = (await CommandLine.RunAsync(["study", "show", file, .. line[4..8]])).Out;
        Assert.Matches($@"{ids[0]} +\| {job}_0 +\| FAILED +\|", show);
        Assert.Matches($@"{ids[1]} +\| {job}_1 +\| CANCELLED +\|", show);
    }

    [Fact]
    public async Task Run_InterruptedAsItWaits_CancelsWithCheckpoints()
    {
        LongTests.Skip();
        using var cluster = await SlurmCluster.StartAsync();
        var file = cluster.Folder.Write("more/study.json", Tiny);
        using var stop = new CancellationTokenSource();
        var waiting = CommandLine.RunAsync(stop.Token, ["study", "run", file, "--slurm", "--wait", .. Endless]);
        var ids = (Study.ReadFile(file) with { Overrides = ["steps=100000"] }).Expand().Select(run => run.Id).ToArray();
        await HasCheckpointsAsync(cluster, ids[..2], 5);
        await stop.CancelAsync();
        var run = await waiting;
        Assert.Equal(130, run.Code);
        Assert.Contains("Cancelling 4 tasks.", run.Error, StringComparison.Ordinal);
        Assert.All(await SlurmCluster.StatesAsync(), task => Assert.Equal("CANCELLED", task.Value));
        Assert.All(ids[..2], id => Assert.Equal(Steps(cluster, id), Checkpoint(cluster, id)));
    }

    [Fact]
    public async Task Run_WhatSlurmRejects_IsSaidInItsWordsAndLeavesNothing()
    {
        LongTests.Skip();
        using var cluster = await SlurmCluster.StartAsync();
        var file = cluster.Folder.Write("more/study.json", Tiny);
        var rejected = await CommandLine.RunAsync("study", "run", file, "--slurm", "--partition", "nowhere");
        Assert.Equal(1, rejected.Code);
        Assert.Contains("error: sbatch failed: invalid partition specified: nowhere.", rejected.Error, StringComparison.Ordinal);
        Assert.Contains(
            "Requested node configuration is not available",
            (await CommandLine.RunAsync("study", "run", file, "--slurm", "--memory", "900G")).Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetDirectories(cluster.Folder["more/tasks"]));

        // A folder that the node has not: here it is away when the task begins.
        Assert.Equal(0, (await SlurmCluster.RunAsync("scontrol", "update", "NodeName=lab", "State=DRAIN", "Reason=test")).Code);
        Assert.Equal(0, (await CommandLine.RunAsync(["study", "run", file, "--slurm", "--seeds", "1", .. One])).Code);
        Assert.Contains("PENDING", (await CommandLine.RunAsync("study", "show", file)).Out, StringComparison.Ordinal);
        Directory.Move(cluster.Folder["more"], cluster.Folder["away"]);
        Assert.Equal(0, (await SlurmCluster.RunAsync("scontrol", "update", "NodeName=lab", "State=RESUME")).Code);
        await SlurmCluster.UntilAsync(
            "the tasks' end", async () => (await SlurmCluster.StatesAsync()).Values.All(state => state == "FAILED"), cluster.Logs);
        Directory.Move(cluster.Folder["away"], cluster.Folder["more"]);
        Assert.Contains(
            "is that on a file system which the nodes share?",
            (await CommandLine.RunAsync("study", "show", file)).Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_WithoutSlurm_SaysWhatToDo()
    {
        using var folder = CommandLine.Folder();
        var file = folder.Write("more/study.json", Tiny);

        // In a process of its own: tests beside this one look for programs too.
        var start = new ProcessStartInfo("dotnet")
        {
            ArgumentList = { typeof(Program).Assembly.Location, "study", "run", file, "--slurm" },
            Environment = { ["PATH"] = folder.Path },
            RedirectStandardError = true,
        };
        using var run = Process.Start(start)!;
        var error = await run.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await run.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("There is no sbatch", error, StringComparison.Ordinal);
        Assert.Contains("login node", error, StringComparison.Ordinal);

        var stray = await CommandLine.RunAsync("study", "run", file, "--partition", "gpu");
        Assert.Equal(2, stray.Code);
        Assert.Contains("--partition is about tasks of Slurm: it goes with --slurm.", stray.Error, StringComparison.Ordinal);
        Assert.Contains(
            "job.json", (await CommandLine.RunAsync("study", "run", file, "--task", folder["job.json"])).Error, StringComparison.Ordinal);
    }

    private static IEnumerable<(string, double)> Losses(JsonNode summaries) =>
        summaries[0]!["rows"]!.AsArray().Select(row => (row!["id"]!.GetValue<string>(), row["test_loss"]!.GetValue<double>()));

    /// <summary>The update of a run's last checkpoint; 0 before the first.</summary>
    private static int Checkpoint(SlurmCluster cluster, string id) =>
        RunFolder.LatestCheckpoint(cluster.Folder["more/runs", id]) is { } folder
            ? int.Parse(Path.GetFileName(folder).Split('-')[1], CultureInfo.InvariantCulture) : 0;

    /// <summary>The last update in a run's metrics, which has each once.</summary>
    private static int Steps(SlurmCluster cluster, string id)
    {
        var steps = RunFolder.ReadMetrics(cluster.Folder["more/runs", id], []).Select(metrics => metrics.Step).ToArray();
        Assert.Equal(Enumerable.Range(1, steps.Length), steps);
        return steps.Length;
    }

    private static Task HasCheckpointsAsync(SlurmCluster cluster, IEnumerable<string> ids, int step) => SlurmCluster.UntilAsync(
        $"checkpoints of update {step}", () => Task.FromResult(ids.All(id => Checkpoint(cluster, id) >= step)),
        () => cluster.Logs() + TaskLogs(cluster));

    private static string TaskLogs(SlurmCluster cluster) => !Directory.Exists(cluster.Folder["more/tasks"]) ? ""
        : string.Join('\n', Directory.GetFiles(cluster.Folder["more/tasks"], "*.log", SearchOption.AllDirectories).Select(
            file => $"{file}:\n{File.ReadAllText(file)}"));
}
