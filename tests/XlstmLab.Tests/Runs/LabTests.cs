using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Runs;

public sealed class LabTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Train_Corpus_ReportsEveryUpdateAndLeavesARunThatOpens()
    {
        var steps = new List<int>();
        using var run = Lab.Train(
            Tiny.Config, Tiny.Corpus(), Tiny.Recipe, new() { Folder = _temp["run"] },
            new ImmediateProgress<TrainingMetrics>(m => steps.Add(m.Step)),
            TestContext.Current.CancellationToken);
        Assert.Equal([1, 2, 3], steps);
        Assert.Equal(TrainingStatus.Completed, run.Result!.Status);
        Assert.NotNull(run.Result.Validation!.ValidationBitsPerByte);
        using var opened = TrainedRun.Open(_temp["run"]);
        Assert.Equal(ModelIdentity.Of(run.Model), ModelIdentity.Of(opened.Model));

        // The same call again has nothing to do.
        steps.Clear();
        using var again = Lab.Train(
            Tiny.Config, Tiny.Corpus(), Tiny.Recipe, new() { Folder = _temp["run"] },
            new ImmediateProgress<TrainingMetrics>(m => steps.Add(m.Step)),
            TestContext.Current.CancellationToken);
        Assert.Empty(steps);
        Assert.Equal(ModelIdentity.Of(run.Model), ModelIdentity.Of(again.Model));
    }

    [Fact]
    public void Train_WithHooks_CallsThemAndStopsWhenAsked()
    {
        var (seen, checkpoints) = (new List<int>(), new List<string?>());
        var hooks = new TrainingHooks
        {
            AfterStep = at =>
            {
                seen.Add(at.Metrics.Step);
                if (at.Metrics.Step == 2)
                {
                    at.Stop();
                }
            },
            AfterCheckpoint = at => checkpoints.Add(at.Checkpoint),
        };
        using var run = Lab.Train(
            Tiny.Config, Tiny.Corpus(), Tiny.Recipe, new() { Folder = _temp["run"], Hooks = hooks },
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal([1, 2], seen);
        Assert.Equal(TrainingStatus.Stopped, run.Result!.Status);
        Assert.Equal(RunFolder.LatestCheckpoint(_temp["run"]), checkpoints.Single());
    }

    [Fact]
    public async Task Train_AsTheCommandLineDoes_GivesTheSameWeights()
    {
        var text = _temp.Write("text.txt", string.Join('\n', Enumerable.Range(0, 400).Select(k => $"line {k} of {k * 37 % 101} and more")));
        var config = _temp.Write("model.json", ModelConfigJson.Text(Tiny.Config));
        var told = await CommandLine.RunAsync(
            "train", "--out", _temp["cli"], "--model", config, "--data", text, "--steps", "2", "--context", "16", "--threads", "1");
        Assert.True(told.Code == 0, told.Error);
        using var run = Lab.Train(
            Tiny.Config, text, LabDefaults.Training(2) with { ContextLength = 16 }, new() { Folder = _temp["lab"] },
            cancellationToken: TestContext.Current.CancellationToken);
        using var other = TrainedRun.Open(_temp["cli"]);
        Assert.Equal(ModelIdentity.Of(other.Model), ModelIdentity.Of(run.Model));
        Assert.Equal(File.ReadAllText(_temp["cli", "text.json"]), File.ReadAllText(_temp["lab", "text.json"]));
    }

    [Fact]
    public void LoadWeights_OtherShapes_AreNamed()
    {
        using (var model = new XlstmLanguageModel(Tiny.Config, 1))
        {
            HuggingFaceFolder.Save(_temp["hf"], Tiny.Config, model.state_dict());
            using var same = new XlstmLanguageModel(Tiny.Config, 2);
            Lab.LoadWeights(same, _temp["hf"], cancellationToken: TestContext.Current.CancellationToken);
            Assert.Equal(ModelIdentity.Of(model), ModelIdentity.Of(same));
        }

        using var wider = new XlstmLanguageModel(Tiny.Config with { EmbeddingDim = 32 }, 1);
        var before = ModelIdentity.Of(wider);
        var error = Assert.Throws<CheckpointException>(
            () => Lab.LoadWeights(wider, _temp["hf"], cancellationToken: TestContext.Current.CancellationToken));
        Assert.Contains("Shapes differ: 'backbone.blocks.0.", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, ModelIdentity.Of(wider));
    }

    [Fact]
    public void Train_InitialWeights_AreWhereItStarts()
    {
        var corpus = Tiny.Corpus();
        using var first = Lab.Train(
            Tiny.Config, corpus, Tiny.Recipe, new() { Folder = _temp["a"] }, cancellationToken: TestContext.Current.CancellationToken);
        var still = Tiny.Recipe with { Steps = 1, PeakLearningRate = 1e-30 };
        using var branch = Lab.Train(
            Tiny.Config, corpus, still, new() { Folder = _temp["b"], InitialWeights = _temp["a"] },
            cancellationToken: TestContext.Current.CancellationToken);
        Assert.Equal(ModelIdentity.Of(first.Model), ModelIdentity.Of(branch.Model));
        Assert.Equal(_temp["a"], branch.Text!.InitialWeights);
    }

    [Fact]
    public void Train_VocabularyThatIsTooSmall_IsRefused() =>
        Assert.Contains(
            "they do not fit together",
            Assert.Throws<ArgumentException>(() =>
                Lab.Train(Tiny.Config with { VocabularySize = 100 }, Tiny.Corpus(), Tiny.Recipe, new() { Folder = _temp["run"] })).Message,
            StringComparison.Ordinal);
}
