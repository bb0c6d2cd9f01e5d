using System.Text.Json.Serialization;
using XlstmLab.Models;
using XlstmLab.Text;

namespace XlstmLab.Evaluation;

/// <summary>How far beyond its training a model is measured.</summary>
public sealed record ExtrapolationOptions
{
    /// <summary>The number of tokens of the model's training contexts, T.</summary>
    public required int TrainedLength { get; init; }

    /// <summary>The number of positions that are measured: each document is read that far from its start.</summary>
    public required int Longest { get; init; }

    /// <summary>
    /// The first position of each range, rising from 0 to below <see cref="Longest"/>; null is 0, T/8, T/4, T/2, T, 2T, 4T, ... An edge at
    /// T tells trained from untrained positions and is always there.
    /// </summary>
    public IReadOnlyList<int>? Edges { get; init; }

    /// <summary>The number of tokens that are read at a time. It does not change results.</summary>
    public int ChunkLength { get; init; } = 512;

    /// <summary>The number of documents that are read side by side, B. It does not change results.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>The edges in force.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public IReadOnlyList<int> Ranges()
    {
        if (TrainedLength < 1 || Longest < 1)
        {
            throw new ArgumentException(
                $"Expected {nameof(TrainedLength)} and {nameof(Longest)} of at least 1 token, got {TrainedLength} and {Longest}.");
        }

        var edges = Edges ?? [0, .. Doublings()];
        var rising = edges.Count > 0 && edges[0] == 0 && edges.Zip(edges.Skip(1)).All(p => p.First < p.Second);
        return rising && (Edges is null || edges[^1] < Longest)
            ? [.. edges.Append(TrainedLength).Where(e => e < Longest).Distinct().Order()]
            : throw new ArgumentException(
                $"Expected {nameof(Edges)} that rise from 0 to below {nameof(Longest)} = {Longest}, got {string.Join(", ", edges)}.");
    }

    private IEnumerable<int> Doublings()
    {
        for (var part = 8; part > 1; part /= 2)
        {
            if (TrainedLength >= part)
            {
                yield return TrainedLength / part;
            }
        }

        for (long edge = TrainedLength; edge < Longest; edge *= 2)
        {
            yield return (int)edge;
        }
    }
}

/// <summary>The predictions at a range of positions.</summary>
/// <param name="Start">The first position: the number of tokens read before the one that is read last.</param>
/// <param name="End">The position after the last.</param>
/// <param name="Tokens">The number of predictions.</param>
/// <param name="Loss">Nats per token.</param>
/// <param name="BeyondTraining">Whether training never reached these positions.</param>
public sealed record ExtrapolationRange(int Start, int End, long Tokens, double Loss, bool BeyondTraining)
{
    /// <summary>exp(loss).</summary>
    public double Perplexity => Math.Exp(Loss);

    /// <summary>Where the range is drawn, (start + end) / 2 in tokens.</summary>
    [JsonIgnore]
    public double Center => ((long)Start + End) / 2.0;
}

/// <summary>What a model makes of positions within and beyond its training contexts.</summary>
/// <param name="TrainedLength">The number of tokens of the training contexts.</param>
/// <param name="Longest">The number of positions.</param>
/// <param name="Documents">The number of documents that reach so far; all ranges are of the same documents.</param>
/// <param name="Ranges">The ranges in order.</param>
public sealed record ExtrapolationResult(int TrainedLength, int Longest, int Documents, IReadOnlyList<ExtrapolationRange> Ranges)
{
    /// <summary>Nats per token at trained positions; NaN if there are none.</summary>
    public double TrainedLoss => Loss(beyond: false);

    /// <summary>Nats per token at positions beyond; NaN if there are none.</summary>
    public double BeyondLoss => Loss(beyond: true);

    private double Loss(bool beyond)
    {
        var ranges = Ranges.Where(r => r.BeyondTraining == beyond).ToArray();
        return ranges.Sum(r => r.Loss * r.Tokens) / ranges.Sum(r => r.Tokens);
    }
}

/// <summary>The loss by position beyond the training length (Beck et al. 2024, arXiv 2405.04517, "length extrapolation").</summary>
/// <remarks>
/// Every range is of the same documents, those that are long enough: otherwise later positions would be of other texts, and a change of the
/// loss a change of text. The state is carried from a document's start.
/// </remarks>
public static class LengthExtrapolation
{
    /// <summary>Reads the documents that are long enough as far as asked for.</summary>
    /// <param name="model">The model; it is put into evaluation mode, and back.</param>
    /// <param name="documents">Token ids, each document opened by the end of document.</param>
    /// <param name="tokenizer">Knows the end of document.</param>
    /// <param name="options">How far.</param>
    /// <param name="progress">Told after each batch.</param>
    /// <param name="cancellationToken">Stops between batches.</param>
    /// <exception cref="ArgumentException">Options make no sense, or no document is long enough.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static ExtrapolationResult Measure(
        LanguageModel model, IReadOnlyList<int[]> documents, ITokenizer tokenizer, ExtrapolationOptions options,
        IProgress<EvaluationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        var edges = options.Ranges();

        // One token more than there are positions: what follows the last one would be an end of document that the text does not have.
        var cut = documents.Where(d => d.Length > options.Longest).Select(d => d[..(options.Longest + 1)]).ToArray();
        if (cut.Length == 0)
        {
            var longest = documents.Count == 0 ? 0 : documents.Max(d => d.Length) - 1;
            throw new ArgumentException(
                $"None of the {documents.Count} documents reaches {options.Longest} positions; the longest has {longest}: "
                + "ask for fewer, or give longer texts.",
                nameof(documents));
        }

        var measured = PerplexityEvaluator.Evaluate(
            model,
            cut,
            tokenizer,
            new()
            {
                Policy = ContextPolicy.Carried,
                ContextLength = options.ChunkLength,
                BatchSize = options.BatchSize,
                BucketEdges = [.. edges.Select(e => (long)e), options.Longest],
            },
            progress,
            cancellationToken);
        var ranges = measured.Buckets.Where(b => b.End is not null)
            .Select(b => new ExtrapolationRange((int)b.Start, (int)b.End!, b.Tokens, b.Loss, b.Start >= options.TrainedLength));
        return new(options.TrainedLength, options.Longest, cut.Length, [.. ranges]);
    }
}
