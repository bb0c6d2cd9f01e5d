using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Tests.Training;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

/// <summary>
/// Runs that commit 24a5e85 stopped after three of six steps, with the logits it then had in float32 and float64, and the losses of its
/// uninterrupted run.
/// </summary>
public sealed class KeptRunTests
{
    public static TheoryData<string> Kept => ["xlstm", "xlstm-pre-up", "llama", "gla", "mamba"];

    [Theory]
    [MemberData(nameof(Kept))]
    public void Model_OfAKeptRun_HasTheLogitsItHad(string kind)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var run = Run(kind);
        var expected = GoldenTensors.Read(Path.Combine(run, "expected.safetensors"));
        using var folder = HuggingFaceFolder.Open(RunFolder.LatestCheckpoint(run)!);
        using var model = folder.Config.CreateModel();
        folder.LoadInto(model);
        model.eval();
        var logits = model.Forward(expected["tokens"]).Logits;
        model.to(float64);
        Assert.Equal(0, (model.Forward(expected["tokens"]).Logits - expected["logits_float64"]).abs().max().item<double>(), 1e-12);

        // In float32 they differ by what another processor's or another path of MKL's order of sums makes of them, as those of then do by
        // 1.6e-6.
        Assert.Equal(0, (expected["logits"] - expected["logits_float64"]).abs().max().item<double>(), 2e-6);
        Assert.Equal(0, (logits - expected["logits_float64"]).abs().max().item<double>(), 4e-6);
    }

    [Theory]
    [MemberData(nameof(Kept))]
    public void Training_OfAKeptRun_GoesOnAsItWouldHave(string kind)
    {
        using var scope = NewDisposeScope();
        using var folder = new TempFolder();
        var run = folder["run"];
        foreach (var file in Directory.EnumerateFiles(Run(kind), "*", SearchOption.AllDirectories))
        {
            var copy = Path.Combine(run, Path.GetRelativePath(Run(kind), file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }

        using var model = RunFolder.ReadModelConfig(run).CreateModel(seed: 1);
        var result = new Trainer(model, RunFolder.ReadTrainingConfig(run), TinyText.Packed(1), [], run) { DataDescription = "tiny" }
            .Run(TestContext.Current.CancellationToken);
        Assert.Equal(TrainingStatus.Completed, result.Status);
        var losses = GoldenTensors.Read(Path.Combine(run, "expected.safetensors"))["losses"].data<double>().ToArray();
        Assert.Equal([1, 2, 3, 4, 5, 6], RunFolder.ReadMetrics(run).Select(m => m.Step));
        Assert.All(RunFolder.ReadMetrics(run), m => Assert.Equal(losses[m.Step - 1], m.Loss, 1e-5));
    }

    private static string Run(string kind) => Path.Combine(TestSetup.RepositoryRoot, "tests", "data", "of-24a5e85", kind);
}
