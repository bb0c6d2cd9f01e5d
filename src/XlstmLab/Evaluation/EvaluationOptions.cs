namespace XlstmLab.Evaluation;

/// <summary>What a model has read of a document when it predicts a token.</summary>
public enum ContextPolicy
{
    /// <summary>
    /// The document is cut into windows of S tokens, and each is read from the empty state: from 1 to S tokens of context.
    /// </summary>
    Fresh,

    /// <summary>The document is read once from its start, S tokens at a time, with the state carried on: all of it is context.</summary>
    Carried,

    /// <summary>
    /// Windows of S tokens, each read from the empty state, begin every T tokens, and only what no window before has scored is scored: more
    /// than S - T tokens of context but near the start of the document. This is the strided perplexity of Hugging Face transformers.
    /// </summary>
    Sliding,
}

/// <summary>From where positions are counted that choose a prediction's bucket.</summary>
public enum PositionOrigin
{
    /// <summary>From the empty state: the position in the window, or in the document where the state is carried.</summary>
    Context,

    /// <summary>From the start of the document.</summary>
    Document,
}

/// <summary>How a model's perplexity is measured.</summary>
public sealed record EvaluationOptions
{
    /// <summary>What a model has read when it predicts.</summary>
    public ContextPolicy Policy { get; init; }

    /// <summary>The number of tokens of a window, or of what is read at a time where the state is carried, S.</summary>
    public int ContextLength { get; init; } = 512;

    /// <summary>The number of tokens from one sliding window to the next, T, less than S.</summary>
    public int Stride { get; init; } = 256;

    /// <summary>The number of windows or documents that are read side by side, B. It does not change results.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>From where positions are counted.</summary>
    public PositionOrigin PositionOrigin { get; init; }

    /// <summary>
    /// The first position of each bucket, rising from 0: predictions at positions from an edge up to the next are one bucket, the last
    /// bucket has no end. A prediction is at the position of the last token the model has read, the first of a document at 0.
    /// </summary>
    public IReadOnlyList<long> BucketEdges { get; init; } = PowersOfTwo();

    /// <summary>0, 1, 2, 4, 8, ... up to 2^30.</summary>
    public static IReadOnlyList<long> PowersOfTwo() => [0, .. Enumerable.Range(0, 31).Select(k => 1L << k)];

    /// <summary>0, width, 2 width, ...: as many buckets as asked for, the last of which has no end.</summary>
    /// <param name="width">The number of positions of a bucket.</param>
    /// <param name="count">The number of buckets.</param>
    public static IReadOnlyList<long> FixedWidth(int width, int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        return [.. Enumerable.Range(0, count).Select(k => (long)k * width)];
    }

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        Require(Enum.IsDefined(Policy), $"Expected {nameof(Policy)} to be Fresh, Carried or Sliding, got {Policy}.");
        Require(ContextLength >= 1, $"Expected {nameof(ContextLength)} of at least 1 token, got {ContextLength}.");
        Require(
            Policy != ContextPolicy.Sliding || (Stride >= 1 && Stride < ContextLength),
            $"Expected {nameof(Stride)} from 1 to {nameof(ContextLength)} - 1 = {ContextLength - 1}, got {Stride}.");
        Require(BatchSize >= 1, $"Expected {nameof(BatchSize)} of at least 1, got {BatchSize}.");
        Require(Enum.IsDefined(PositionOrigin), $"Expected {nameof(PositionOrigin)} to be Context or Document, got {PositionOrigin}.");
        Require(
            BucketEdges is { Count: > 0 } && BucketEdges[0] == 0 && BucketEdges.Zip(BucketEdges.Skip(1)).All(p => p.First < p.Second),
            $"Expected {nameof(BucketEdges)} that begin with 0 and rise, got {string.Join(", ", BucketEdges ?? [])}.");
    }

    private static void Require(bool holds, string message)
    {
        if (!holds)
        {
            throw new ArgumentException(message);
        }
    }
}
