using System.Diagnostics;
using TorchSharp;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

/// <summary>Training in a process that dies without any chance to clean up, in the middle of a checkpoint.</summary>
[Collection(nameof(AloneCollection))]
public sealed class KilledRunTests : IDisposable
{
    private readonly int _threads = torch.get_num_threads();

    /// <summary>
    /// Sums depend on the number of threads, and other tests leave threads with other numbers: parent and child take one.
    /// </summary>
    public KilledRunTests() => torch.set_num_threads(1);

    public void Dispose() => torch.set_num_threads(_threads);

    private const string FolderVariable = "XLSTM_TEST_KILLED_RUN";
    private const string StageVariable = "XLSTM_TEST_KILLED_AT";

    [Theory]
    [InlineData("model.safetensors")]
    [InlineData("trainer.json")]
    public void Run_KilledWhileWritingACheckpoint_ResumesBitForBit(string stage)
    {
        LongTests.SkipUnless(stage == "model.safetensors");
        using var folder = new TempFolder();
        var (straight, killed) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "killed"));
        using (var model = new TinyModel(dropout: 0.2))
        {
            TrainerTests.Train(model, TrainerTests.KillConfig, straight);
        }

        Assert.Equal(128 + 9, RunChild(killed, stage));
        Assert.Collection(
            Directory.GetDirectories(Path.Combine(killed, "checkpoints")).Select(Path.GetFileName).Order(),
            name => Assert.Equal("step-000010", name),
            name => Assert.StartsWith("step-000020.tmp-", name, StringComparison.Ordinal));
        Assert.Equal(TrainingStatus.Running, RunFolder.ReadMetadata(killed).Status);
        Assert.Equal(20, RunFolder.ReadMetrics(killed).Count);

        using (var model = new TinyModel(seed: 4, dropout: 0.2))
        {
            Assert.Equal(TrainingStatus.Completed, TrainerTests.Train(model, TrainerTests.KillConfig, killed).Status);
        }

        TrainerTests.AssertSameMetrics(straight, killed);
        Assert.Equal(
            ["step-000020", "step-000030"],
            Directory.GetDirectories(Path.Combine(killed, "checkpoints")).Select(Path.GetFileName).Order());
    }

    [Fact]
    public void Run_KilledBeforeItsFirstStepAndAtSeveralMoments_ResumesBitForBit()
    {
        using var folder = new TempFolder();
        var (straight, killed) = (Path.Combine(folder.Path, "straight"), Path.Combine(folder.Path, "killed"));
        using (var model = new TinyModel(dropout: 0.2))
        {
            TrainerTests.Train(model, TrainerTests.KillConfig, straight);
        }

        // Passes of the child, which begins where the one before it had a checkpoint; some are those of a validation.
        foreach (var stage in LongTests.Cases(all: new[] { "pass 1", "pass 9", "pass 23", "pass 14" }, few: ["pass 23"]))
        {
            Assert.Equal(128 + 9, RunChild(killed, stage));
            Assert.True(RunFolder.IsOne(killed));
        }

        using (var model = new TinyModel(seed: 4, dropout: 0.2))
        {
            Assert.Equal(TrainingStatus.Completed, TrainerTests.Train(model, TrainerTests.KillConfig, killed).Status);
        }

        TrainerTests.AssertSameMetrics(straight, killed);
    }

    /// <summary>Not a test but the process that dies: it cuts the file it has just written in half, and kills itself.</summary>
    [Fact(Explicit = true)]
    public void Child_TrainsAndKillsItself()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable(FolderVariable) is not null, "It runs as a child of another test only.");
        var stage = Environment.GetEnvironmentVariable(StageVariable);
        using var model = new TinyModel(dropout: 0.2)
        {
            Disturb = (pass, logits) =>
            {
                if (stage == $"pass {pass}")
                {
                    Process.GetCurrentProcess().Kill();
                }

                return logits;
            },
        };
        TrainerTests.Train(model, TrainerTests.KillConfig, Environment.GetEnvironmentVariable(FolderVariable)!, written: path =>
        {
            if (path.Contains("step-000020", StringComparison.Ordinal) && Path.GetFileName(path) == stage)
            {
                using (var file = new FileStream(path, FileMode.Open))
                {
                    file.SetLength(file.Length / 2);
                }

                Process.GetCurrentProcess().Kill();
            }
        });
    }

    private static int RunChild(string folder, string stage)
    {
        var host = Environment.ProcessPath!;
        var start = new ProcessStartInfo(host) { RedirectStandardOutput = true, RedirectStandardError = true };
        if (Path.GetFileNameWithoutExtension(host) == "dotnet")
        {
            start.ArgumentList.Add(typeof(KilledRunTests).Assembly.Location);
        }

        var method = $"{typeof(KilledRunTests).FullName}.{nameof(Child_TrainsAndKillsItself)}";
        foreach (var argument in new[] { "-method", method, "-explicit", "only" })
        {
            start.ArgumentList.Add(argument);
        }

        start.Environment[FolderVariable] = folder;
        start.Environment[StageVariable] = stage;
        using var child = Process.Start(start)!;
        var output = child.StandardOutput.ReadToEndAsync();
        var errors = child.StandardError.ReadToEndAsync();
        Assert.True(child.WaitForExit(TimeSpan.FromSeconds(60)), "The child did not end.");
        Assert.True(child.ExitCode != 0, $"The child was to kill itself, and ended well: {output.Result}{errors.Result}");
        return child.ExitCode;
    }
}
