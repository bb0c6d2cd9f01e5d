using System.Text.Json.Nodes;
using Deedle;
using XlstmLab.Analysis;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Evaluation.LogLikelihood;

public sealed class TaskEvaluatorTests : IDisposable
{
    private const int End = 256;
    private static readonly ByteTokenizer Bytes = new();
    private static readonly PiqaTask Piqa = new();

    private static readonly TaskItem[] Items =
    [
        Item("Q1:", 0, "yes", "no"), Item("Q2, longer:", 1, "a blue one", "red"), Item("Q3:", 1, "é", "ok", "neither"),
        Item("Q4:", 0, "1", "22"),
    ];

    private static readonly TaskItem[] Pool =
        [Item("E1:", 0, "one", "x"), Item("E2:", 1, "x", "two"), Item("E3:", 0, "three", "x"), Items[2]];

    private readonly XlstmLanguageModel _model = BruteForce.Model(257);

    public void Dispose() => _model.Dispose();

    [Fact]
    public void Evaluate_FewShotAndMutualInformation_EqualsBruteForce()
    {
        var options = new TaskOptions
        {
            Shots = 3,
            Selection = FewShotSelection.First,
            MutualInformation = true,
            Scoring = new() { BatchTokens = 150 },
        };
        var score = TaskEvaluator.Evaluate(_model, Bytes, Piqa, Items, options, Pool);

        string[] prompts =
        [
            "E1: one\n\nE2: two\n\nE3: three\n\nQ1:", "E1: one\n\nE2: two\n\nE3: three\n\nQ2, longer:",
            "E1: one\n\nE2: two\n\nE3: three\n\nQ3:",
            "E1: one\n\nE2: two\n\nE3: three\n\nQ4:",
        ];
        var right = new int[5];
        foreach (var (item, sample, prompt) in Items.Zip(score.Samples, prompts))
        {
            var expected =
                item.Choices.Select(c => BruteForce.Score(_model, [End, .. Bytes.Encode(prompt)], Bytes.Encode(" " + c.Answer))).ToArray();
            var alone = item.Choices.Select(c => BruteForce.Score(_model, [End], Bytes.Encode(" " + c.Answer))).ToArray();
            Assert.Equal(
                expected.Select(e => e.LogLikelihood), sample.Answers.Select(a => a.LogLikelihood), (a, b) => Math.Abs(a - b) < 1e-9);
            Assert.Equal(
                alone.Select(e => e.LogLikelihood), sample.Answers.Select(a => a.Unconditional!.Value), (a, b) => Math.Abs(a - b) < 1e-9);
            var lls = expected.Select(e => e.LogLikelihood).ToArray();
            double[][] scores =
            [
                lls, [.. lls.Zip(item.Choices, (l, c) => l / c.Answer.Length)], [.. lls.Zip(
                    item.Choices, (l, c) => l / System.Text.Encoding.UTF8.GetByteCount(c.Answer))],
                [.. lls.Zip(expected, (l, e) => l / e.Tokens)], [.. lls.Zip(alone, (l, u) => l - u.LogLikelihood)],
            ];
            for (var m = 0; m < right.Length; m++)
            {
                right[m] += Array.IndexOf(scores[m], scores[m].Max()) == item.Gold ? 1 : 0;
            }

            Assert.Equal(Array.IndexOf(lls, lls.Max()), sample.Predicted);
        }

        string[] metrics = ["acc", "acc_norm", "acc_bytes", "acc_norm_tokens", "acc_mutual_info"];
        Assert.Equal(metrics, score.Metrics.Select(m => m.Metric));
        Assert.Equal(right.Select(r => r / 4.0), score.Metrics.Select(m => m.Value));
        Assert.All(score.Metrics, m => Assert.Equal((4, 3, "piqa"), (m.Samples, m.Shots, m.Task)));
    }

    [Fact]
    public void Evaluate_OtherOrderOfQuestions_GivesSameLogLikelihoods()
    {
        var options = new TaskOptions { Shots = 2, Selection = FewShotSelection.First };
        var forward = TaskEvaluator.Evaluate(_model, Bytes, Piqa, Items, options, Pool);
        var backward = TaskEvaluator.Evaluate(_model, Bytes, Piqa, [.. Items.Reverse()], options, Pool);
        foreach (var (one, other) in forward.Samples.Zip(backward.Samples.Reverse()))
        {
            Assert.Equal(
                one.Answers.Select(a => a.LogLikelihood), other.Answers.Select(a => a.LogLikelihood), (a, b) => Math.Abs(a - b) < 1e-10);
        }
    }

