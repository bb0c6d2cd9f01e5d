using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Tests.Training;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Experiments;

/// <summary>Losses of short runs on the CPU, as commit e897086 had them: the experiments' recipes, draws and order are theirs.</summary>
[Collection(nameof(AloneCollection))]
public sealed class KeptNumbersTests
{
    private static readonly XlstmConfig Model = new()
    {
        VocabularySize = 3,
        EmbeddingDim = 16,
        BlockCount = 2,
        HeadCount = 2,
        SLstmAt = [1],
        FeedForwardRoundUpTo = 8,
        Dropout = 0.1,
    };

    private static readonly TrainingConfig Training = new()
    {
        Steps = 8,
        BatchSize = 12,
        PeakLearningRate = 5e-3,
        Schedule = new() { WarmupSteps = 2 },
        BatchRamp = [new(0, 8), new(3, 12)],
        GradientClip = 0.05,
        ValidateEvery = 3,
        CheckpointEvery = 4,
        Spikes = null,
        StatisticsEvery = 0,
        TensorBoard = false,
    };

    [Theory]
    [InlineData("parity", null, null, 1.5135939121246338, 1.1352404356002808, 0.8672395348548889, 0.9956907629966736, 0.8566009402275085)]
    [InlineData("mqar-64-4", 30, 5, 9.252338886260986, 9.169691324234009, 9.006778717041016, 8.590907216072083, 9.183691024780273)]
    public void Synthetic_ShortRun_HasTheLossesItHad(
        string name, int? samples, int? micro, double first, double second, double third, double last, double validation)
    {
        using var folder = new TempFolder();
        set_num_threads(1);
        var task = SyntheticRecipes.Task(name);
        var experiment = new SyntheticExperiment
        {
            Task = task,
            Model = Model with { VocabularySize = task.VocabularySize },
            Training = Training with { MicroBatchSize = micro },
            SampleCount = samples,
            ValidationRows = 16,
            TestRows = 16,
        };
        var summary = experiment.Run(folder["run"], [1], cancellationToken: TestContext.Current.CancellationToken);
        var losses = RunFolder.ReadMetrics(folder["run", "seed-1"]).Select(m => m.Loss).ToArray();
        var ofTrainedLengths = summary.Curve.Last(point => point.Lengths == experiment.Task.TrainingLengths.ToString()).ValidationLoss;
        Near([first, second, third, last, validation], [losses[0], losses[1], losses[2], losses[7], ofTrainedLengths]);
    }

    [Theory]
    [InlineData(null, 0.8556040525436401, 0.46533399820328, 0.43007510900497, 0.22295202314854, 0.1107255407623, 0.11842714816756)]
    [InlineData(0.05, 0.8556040525436401, 0.46534872055054, 0.43449780344963, 0.21244888007641, 0.10789536831465, 0.1127165516699)]
    public void NearestNeighbor_ShortRun_HasTheErrorsItHad(
        double? clip, double first, double second, double third, double last, double validation, double test)
    {
        using var folder = new TempFolder();
        set_num_threads(1);
        var experiment = new NearestNeighborExperiment
        {
            Task = new() { TrainingLength = 10, SampleCount = 30 },
            Model = Model,
            Training = Training with { GradientClip = clip },
            TestLengths = [10, 20],
            TestRows = 30,
        };
        var told = new List<VectorProgress>();
        var progress = new ImmediateProgress<VectorProgress>(told.Add);
        var run = experiment.Run(folder["run"], [1], progress: progress, cancellationToken: TestContext.Current.CancellationToken).Single();
        Near([first, second, third, last], [told[0].Loss, told[1].Loss, told[2].Loss, told[7].Loss]);
        Near([validation, test], [run.Curve[^1].ValidationError, run.Scores[1].MeanSquaredError]);
        Assert.Equal([3, 6, 8], run.Curve.Select(point => point.Step));
        Assert.Equal([3, 6, 8], told.Where(p => p.Validation is not null).Select(p => p.Step));
        Assert.Equal(["curve.csv", "error.csv", "experiment.json", "seed-1", "summary.json"], Entries(folder["run"]));
        Assert.Equal(["result.json"], Entries(folder["run", "seed-1"]));
    }

    /// <summary>Other processors round otherwise, and Adam's first updates make much of it.</summary>
    private static void Near(double[] expected, double[] actual) =>
        Assert.All(expected.Zip(actual), pair => Assert.Equal(pair.First, pair.Second, 1e-5 * pair.First));

    private static string[] Entries(string folder) =>
        [.. Directory.EnumerateFileSystemEntries(folder).Select(e => Path.GetFileName(e)!).Order(StringComparer.Ordinal)];
}
