using System.Diagnostics;
using System.Globalization;
using XlstmLab.Checkpoints;
using XlstmLab.Cli;
using XlstmLab.Cli.Machine;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Cli;

/// <summary>Ranks as processes of this machine, started by the command line and by Slurm.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class ParallelCommandTests : IDisposable
{
    private static readonly XlstmConfig Config = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 2,
        HeadCount = 2,
        ChunkSize = 16,
    };
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    private readonly TempFolder _temp = new();

    public ParallelCommandTests()
    {
        File.WriteAllLines(_temp["text.txt"], Enumerable.Range(0, 400).Select(k => $"The ranks share line {k} of {k * k}."));
        _temp.Write("model.json", ModelConfigJson.Text(Config));
    }

    public void Dispose() => _temp.Dispose();

    [Theory]
    [InlineData("--ranks 2 --device cuda", "--ranks is for CPUs")]
    [InlineData("--ranks 2 --gpus 2", "--gpus")]
    [InlineData("--gpus none", "expected all, or a number of at least 1")]
    [InlineData("--gpus 0", "expected all, or a number of at least 1")]
    [InlineData("--shard-optimizer", "--shard-optimizer is for several ranks")]
    [InlineData("--reduce bf16", "--reduce is for several ranks")]
    [InlineData("--ranks 2 --seeds 1,2", "--seeds")]
    public async Task Train_RanksThatMakeNoSense_AreRefusedWithWords(string options, string expected)
    {
        var result = await CommandLine.RunAsync(["train", "--out", _temp["run"], .. options.Split(' ')]);
        Assert.Equal(ExitCode.WrongUsage, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_temp["run"]));
    }

    [Fact]
    public async Task Train_GpusWithoutAny_SaysWhatThereIs()
    {
        Assert.SkipWhen(NativeTorch.IsCudaAvailable, "There is a GPU.");
        var result = await CommandLine.RunAsync("train", "--out", _temp["run"], "--gpus", "all");
        Assert.Equal(ExitCode.Failure, result.Code);
        Assert.Contains("sees no CUDA device", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Train_BatchThatRanksCannotShare_FailsOnceWithWords()
    {
        LongTests.Skip();
        var result = await CommandLine.RunAsync([.. Train("run", 5), "--ranks", "3"]);
        Assert.Equal(ExitCode.Failure, result.Code);
        Assert.Contains("A batch of 4 sequences cannot be shared evenly by 3 ranks", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Train_ARankIsKilled_EndsTheOtherAndResumesAsIfNothingHadHappened()
    {
        LongTests.Skip();
        Assert.SkipUnless(OperatingSystem.IsLinux(), "It finds the ranks in /proc.");
        using var launcher = Start([.. Train("run", 1_000_000), "--ranks", "2", "--checkpoint-every", "4"]);
        var (output, errors) = (launcher.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken),
            launcher.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken));
        await UntilAsync(() => RunFolder.LatestCheckpoint(_temp["run"]) is not null, launcher);
        using (var second = RankOf(launcher, 1))
        {
            second.Kill();
        }

        await EndAsync(launcher);
        var said = await errors;
        Assert.Equal((ExitCode.Failure, ""), (launcher.ExitCode, await output));
        Assert.Contains("Rank 1 of 2 is gone", said, StringComparison.Ordinal);
        Assert.Contains("Rank 1 of 2 was the first to fail, with exit code 137", said, StringComparison.Ordinal);

        var steps = int.Parse(Path.GetFileName(RunFolder.LatestCheckpoint(_temp["run"])!)["step-".Length..], CultureInfo.InvariantCulture)
            + 5;
        var text = steps.ToString(CultureInfo.InvariantCulture);
        var resumed = await CommandLine.RunAsync(
            "train", "--out", _temp["run"], "--resume", "--steps", text, "--ranks", "2", "--threads", "1");
        Assert.True(resumed.Code == 0, resumed.Error);
        var straight = await CommandLine.RunAsync([.. Train("straight", steps), "--ranks", "2"]);
        Assert.True(straight.Code == 0, straight.Error);
        Assert.Equal(Losses("straight"), Losses("run"));
    }

    [Fact]
    public async Task Train_Interrupted_LeavesOneCheckpointOfAllRanks()
    {
        LongTests.Skip();
        using var stop = new CancellationTokenSource();
        var running = CommandLine.RunAsync(stop.Token, [.. Train("run", 1_000_000), "--ranks", "2"]);
        for (var watch = Stopwatch.StartNew(); !running.IsCompleted && RunFolderHasSteps(); await Task.Delay(
            50, TestContext.Current.CancellationToken))
        {
            Assert.True(watch.Elapsed < Patience);
        }

        await stop.CancelAsync();
        var result = await running;
        Assert.True(result.Code == ExitCode.Interrupted, result.Error);
        Assert.Single(Directory.GetDirectories(_temp["run", "checkpoints"]));
        Assert.Equal(TrainingStatus.Stopped, RunFolder.ReadMetadata(_temp["run"]).Status);

        bool RunFolderHasSteps() => !File.Exists(_temp["run", "metrics.jsonl"]) || new FileInfo(_temp["run", "metrics.jsonl"]).Length == 0;
    }

    [Fact]
    public async Task Train_TasksOfSlurm_AreRanksOfOneRun()
    {
        LongTests.Skip();
        using var cluster = await SlurmCluster.StartAsync();
        string[] line = [.. Train("run", 6), "--rank-timeout", "60"];
        using var srun = Process.Start(new ProcessStartInfo("srun", ["--ntasks=2", "--export=ALL", .. OwnProgram.Words, .. line])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        var (output, errors) = (srun.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken),
            srun.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken));
        await EndAsync(srun);
        Assert.True(srun.ExitCode == 0, await errors + await output + cluster.Logs());
        Assert.Contains("2 ranks by loopback", await errors, StringComparison.Ordinal);
        var alone = await CommandLine.RunAsync([.. Train("straight", 6), "--ranks", "2"]);
        Assert.True(alone.Code == 0, alone.Error);
        Assert.Equal(Losses("straight"), Losses("run"));
        Assert.Empty(Directory.GetFiles(_temp.Path, "*.ranks-*"));
    }

    [Fact]
    public async Task BenchTrain_Ranks_MeasuresBothAndTheSums()
    {
        LongTests.Skip();
        var result = await CommandLine.RunAsync(
            "bench", "train", "--ranks", "2", "--preset", "bytes-1m:1x16", "--repetitions", "1", "--min-time", "0", "--json");
        Assert.True(result.Code == 0, result.Error);
        var row = result.Json["rows"]!.AsArray().Single()!;
        Assert.Equal(2, row["world"]!.GetValue<int>());
        foreach (var name in new[] { "alone_seconds", "shared_seconds", "serial_seconds", "reduce_seconds", "efficiency", "bytes" })
        {
            Assert.True(row[name]!.GetValue<double>() > 0, name);
        }
    }

    private static Process Start(IEnumerable<string> line)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(typeof(Program).Assembly.Location);
        foreach (var word in line)
        {
            start.ArgumentList.Add(word);
        }

        return Process.Start(start)!;
    }

    private static Process RankOf(Process launcher, int rank)
    {
        foreach (var process in Process.GetProcesses())
        {
            try
            {
                var stat = File.ReadAllText($"/proc/{process.Id}/stat");
                var parent = stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[1];
                if (parent == launcher.Id.ToString(CultureInfo.InvariantCulture)
                    && File.ReadAllText($"/proc/{process.Id}/environ").Split('\0').Contains($"XLSTM_RANK={rank}"))
                {
                    return process;
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // It has ended.
            }

            process.Dispose();
        }

        throw new InvalidOperationException($"There is no rank {rank}.");
    }

    private static async Task UntilAsync(Func<bool> holds, Process process)
    {
        for (var watch = Stopwatch.StartNew(); !holds(); await Task.Delay(50, TestContext.Current.CancellationToken))
        {
            Assert.False(process.HasExited, "It has ended.");
            Assert.True(watch.Elapsed < Patience, "It takes too long.");
        }
    }

    private static async Task EndAsync(Process process)
    {
        using var limit = new CancellationTokenSource(Patience);
        try
        {
            await process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill(entireProcessTree: true);
            throw new TimeoutException("The launcher did not end.");
        }
    }

    private string[] Train(string run, int steps) =>
    [
        "train", "--out", _temp[run], "--model", _temp["model.json"], "--data", _temp["text.txt"], "--schedule", "constant", "--warmup",
        "0", "--context", "16",
        "--batch-size", "4", "--threads", "1", "--set", "dropout=0.1", "--steps", steps.ToString(CultureInfo.InvariantCulture),
    ];

    private double[] Losses(string run) => [.. RunFolder.ReadMetrics(_temp[run]).Select(m => m.Loss)];
}
