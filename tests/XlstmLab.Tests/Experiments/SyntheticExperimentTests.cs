using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Experiments;
using XlstmLab.Models;
using XlstmLab.Tasks;
using XlstmLab.Training;
using XlstmLab.Visualization;
using Xunit;

namespace XlstmLab.Tests.Experiments;

public sealed class SyntheticExperimentTests
{
    private static readonly SyntheticExperiment Tiny = new()
    {
        Task = new EvenPairs(),
        Model = new XlstmConfig { VocabularySize = 3, EmbeddingDim = 16, BlockCount = 2, HeadCount = 1 },
        Training = new()
        {
            Steps = 150,
            BatchSize = 64,
            PeakLearningRate = 1e-2,
            Schedule = new() { WarmupSteps = 20 },
            ValidateEvery = 10,
            CheckpointEvery = 20,
            StatisticsEvery = 0,
            TensorBoard = false,
            Spikes = null,
        },
        TrainingLengths = new(3, 6),
        ValidationLengths = new(3, 6),
        ValidationRows = 128,
        TestLengths = [new(3, 6), new(4), new(6)],
        TestRows = 200,
    };

    private static readonly NearestNeighborExperiment Nearest = new()
    {
        Task = new() { TrainingLength = 6, SampleCount = 20 },
        Model = new XlstmConfig { VocabularySize = 1, EmbeddingDim = 16, BlockCount = 1, HeadCount = 2 },
        Training = new() { Steps = 6, BatchSize = 8, Schedule = new() { WarmupSteps = 2 }, ValidateEvery = 4 },
        TestLengths = [6, 9],
        TestRows = 16,
    };

    [Fact]
    public void Run_EvenPairsOfShortRows_AreLearned()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var seen = new List<SyntheticProgress>();
        var summary = (Tiny with { Until = 0.99 }).Run(folder["run"], [1], progress: new ImmediateProgress<SyntheticProgress>(seen.Add));
        var run = summary.Runs.Single();
        Assert.NotNull(run.SolvedAtStep);
        Assert.Equal(run.SolvedAtStep, run.Step);
        Assert.Equal(run.Step, seen[^1].Metrics.Step);
        Assert.All(run.Scores, s => Assert.True(s.ScaledAccuracy > 0.9, $"{s}"));
        Assert.True(summary.Curve[0].Accuracy < 0.9 && summary.Curve[^1].Accuracy >= 0.99);
        Assert.Equal(run.Step / 10, summary.Curve.Count);
        Assert.Equal(["accuracy.csv", "curve.csv", "experiment.json", "seed-1", "summary.json"], Names(folder["run"]));
        Assert.Equal(4, File.ReadAllLines(Path.Combine(folder["run"], "accuracy.csv")).Length);

