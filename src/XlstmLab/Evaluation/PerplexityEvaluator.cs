using System.Runtime.InteropServices;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Evaluation;

/// <summary>Measures how well a model predicts documents.</summary>
public static class PerplexityEvaluator
{
    /// <summary>Scores every token of the documents once.</summary>
    /// <remarks>
    /// The model reads the end of document that opens a document and then its text; its targets are the tokens of the text and then the end
    /// of document once more. Windows and documents are read side by side, longest first; the shorter ones are padded. Memory does not grow
    /// with the documents' lengths. The model is put into evaluation mode, and back.
    /// </remarks>
    /// <param name="model">The model.</param>
    /// <param name="documents">
    /// Token ids, each document opened by the end of document; where it stands inside a document, another one starts. Those that
    /// <see cref="TokenizerExtensions.EncodeDocuments"/> and <see cref="TokenFolder.Read"/> give know the bytes of their texts.
    /// </param>
    /// <param name="tokenizer">Knows the end of document and the bytes of each id.</param>
    /// <param name="options">How to measure; null is the default.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="ArgumentException">Options or documents make no sense; the message says why.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static EvaluationResult Evaluate(
        LanguageModel model, IReadOnlyList<int[]> documents, ITokenizer tokenizer, EvaluationOptions? options = null,
        IProgress<EvaluationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var segments = Split(model, documents, tokenizer);
        var tally = new Tally(options, segments.Sum(s => (long)s.Length), progress);
        var device = model.WeightsDevice;
        using (EvaluationMode.Of(model))
        {
            // Neighbours in this order differ least in length.
            if (options.Policy == ContextPolicy.Carried)
            {
                foreach (var rows in segments.OrderByDescending(s => s.Length).Chunk(options.BatchSize))
                {
                    ReadCarried(model, rows, options, device, tokenizer.EndOfDocument, tally, cancellationToken);
                }
            }
            else
            {
                foreach (var rows in segments.SelectMany(s => Windows(s, options)).OrderByDescending(w => w.Length)
                    .Chunk(options.BatchSize))
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    using var scope = NewDisposeScope();
                    using var gradient = no_grad();
                    Score(model, rows, null, false, device, tokenizer.EndOfDocument, tally);
                }
            }
        }

        return tally.ToResult(TokenDocuments.TextBytesOf(documents, tokenizer) ?? 0, segments.Count);
    }

    /// <summary>Documents side by side, a window's length at a time; those that end are left behind.</summary>
    private static void ReadCarried(
        LanguageModel model, Segment[] rows, EvaluationOptions options, Device device, int endOfDocument, Tally tally,
        CancellationToken cancellationToken)
    {
        ModelState? state = null;
        try
        {
            for (var start = 0; start < rows[0].Length; start += options.ContextLength)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var windows = rows.TakeWhile(s => s.Length > start)
                    .Select(s => new Window(s, start, Math.Min(options.ContextLength, s.Length - start), ScoreFrom: 0, ContextStart: 0))
                    .ToArray();
                if (state is not null && windows.Length < state.BatchSize)
                {
                    var all = state;
                    state = all.SelectRows([.. Enumerable.Range(0, windows.Length).Select(r => (long)r)]);
                    all.Dispose();
                }

                using var scope = NewDisposeScope();
                using var gradient = no_grad();
                var goesOn = start + options.ContextLength < rows[0].Length;
                var before = state;
                state = Score(model, windows, before, goesOn, device, endOfDocument, tally);
                before?.Dispose();
            }
        }
        finally
        {
            state?.Dispose();
        }
    }

    /// <summary>Reads windows side by side, the longest first, and counts what they score.</summary>
    private static ModelState? Score(
        LanguageModel model, Window[] rows, ModelState? state, bool returnState, Device device, int endOfDocument, Tally tally)
    {
        var (batch, length) = (rows.Length, rows[0].Length);
        var tokens = new long[batch * length];
        var targets = new long[tokens.Length];
        var padding = new bool[tokens.Length];
        for (var r = 0; r < batch; r++)
        {
            for (var t = 0; t < length; t++)
            {
                var there = t < rows[r].Length;
                tokens[r * length + t] = there ? rows[r].Token(t) : endOfDocument;
                targets[r * length + t] = there ? rows[r].Target(t, endOfDocument) : endOfDocument;
                padding[r * length + t] = !there;
            }
        }

        var layout = padding.Contains(true) ? new SequenceLayout(Padding: tensor(padding, [batch, length], device: device)) : null;
        var (logits, last) = model.Forward(tensor(tokens, [batch, length], device: device), state, layout, returnState);
        var losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), tensor(targets, device: device), reduction: nn.Reduction.None); // (B S)
        var values = MemoryMarshal.Cast<byte, double>(losses.to(ScalarType.Float64).cpu().bytes);
        for (var r = 0; r < batch; r++)
        {
            for (var t = rows[r].ScoreFrom; t < rows[r].Length; t++)
            {
                tally.Add(rows[r], t, values[r * length + t]);
            }
        }

        tally.Report();
        return last;
    }

    /// <summary>The documents, cut where an end of document stands inside one.</summary>
    private static List<Segment> Split(LanguageModel model, IReadOnlyList<int[]> documents, ITokenizer tokenizer)
    {
        var segments = new List<Segment>();
        for (var d = 0; d < documents.Count; d++)
        {
            var tokens = documents[d];
            if (tokens.Length == 0 || tokens[0] != tokenizer.EndOfDocument)
            {
                throw new ArgumentException(
                    $"Document {d} does not begin with the end of document, {tokenizer.EndOfDocument}.", nameof(documents));
            }

            var start = 0;
            for (var t = 0; t < tokens.Length; t++)
            {
                if (tokens[t] < 0 || tokens[t] >= model.VocabularySize)
                {
                    throw new ArgumentException(
                        $"Expected token ids from 0 to {model.VocabularySize - 1}, got {tokens[t]} in document {d}: "
                        + "the tokenizer is another model's.",
                        nameof(documents));
                }

                if (t > 0 && tokens[t] == tokenizer.EndOfDocument)
                {
                    segments.Add(new(tokens, start, t - start));
                    start = t;
                }
            }

            segments.Add(new(tokens, start, tokens.Length - start));
        }

        return segments.Count > 0 ? segments : throw new ArgumentException("Expected at least one document, got none.", nameof(documents));
    }

    private static IEnumerable<Window> Windows(Segment segment, EvaluationOptions options)
    {
        var stride = options.Policy == ContextPolicy.Sliding ? options.Stride : options.ContextLength;
        var scored = 0;
        for (var start = 0; scored < segment.Length; start += stride)
        {
            var end = Math.Min(start + options.ContextLength, segment.Length);
            yield return new(segment, start, end - start, ScoreFrom: scored - start, ContextStart: start);
            scored = end;
        }
    }

    /// <summary>A document: as many predictions as tokens, its opening end of document included.</summary>
    private readonly record struct Segment(int[] Tokens, int Start, int Length);

    /// <summary>Tokens that are read at once.</summary>
    /// <param name="Segment">The document.</param>
    /// <param name="Start">The first token's position in the document.</param>
    /// <param name="Length">The number of tokens.</param>
    /// <param name="ScoreFrom">The first token after which the prediction counts.</param>
    /// <param name="ContextStart">The position in the document where the state was empty.</param>
    private readonly record struct Window(Segment Segment, int Start, int Length, int ScoreFrom, int ContextStart)
    {
        public int Token(int t) => Segment.Tokens[Segment.Start + Start + t];

        public int Target(int t, int endOfDocument) => Start + t + 1 < Segment.Length ? Token(t + 1) : endOfDocument;
    }

    /// <summary>Sums by bucket.</summary>
    private sealed class Tally(EvaluationOptions options, long totalTokens, IProgress<EvaluationProgress>? progress)
    {
        private readonly long[] _edges = [.. options.BucketEdges];
        private readonly long[] _tokens = new long[options.BucketEdges.Count];
        private readonly double[] _nats = new double[options.BucketEdges.Count];

        public void Add(Window window, int t, double nats)
        {
            var position = window.Start + t - (options.PositionOrigin == PositionOrigin.Context ? window.ContextStart : 0L);
            var found = Array.BinarySearch(_edges, position);
            var bucket = found >= 0 ? found : ~found - 1;
            _tokens[bucket]++;
            _nats[bucket] += nats;
        }

        public void Report()
        {
            if (progress is not null)
            {
                var tokens = _tokens.Sum();
                progress.Report(new(tokens, totalTokens, _nats.Sum() / tokens));
            }
        }

        public EvaluationResult ToResult(long bytes, int documents)
        {
            var buckets = Enumerable.Range(0, _edges.Length).Where(k => _tokens[k] > 0)
                .Select(k => new PositionBucket(_edges[k], k + 1 < _edges.Length ? _edges[k + 1] : null, _tokens[k], _nats[k])).ToList();
            return new(_nats.Sum(), _tokens.Sum(), bytes, documents, buckets, options);
        }
    }
}
