using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>
/// Nested lists of digits with the operators minimum, maximum, median and sum modulo 10 (Nangia and Bowman 2018), at the lengths of the
/// Long Range Arena (Tay et al. 2021): one of ten digits is the answer.
/// </summary>
/// <remarks>
/// Tokens: [PAD], the digits, the operators with their opening bracket, and the closing bracket; round brackets are left out, as in the
/// arena's input. An element of a list is a list with a probability of <see cref="ListShare"/>, and every list has from two to
/// <see cref="MaximumArguments"/> elements; trees outside of the lengths are drawn anew, so that lengths are not even. The median of an
/// even number of elements is rounded down. The answer is due at the last bracket. Row lengths count it too: the arena's 501 to 1,999
/// tokens are rows of 502 to 2,000. It has 96,000 rows to train and 2,000 to test.
/// </remarks>
public sealed record ListOps : SyntheticTask
{
    private const int FirstDigit = 1;
    private const int FirstOperator = 11;
    private const int Close = 15;
    private const int MaximumDraws = 1_000_000;

    /// <summary>The greatest depth of the tree, the outermost list being at depth 1 and digits counting.</summary>
    public int MaximumDepth { get; init; } = 10;

    /// <summary>The greatest number of elements of a list.</summary>
    public int MaximumArguments { get; init; } = 10;

    /// <summary>The probability that an element is a list.</summary>
    public double ListShare { get; init; } = 0.25;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "list-ops";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => Close + 1;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 0.1;

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TrainingLengths => new(502, 2000);

    /// <inheritdoc/>
    [JsonIgnore]
    public override LengthRange TestLengths => new(502, 2000);

    /// <inheritdoc/>
    public override void Validate(LengthRange lengths)
    {
        if (MaximumDepth < 2 || MaximumArguments < 2 || ListShare is not (> 0 and <= 1))
        {
            throw new ArgumentException(
                "ListOps needs a depth of at least 2, at least 2 elements a list and a share of lists above 0 and up to 1; "
                + $"asked for were {Describe()}.");
        }

        RequireAtLeast(2, lengths);
        if (lengths.Maximum < 5)
        {
            throw new ArgumentException(
                $"The shortest list has 4 tokens and an answer, asked for were rows of {lengths}.", nameof(lengths));
        }
    }

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        0 => "[PAD]",
        11 => "[MIN",
        12 => "[MAX",
        13 => "[MED",
        14 => "[SM",
        Close => "]",
        _ => $"{(char)('0' + token - FirstDigit)}",
    };

    /// <inheritdoc/>
    internal override void Fill(ref SplitMix64 random, LengthRange lengths, Span<int> inputs, Span<int> targets)
    {
        for (var draws = 0; draws < MaximumDraws; draws++)
        {
            var at = 0;
            var value = Tree(ref random, 1, inputs[..(lengths.Maximum - 1)], ref at);
            if (value is { } digit && at >= lengths.Minimum - 1)
            {
                inputs[at..].Clear();
                targets[at - 1] = FirstDigit + digit;
                return;
            }
        }

        throw new InvalidOperationException(
            $"None of {MaximumDraws} trees of {Describe()} had {lengths} tokens with the answer: "
            + "ask for other lengths, or for a greater depth or more elements.");
    }

    /// <summary>Draws a tree into the row; its value, or null if it does not fit.</summary>
    private int? Tree(ref SplitMix64 random, int depth, Span<int> row, ref int at)
    {
        if (at == row.Length)
        {
            return null;
        }

        if (depth >= MaximumDepth || random.NextDouble() >= ListShare)
        {
            var digit = random.Next(10);
            row[at++] = FirstDigit + digit;
            return digit;
        }

        var start = at++;
        var count = 2 + random.Next(MaximumArguments - 1);

        // How many elements have which value is all that any operator needs.
        Span<int> counts = stackalloc int[10];
        counts.Clear();
        for (var k = 0; k < count; k++)
        {
            if (Tree(ref random, depth + 1, row, ref at) is not { } value)
            {
                return null;
            }

            counts[value]++;
        }

        if (at == row.Length)
        {
            return null;
        }

        var kind = random.Next(4);
        row[start] = FirstOperator + kind;
        row[at++] = Close;
        return kind switch
        {
            0 => Ranked(counts, 0),
            1 => Ranked(counts, count - 1),
            2 => (Ranked(counts, (count - 1) / 2) + Ranked(counts, count / 2)) / 2,
            _ => Sum(counts) % 10,
        };
    }

    /// <summary>The element of that rank, from 0.</summary>
    private static int Ranked(ReadOnlySpan<int> counts, int rank)
    {
        var value = 0;
        while (rank >= counts[value])
        {
            rank -= counts[value++];
        }

        return value;
    }

    private static int Sum(ReadOnlySpan<int> counts)
    {
        var sum = 0;
        for (var value = 0; value < counts.Length; value++)
        {
            sum += value * counts[value];
        }

        return sum;
    }
}
