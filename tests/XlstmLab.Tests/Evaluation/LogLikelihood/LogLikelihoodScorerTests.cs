using TorchSharp;
using XlstmLab.Evaluation.LogLikelihood;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Evaluation.LogLikelihood;

public sealed class LogLikelihoodScorerTests : IDisposable
{
    private const int End = 256;
    private static readonly ByteTokenizer Bytes = new();
    private static readonly LetterTokenizer Letters = new();

    private static readonly ScoreRequest[] Requests =
    [
        new("The cat sat on the", " mat"), new("The cat sat on the", " m"), new("The cat sat on the", " roof of a house"),
        new("The cat sat on the", " mat"),
        new("One letter", "a"), new("One letter", "b"), new("One letter", "c"), new("", " mat"), new("", "x"), new("", "yz"),
        new("  ", "yz"),
        new("Ends with spaces \n ", "and goes on"), new("naïve ☃", " é"),
        new("Alone, and much longer than all of the others here are.", " It ends."), new("a", "b"),
        new("Short context", " go"), new("Short context", " stay"),
    ];

    private readonly XlstmLanguageModel _model = BruteForce.Model(257);

    public void Dispose() => _model.Dispose();

    [Theory]
    [InlineData(4096, 64, true, null, DocumentPrefix.Always)]
    [InlineData(4096, 64, false, null, DocumentPrefix.Always)]
    [InlineData(4096, 64, true, null, DocumentPrefix.EmptyContext)]
    [InlineData(1, 64, true, null, DocumentPrefix.Always)]
    [InlineData(40, 2, true, null, DocumentPrefix.Always)]
    [InlineData(100, 3, false, 17, DocumentPrefix.Always)]
    [InlineData(100, 3, true, 17, DocumentPrefix.EmptyContext)]
    [InlineData(4096, 2, true, 16, DocumentPrefix.Always)]
    public void Score_AnyBatching_EqualsBruteForce(int batchTokens, int maxRows, bool share, int? maxTokens, DocumentPrefix prefix)
    {
        LongTests.SkipUnless(batchTokens is 40 or 100);
        var options = new ScoringOptions
        {
            BatchTokens = batchTokens,
            MaxRows = maxRows,
            ShareContexts = share,
            MaxTokens = maxTokens,
            Prefix = prefix,
        };
        var scores = LogLikelihoodScorer.Score(_model, Bytes, Requests, options);

        foreach (var (request, score) in Requests.Zip(scores))
        {
            var (context, continuation) = Tokens(request, prefix);
            var cut = maxTokens is { } most ? Math.Max(0, context.Length + continuation.Length - 1 - most) : 0;
            var expected = BruteForce.Score(_model, context[cut..], continuation);
            Assert.Equal(expected.LogLikelihood, score.LogLikelihood, 1e-9);
            Assert.Equal(expected with { LogLikelihood = 0, TokensCut = cut }, score with { LogLikelihood = 0 });
        }

        Assert.Equal(maxTokens is null, scores.All(s => s.TokensCut == 0));
        Assert.True(scores.Select(s => Math.Round(s.LogLikelihood, 6)).Distinct().Count() > 10);
    }

    [Fact]
    public void Score_OtherOrder_GivesSameScores()
    {
        var scores = LogLikelihoodScorer.Score(_model, Bytes, Requests);
        foreach (var seed in new[] { 1, 2 })
        {
            var order = Enumerable.Range(0, Requests.Length).OrderBy(k => (k + 3) * 7 * seed % 16).ToArray();
            var other = LogLikelihoodScorer.Score(_model, Bytes, [.. order.Select(k => Requests[k])], new() { MaxRows = 3 });
            Assert.All(order.Index(), k => Assert.Equal(scores[k.Item].LogLikelihood, other[k.Index].LogLikelihood, 1e-10));
        }

        Assert.Equal(scores[0], scores[3]);
    }

    [Fact]
    public void Score_SharedContext_IsReadOnce()
    {
        var context = new string('x', 49);
        ScoreRequest[] requests = [new(context, " a"), new(context, " b"), new(context, " cd"), new(context, "!")];

        // 50 tokens of context, and all but the last token of each continuation; equal requests are one.
        Assert.Equal(50 + 1 + 1 + 2, Read(new()));
        Assert.Equal(4 * 50 + 1 + 1 + 2, Read(new() { ShareContexts = false }));

        long Read(ScoringOptions options)
        {
            var seen = new List<ScoringProgress>();
            LogLikelihoodScorer.Score(_model, Bytes, [.. requests, .. requests], options, new ImmediateProgress<ScoringProgress>(seen.Add));
            Assert.Equal((8, 8, seen[^1].TotalTokens), (seen[^1].Requests, seen[^1].TotalRequests, seen[^1].Tokens));
            return seen[^1].Tokens;
        }
    }

    [Fact]
    public void Score_LongContexts_ComputesLogitsOfScoredPositionsOnly()
    {
        using var model = new CountingModel(_model);
        var context = new string('x', 60);

        // The context predicts all three first tokens at one position; then " cd" needs two more.
        LogLikelihoodScorer.Score(model, Bytes, [new(context, " "), new(context, "b"), new(context, " cd")]);
        Assert.Equal([1, 2], model.LogitRows);

        // Alone, each token of a continuation has a position of its own.
        model.LogitRows.Clear();
        var alone = LogLikelihoodScorer.Score(model, Bytes, [new(context, " cd"), new("y", "ab")]);
        Assert.Equal([5], model.LogitRows);
        Assert.Equal(LogLikelihoodScorer.Score(_model, Bytes, [new(context, " cd")])[0].LogLikelihood, alone[0].LogLikelihood, 1e-10);
    }

