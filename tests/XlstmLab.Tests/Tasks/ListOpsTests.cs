using System.Globalization;
using XlstmLab.Tasks;
using Xunit;

namespace XlstmLab.Tests.Tasks;

[Collection(nameof(TextCollection))]
public sealed class ListOpsTests
{
    [Theory]
    [InlineData(5, 60, 500)]
    [InlineData(502, 2000, 8)]
    public void Rows_Answers_AreThoseOfAnotherEvaluator(int minimum, int maximum, int rows)
    {
        var task = new ListOps();
        var batch = task.Rows(SyntheticSplit.Train, 1, 0, rows, new(minimum, maximum));
        for (var r = 0; r < rows; r++)
        {
            var (question, answer) = FormalTaskTests.Split(task, batch, r);
            Assert.InRange(question.Length, minimum - 1, maximum - 1);
            var tokens = new Queue<string>(question);
            Assert.Equal(Evaluate(tokens, 1).ToString(CultureInfo.InvariantCulture), answer.Single());
            Assert.Empty(tokens);
        }
    }

    [Fact]
    public void Rows_AnswersAndOperators_AllOccur()
    {
        var task = new ListOps();
        var batch = task.Rows(SyntheticSplit.Test, 2, 0, 1000, new(5, 60));
        Assert.Equal(Enumerable.Range(0, 16), batch.Inputs.Distinct().Order());
        Assert.Equal(Enumerable.Range(1, 10), batch.Targets.Where(t => t >= 0).Distinct().Order());
    }

    [Fact]
    public void Rows_LengthsThatNoTreeHas_AreToldSo() =>
        Assert.Throws<InvalidOperationException>(
            () => new ListOps { MaximumDepth = 2, MaximumArguments = 2 }.Rows(SyntheticSplit.Train, 0, 0, 1, new(9)));

    private static int Evaluate(Queue<string> tokens, int depth)
    {
        var token = tokens.Dequeue();
        if (token[0] != '[')
        {
            Assert.InRange(depth, 1, 10);
            return int.Parse(token, CultureInfo.InvariantCulture);
        }

        var elements = new List<int>();
        while (tokens.Peek() != "]")
        {
            elements.Add(Evaluate(tokens, depth + 1));
        }

        tokens.Dequeue();
        Assert.InRange(elements.Count, 2, 10);
        elements.Sort();
        return token switch
        {
            "[MIN" => elements[0],
            "[MAX" => elements[^1],
            "[SM" => elements.Sum() % 10,
            _ => elements.Count % 2 == 1
                ? elements[elements.Count / 2]
                : (int)Math.Floor((elements[elements.Count / 2 - 1] + elements[elements.Count / 2]) / 2.0),
        };
    }
}
