using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Evaluation.LogLikelihood;

/// <summary>Computes log p(continuation | context) for many requests.</summary>
public static class LogLikelihoodScorer
{
    /// <summary>Scores every request.</summary>
    /// <remarks>
    /// Requests are read side by side, longest first, padded on the right. Equal requests are scored once. A context with several
    /// continuations is read once and its state forked, where the tokens that this saves are at least those of the continuations; otherwise
    /// each request is a row of its own. Logits are computed only where a token of a continuation is predicted. Neither order nor batching
    /// changes results beyond rounding. The model is put into evaluation mode, and back.
    /// </remarks>
    /// <param name="model">The model.</param>
    /// <param name="tokenizer">Its tokenizer.</param>
    /// <param name="requests">What to score.</param>
    /// <param name="options">How to score; null is the default.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <returns>The scores, in the order of the requests.</returns>
    /// <exception cref="ArgumentException">
    /// An option makes no sense, a continuation has no tokens of its own or more than the limit, or the tokenizer is another model's.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static ContinuationScore[] Score(
        LanguageModel model, ITokenizer tokenizer, IReadOnlyList<ScoreRequest> requests, ScoringOptions? options = null,
        IProgress<ScoringProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var encoded = Encode(requests, tokenizer, options, cancellationToken);
        CheckVocabulary(model, encoded);
        var groups = encoded.Index().GroupBy(r => r.Item.Context, TokenComparer.Instance)
            .Select(g => new ContextGroup(g.Key, [.. g.GroupBy(r => r.Item.Continuation, TokenComparer.Instance)
                .Select(c => new Continuation(c.Key, [.. c.Select(r => r.Index)]))]))
            .ToLookup(g => options.ShareContexts && g.SavesEnough);
        var alone = groups[false].SelectMany(g => g.Rows).ToList();
        var shared = groups[true].Select(g => g.SharedRow).ToList();
        var tally = new Tally(encoded, alone.Concat(shared).Concat(shared.SelectMany(Forks)).Sum(r => (long)r.Tokens.Length), progress);
        var device = model.WeightsDevice;
        using (EvaluationMode.Of(model))
        {
            foreach (var rows in Batches(alone, options))
            {
                cancellationToken.ThrowIfCancellationRequested();
                Read(model, rows, null, false, device, tokenizer.EndOfDocument, tally)?.Dispose();
            }

            foreach (var contexts in Batches(shared, options))
            {
                cancellationToken.ThrowIfCancellationRequested();
                ReadShared(model, contexts, options, device, tokenizer.EndOfDocument, tally, cancellationToken);
            }
        }

