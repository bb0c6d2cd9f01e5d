using TorchSharp;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation;

public sealed class PerplexityEvaluatorTests : IDisposable
{
    private const int End = 256;
    private static readonly ByteTokenizer Bytes = new();

    private static readonly int[][] Documents = [.. new[]
    {
        "The lab, end to end.", "", "x",
        "A much longer document, which spans several windows of any policy and ends late.", "naïve ☃", "The last one.",
    }.Select(text => (int[])[End, .. Bytes.Encode(text)])];

    private readonly XlstmLanguageModel _model = Model(ScalarType.Float64);

    private int[]? _document;
    private int _start;
    private int _read;
    private ModelState? _state;

    public void Dispose()
    {
        _state?.Dispose();
        _model.Dispose();
    }

    [Theory]
    [InlineData(ContextPolicy.Fresh, 8, 0)]
    [InlineData(ContextPolicy.Fresh, 1, 0)]
    [InlineData(ContextPolicy.Carried, 8, 0)]
    [InlineData(ContextPolicy.Sliding, 8, 3)]
    [InlineData(ContextPolicy.Sliding, 16, 1)]
    [InlineData(ContextPolicy.Sliding, 100, 99)]
    public void Evaluate_EachPolicy_EqualsBruteForce(ContextPolicy policy, int length, int stride)
    {
        var options = new EvaluationOptions
        {
            Policy = policy,
            ContextLength = length,
            Stride = stride,
            BatchSize = 3,
            BucketEdges = [0, 1, 4, 10, 1000],
        };
        var result = PerplexityEvaluator.Evaluate(_model, Documents, Bytes, options);

        var (nats, buckets) = (0.0, new double[5]);
        foreach (var document in Documents)
        {
            for (var p = 0; p < document.Length; p++)
            {
                var start = policy switch
                {
                    ContextPolicy.Carried => 0,
                    ContextPolicy.Fresh => p / length * length,
                    _ => p < length ? 0 : (p - length) / stride * stride + stride,
                };
                var target = p + 1 < document.Length ? document[p + 1] : End;
                var loss = BruteForce(document, start, p, target);
                nats += loss;
                buckets[Array.FindLastIndex([0, 1, 4, 10, 1000], edge => edge <= p - start)] += loss;
            }
        }

        Assert.Equal(Documents.Sum(d => d.Length), result.Tokens);
        Assert.Equal(Documents.Sum(d => d.Length - 1), result.Bytes);
        Assert.Equal(Documents.Length, result.Documents);
        Assert.Equal(nats, result.Nats, 1e-9);
        Assert.Equal(nats / result.Tokens, result.Loss, 1e-9);
        Assert.Equal(Math.Exp(result.Loss), result.Perplexity, 1e-9);
        Assert.Equal(nats / Math.Log(2) / result.Bytes, result.BitsPerByte, 1e-9);
        Assert.Equal(buckets.Where(b => b > 0), result.Buckets.Select(b => b.Nats), (a, b) => Math.Abs(a - b) < 1e-9);
        Assert.Equal(result.Tokens, result.Buckets.Sum(b => b.Tokens));
    }

    [Theory]
    [InlineData(ContextPolicy.Fresh)]
    [InlineData(ContextPolicy.Carried)]
    [InlineData(ContextPolicy.Sliding)]
    public void Evaluate_AnyBatchSize_GivesSameResult(ContextPolicy policy)
    {
        using var narrow = Model(ScalarType.Float32);
        var options = new EvaluationOptions { Policy = policy, ContextLength = 8, Stride = 3, BatchSize = 1 };
        foreach (var (model, bound) in new[] { (_model, 1e-9), (narrow, 1e-5) })
        {
            var one = PerplexityEvaluator.Evaluate(model, Documents, Bytes, options);
            foreach (var size in new[] { 2, 5, 100 })
            {
                var many = PerplexityEvaluator.Evaluate(model, Documents, Bytes, options with { BatchSize = size });
                Assert.Equal(one.Loss, many.Loss, bound);
                Assert.Equal(one.Buckets.Select(b => (b.Start, b.End, b.Tokens)), many.Buckets.Select(b => (b.Start, b.End, b.Tokens)));
                Assert.All(one.Buckets.Zip(many.Buckets), p => Assert.Equal(p.First.Loss, p.Second.Loss, bound * 10));
            }
        }
    }

    [Fact]
    public void Evaluate_Carried_GivesSameLossAtAnyChunk()
    {
        var options = new EvaluationOptions { Policy = ContextPolicy.Carried, BatchSize = 3 };
        var losses = new[] { 1, 2, 7, 64, 1000 }.Select(s =>
            PerplexityEvaluator.Evaluate(_model, Documents, Bytes, options with { ContextLength = s }).Loss).ToArray();
        Assert.All(losses, loss => Assert.Equal(losses[0], loss, 1e-9));
    }

    [Fact]
    public void Evaluate_PositionOrigin_ChoosesBuckets()
    {
        var options = new EvaluationOptions { ContextLength = 8, BucketEdges = EvaluationOptions.FixedWidth(8, 3) };
        var context = PerplexityEvaluator.Evaluate(_model, [Documents[3]], Bytes, options);
        var document = PerplexityEvaluator.Evaluate(
            _model, [Documents[3]], Bytes, options with { PositionOrigin = PositionOrigin.Document });
        Assert.Equal([(0, 8, Documents[3].Length)], context.Buckets.Select(b => (b.Start, b.End, b.Tokens)));
        Assert.Equal(
            [(0, 8, 8), (8, 16, 8), (16, null, Documents[3].Length - 16)], document.Buckets.Select(b => (b.Start, b.End, b.Tokens)));
        Assert.Equal(context.Loss, document.Loss, 1e-12);
    }