    [Fact]
    public void Score_GreedyContinuation_IsFlagged()
    {
        using var model = BruteForce.Model(Letters.VocabularySize, seed: 3);
        var found = 0;
        foreach (var context in new[] { "c", "de", "fgh", "x", "yz", "mnop", "q r s", "tu", "v w", "zzz" })
        {
            var best = BruteForce.Greedy(model, [0, .. Letters.Encode(context)], 2);
            var text = Letters.Decode(best);
            if (best.Contains(0) || !Letters.Encode(context + text).SequenceEqual([.. Letters.Encode(context), .. best]))
            {
                continue;
            }

            found++;
            var other = text[..^1] + (text[^1] == 'k' ? 'j' : 'k');
            var scores = LogLikelihoodScorer.Score(model, Letters, [new(context, text), new(context, other), new(context, text[..1])]);
            Assert.Equal([true, false, true], scores.Select(s => s.IsGreedy));
        }

        Assert.True(found >= 2, $"{found}");
    }

    [Fact]
    public void Score_TokensMergeOverTheBorder_ContinuationIsWhatTheWholeHasMore()
    {
        using var model = BruteForce.Model(Letters.VocabularySize, seed: 3);

        // "xa" is x, a; "xabc" is x, ab, c: the context keeps its own tokens, and c alone is scored.
        var score = LogLikelihoodScorer.Score(model, Letters, [new("xa", "bc")])[0];
        var expected = BruteForce.Score(model, [0, .. Letters.Encode("xa")], Letters.Encode("c"));
        Assert.Equal(expected.LogLikelihood, score.LogLikelihood, 1e-10);
        Assert.Equal(1, score.Tokens);

        Assert.Contains(
            "no token of its own",
            Assert.Throws<ArgumentException>(() => LogLikelihoodScorer.Score(model, Letters, [new("xa", "b")])).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Score_ManyBatches_LeavesNoTensorsAndTheModelInTraining()
    {
        LogLikelihoodScorer.Score(_model, Bytes, Requests[..2]);
        var live = Live();
        var counts = new List<long>();
        _model.train();
        LogLikelihoodScorer.Score(
            _model, Bytes, Requests, new() { MaxRows = 1 }, new ImmediateProgress<ScoringProgress>(_ => counts.Add(Live())));
        Assert.True(counts.Count > 10);
        Assert.Equal(live, Live());
        Assert.True(_model.training);

        using var source = new CancellationTokenSource();
        var stop = new ImmediateProgress<ScoringProgress>(_ => source.Cancel());
        Assert.Throws<OperationCanceledException>(
            () => LogLikelihoodScorer.Score(_model, Bytes, Requests, new() { MaxRows = 1 }, stop, source.Token));
        Assert.Equal(live, Live());
    }

    [Fact]
    public void Score_WrongArguments_SaysWhatWasExpected()
    {
        foreach (var (request, options, part) in new (ScoreRequest, ScoringOptions, string)[]
        {
            (new("a", ""), new(), "begin it with a space"), (new("a", "four"), new() { MaxTokens = 3 }, "has 4 tokens, and MaxTokens is 3"),
            (Requests[0], new() { BatchTokens = 0 }, "BatchTokens"), (Requests[0], new() { MaxRows = 0 }, "MaxRows"),
            (Requests[0], new() { MaxTokens = 0 }, "MaxTokens"), (Requests[0], new() { Prefix = (DocumentPrefix)7 }, "Prefix"),
        })
        {
            Assert.Contains(
                part, Assert.Throws<ArgumentException>(() => LogLikelihoodScorer.Score(_model, Bytes, [request], options)).Message,
                StringComparison.Ordinal);
        }

        using var small = BruteForce.Model(Letters.VocabularySize);
        Assert.Contains(
            "vocabulary size 29", Assert.Throws<ArgumentException>(() => LogLikelihoodScorer.Score(small, Bytes, Requests)).Message,
            StringComparison.Ordinal);
        Assert.Empty(LogLikelihoodScorer.Score(_model, Bytes, []));
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    private static (int[] Context, int[] Continuation) Tokens(ScoreRequest request, DocumentPrefix prefix)
    {
        var text = request.Context.TrimEnd(' ', '\n');
        var continuation = Bytes.Encode(request.Context[text.Length..] + request.Continuation);
        return (prefix == DocumentPrefix.Always || text.Length == 0 ? [End, .. Bytes.Encode(text)] : Bytes.Encode(text), continuation);
    }

    /// <summary>Another model, whose logits are counted.</summary>
    private sealed class CountingModel : LanguageModel
    {
        private readonly LanguageModel _counted;

        public CountingModel(LanguageModel counted)
            : base(nameof(CountingModel), counted.Config)
        {
            _counted = counted;
            RegisterComponents();
        }

        public List<long> LogitRows { get; } = [];

        public override Tensor Embed(Tensor tokens) => _counted.Embed(tokens);

        public override (Tensor Hidden, ModelState? State) ForwardHidden(
            Tensor embedded, ModelState? state = null, SequenceLayout? layout = null, bool returnState = false) =>
            _counted.ForwardHidden(embedded, state, layout, returnState);

        public override Tensor Logits(Tensor hidden)
        {
            LogitRows.Add(hidden.numel() / hidden.shape[^1]);
            return _counted.Logits(hidden);
        }
    }
}