        return tally.Scores;
    }

    /// <summary>Reads contexts, and then each continuation of more than one token from its context's state.</summary>
    private static void ReadShared(
        LanguageModel model, Row[] contexts, ScoringOptions options, Device device, int padding, Tally tally,
        CancellationToken cancellationToken)
    {
        var forks = contexts.Index().SelectMany(c => Forks(c.Item).Select(f => (c.Index, Row: f))).ToList();
        var parentOf = forks.ToDictionary(f => f.Row, f => (long)f.Index);
        using var state = Read(model, contexts, null, forks.Count > 0, device, padding, tally);
        foreach (var rows in Batches(forks.ConvertAll(f => f.Row), options))
        {
            cancellationToken.ThrowIfCancellationRequested();
            using var forked = state!.SelectRows([.. rows.Select(r => parentOf[r])]);
            Read(model, rows, forked, false, device, padding, tally)?.Dispose();
        }
    }

    /// <summary>Reads rows side by side and adds up what they predict.</summary>
    private static ModelState? Read(
        LanguageModel model, Row[] rows, ModelState? state, bool returnState, Device device, int padding, Tally tally)
    {
        using var scope = NewDisposeScope();
        using var gradient = no_grad();
        var (batch, length) = (rows.Length, rows[0].Tokens.Length);
        var tokens = new long[batch * length];
        var isPadding = new bool[tokens.Length];
        tokens.AsSpan().Fill(padding);
        isPadding.AsSpan().Fill(true);
        var (positions, targets, owners) = (new List<long>(), new List<long>(), new List<Continuation>());
        for (var r = 0; r < batch; r++)
        {
            var row = rows[r];
            for (var t = 0; t < row.Tokens.Length; t++)
            {
                tokens[r * length + t] = row.Tokens[t];
                isPadding[r * length + t] = false;
            }

            foreach (var (continuation, from, to, position) in row.Predictions)
            {
                for (var k = from; k < to; k++)
                {
                    positions.Add(r * length + position + k - from);
                    targets.Add(continuation.Tokens[k]);
                    owners.Add(continuation);
                }
            }
        }

        // Continuations of one context are predicted from one position: its logits are computed once.
        var different = positions.Distinct().ToArray();
        var rank = different.Index().ToDictionary(p => p.Item, p => (long)p.Index);
        var layout = isPadding.Contains(true) ? new SequenceLayout(Padding: tensor(isPadding, [batch, length], device: device)) : null;
        var (logits, last) = model.Forward(
            tensor(tokens, [batch, length], device: device), state, layout, returnState, tensor(different, device: device)); // (N, V)
        var index = tensor(positions.Select(p => rank[p]).ToArray(), device: device);
        var target = tensor(targets, device: device);
        var logProbabilities = logits.view(-1)[index * logits.shape[1] + target] - logits.logsumexp(1)[index];
        var greedy = logits.argmax(1)[index].eq(target);
        var values = MemoryMarshal.Cast<byte, double>(logProbabilities.to(ScalarType.Float64).cpu().bytes);
        var isGreedy = greedy.cpu().bytes;
        for (var p = 0; p < owners.Count; p++)
        {
            tally.Add(owners[p], values[p], isGreedy[p] != 0);
        }

        tally.Report(rows);
        return last;
    }

    /// <summary>What is left to read after a shared context: each continuation of more than one token.</summary>
    private static IEnumerable<Row> Forks(Row context) =>
        context.Predictions.Select(p => p.Continuation).Where(c => c.Tokens.Length > 1)
            .Select(c => new Row(c.Tokens[..^1], [new(c, 1, c.Tokens.Length, 0)]));

    /// <summary>Rows in batches of at most so many tokens, padding included, and so many rows: the longest first.</summary>
    private static IEnumerable<Row[]> Batches(List<Row> rows, ScoringOptions options)
    {
        var sorted = rows.OrderByDescending(r => r.Tokens.Length).ToArray();
        for (var start = 0; start < sorted.Length;)
        {
            var count = Math.Clamp(options.BatchTokens / sorted[start].Tokens.Length, 1, options.MaxRows);
            var end = Math.Min(start + count, sorted.Length);
            yield return sorted[start..end];
            start = end;
        }
    }

    private static TokenizedRequest[] Encode(
        IReadOnlyList<ScoreRequest> requests, ITokenizer tokenizer, ScoringOptions options, CancellationToken cancellationToken)
    {
        var encoded = new TokenizedRequest[requests.Count];
        try
        {
            Parallel.For(
                0, encoded.Length, new ParallelOptions { CancellationToken = cancellationToken },
                k => encoded[k] = TokenizedRequest.Encode(requests[k], tokenizer, options));
        }
        catch (AggregateException e)
        {
            // One cause is enough for the caller, and the same kind of exception that a single request would have given.
            ExceptionDispatchInfo.Throw(e.InnerExceptions[0]);
        }

        return encoded;
    }

    private static void CheckVocabulary(LanguageModel model, TokenizedRequest[] requests)
    {
        foreach (var id in requests.SelectMany(r => r.Context.Concat(r.Continuation)))
        {
            if (id >= model.VocabularySize)
            {
                throw new ArgumentException(
                    $"Expected token ids below the model's vocabulary size {model.VocabularySize}, got {id}: "
                    + "the tokenizer is another model's.");
            }
        }
    }

    /// <summary>Tokens to score, and the requests that ask for it.</summary>
    private sealed record Continuation(int[] Tokens, int[] Requests);

    /// <summary>A context with its different continuations.</summary>
    private sealed record ContextGroup(int[] Context, Continuation[] Continuations)
    {
        public bool SavesEnough => (Continuations.Length - 1L) * Context.Length >= Continuations.Sum(c => (long)c.Tokens.Length);

        /// <summary>The context with each continuation but its last token.</summary>
        public IEnumerable<Row> Rows => Continuations.Select(c =>
            new Row([.. Context, .. c.Tokens.AsSpan(0, c.Tokens.Length - 1)], [new(c, 0, c.Tokens.Length, Context.Length - 1)]));

        /// <summary>The context alone, which predicts the first token of each continuation.</summary>
        public Row SharedRow => new(Context, [.. Continuations.Select(c => new Prediction(c, 0, 1, Context.Length - 1))]);
    }

    /// <summary>Tokens that are read in one go, and what they predict.</summary>
    private sealed class Row(int[] tokens, Prediction[] predictions)
    {
        public int[] Tokens => tokens;

        public Prediction[] Predictions => predictions;
    }

    /// <summary>Tokens of a continuation, from the one of that index up to another, predicted at as many positions of a row.</summary>
    private readonly record struct Prediction(Continuation Continuation, int From, int To, int Position);

    /// <summary>Sums by request.</summary>
    private sealed class Tally(TokenizedRequest[] requests, long totalTokens, IProgress<ScoringProgress>? progress)
    {
        private readonly int[] _left = [.. requests.Select(r => r.Continuation.Length)];
        private long _tokens;
        private int _done;

        public ContinuationScore[] Scores { get; } =
            [.. requests.Select(r => new ContinuationScore(0, r.Continuation.Length, IsGreedy: true, r.TokensCut))];

        public void Add(Continuation continuation, double logProbability, bool isGreedy)
        {
            foreach (var request in continuation.Requests)
            {
                var score = Scores[request];
                Scores[request] =
                    score with { LogLikelihood = score.LogLikelihood + logProbability, IsGreedy = score.IsGreedy && isGreedy };
                if (--_left[request] == 0)
                {
                    _done++;
                }
            }
        }

        public void Report(Row[] rows)
        {
            _tokens += rows.Sum(r => (long)r.Tokens.Length);
            progress?.Report(new(_done, Scores.Length, _tokens, totalTokens));
        }
    }

    private sealed class TokenComparer : IEqualityComparer<int[]>
    {
        public static readonly TokenComparer Instance = new();

        public bool Equals(int[]? x, int[]? y) => x.AsSpan().SequenceEqual(y);

        public int GetHashCode(int[] obj)
        {
            var hash = new HashCode();
            hash.AddBytes(MemoryMarshal.AsBytes(obj.AsSpan()));
            return hash.ToHashCode();
        }
    }
}