    [Fact]
    public void Evaluate_DocumentsJoined_AreCutAtTheirEnds()
    {
        var apart = PerplexityEvaluator.Evaluate(_model, Documents, Bytes);
        var joined = PerplexityEvaluator.Evaluate(_model, [[.. Documents.SelectMany(d => d)]], Bytes);
        Assert.Equal((apart.Tokens, apart.Bytes, apart.Documents), (joined.Tokens, joined.Bytes, joined.Documents));
        Assert.Equal(apart.Loss, joined.Loss, 1e-12);
    }

    [Theory]
    [InlineData(ContextPolicy.Fresh)]
    [InlineData(ContextPolicy.Carried)]
    [InlineData(ContextPolicy.Sliding)]
    public void Evaluate_LongDocument_LeavesLiveTensorsConstantAndNoGradient(ContextPolicy policy)
    {
        var live = Live();
        var counts = new List<long>();
        var progress = new ImmediateProgress<EvaluationProgress>(_ => counts.Add(Live()));
        int[] document = [End, .. Enumerable.Range(0, 400).Select(k => k * 7 % 256)];
        var options = new EvaluationOptions { Policy = policy, ContextLength = 16, Stride = 8, BatchSize = 2 };
        _model.train();
        PerplexityEvaluator.Evaluate(_model, [document, document[..390]], Bytes, options, progress);
        Assert.True(counts.Count > 10);
        Assert.True(counts.Skip(1).SkipLast(2).Distinct().Count() <= 1, string.Join(' ', counts));
        Assert.Equal(live, Live());
        Assert.True(_model.training);
        Assert.All(_model.parameters(), p => Assert.True(p.grad is null));
    }

    [Fact]
    public void Evaluate_Progress_CountsUpToAll()
    {
        var seen = new List<EvaluationProgress>();
        var result = PerplexityEvaluator.Evaluate(
            _model, Documents, Bytes, new() { ContextLength = 8, BatchSize = 2 }, new ImmediateProgress<EvaluationProgress>(seen.Add));
        Assert.Equal(result.Tokens, seen[^1].Tokens);
        Assert.Equal(result.Loss, seen[^1].Loss, 1e-12);
        Assert.All(seen, p => Assert.Equal(result.Tokens, p.TotalTokens));

        using var source = new CancellationTokenSource();
        var live = Live();
        var stop = new ImmediateProgress<EvaluationProgress>(_ => source.Cancel());
        var options = new EvaluationOptions { Policy = ContextPolicy.Carried, ContextLength = 4 };
        Assert.Throws<OperationCanceledException>(
            () => PerplexityEvaluator.Evaluate(_model, Documents, Bytes, options, stop, source.Token));
        Assert.Equal(live, Live());
    }

    [Fact]
    public void Evaluate_WrongArguments_SaysWhatWasExpected()
    {
        foreach (var (documents, options, part) in new (int[][], EvaluationOptions, string)[]
        {
            ([], new(), "at least one document"), ([[1, 2]], new(), "Document 0 does not begin"),
            ([[End], [End, 300]], new(), "got 300 in document 1"),
            (Documents, new() { ContextLength = 0 }, "ContextLength"), (Documents, new() { BatchSize = 0 }, "BatchSize"),
            (Documents, new() { Policy = ContextPolicy.Sliding, ContextLength = 8, Stride = 8 }, "Stride"),
            (Documents, new() { BucketEdges = [0, 5, 5] }, "BucketEdges"), (Documents, new() { BucketEdges = [1] }, "BucketEdges"),
        })
        {
            Assert.Contains(
                part, Assert.Throws<ArgumentException>(() => PerplexityEvaluator.Evaluate(_model, documents, Bytes, options)).Message,
                StringComparison.Ordinal);
        }
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    private static XlstmLanguageModel Model(ScalarType type)
    {
        var model = new XlstmLanguageModel(
            new() { VocabularySize = 257, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1, ChunkSize = 4 }, seed: 9);
        using (no_grad())
        {
            // Open input gates, so that the context matters.
            model.named_parameters().First(p => p.name.EndsWith("igate_preact.bias", StringComparison.Ordinal)).parameter.fill_(0);
        }

        model.to(type);
        return model;
    }

    /// <summary>The loss of a target after the tokens of a document from start to p, read one by one from the empty state.</summary>
    private double BruteForce(int[] document, int start, int p, int target)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        if (start != _start || document != _document || _read > p)
        {
            _state?.Dispose();
            (_document, _start, _read, _state) = (document, start, start, null);
        }

        Tensor logits = null!;
        for (; _read <= p; _read++)
        {
            var before = _state;
            (logits, _state) = _model.Forward(full([1, 1], document[_read], dtype: ScalarType.Int64), before, returnState: true);
            before?.Dispose();
        }

        return -nn.functional.log_softmax(logits[0, 0], 0)[target].item<double>();
    }
}