        Assert.Equal(3, summary.AccuracyByLength().ToDataFrame().Rows.Count);
        var byLength = Plotly.NET.GenericChart.toFigureJson(Plots.AccuracyByLength(summary.AccuracyByLength(), 6));
        Assert.Contains("seed 1", byLength, StringComparison.Ordinal);
        Assert.Contains("length 3-6", Plotly.NET.GenericChart.toFigureJson(Plots.AccuracyCurve(summary.Curve)), StringComparison.Ordinal);
    }

    [Fact]
    public void Run_StoppedAndStartedAgain_IsAsUninterrupted()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var experiment = Tiny with { Training = Tiny.Training with { Steps = 30, BatchSize = 8 } };
        var whole = experiment.Run(folder["whole"], [1, 2]);

        using var stop = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() => experiment.Run(
            folder["parts"], [1, 2],
            progress: new ImmediateProgress<SyntheticProgress>(p => Cancel(p.Seed == 2 && p.Metrics.Step == 11)),
            cancellationToken: stop.Token));
        var steps = new List<(int, int)>();
        var parts = experiment.Run(
            folder["parts"], [1, 2], progress: new ImmediateProgress<SyntheticProgress>(p => steps.Add((p.Seed, p.Metrics.Step))));
        Assert.Equal(Enumerable.Range(12, 19).Select(step => (2, step)), steps);
        Assert.Equal(whole.Runs.Select(r => r.Loss), parts.Runs.Select(r => r.Loss));
        Assert.Equal(whole.AccuracyByLength(), parts.AccuracyByLength());
        Assert.Equal(whole.Curve.Select(c => (c.Seed, c.Step, c.Accuracy)), parts.Curve.Select(c => (c.Seed, c.Step, c.Accuracy)));

        // All done: nothing is trained, another seed can be added, and other settings are refused.
        steps.Clear();
        experiment.Run(folder["parts"], [2], progress: new ImmediateProgress<SyntheticProgress>(p => steps.Add((p.Seed, p.Metrics.Step))));
        Assert.Empty(steps);
        var fault = Assert.Throws<InvalidOperationException>(() => (experiment with { TestRows = 7 }).Run(folder["parts"], [1]));
        Assert.Contains("test_rows", fault.Message, StringComparison.Ordinal);

        void Cancel(bool now)
        {
            if (now)
            {
                stop.Cancel();
            }
        }
    }

    [Fact]
    public void Run_SolvedButNotTested_IsTestedWithoutTraining()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var experiment = Tiny with { Until = 0.99 };
        var first = experiment.Run(folder["run"], [1]);
        File.Delete(Path.Combine(folder["run"], "seed-1", "result.json"));
        var steps = 0;
        var again = experiment.Run(folder["run"], [1], progress: new ImmediateProgress<SyntheticProgress>(_ => steps++));
        Assert.Equal(0, steps);
        Assert.NotNull(again.Runs[0].SolvedAtStep);
        Assert.Equal(first.Runs[0].SolvedAtStep, again.Runs[0].SolvedAtStep);
        Assert.Equal(first.AccuracyByLength(), again.AccuracyByLength());
    }

    [Fact]
    public void Run_ModelOfFewerTokensOrSeedTwice_IsRefused()
    {
        using var folder = new TempFolder();
        Assert.Throws<ArgumentException>(() => (Tiny with { Task = new BucketSort() }).Run(folder["run"], [1]));
        Assert.Throws<ArgumentException>(() => Tiny.Run(folder["run"], [1, 1]));
        Assert.Empty(folder.Entries);
    }

    [Fact]
    public void NearestNeighbor_ShortRows_AreLearnedBetterThanByGuessing()
    {
        LongTests.Skip();
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var experiment = new NearestNeighborExperiment
        {
            Task = new() { TrainingLength = 6, SampleCount = 2048 },
            Model = new XlstmConfig { VocabularySize = 1, EmbeddingDim = 32, BlockCount = 2, HeadCount = 2, InputGateBias = 0 },
            Training = new()
            {
                Steps = 150,
                BatchSize = 32,
                PeakLearningRate = 5e-3,
                Schedule = new() { WarmupSteps = 20 },
                ValidateEvery = 30,
            },
            TestLengths = [6, 12],
            TestRows = 256,
        };
        var run = experiment.Run(folder["run"], [1]).Single();
        Assert.Equal(5, run.Curve.Count);
        Assert.True(run.Scores[0].MeanSquaredError < 0.7 * NearestNeighborSearch.ChanceError, $"{run.Scores[0]}");
        Assert.Equal([6, 12], run.Scores.Select(s => s.Length));
        Assert.Equal(run.Scores, experiment.Run(folder["run"], [1]).Single().Scores);
        Assert.Contains("seed 1", Plotly.NET.GenericChart.toFigureJson(Plots.ErrorByLength([run], 6)), StringComparison.Ordinal);
    }

    [Fact]
    public void NearestNeighbor_Cancelled_StartsTheSeedFromItsBeginning()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        using var stop = new CancellationTokenSource();
        var steps = new List<int>();
        var progress = new ImmediateProgress<VectorProgress>(p =>
        {
            steps.Add(p.Step);
            if (steps.Count == 3)
            {
                stop.Cancel();
            }
        });
        Assert.Throws<OperationCanceledException>(() => Nearest.Run(folder["run"], [1], progress: progress, cancellationToken: stop.Token));
        Assert.Equal(["experiment.json"], Names(folder["run"]));
        var run = Nearest.Run(folder["run"], [1], progress: progress).Single();
        Assert.Equal([1, 2, 3, 1, 2, 3, 4, 5, 6], steps);
        Assert.Equal([4, 6], run.Curve.Select(point => point.Step));
        Assert.Equal(run.Scores, Nearest.Run(folder["whole"], [1]).Single().Scores);
    }

    [Fact]
    public void NearestNeighbor_Diverging_NamesSeedAndUpdate()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var training = Nearest.Training with { PeakLearningRate = 1e30, Schedule = new() { Kind = DecayKind.Constant } };
        var wild = Nearest with { Training = training };
        var error = Assert.Throws<TrainingDivergedException>(() => wild.Run(folder["run"], [1]));
        Assert.Matches("Seed 1: In update 2 the loss was .* and the gradient's norm .*: a lower learning rate", error.Message);
        Assert.Equal(["experiment.json"], Names(folder["run"]));
    }

    [Fact]
    public void NearestNeighbor_ByMuon_TrainsOtherwise()
    {
        using var folder = new TempFolder();
        torch.set_num_threads(1);
        var muon = Nearest with { Training = Nearest.Training with { Optimizer = OptimizerKind.Muon } };
        Assert.NotEqual(Nearest.Run(folder["adamw"], [1]).Single().Scores, muon.Run(folder["muon"], [1]).Single().Scores);
    }

    [Theory]
    [InlineData("xlstm[1:0]", 2, "[]")]
    [InlineData("xlstm[0:1]", 2, "[0, 1]")]
    [InlineData("xlstm[1:1]", 2, "[1]")]
    [InlineData("xLSTM[7:1]", 16, "[7, 15]")]
    public void Models_Ratio_PlacesTheSLstmBlocks(string name, int blocks, string expected)
    {
        var config = Assert.IsType<XlstmConfig>(SyntheticModels.Parse(name, 3, 64, blocks, 1));
        Assert.Equal(expected, config.SLstmAt.ToString());
        Assert.Equal((3, 64, blocks, BlockStyle.PreUp), (config.VocabularySize, config.EmbeddingDim, config.BlockCount, config.BlockStyle));
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("mamba")]
    [InlineData("mamba2")]
    [InlineData("bytes-1m")]
    public void Models_EveryKind_CanBeBuilt(string name)
    {
        var config = SyntheticModels.Parse(name, 11, 64, 2, 4);
        config.Validate();
        using var model = config.CreateModel();
        Assert.Equal((11, 64, 2), (model.VocabularySize, config.EmbeddingDim, model.BlockCount));
        Assert.Equal(config.CountParameters(), model.parameters().Sum(p => p.NumberOfElements));
    }

    [Fact]
    public void Models_UnknownName_IsToldWhatThereIs() =>
        Assert.Contains(
            "bytes-1m",
            Assert.Throws<ArgumentException>(() => SyntheticModels.Parse("gpt", 3, 64, 2, 1)).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Recipes_ParityAndRecall_AreThePublished()
    {
        var parity = SyntheticRecipes.For(SyntheticRecipes.Task("parity"));
        var training = parity.Training;
        Assert.Equal((20_000, 256, 2000), (training.Steps, training.BatchSize, training.Schedule.WarmupSteps));
        Assert.Equal((1e-3, 0.1), (training.PeakLearningRate, training.WeightDecay));
        Assert.Equal(1e-6, parity.Training.LearningRate(20_000), 1e-12);
        Assert.Equal((64, 2, 1), (parity.EmbeddingDim, parity.BlockCount, parity.HeadCount));
        Assert.Equal((new LengthRange(3, 40), new LengthRange(40, 256)), (parity.Task.TrainingLengths, parity.Task.TestLengths));

        var recall = SyntheticRecipes.For(SyntheticRecipes.Task("mqar-128-8"));
        Assert.Equal(new MultiQueryRecall { ContextLength = 128, PairCount = 8 }, recall.Task);
        Assert.Equal((100_000, 512), (recall.SampleCount, recall.Training.BatchSize));
        Assert.Equal((12_500, 1250), (recall.Training.Steps, recall.Training.Schedule.WarmupSteps));
        Assert.Equal(1e-4, recall.Training.LearningRate(12_500), 1e-9);
        Assert.All(SyntheticRecipes.Tasks, task => SyntheticRecipes.For(task).Training.Validate());
    }

    private static string[] Names(string folder) =>
        [.. Directory.EnumerateFileSystemEntries(folder).Select(e => Path.GetFileName(e)!).Order(StringComparer.Ordinal)];
}
