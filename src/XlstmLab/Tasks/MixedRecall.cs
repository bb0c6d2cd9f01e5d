using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>
/// Multi-query associative recall at several sizes at once: trained on 4 pairs in 64 tokens to 64 pairs in 256, tested up to 256 pairs in
/// 1,024 (Arora et al. 2024, "Simple linear attention language models balance the recall-throughput tradeoff", Zoology's later setting).
/// </summary>
/// <remarks>
/// Each row is one of <see cref="MultiQueryRecall"/>. Up to 256 tokens it is of one of the trained sizes whose length the range has, the
/// shortest five times as often as each other; beyond, of a quarter as many pairs as tokens.
/// </remarks>
public sealed record MixedRecall : SyntheticTask
{
    private static readonly (MultiQueryRecall Rows, int Weight)[] Sizes =
        [(Size(64, 4), 5), (Size(128, 8), 1), (Size(256, 16), 1), (Size(256, 32), 1), (Size(256, 64), 1),
            (Size(512, 128), 1), (Size(1024, 256), 1)];

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "mqar-mixed";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => Sizes[0].Rows.VocabularySize;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => Sizes[0].Rows.Chance;

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TrainingLengths => new(64, 256);

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TestLengths => new(64, 1024);

    /// <inheritdoc/>
    public override void Validate(LengthRange lengths)
    {
        if (!Array.Exists(Sizes, size => Has(lengths, size.Rows)))
        {
            throw new ArgumentException(
                $"{Name} has rows of {string.Join(", ", Sizes.Select(s => s.Rows.ContextLength).Distinct())} tokens, "
                + $"asked for were {lengths}.", nameof(lengths));
        }
    }

    /// <inheritdoc/>
    public override string Text(int token) => Sizes[0].Rows.Text(token);

    /// <inheritdoc/>
    internal override void Fill(ref SplitMix64 random, LengthRange lengths, Span<int> inputs, Span<int> targets)
    {
        var sum = 0;
        foreach (var (rows, weight) in Sizes)
        {
            sum += Has(lengths, rows) ? weight : 0;
        }

        var drawn = random.Next(sum);
        foreach (var (rows, weight) in Sizes)
        {
            drawn -= Has(lengths, rows) ? weight : 0;
            if (drawn < 0)
            {
                var length = rows.ContextLength;
                rows.Fill(ref random, new(length), inputs[..length], targets[..length]);
                return;
            }
        }
    }

    private static bool Has(LengthRange lengths, MultiQueryRecall rows) =>
        rows.ContextLength >= lengths.Minimum && rows.ContextLength <= lengths.Maximum;

    private static MultiQueryRecall Size(int length, int pairs) => new() { ContextLength = length, PairCount = pairs };
}