    [Fact]
    public void Evaluate_RandomExamples_DependOnSeedAndQuestionAndAreNeverTheQuestion()
    {
        // With all of the pool but the question itself in the prompt, its length tells what was left out.
        var all = TaskEvaluator.Evaluate(
            _model, Bytes, Piqa, Items, new() { Shots = 3, Scoring = new() { MaxTokens = 12 } }, Items);
        var total = Items.Sum(i => i.Example.Length + 2);
        foreach (var (item, sample) in Items.Zip(all.Samples))
        {
            var prompt = 1 + total - (item.Example.Length + 2) + item.Choices[0].Query.Length
                + Bytes.Encode(" " + item.Choices[0].Answer).Length - 1;
            Assert.Equal(prompt - 12, sample.Answers[0].TokensCut);
        }

        var first = Evaluate(1, Items);
        Assert.Equal(first, Evaluate(1, Items));
        Assert.Equal(first[..2], Evaluate(1, Items[..2]));
        Assert.Contains(Enumerable.Range(2, 5), seed => !Evaluate(seed, Items).SequenceEqual(first));

        double[] Evaluate(long seed, TaskItem[] items) =>
            [.. TaskEvaluator.Evaluate(_model, Bytes, Piqa, items, new() { Shots = 2, Seed = seed }, Pool).Samples.Select(
                s => Math.Round(s.Answers[0].LogLikelihood, 9))];
    }

