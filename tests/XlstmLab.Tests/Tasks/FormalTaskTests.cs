using System.Globalization;
using XlstmLab.Experiments;
using XlstmLab.Tasks;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Tasks;

[Collection(nameof(TextCollection))]
public sealed class FormalTaskTests
{
    private static readonly Dictionary<string, Func<string[], string[]>> Solvers = new()
    {
        ["parity"] = q => [q.Count(t => t == "b") % 2 == 0 ? "a" : "b"],
        ["s3"] = q => [q.Aggregate(
            "abc", (things, places) => string.Concat(places.Select(place => things["abc".IndexOf(place, StringComparison.Ordinal)])))],
        ["even-pairs"] = q => [q.Zip(q.Skip(1)).Count(p => p.First != p.Second) % 2 == 0 ? "a" : "b"],
        ["cycle-navigation"] = q => [$"P{((q.Count(t => t == "+1") - q.Count(t => t == "-1")) % 5 + 5) % 5}"],
        ["modular-arithmetic"] = q => [Number(ExpressionSolver.Modulo(q[..^1], 5))],
        ["modular-arithmetic-brackets"] = q => [Number(ExpressionSolver.Modulo(q[..^1], 5))],
        ["solve-equation"] = q =>
        [
            .. Enumerable.Range(0, 5)
                .Where(x => Number(ExpressionSolver.Modulo(q[..^3].Select(t => t == "x" ? Number(x) : t), 5)) == q[^2])
                .Select(Number),
        ],
        ["reverse-string"] = q => [.. q[..^1].Reverse()],
        ["repetition"] = q => q[..^1],
        ["bucket-sort"] = q => [.. q[..^1].OrderBy(t => int.Parse(t, CultureInfo.InvariantCulture))],
        ["odds-first"] = q => [.. q[..^1].Where((_, k) => k % 2 == 0), .. q[..^1].Where((_, k) => k % 2 == 1)],
        ["missing-duplicate"] = q => [q[Array.IndexOf(q, "[MIS]") - q.Length / 2]],
        ["set"] = q => [.. q[..^1].Distinct()],
        ["majority"] = q => [Most(q).Key],
        ["majority-count"] = q => [Number(Math.Min(63, Most(q).Count()))],
        ["stack-manipulation"] = q =>
        {
            var stack = new List<string>();
            foreach (var token in q[..^1])
            {
                if (token == "POP")
                {
                    stack.RemoveAt(stack.Count - 1);
                }
                else
                {
                    stack.Add("ST" + token[2..]);
                }
            }

            return [.. stack];
        },
    };

    private static IEnumerable<FormalTask> All => FormalTasks.All.Append(new SymmetricGroup());

    public static TheoryData<string> Names() => [.. All.Select(t => t.Name)];

