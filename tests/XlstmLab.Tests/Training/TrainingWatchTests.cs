using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

public sealed class TrainingWatchTests
{
    [Fact]
    public async Task Current_OfTheCallingCode_IsToldBesideTheProgressAndNowhereElse()
    {
        List<string> told = [];
        TrainingConfig recipe = new() { Steps = 7 };
        var metrics = new TrainingMetrics
        {
            Step = 3,
            Tokens = 1,
            Loss = 1,
            LearningRate = 1,
            GradientNorm = 1,
            ClippedShare = 0,
            BatchSize = 1,
            TokensPerSecond = 1,
            Seconds = 1,
        };
        ImmediateProgress<TrainingMetrics> own = new(_ => told.Add("own"));
        await Task.Run(async () =>
        {
            TrainingWatch.Current = (m, r) => told.Add($"{m.Step} of {r.Steps}");
            await Task.Run(() => TrainingWatch.And(own, recipe)!.Report(metrics), TestContext.Current.CancellationToken);
        }, TestContext.Current.CancellationToken);

        Assert.Equal(["3 of 7", "own"], told);
        Assert.Null(TrainingWatch.Current);
        Assert.Same(own, TrainingWatch.And(own, recipe));
        Assert.Null(TrainingWatch.And(null, recipe));
    }
}
