using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

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
            TrainingWatch.Current = new Watcher(told);
            await Task.Run(
                () => TrainingWatch.And(own, TrainingWatch.Current.Begin(recipe, CPU))!.Report(metrics),
                TestContext.Current.CancellationToken);
        }, TestContext.Current.CancellationToken);

        Assert.Equal(["3 of 7", "own"], told);
        Assert.Null(TrainingWatch.Current);
        Assert.Same(own, TrainingWatch.And(own, null));
        Assert.Null(TrainingWatch.And(null, null));
    }

    [Fact]
    public async Task Stop_OfTheWatcher_EndsATrainingWithACheckpointThatItGoesOnFrom()
    {
        using TempFolder folder = new();
        using CancellationTokenSource stop = new();
        List<string> told = [];
        var recipe = LabDefaults.Training(steps: 6) with
        {
            BatchSize = 1,
            ContextLength = 8,
            ValidationTokens = 64,
            TensorBoard = false,
            StatisticsEvery = 0,
        };
        var config = XlstmPresets.Bytes1M with { EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
        await Task.Run(() =>
        {
            TrainingWatch.Current = new Watcher(told) { Stop = stop.Token };
            using var run = Lab.Train(config, Corpus.Open("tinyshakespeare"), recipe, new() { Folder = folder.Path },
                new ImmediateProgress<TrainingMetrics>(m =>
                {
                    if (m.Step == 2)
                    {
                        stop.Cancel();
                    }
                }));

            Assert.Equal((TrainingStatus.Stopped, 2), (run.Result!.Status, run.Result.Step));
            Assert.Equal(folder["checkpoints/step-000002"], run.Result.Checkpoint);
            Assert.True(run.Evaluate(Split.Validation, documents: 1).Loss > 0);
        }, TestContext.Current.CancellationToken);

        Assert.Equal(["1 of 6", "2 of 6", "over"], told);
        using var again = Lab.Train(
            config, Corpus.Open("tinyshakespeare"), recipe, new() { Folder = folder.Path },
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal((TrainingStatus.Completed, 6), (again.Result!.Status, again.Metrics.Count));
    }

    private sealed class Watcher(List<string> told) : ITrainingWatcher
    {
        public CancellationToken Stop { get; init; }

        public IWatchedTraining Begin(TrainingConfig recipe, Device device) => new Watched(told, recipe);

        private sealed class Watched(List<string> told, TrainingConfig recipe) : IWatchedTraining
        {
            public void Report(TrainingMetrics value) => told.Add($"{value.Step} of {recipe.Steps}");

            public void Dispose() => told.Add("over");
        }
    }
}
