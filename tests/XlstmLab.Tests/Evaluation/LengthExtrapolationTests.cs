using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation;

public sealed class LengthExtrapolationTests : IDisposable
{
    private const int End = 256;
    private static readonly ByteTokenizer Bytes = new();

    private static readonly int[][] Documents =
    [
        [End, .. Enumerable.Range(0, 99).Select(k => k * k % 251)],
        [End, .. Enumerable.Range(0, 64).Select(k => k * 7 % 256)],
        [End, .. Enumerable.Range(0, 63).Select(k => k * 5 % 256)],
    ];

    private readonly XlstmLanguageModel _model = new(
        new() { VocabularySize = 257, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1, ChunkSize = 4 }, seed: 9);

    public void Dispose() => _model.Dispose();

    [Fact]
    public void Measure_LongDocuments_EqualsTheLossAtEachPosition()
    {
        var result = LengthExtrapolation.Measure(
            _model, Documents, Bytes, new() { TrainedLength = 16, Longest = 64, ChunkLength = 10, BatchSize = 2 });

        Assert.Equal(2, result.Documents);
        Assert.Equal([(0, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64)], result.Ranges.Select(r => (r.Start, r.End)));
        Assert.Equal([false, false, false, false, true, true], result.Ranges.Select(r => r.BeyondTraining));

        var losses = Documents[..2].Select(Losses).ToArray();
        foreach (var range in result.Ranges)
        {
            Assert.Equal(2 * (range.End - range.Start), range.Tokens);
            Assert.Equal(losses.Average(l => l[range.Start..range.End].Average()), range.Loss, 1e-4);
            Assert.Equal(Math.Exp(range.Loss), range.Perplexity, 1e-9);
        }

        Assert.Equal(losses.Average(l => l[..16].Average()), result.TrainedLoss, 1e-4);
        Assert.Equal(losses.Average(l => l[16..].Average()), result.BeyondLoss, 1e-4);
        Assert.Equal((6, 6L), (result.ToFrame().RowCount, result.ToDataFrame().Rows.Count));
    }

    [Fact]
    public void Measure_OwnEdges_KeepTheTrainedLength()
    {
        var result = LengthExtrapolation.Measure(_model, Documents, Bytes, new() { TrainedLength = 10, Longest = 40, Edges = [0, 20, 30] });
        Assert.Equal([(0, 10, false), (10, 20, true), (20, 30, true), (30, 40, true)], result.Ranges.Select(
            r => (r.Start, r.End, r.BeyondTraining)));
        Assert.Equal(3, result.Documents);

        var within = LengthExtrapolation.Measure(_model, Documents, Bytes, new() { TrainedLength = 40, Longest = 20 });
        Assert.True(double.IsNaN(within.BeyondLoss));
        Assert.Equal([(0, 5), (5, 10), (10, 20)], within.Ranges.Select(r => (r.Start, r.End)));
    }

    [Fact]
    public void Measure_WrongArguments_SaysWhatWasExpected()
    {
        foreach (var (options, part) in new (ExtrapolationOptions, string)[]
        {
            (new() { TrainedLength = 8, Longest = 100 }, "the longest has 99"), (new() { TrainedLength = 0, Longest = 9 }, "TrainedLength"),
            (new() { TrainedLength = 8, Longest = 16, Edges = [0, 16] }, "Edges"),
            (new() { TrainedLength = 8, Longest = 16, Edges = [1] }, "Edges"),
        })
        {
            Assert.Contains(
                part, Assert.Throws<ArgumentException>(() => LengthExtrapolation.Measure(_model, Documents, Bytes, options)).Message,
                StringComparison.Ordinal);
        }
    }

    /// <summary>The loss of each of the first 64 predictions, from one forward pass.</summary>
    private double[] Losses(int[] document)
    {
        using var scope = NewDisposeScope();
        using var gradient = no_grad();
        var ids = tensor(document.Select(id => (long)id).ToArray());
        var logits = _model.Forward(ids[..64].unsqueeze(0)).Logits[0];
        var losses = nn.functional.cross_entropy(logits, ids[1..65], reduction: nn.Reduction.None);
        return [.. losses.data<float>().ToArray().Select(l => (double)l)];
    }
}
