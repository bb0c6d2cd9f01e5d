using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Tasks.Ruler;
using XlstmLab.Tests.Inference;
using XlstmLab.Tests.Tasks.Ruler;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Evaluation;

public sealed class RulerEvaluatorTests : IDisposable
{
    private readonly OracleModel _oracle = new();
    private readonly RulerGenerator _generator = new(
        new ByteTokenizer(), new() { Haystack = RulerTexts.Haystack, Questions = RulerTexts.Questions, Example = false });

    public void Dispose() => _oracle.Dispose();

    [Fact]
    public void Evaluate_ModelThatParses_ScoresOneInEveryTask()
    {
        var options = new RulerEvaluationOptions { Tasks = RulerTasks.All, Lengths = [1500, 2000], Samples = 3, BatchSize = 2 };
        var result = RulerEvaluator.Evaluate(_oracle, _generator, options);

        Assert.Equal(26, result.Scores.Count);
        Assert.All(result.Scores, s => Assert.Equal((3, 1.0), (s.Samples, s.Score)));
        Assert.All(result.Scores, s => Assert.InRange(s.PromptTokens, 500, s.Length));
        Assert.Equal([(1500, 13, 1.0), (2000, 13, 1.0)], result.Averages.Select(a => (a.Length, a.Tasks, a.Score)));
        Assert.Equal(26 * 3, result.Answers.Count);
        Assert.All(result.DepthScores, d => Assert.Equal(1, d.Score));
        Assert.Equal(3 * 4, result.DepthScores.Where(d => d.Task == RulerTask.NiahMultivalue && d.Length == 2000).Sum(d => d.Needles));
        Assert.DoesNotContain(result.DepthScores, d => d.Task is RulerTask.Cwe or RulerTask.Fwe);
        Assert.Equal(1, result[RulerTask.Vt, 2000].Score);
        Assert.Throws<ArgumentException>(() => result[RulerTask.Vt, 999]);
    }

    [Fact]
    public void Evaluate_ModelThatForgets_FindsOnlyWhatIsNearTheEnd()
    {
        using var half = new OracleModel(memory: 1200);
        var options = new RulerEvaluationOptions
        {
            Tasks = [RulerTask.NiahSingle1, RulerTask.NiahMultiquery],
            Lengths = [2600],
            Samples = 40,
            BatchSize = 8,
            DepthRanges = 4,
        };
        var result = RulerEvaluator.Evaluate(half, _generator, options);

        foreach (var task in options.Tasks)
        {
            var depths = result.DepthScores.Where(d => d.Task == task).ToArray();
            Assert.Equal([0, 0.25, 0.5, 0.75], depths.Select(d => d.From));
            Assert.Equal((0.0, 1.0), (depths[0].Score, depths[3].Score));
            Assert.InRange(result[task, 2600].Score, 0.35, 0.65);
        }

        // Of four needles some are found, which the score counts and no whole answer would.
        Assert.Contains(result.Answers, a => a.Score is 0.25 or 0.5 or 0.75);
    }

    [Fact]
    public void Evaluate_ModelThatKnowsNothing_ScoresZero()
    {
        using var chatter = new ScriptedModel(257, [.. "1234567 is the answer, or red"u8.ToArray().Select(b => (int)b)]);
        var synthetic = new RulerEvaluationOptions { Lengths = [1500], Samples = 2 };
        var result = RulerEvaluator.Evaluate(chatter, _generator, synthetic);
        Assert.Equal((11, 0.0), (result.Averages[0].Tasks, result.Averages[0].Score));
    }

    [Fact]
    public void Evaluate_AnyBatchSize_GivesSameAnswers()
    {
        using var model = new OracleModel(memory: 700);
        var options = new RulerEvaluationOptions
        {
            Tasks = [RulerTask.NiahMultikey3, RulerTask.Qa1],
            Lengths = [1500],
            Samples = 5,
            BatchSize = 1,
        };
        var one = RulerEvaluator.Evaluate(model, _generator, options);
        Assert.Equal(one.Answers, RulerEvaluator.Evaluate(model, _generator, options with { BatchSize = 4, PrefillLength = 100 }).Answers);
    }

    [Fact]
    public void Evaluate_AnswerTokens_BoundTheOutput()
    {
        var generator = new RulerGenerator(new ByteTokenizer(), _generator.Options with { AnswerTokens = 5 });
        var result = RulerEvaluator.Evaluate(_oracle, generator, new() { Tasks = [RulerTask.NiahSingle1], Lengths = [900], Samples = 2 });
        Assert.All(result.Answers, a => Assert.Equal((5, 0.0), (a.Output.Length, a.Score)));
    }

    [Fact]
    public void Evaluate_Progress_CountsUpToAllAndCanBeStopped()
    {
        var live = Live();
        var seen = new List<RulerProgress>();
        var options = new RulerEvaluationOptions { Tasks = [RulerTask.Vt, RulerTask.Fwe], Lengths = [900], Samples = 3, BatchSize = 2 };
        _oracle.train();
        RulerEvaluator.Evaluate(_oracle, _generator, options, new ImmediateProgress<RulerProgress>(seen.Add));
        Assert.True(_oracle.training);
        Assert.Equal([2, 3, 5, 6], seen.Select(p => p.Done));
        Assert.All(seen, p => Assert.Equal((6, 1.0), (p.Total, p.Score)));

        using var source = new CancellationTokenSource();
        var stop = new ImmediateProgress<RulerProgress>(_ => source.Cancel());
        Assert.Throws<OperationCanceledException>(() => RulerEvaluator.Evaluate(_oracle, _generator, options, stop, source.Token));
        Assert.Equal(live, Live());
    }

    [Fact]
    public void Evaluate_WrongOptions_SaysWhatWasExpectedBeforeAnythingRuns()
    {
        foreach (var (options, part) in new (RulerEvaluationOptions, string)[]
        {
            (new() { Tasks = [] }, "Tasks"), (new() { Tasks = [RulerTask.Vt, RulerTask.Vt] }, "Tasks"),
            (new() { Lengths = [0] }, "Lengths"),
            (new() { Samples = 0 }, "Samples"), (new() { BatchSize = 0 }, "BatchSize"), (new() { DepthRanges = 0 }, "DepthRanges"),
            (new() { Tasks = [RulerTask.Vt, RulerTask.Cwe], Lengths = [700] }, "cwe takes"),
        })
        {
            var error = Assert.Throws<ArgumentException>(() => RulerEvaluator.Evaluate(
                _oracle, _generator, options, new ImmediateProgress<RulerProgress>(_ => Assert.Fail("It ran."))));
            Assert.Contains(part, error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void ToFrames_Result_HasARowATaskAndLength()
    {
        var result = RulerEvaluator.Evaluate(
            _oracle, _generator, new() { Tasks = [RulerTask.Vt, RulerTask.Fwe], Lengths = [900, 1000], Samples = 1 });
        var frame = result.ToFrame();
        var data = result.ToDataFrame();
        Assert.Equal((4, 4L), (frame.RowCount, data.Rows.Count));
        Assert.Equal(["vt", "vt", "fwe", "fwe"], frame.GetColumn<string>("Name").Values);
        Assert.Equal([900, 1000, 900, 1000], frame.GetColumn<int>("Length").Values);
        Assert.Equal(1.0, data["Score"][3]);
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
