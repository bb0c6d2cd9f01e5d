using System.Text.Json.Serialization;

namespace XlstmLab.Evaluation;

/// <summary>The predictions at a range of positions.</summary>
/// <param name="Start">The first position.</param>
/// <param name="End">The position after the last; null in the last bucket.</param>
/// <param name="Tokens">The number of predictions.</param>
/// <param name="Nats">The sum of their negative logarithms of probability.</param>
public sealed record PositionBucket(long Start, long? End, long Tokens, double Nats)
{
    /// <summary>Nats per token.</summary>
    public double Loss => Nats / Tokens;

    /// <summary>exp(loss).</summary>
    public double Perplexity => Math.Exp(Loss);

    /// <summary>Where the bucket is drawn, (start + end) / 2 in tokens; null for one without end.</summary>
    [JsonIgnore]
    public double? Center => (Start + End) / 2.0;
}

/// <summary>What a model makes of documents.</summary>
/// <param name="Nats">The sum of the negative logarithms of probability of all tokens, and of the end of each document.</param>
/// <param name="Tokens">The number of predictions: text tokens and ends of documents.</param>
/// <param name="Bytes">
/// The UTF-8 bytes of the texts the tokens were made of; 0 where nothing tells them, for the tokenizer changes texts and the documents were
/// given as tokens alone.
/// </param>
/// <param name="Documents">The number of documents.</param>
/// <param name="Buckets">The same by position, without empty buckets.</param>
/// <param name="Options">How it was measured.</param>
public sealed record EvaluationResult(
    double Nats, long Tokens, long Bytes, int Documents, IReadOnlyList<PositionBucket> Buckets, EvaluationOptions Options)
{
    /// <summary>Nats per token, ends of documents included.</summary>
    public double Loss => Nats / Tokens;

    /// <summary>exp(loss).</summary>
    public double Perplexity => Math.Exp(Loss);

    /// <summary>
    /// Bits per byte of text; the bits include the cost of the end of each document, the bytes do not count it. NaN where the bytes are not
    /// known.
    /// </summary>
    public double BitsPerByte => Bytes > 0 ? Nats / Math.Log(2) / Bytes : double.NaN;
}

/// <summary>How far an evaluation has come.</summary>
/// <param name="Tokens">Predictions scored.</param>
/// <param name="TotalTokens">All predictions.</param>
/// <param name="Loss">Nats per token so far. Short documents come last, so that it drifts.</param>
public readonly record struct EvaluationProgress(long Tokens, long TotalTokens, double Loss);
