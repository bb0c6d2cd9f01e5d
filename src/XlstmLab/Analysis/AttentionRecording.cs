namespace XlstmLab.Analysis;

/// <summary>How strongly one token reads another in one head.</summary>
/// <param name="Sequence">The row of the batch.</param>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Query">The position of the token that reads.</param>
/// <param name="Key">The position of the token that is read, not after the query.</param>
/// <param name="Weight">The weight of its value in the head's output, without unit; an mLSTM's may be negative.</param>
public sealed record AttentionWeight(int Sequence, int Layer, int Head, int Query, int Key, float Weight);

/// <summary>Where a head reads, mean over all tokens. Negative weights count by their size.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="MeanAge">How many tokens ago what is read was written, in tokens: sum_s |A_ts| (t - s) / sum_s |A_ts|, mean over t.</param>
/// <param name="OwnShare">The share of the weight that a token gives itself, |A_tt| / sum_s |A_ts|, from 0 to 1.</param>
/// <param name="EffectiveTokens">
/// The tokens that a token reads, exp of the entropy of |A_ts| / sum_s |A_ts|: 1 where a single one dominates. What is kept, whether or not
/// it is read, <see cref="GateSummary.EffectiveTokens"/> says, by another measure.
/// </param>
/// <param name="NegativeShare">The share of the weight that is negative, from 0 to 1: what is read with its sign turned.</param>
public sealed record ReadingRange(int Layer, int Head, double MeanAge, double OwnShare, double EffectiveTokens, double NegativeShare);

/// <summary>The matrices by which the heads of a model read its tokens, in managed memory.</summary>
public sealed class AttentionRecording
{
    private readonly bool[] _padding;

    internal AttentionRecording(int sequences, int length, bool[] padding, IReadOnlyList<LayerAttention> layers)
    {
        SequenceCount = sequences;
        Length = length;
        _padding = padding;
        Layers = layers;
    }

    /// <summary>The number of sequences, B.</summary>
    public int SequenceCount { get; }

    /// <summary>The number of tokens of a sequence, S, padding included.</summary>
    public int Length { get; }

    /// <summary>The blocks recorded, in their order.</summary>
    public IReadOnlyList<LayerAttention> Layers { get; }

    /// <summary>The matrices of a block.</summary>
    /// <param name="layer">The index of the block, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">That block was not recorded.</exception>
    public LayerAttention Layer(int layer) =>
        Layers.FirstOrDefault(l => l.Layer == layer) ?? throw new ArgumentOutOfRangeException(
            nameof(layer), layer,
            $"There is no attention of that block. Recorded blocks: {string.Join(", ", Layers.Select(l => l.Layer))}.");

    /// <summary>How a token reads all tokens [S]: 0 after itself and outside of its document.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such block, head, token or sequence.</exception>
    public ReadOnlySpan<float> Row(int layer, int head, int query, int sequence = 0)
    {
        var recorded = Layer(layer);
        Check(head, recorded.HeadCount, nameof(head));
        Check(query, Length, nameof(query));
        Check(sequence, SequenceCount, nameof(sequence));
        return recorded.Weights.AsSpan(((sequence * recorded.HeadCount + head) * Length + query) * Length, Length);
    }

    /// <summary>Whether a position holds no token.</summary>
    public bool IsPadding(int sequence, int token) => _padding[sequence * Length + token];

    /// <summary>All weights that are not 0, in long format; rows of padding are left out.</summary>
    public IEnumerable<AttentionWeight> Rows()
    {
        foreach (var (layer, head, sequence, query) in Queries())
        {
            var weights = Row(layer, head, query, sequence).ToArray();
            for (var key = 0; key <= query; key++)
            {
                if (weights[key] != 0)
                {
                    yield return new(sequence, layer, head, query, key, weights[key]);
                }
            }
        }
    }

    /// <summary>Where each head reads: rows by block and head. Tokens that read nothing are left out; NaN where all do.</summary>
    public IReadOnlyList<ReadingRange> ReadingRanges() =>
        [.. Queries().GroupBy(q => (q.Layer, q.Head)).Select(head =>
        {
            var (count, age, own, tokens, negative) = (0, 0.0, 0.0, 0.0, 0.0);
            foreach (var (layer, _, sequence, query) in head)
            {
                var row = Row(layer, head.Key.Head, query, sequence);
                double sum = 0, ages = 0, below = 0, logs = 0;
                for (var key = 0; key <= query; key++)
                {
                    var weight = Math.Abs((double)row[key]);
                    sum += weight;
                    ages += weight * (query - key);
                    below += row[key] < 0 ? weight : 0;
                    logs += weight > 0 ? weight * Math.Log(weight) : 0;
                }

                if (sum > 0)
                {
                    count++;
                    age += ages / sum;
                    own += Math.Abs(row[query]) / sum;
                    tokens += Math.Exp(Math.Log(sum) - logs / sum);
                    negative += below / sum;
                }
            }

            return new ReadingRange(
                head.Key.Layer,
                head.Key.Head,
                count > 0 ? age / count : double.NaN,
                count > 0 ? own / count : double.NaN,
                count > 0 ? tokens / count : double.NaN,
                count > 0 ? negative / count : double.NaN);
        })];

    private IEnumerable<(int Layer, int Head, int Sequence, int Query)> Queries() =>
        from layer in Layers
        from head in Enumerable.Range(0, layer.HeadCount)
        from sequence in Enumerable.Range(0, SequenceCount)
        from query in Enumerable.Range(0, Length)
        where !IsPadding(sequence, query)
        select (layer.Layer, head, sequence, query);

    private static void Check(int index, int count, string name)
    {
        if (index < 0 || index >= count)
        {
            throw new ArgumentOutOfRangeException(name, index, $"Expected a {name} from 0 to {count - 1}, got {index}.");
        }
    }
}

/// <summary>One block's part of an <see cref="AttentionRecording"/>.</summary>
/// <param name="Layer">The index of the block, from 0.</param>
/// <param name="HeadCount">The number of heads, NH.</param>
/// <param name="Weights">[B, NH, S, S] row by row: how each token (third) reads each token (last).</param>
#pragma warning disable CA1819 // Large, and read by spans.
public sealed record LayerAttention(int Layer, int HeadCount, float[] Weights);
#pragma warning restore CA1819
