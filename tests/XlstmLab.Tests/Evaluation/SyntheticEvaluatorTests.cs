using TorchSharp;
using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tasks;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation;

public sealed class SyntheticEvaluatorTests
{
    private static readonly LengthRange[] Lengths = [new(3, 40), new(64)];

    [Fact]
    public void Evaluate_ModelThatKnowsParity_IsAlwaysRight()
    {
        using var model = new ParityModel(long.MaxValue);
        var scores = SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 200);
        Assert.Equal(Lengths, scores.Select(s => s.Lengths()));
        Assert.All(scores, s => Assert.Equal((200, 200L, 1.0, 1.0, 1.0), (s.Rows, s.Answers, s.Accuracy, s.ScaledAccuracy, s.RowAccuracy)));

        // A margin of 4 over two other tokens.
        Assert.All(scores, s => Assert.Equal(Math.Log(1 + 2 * Math.Exp(-4)), s.Loss, 1e-5));
    }

    [Fact]
    public void Evaluate_ModelThatForgets_IsAtChanceWhereItForgot()
    {
        using var model = new ParityModel(30);
        var scores = SyntheticEvaluator.Evaluate(model, new Parity(), [new(3, 30), new(200)], rows: 2000);
        Assert.Equal(1.0, scores[0].Accuracy);
        Assert.Equal(0.0, scores[1].ScaledAccuracy, 0.12);
    }

    [Fact]
    public void Evaluate_SeveralAnswersARow_CountsTokensAndRows()
    {
        using var model = new EchoModel();
        var task = new Repetition();
        var score = SyntheticEvaluator.Evaluate(model, task, [new(3, 9)], rows: 500, batchSize: 7).Single();
        var batch = task.Rows(SyntheticSplit.Test, 0, 0, 500, new(3, 9));
        var (correct, rows, answers) = (0, 0, 0);
        for (var r = 0; r < 500; r++)
        {
            var (question, answer) = XlstmLab.Tests.Tasks.FormalTaskTests.Split(task, batch, r);
            var given = answer.Count(a => a == "0");
            answers += answer.Length;
            correct += given;
            rows += given == answer.Length ? 1 : 0;
        }

        Assert.True(correct > 0 && rows > 0);
        Assert.Equal((answers, correct, rows), (score.Answers, score.Correct, score.CorrectRows));
    }

    [Fact]
    public void Evaluate_AnyBatchSize_GivesTheSame()
    {
        using var model = new ParityModel(25);
        var one = SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 50, batchSize: 1);
        var many = SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 50, batchSize: 33);
        Assert.Equal(one.Select(s => s.Correct), many.Select(s => s.Correct));
    }

    [Fact]
    public void Evaluate_ModelInTraining_StaysInItAndLeavesNoTensors()
    {
        using var model = new ParityModel(25);
        model.train();
        SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 20);
        var before = DisposeScopeManager.Statistics.ThreadTotalLiveCount;
        SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 20);
        Assert.Equal(before, DisposeScopeManager.Statistics.ThreadTotalLiveCount);
        Assert.True(model.training);
    }

    [Fact]
    public void Evaluate_TaskWithMoreTokens_IsRefused()
    {
        using var model = new ParityModel(25);
        Assert.Throws<ArgumentException>(() => SyntheticEvaluator.Evaluate(model, new BucketSort(), Lengths));
    }

    [Fact]
    public void Scores_AsFrames_HaveTheAccuracies()
    {
        using var model = new ParityModel(long.MaxValue);
        var scores = SyntheticEvaluator.Evaluate(model, new Parity(), Lengths, rows: 20);
        var data = scores.ToDataFrame();
        Assert.Equal(2, data.Rows.Count);
        Assert.Equal(1.0, data["ScaledAccuracy"][1]);
        Assert.Equal(64, scores.ToFrame().GetColumn<int>("MaximumLength")[1]);
    }

    /// <summary>Counts the b it has read, up to a number of tokens.</summary>
    private sealed class ParityModel : LanguageModel
    {
        private readonly TorchSharp.Modules.Parameter _unused = new(zeros(1));
        private readonly long _memory;

        public ParityModel(long memory)
            : base(nameof(ParityModel), new StubConfig { VocabularySize = 3 })
        {
            _memory = memory;
            RegisterComponents();
        }

        public override Tensor Embed(Tensor tokens) => tokens.eq(2).to(ScalarType.Float32).unsqueeze(-1);

        public override (Tensor Hidden, ModelState? State) ForwardHidden(
            Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false)
        {
            var read = embedded.narrow(1, 0, Math.Min(_memory, embedded.shape[1])).cumsum(1);
            var rest = embedded.shape[1] - read.shape[1];
            return (rest == 0 ? read : cat([read, zeros(embedded.shape[0], rest, 1)], 1), null);
        }

        public override Tensor Logits(Tensor hidden)
        {
            var odd = hidden.remainder(2);
            return cat([zeros_like(odd), (1 - odd) * 4, odd * 4], -1);
        }
    }

    /// <summary>Always says the first symbol.</summary>
    private sealed class EchoModel : LanguageModel
    {
        private readonly TorchSharp.Modules.Parameter _unused = new(zeros(1));

        public EchoModel()
            : base(nameof(EchoModel), new StubConfig { VocabularySize = 12 }) => RegisterComponents();

        public override Tensor Embed(Tensor tokens) => tokens.to(ScalarType.Float32).unsqueeze(-1);

        public override (Tensor Hidden, ModelState? State) ForwardHidden(
            Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false) => (embedded, null);

        public override Tensor Logits(Tensor hidden)
        {
            var logits = zeros([.. hidden.shape[..^1], 12]);
            logits.select(-1, 2).add_(1);
            return logits;
        }
    }
}