    [Fact]
    public void Evaluate_Mmlu_TakesTheFirstExamplesOfTheSubject()
    {
        var task = new MmluTask();
        var dev = new[] { Mmlu("d1", "logic", 0), Mmlu("d2", "law", 1), Mmlu("d3", "logic", 2), Mmlu("d4", "logic", 3) };
        var question = Mmlu("q", "logic", 1);
        var score = TaskEvaluator.Evaluate(_model, Bytes, task, [question], new() { Shots = 2 }, dev);

        const string prompt = "The following are multiple choice questions (with answers) about logic.\n\n"
            + "d1\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nd3\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: C\n\nq\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:";
        var expected = BruteForce.Score(_model, [End, .. Bytes.Encode(prompt)], Bytes.Encode(" D"));
        Assert.Equal(expected.LogLikelihood, score.Samples[0].Answers[3].LogLikelihood, 1e-9);
        Assert.Equal(FewShotSelection.First, score.Options.Selection);

        var error = Assert.Throws<ArgumentException>(
            () => TaskEvaluator.Evaluate(_model, Bytes, task, [Mmlu("q", "law", 1)], new() { Shots = 2 }, dev));
        Assert.Contains("at least 2 examples for mmlu, law", error.Message, StringComparison.Ordinal);
        Assert.Contains("got 1", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Measure_MultipleChoice_EachMetricByHand()
    {
        // The right answer comes first; the third question is wrong by all metrics, and the fourth right.
        SampleScore[] samples =
        [
            Sample(0, null, new("ab", -2, -3, 2, 2, 2, false, 0), new("c", -1.5, -1, 1, 1, 1, false, 0)),
            Sample(0, null, new("abcd", -4, -9, 4, 2, 1, false, 0), new("ab", -3, -9, 2, 2, 3, false, 0)),
            Sample(0, null, new("a", -5, -1, 1, 1, 1, false, 0), new("b", -1, -1, 1, 1, 1, false, 0)),
            Sample(0, null, new("a", -1, -5, 1, 1, 1, false, 0), new("b", -5, -1, 1, 1, 1, false, 0)),
        ];

        var metrics = TaskEvaluator.Measure(Piqa, samples, 0).ToDictionary(m => m.Metric);

        // -2 < -1.5; -4 < -3; no; yes.
        Assert.Equal(0.25, metrics["acc"].Value);
        // By bytes: -2/2 > -1.5; -4/4 > -3/2; no; yes.
        Assert.Equal(0.75, metrics["acc_bytes"].Value);
        // By characters: -2/2 > -1.5; -4/2 < -3/2; no; yes.
        Assert.Equal(0.5, metrics["acc_norm"].Value);
        // -2/2 > -1.5; -4/1 < -3/3; no; yes.
        Assert.Equal(0.5, metrics["acc_norm_tokens"].Value);
        // -2+3 > -1.5+1; -4+9 < -3+9; no; yes.
        Assert.Equal(0.5, metrics["acc_mutual_info"].Value);
        // s^2 = 0.75 0.25 4/3 = 0.25.
        Assert.Equal(0.25, metrics["acc"].StandardError, 1e-12);
        Assert.Equal(Math.Sqrt(1.0 / 3 / 4), metrics["acc_norm"].StandardError, 1e-12);

        Assert.DoesNotContain(
            "acc_mutual_info",
            TaskEvaluator.Measure(Piqa, [Sample(0, null, new AnswerScore("a", -1, null, 1, 1, 1, false, 0))], 0)
                .Select(m => m.Metric));
        Assert.Equal(
            ["acc"],
            TaskEvaluator.Measure(new WinoGrandeTask(), [Sample(0, null, new AnswerScore("a", -1, null, 1, 1, 1, false, 0))], 0)
                .Select(m => m.Metric));
    }

    [Fact]
    public void Measure_AnswersBeyondAscii_NormCountsCodePointsAndBytesCountBytes()
    {
        var items = new[]
        {
            Sample(
                1, null, new AnswerScore("aa", -4, null, 2, 2, 2, false, 0), new AnswerScore("\u00E9\u00E9", -6, null, 4, 2, 4, false, 0)),
        };
        var metrics = TaskEvaluator.Measure(Piqa, items, 0).ToDictionary(m => m.Metric, m => m.Value);
        Assert.Equal((0.0, 0.0, 1.0), (metrics["acc"], metrics["acc_norm"], metrics["acc_bytes"]));

        var emoji = TaskEvaluator.Evaluate(_model, Bytes, Piqa, [Item("Q:", 0, "\U0001F44D\U0001F44D", "abc")]).Samples[0].Answers[0];
        Assert.Equal((2, 8), (emoji.Characters, emoji.Bytes));

        var empty = TaskEvaluator.Measure(
            Piqa,
            [Sample(0, null, new AnswerScore("a", -9, null, 1, 1, 1, false, 0), new AnswerScore("", -1, null, 0, 0, 1, false, 0))], 0);
        Assert.Equal([0.0, 1.0, 1.0], empty.Take(3).Select(m => m.Value));
    }

    [Fact]
    public void Measure_Blimp_TheWholeIsTheMeanOfTheParadigms()
    {
        SampleScore[] samples = [Answered(0, "a"), Answered(0, "a"), Answered(0, "a"), Answered(1, "b")];
        Assert.Equal([0.5, 0.5, 1, 0], TaskEvaluator.Measure(new BlimpTask(), samples, 0).Select(m => m.Value));

        static SampleScore Answered(int gold, string group) =>
            Sample(gold, group, new("A", -1, null, 1, 1, 1, true, 0), new("B", -2, null, 1, 1, 1, false, 0));
    }

    [Fact]
    public void Evaluate_AnswerMergedIntoItsQuestion_IsAnErrorThatNamesTheOptionThatSkipsIt()
    {
        var letters = new JoiningTokenizer();
        TaskItem[] items = [Item("Q1:", 0, "a", "b"), Item("Q2", 0, "a", "b")];
        var error = Assert.Throws<ArgumentException>(() => TaskEvaluator.Evaluate(_model, letters, Piqa, items));
        Assert.Contains("--skip-joined", error.Message, StringComparison.Ordinal);

        var score = TaskEvaluator.Evaluate(_model, letters, Piqa, items, new() { SkipJoined = true });
        Assert.Equal((1, 1), (score.Skipped, score.Samples.Single().Sample));
        Assert.Equal(1, score["acc"].Samples);
        Assert.Throws<ArgumentException>(() => TaskEvaluator.Evaluate(_model, letters, Piqa, items[..1], new() { SkipJoined = true }));
    }

    [Fact]
    public void Measure_Cloze_PerplexityAndLastWordAccuracyByHand()
    {
        SampleScore[] samples =
        [
            Sample(0, null, new AnswerScore("a", -1, null, 1, 1, 1, true, 0)), Sample(
                0, null, new AnswerScore("b", -2, null, 1, 1, 5, false, 0)),
            Sample(0, null, new AnswerScore("c", -6, null, 1, 1, 2, true, 0)),
        ];

        var metrics = TaskEvaluator.Measure(new LambadaTask("lambada_openai"), samples, 0);

        Assert.Equal(["acc", "perplexity"], metrics.Select(m => m.Metric));
        Assert.Equal(2.0 / 3, metrics[0].Value, 1e-12);
        Assert.Equal(1.0 / 3, metrics[0].StandardError, 1e-12);
        Assert.Equal(Math.Exp(3), metrics[1].Value, 1e-12);
        // s^2 = (4 + 1 + 9) / 2 = 7.
        Assert.Equal(Math.Exp(3) * Math.Sqrt(7.0 / 3), metrics[1].StandardError, 1e-12);
    }

    [Fact]
    public void Measure_Groups_GiveEachItsValueAndBothAverages()
    {
        SampleScore[] samples =
        [
            Right("law"), Right("law"), Wrong("law"), Wrong("law"), Right("art"), Right("art"), Wrong("maths"),
        ];

        var metrics = TaskEvaluator.Measure(new MmluTask(), samples, 5);

        Assert.Equal(
            [(null, "acc", 7), (null, "acc_group_mean", 7), ("art", "acc", 2), ("law", "acc", 4), ("maths", "acc", 1)],
            metrics.Select(m => (m.Group, m.Metric, m.Samples)));
        Assert.Equal([4.0 / 7, 0.5, 1, 0.5, 0], metrics.Select(m => m.Value), (a, b) => Math.Abs(a - b) < 1e-12);
        Assert.Equal([0, Math.Sqrt(1.0 / 12)], metrics.Skip(2).Take(2).Select(m => m.StandardError), (a, b) => Math.Abs(a - b) < 1e-12);
        Assert.True(double.IsNaN(metrics[4].StandardError));

        // Without the subject of one question the error of the mean is sqrt(0 + 1/12) / 2.
        Assert.Equal(Math.Sqrt(1.0 / 12) / 2, TaskEvaluator.Measure(new MmluTask(), samples[..6], 5)[1].StandardError, 1e-12);

        static SampleScore Right(string group) => Sample(
            0, group, new("A", -1, null, 1, 1, 1, true, 0), new("B", -2, null, 1, 1, 1, false, 0));

        static SampleScore Wrong(string group) => Sample(
            1, group, new("A", -1, null, 1, 1, 1, true, 0), new("B", -2, null, 1, 1, 1, false, 0));
    }

    [Fact]
    public void TaskScore_GoesToFramesAndFiles()
    {
        using var folder = new TempFolder();
        var score = TaskEvaluator.Evaluate(_model, Bytes, Piqa, Items[..2]);

        var metrics = score.Metrics.ToDataFrame();
        Assert.Equal((4L, "acc_norm"), (metrics.Rows.Count, metrics["Metric"][1]));
        Assert.Equal(score["acc_norm"].Value, metrics["Value"][1]);
        var answers = score.AnswerRows().ToFrame();
        Assert.Equal(4, answers.RowCount);
        Assert.Equal(score.Samples[1].Answers[0].LogLikelihood, answers.GetColumn<double>("LogLikelihood")[2]);
        Assert.Equal([true, false, false, true], answers.GetColumn<bool>("IsGold").Values);
        Assert.Contains(
            "it has acc, acc_norm", Assert.Throws<KeyNotFoundException>(() => score["perplexity"]).Message, StringComparison.Ordinal);

        score.Write(folder["scores"]);
        var written = JsonNode.Parse(File.ReadAllText(folder["scores/piqa.json"]))!;
        Assert.Equal(score["acc"].Value, written["metrics"]![0]!["value"]!.GetValue<double>());
        var lines = File.ReadAllLines(folder["scores/piqa.samples.jsonl"]);
        Assert.Equal(2, lines.Length);
        Assert.Equal(
            score.Samples[1].Answers[1].LogLikelihood, JsonNode.Parse(lines[1])!["answers"]![1]!["log_likelihood"]!.GetValue<double>());
    }

    [Fact]
    public void Evaluate_WrongArguments_SaysWhatWasExpected()
    {
        foreach (var (items, options, part) in new (TaskItem[], TaskOptions, string)[]
        {
            ([], new(), "at least one question of piqa"), (Items, new() { Shots = -1 }, "Shots"),
            (Items, new() { Shots = 1 }, "at least 1 examples for piqa besides"),
            (Items, new() { Selection = (FewShotSelection)5 }, "Selection"), (Items, new() { Scoring = new() { MaxRows = 0 } }, "MaxRows"),
        })
        {
            Assert.Contains(
                part, Assert.Throws<ArgumentException>(() => TaskEvaluator.Evaluate(_model, Bytes, Piqa, items, options)).Message,
                StringComparison.Ordinal);
        }
    }

    private static TaskItem Item(string query, int gold, params string[] answers) => new(
        [.. answers.Select(a => new TaskChoice(query, a))], gold);

    private static TaskItem Mmlu(string question, string subject, int answer) => new MmluTask().Item(
        new(
            "x", 1, new()
            {
                ["question"] = question,
                ["subject"] = subject,
                ["choices"] = new JsonArray("1", "2", "3", "4"),
                ["answer"] = answer,
            }));

    private static SampleScore Sample(int gold, string? group, params AnswerScore[] answers) => new(0, group, gold, 0, answers);

    /// <summary>Bytes, but for ": a", which is the token of ":".</summary>
    private sealed class JoiningTokenizer : ITokenizer
    {
        public int VocabularySize => 257;

        public int EndOfDocument => End;

        public int[] Encode(string text) => TaskEvaluatorTests.Bytes.Encode(text.Replace(": a", ":", StringComparison.Ordinal));

        public string Decode(IEnumerable<int> ids) => TaskEvaluatorTests.Bytes.Decode(ids);

        public ReadOnlySpan<byte> Bytes(int id) => TaskEvaluatorTests.Bytes.Bytes(id);
    }
}
