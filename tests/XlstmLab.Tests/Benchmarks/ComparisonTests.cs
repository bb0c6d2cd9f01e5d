using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class ComparisonTests
{
    [Fact]
    public void Findings_HoldAgainstTheFastestThatDoesTheSameOnTheSameDevice()
    {
        var work = new MLstmWork("exponential", 8, 4, 2048, 128, 256);
        var own = new Measurement(work, Measurement.Own, RivalScript.ThisRun) { ForwardSeconds = 0.1e-3, TrainingSeconds = 0.5e-3 };
        string[] Findings(string device) =>
            [.. new Comparison
            {
                Works = [work], Device = "cuda", DeviceName = device, ComputeType = "bf16", Threads = [1], MinSeconds = 0, Repetitions = 1,
            }.Findings(
            [
                own,
                new(work, "other", "then") { ForwardSeconds = 0.45e-3, TrainingSeconds = 1.56e-3 },
                new(work, "attention", "then") { TrainingSeconds = 0.3e-3, IsOtherWork = true },
            ])];
        Assert.Contains(
            "forward 4.50 times as fast as the fastest other, other; forward and backward 3.12 times",
            Findings("NVIDIA H100 80GB HBM3").Single(),
            StringComparison.Ordinal);
        Assert.Empty(Findings("NVIDIA B300"));
    }
}
