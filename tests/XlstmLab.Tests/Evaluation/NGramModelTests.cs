using CsCheck;
using XlstmLab.Evaluation;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Evaluation;

[Collection(nameof(TextCollection))]
public sealed class NGramModelTests
{
    private const int End = 256;
    private static readonly int[][] Train = Encoded(Split.Train, 3);

    [Fact]
    public void Probability_OrderTwo_EqualsHandComputation()
    {
        // All bigrams of "aba" occur once; of unigrams, a follows two symbols, b and the end one. Discounts 0.5, 1, 1.5.
        var model = NGramModel.Train([[End, 'a', 'b', 'a']], 2);
        var rest = 0.5 / 257;
        var (a, b, end) = (0.25 + rest, 0.125 + rest, 0.125 + rest);
        Assert.Equal(0.25 + 0.5 * b, model.Probability([End, 'a'], 'b'), 12);
        Assert.Equal(0.5 + 0.5 * a, model.Probability([End], 'a'), 12);
        Assert.Equal(a, model.Probability(['x'], 'a'), 12);
        Assert.Equal(rest, model.Probability([], 'x'), 12);
        var bits = -Math.Log2((0.5 + 0.5 * a) * (0.25 + 0.5 * b) * (0.5 + 0.5 * a) * (0.25 + 0.5 * end));
        var score = model.Evaluate([[End, 'a', 'b', 'a']]);
        Assert.Equal(bits, score.Bits, 10);
        Assert.Equal((4L, 3L), (score.Tokens, score.Bytes));
        Assert.Equal(bits / 3, score.BitsPerByte, 10);
    }

    [Fact]
    public void Probability_BeginningOfDocument_CountsOccurrences()
    {
        // Each of three documents begins with a: nothing stands before it, so that its occurrences count, not what precedes them.
        var model = NGramModel.Train([[End, 'a', 'b'], [End, 'a', 'c'], [End, 'a', 'b']], 3);
        Assert.Equal(0.5 + 0.5 * (0.1 + 0.5 / 257), model.Probability([End], 'a'), 12);
        Assert.Equal(model.Probability([End], 'a'), model.Probability(['z', 'z', End], 'a'), 12);
    }

    [Fact]
    public void Probability_AnyContext_SumsToOne()
    {
        int[] flat = [.. Train.SelectMany(d => d.Take(5000))];
        var seen = Gen.Int[0, flat.Length - 9].Select(k => flat[k..(k + 8)]);
        var unseen = Gen.Int[0, End].Array[0, 9];
        foreach (var order in new[] { 1, 2, 5, 8 })
        {
            var model = NGramModel.Train(Train, order);
            Gen.OneOf(seen, unseen).Sample(
                context => Assert.Equal(1, Enumerable.Range(0, 257).Sum(symbol => model.Probability(context, symbol)), 9), iter: 60);
        }
    }

    [Fact]
    public void Train_HigherOrder_FitsTrainingTextBetter()
    {
        var bits = Enumerable.Range(1, 8).Select(n => NGramModel.Train(Train, n).Evaluate(Train).BitsPerByte).ToList();
        Assert.All(bits.Zip(bits.Skip(1)), pair => Assert.True(pair.Second < pair.First, string.Join(' ', bits)));
    }

    [Fact]
    public void Evaluate_OtherText_IsPlausibleAndFinite()
    {
        var model = NGramModel.Train(Train, 4);
        Assert.InRange(model.Evaluate(Encoded(Split.Validation, 1)).BitsPerByte, 2, 3);
        Assert.True(double.IsFinite(model.Evaluate([[End, .. Enumerable.Range(0, 256)]]).Bits));
    }

    [Fact]
    public void Train_NotByteTokens_SaysWhich()
    {
        Assert.Contains(
            "Document 1", Assert.Throws<ArgumentException>(() => NGramModel.Train([[End, 1], [End, 257]], 2)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => NGramModel.Train([[1]], 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => NGramModel.Train([[End, 1]], 9));
        Assert.Throws<ArgumentOutOfRangeException>(() => NGramModel.Train([], 2));
    }

    private static int[][] Encoded(Split split, int count) =>
        new ByteTokenizer().EncodeDocuments([.. Corpus.Open(Datasets.Default)[split].Take(count)]);
}
