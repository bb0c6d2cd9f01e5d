using System.Collections.Concurrent;
using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>
/// Multi-query associative recall (Arora et al. 2023, "Zoology: measuring and improving recall in efficient language models").
/// </summary>
/// <remarks>
/// A row begins with KV pairs of a key and a value, all different. In the rest each key comes once more, and the model is to predict its
/// value there. The keys are placed by a power law: the g-th of the even places behind the pairs is drawn with a weight of g^(a - 1),
/// so that most are near. The other places hold [PAD] or, as published, random tokens of the whole vocabulary. Token 0 is [PAD], the keys
/// are 1 to V/2 - 1, and the values V/2 to V - 1. The first xLSTM paper (appendix D) has 100,000 training rows, 3,000 to validate, 64
/// epochs.
/// </remarks>
public sealed record MultiQueryRecall : SyntheticTask
{
    private static readonly ConcurrentDictionary<(int Count, double Exponent), long[]> PlaceSums = new();

    /// <summary>The number of tokens of a row, CL, even.</summary>
    public int ContextLength { get; init; } = 64;

    /// <summary>The number of pairs, KV.</summary>
    public int PairCount { get; init; } = 4;

    /// <summary>The number of tokens ids, V, even.</summary>
    public int TokenCount { get; init; } = 8192;

    /// <summary>The parameter a of the power law; 1 places the keys evenly.</summary>
    public double PowerLaw { get; init; } = 0.01;

    /// <summary>Whether the places without a key hold random tokens.</summary>
    public bool RandomFiller { get; init; } = true;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => string.Create(CultureInfo.InvariantCulture, $"mqar-{ContextLength}-{PairCount}");

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => TokenCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 2.0 / TokenCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TrainingLengths => new(ContextLength);

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TestLengths => new(ContextLength);

    /// <inheritdoc/>
    public override void Validate(LengthRange lengths)
    {
        if (PairCount < 1 || TokenCount % 2 != 0 || TokenCount / 2 - 1 < PairCount || !(PowerLaw > 0))
        {
            throw new ArgumentException(
                $"Recall needs at least one pair, an even number of tokens with more than {PairCount} keys among them, and a power law "
                + FormattableString.Invariant($"above 0; asked for were {PairCount} pairs of {TokenCount} tokens with {PowerLaw}."));
        }

        RequireAtLeast(4 * PairCount, lengths);
        if (lengths.Minimum % 2 != 0 || lengths.Maximum % 2 != 0)
        {
            throw new ArgumentException($"{Name} has rows of even lengths, asked for were {lengths}.", nameof(lengths));
        }
    }

    /// <inheritdoc/>
    public override string Text(int token) => token == 0 ? "[PAD]"
        : string.Create(CultureInfo.InvariantCulture, $"{(token < TokenCount / 2 ? "k" : "v")}{token}");

    /// <inheritdoc/>
    internal override void Fill(ref SplitMix64 random, LengthRange lengths, Span<int> inputs, Span<int> targets)
    {
        var length = lengths.Minimum + 2 * random.Next((lengths.Maximum - lengths.Minimum) / 2 + 1);
        var pairs = 2 * PairCount;
        Span<int> keys = PairCount <= 256 ? stackalloc int[PairCount] : new int[PairCount];
        Span<int> values = PairCount <= 256 ? stackalloc int[PairCount] : new int[PairCount];
        DrawDistinct(ref random, keys, 1, TokenCount / 2 - 1);
        DrawDistinct(ref random, values, TokenCount / 2, TokenCount / 2);
        for (var k = 0; k < PairCount; k++)
        {
            inputs[2 * k] = keys[k];
            inputs[2 * k + 1] = values[k];
        }

        var sums = PlaceSums.GetOrAdd(((length - pairs) / 2, PowerLaw), static place => Sums(place.Count, place.Exponent));
        for (var k = 0; k < PairCount; k++)
        {
            int at;
            do
            {
                // Where a key is already, another place is drawn: that is drawing without replacement.
                var drawn = (long)Math.BigMul(random.Next(), (ulong)sums[^1], out _);
                var found = Array.BinarySearch(sums, drawn + 1);
                at = pairs + 2 * (found >= 0 ? found : ~found);
            }
            while (inputs[at] != Padding);
            inputs[at] = keys[k];
            targets[at] = values[k];
        }

        if (RandomFiller)
        {
            for (var k = pairs; k < length; k++)
            {
                inputs[k] = inputs[k] == Padding ? random.Next(TokenCount) : inputs[k];
            }
        }
    }

    private static void DrawDistinct(ref SplitMix64 random, Span<int> target, int first, int count)
    {
        for (var k = 0; k < target.Length; k++)
        {
            int value;
            do
            {
                value = first + random.Next(count);
            }
            while (target[..k].Contains(value));
            target[k] = value;
        }
    }

    /// <summary>Running sums of the places' weights, as whole numbers, so that all machines place keys alike.</summary>
    private static long[] Sums(int count, double exponent)
    {
        var sums = new long[count];
        var sum = 0L;
        for (var k = 0; k < count; k++)
        {
            sum += Math.Max(1, (long)Math.Round(Math.Pow(k + 1, exponent - 1) * (1L << 32)));
            sums[k] = sum;
        }

        return sums;
    }
}