    [Fact]
    public void All_VocabularySizes_AreThePublished()
    {
        (string, int)[] sizes =
        [
            ("bucket-sort", 11), ("cycle-navigation", 9), ("even-pairs", 3), ("majority", 64), ("majority-count", 64),
            ("missing-duplicate", 11), ("modular-arithmetic", 10), ("modular-arithmetic-brackets", 12), ("odds-first", 12), ("parity", 3),
            ("repetition", 12), ("reverse-string", 12), ("set", 128), ("solve-equation", 14), ("stack-manipulation", 11),
        ];
        Assert.Equal(sizes, FormalTasks.All.Select(t => (t.Name, t.VocabularySize)));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Rows_Answers_AreThoseOfAnotherSolver(string name)
    {
        var task = Task(name);
        foreach (var lengths in new[] { task.TrainingLengths, new LengthRange(task.MinimumLength), new LengthRange(40, 256) })
        {
            var batch = task.Rows(SyntheticSplit.Train, 3, 0, 300, lengths);
            for (var r = 0; r < batch.Rows; r++)
            {
                var (question, answer) = Split(task, batch, r);
                Assert.Equal(Solvers[name](question), answer);
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Rows_Layout_IsQuestionThenPadding(string name)
    {
        var task = Task(name);
        var lengths = new LengthRange(11, 30);
        var batch = task.Rows(SyntheticSplit.Train, 5, 0, 500, lengths);
        Assert.Equal((500, 30), (batch.Rows, batch.Length));
        for (var r = 0; r < batch.Rows; r++)
        {
            var inputs = batch.Inputs.AsSpan(r * 30, 30);
            var targets = batch.Targets.AsSpan(r * 30, 30);
            var question = inputs.IndexOf(SyntheticTask.Padding);
            question = question < 0 ? 30 : question;
            var answer = targets.Length - targets.Count(TokenBatch.Ignored);
            Assert.Equal(-1, inputs[question..].IndexOfAnyExcept(SyntheticTask.Padding));
            Assert.Equal(question - 1, targets.IndexOfAnyExcept(TokenBatch.Ignored));
            Assert.Equal(-1, targets.Slice(question - 1, answer).IndexOf(TokenBatch.Ignored));

            // Some lengths cannot be met exactly: pairs of symbols, or a pop that made room.
            Assert.InRange(question + answer, name is "stack-manipulation" ? 3 : 10, 30);
            Assert.Equal(-1, inputs.IndexOfAnyExceptInRange(0, task.VocabularySize - 1));
            Assert.Equal(-1, targets.Slice(question - 1, answer).IndexOfAnyExceptInRange(1, task.VocabularySize - 1));
        }
    }

    [Fact]
    public void Parity_AnswersAndLengths_AreEven()
    {
        const int Count = 38_000;
        var task = new Parity();
        var batch = task.Rows(SyntheticSplit.Train, 1, 0, Count, new(3, 40));
        var lengths = new int[41];
        var odd = 0;
        var bits = 0L;
        for (var r = 0; r < Count; r++)
        {
            var (question, answer) = Split(task, batch, r);
            lengths[question.Length + 1]++;
            odd += answer[0] == "b" ? 1 : 0;
            bits += question.Count(t => t == "b") - question.Count(t => t == "a");
        }

        // Five standard deviations of each.
        Assert.InRange(odd, Count / 2 - 490, Count / 2 + 490);
        Assert.All(lengths[3..], n => Assert.InRange(n, 840, 1160));
        Assert.InRange(bits, -4500, 4500);
    }

    [Theory]
    [InlineData("cycle-navigation", 5)]
    [InlineData("even-pairs", 2)]
    [InlineData("modular-arithmetic", 5)]
    [InlineData("modular-arithmetic-brackets", 5)]
    [InlineData("solve-equation", 5)]
    [InlineData("missing-duplicate", 9)]
    public void ShortAnswers_EachOccurs_OftenEnough(string name, int answers)
    {
        var task = Task(name);
        var batch = task.Rows(SyntheticSplit.Train, 7, 0, 4000, task.TrainingLengths);
        var counts = Enumerable.Range(0, batch.Rows).GroupBy(r => Split(task, batch, r).Answer.Single()).Select(g => g.Count()).ToArray();
        Assert.Equal(answers, counts.Length);
        Assert.All(counts, n => Assert.InRange(n, 4000 / answers / 2, 4000 / answers * 2.5));
        Assert.Equal(1.0 / answers, task.Chance, 1e-12);
    }

    [Fact]
    public void StackManipulation_AllKindsOfTokens_Occur()
    {
        var task = new StackManipulation();
        var batch = task.Rows(SyntheticSplit.Train, 7, 0, 500, task.TrainingLengths);
        var seen = batch.Inputs.Distinct().Order().ToArray();
        Assert.Equal(Enumerable.Range(0, 11), seen);
        Assert.Contains(Enumerable.Range(0, 500), r => Split(task, batch, r).Answer.Length > 12);
        Assert.InRange(batch.Inputs.Count(t => t == 2) / (double)batch.Inputs.Count(t => t >= 7), 0.5, 1.5);
    }

    [Fact]
    public void ModularArithmetic_AllOperatorsAndBrackets_Occur()
    {
        var task = new ModularArithmeticBrackets();
        var batch = task.Rows(SyntheticSplit.Train, 7, 0, 500, task.TrainingLengths);
        Assert.Equal(Enumerable.Range(0, 12), batch.Inputs.Distinct().Order());
    }

    [Fact]
    public void Set_LongRows_HaveRepeatedSymbols()
    {
        var task = new SetTask();
        var batch = task.Rows(SyntheticSplit.Test, 7, 0, 200, new(256));
        Assert.All(Enumerable.Range(0, 200), r =>
        {
            var (question, answer) = Split(task, batch, r);
            Assert.True(question.Length - 1 > answer.Length);
            Assert.InRange(question.Length + answer.Length, 255, 256);
        });
    }

    [Fact]
    public void Rows_TooShort_AreRefused()
    {
        var fault = Assert.Throws<ArgumentException>(() => new SolveEquation().Rows(SyntheticSplit.Train, 0, 0, 1, new(3, 40)));
        Assert.Contains("5 tokens or more", fault.Message, StringComparison.Ordinal);
        Assert.Equal(new LengthRange(5, 40), new SolveEquation().TrainingLengths);
    }

    /// <summary>The group has six elements, each an answer as often as the others, and the order of multiplication matters.</summary>
    [Fact]
    public void SymmetricGroup_Answers_AreTheGroups()
    {
        var task = new SymmetricGroup();
        Assert.Equal((7, 1.0 / 6), (task.VocabularySize, task.Chance));
        var batch = task.Rows(SyntheticSplit.Train, 9, 0, 6000, new(3));
        var products = Enumerable.Range(0, batch.Rows).Select(r => Split(task, batch, r)).DistinctBy(row => string.Join(' ', row.Question))
            .ToDictionary(row => string.Join(' ', row.Question), row => row.Answer.Single());
        Assert.Equal(36, products.Count);
        Assert.Equal(("bca", "cab"), (products["bac acb"], products["acb bac"]));
        Assert.All(products, product => Assert.Equal(6, products.Values.Count(answer => answer == product.Value)));
        Assert.Equal(new SymmetricGroup().Describe(), SyntheticRecipes.Task("s3").Describe());
    }

    [Fact]
    public void Parity_FirstRow_IsTheSameOnEveryMachine()
    {
        var batch = new Parity().Rows(SyntheticSplit.Train, 42, 0, 1, new(12));
        Assert.Equal("2 1 1 2 1 1 2 1 2 2 1 0", string.Join(' ', batch.Inputs));
        Assert.Equal("bc3a196dcec358ef", new Parity().Fingerprint(new(3, 40)));
    }

    internal static (string[] Question, string[] Answer) Split(SyntheticTask task, TokenBatch batch, int row)
    {
        var targets = batch.Targets.AsSpan(row * batch.Length, batch.Length).ToArray();
        var question = Array.FindIndex(targets, t => t != TokenBatch.Ignored) + 1;
        return (
            [.. batch.Inputs.AsSpan(row * batch.Length, question).ToArray().Select(task.Text)],
            [.. targets.Where(t => t != TokenBatch.Ignored).Select(task.Text)]);
    }

    private static FormalTask Task(string name) => All.Single(t => t.Name == name);

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);

    private static IGrouping<string, string> Most(string[] symbols) =>
        symbols.GroupBy(t => t).OrderByDescending(g => g.Count()).ThenBy(g => int.Parse(g.Key, CultureInfo.InvariantCulture)).First();
}
