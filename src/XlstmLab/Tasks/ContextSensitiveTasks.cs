using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>Bucket sort: the symbols of an ordered alphabet, in order. Context-sensitive; Deletang et al. 2023, appendix A.</summary>
/// <remarks>Tokens: [PAD], [ACT], and the symbols. <c>1 4 8 6 1 [ACT] -> 1 1 4 6 8</c>. Lengths are odd.</remarks>
public sealed record BucketSort : SymbolTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 9;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "bucket-sort";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int Symbols => SymbolCount;

    private protected override void Answer(ReadOnlySpan<int> symbols, Span<int> answer)
    {
        symbols.CopyTo(answer);
        answer.Sort();
    }
}

/// <summary>
/// Odds first: the first, third, fifth, ... symbol, then the second, fourth, ... Context-sensitive; Deletang et al. 2023, appendix A.
/// </summary>
/// <remarks>Tokens: [PAD], [ACT], and the symbols. <c>2 7 3 2 6 9 [ACT] -> 2 3 6 7 2 9</c>. Lengths are odd.</remarks>
public sealed record OddsFirst : SymbolTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 10;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "odds-first";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int Symbols => SymbolCount;

    private protected override void Answer(ReadOnlySpan<int> symbols, Span<int> answer)
    {
        var odds = (symbols.Length + 1) / 2;
        for (var k = 0; k < symbols.Length; k++)
        {
            answer[k % 2 == 0 ? k / 2 : odds + k / 2] = symbols[k];
        }
    }
}

/// <summary>Repetition: the symbols once more. Context-sensitive; duplicate string of Deletang et al. 2023, appendix A.</summary>
/// <remarks>Tokens: [PAD], [ACT], and the symbols. <c>2 4 8 [ACT] -> 2 4 8</c>. Lengths are odd.</remarks>
public sealed record Repetition : SymbolTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 10;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "repetition";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int Symbols => SymbolCount;

    private protected override void Answer(ReadOnlySpan<int> symbols, Span<int> answer) => symbols.CopyTo(answer);
}

/// <summary>
/// Missing duplicate: a string and the same string once more, with a symbol masked in the repetition; the answer is that symbol.
/// Context-sensitive; Deletang et al. 2023, appendix A.
/// </summary>
/// <remarks>Tokens: [PAD], [MIS], and the symbols. <c>4 8 6 4 [MIS] 6 -> 8</c>. Lengths are odd.</remarks>
public sealed record MissingDuplicate : FormalTask
{
    private const int Missing = 1;
    private const int FirstSymbol = 2;

    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 9;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "missing-duplicate";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstSymbol + SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 3;

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        0 => "[PAD]",
        Missing => "[MIS]",
        _ => (token - FirstSymbol).ToString(CultureInfo.InvariantCulture),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var count = (row.Length - 1) / 2;
        Draw(ref random, row[..count], FirstSymbol, SymbolCount);
        row[..count].CopyTo(row[count..]);
        var at = count + random.Next(count);
        row[2 * count] = row[at];
        row[at] = Missing;
        return (2 * count, 1);
    }
}

/// <summary>
/// Set: each symbol once, in the order of their first places. The first xLSTM paper's own (appendix D).
/// </summary>
/// <remarks>Tokens: [PAD], [ACT], and the symbols. <c>8 6 6 3 8 5 [ACT] -> 8 6 3 5</c>.</remarks>
public sealed record SetTask : FormalTask
{
    private const int Act = 1;
    private const int FirstSymbol = 2;

    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 126;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "set";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstSymbol + SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 3;

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        0 => "[PAD]",
        Act => "[ACT]",
        _ => (token - FirstSymbol).ToString(CultureInfo.InvariantCulture),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var set = row.Length <= 1024 ? stackalloc int[row.Length] : new int[row.Length];
        var (question, size) = (0, 0);
        while (true)
        {
            var symbol = FirstSymbol + random.Next(SymbolCount);
            var isNew = set[..size].IndexOf(symbol) < 0;
            if (question + size + 1 + (isNew ? 2 : 1) > row.Length)
            {
                break;
            }

            row[question++] = symbol;
            if (isNew)
            {
                set[size++] = symbol;
            }
        }

        row[question++] = Act;
        set[..size].CopyTo(row[question..]);
        return (question, size);
    }
}

/// <summary>
/// Majority: the symbol that occurs most often; of several such, the first of the alphabet. The first xLSTM paper's own (appendix D).
/// </summary>
/// <remarks>Tokens: [PAD] and the symbols from 1. <c>1 7 6 4 1 -> 1</c>.</remarks>
public sealed record Majority : FormalTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 63;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "majority";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => 1 + SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token == 0 ? "[PAD]" : token.ToString(CultureInfo.InvariantCulture);

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        Draw(ref random, row[..^1], 1, SymbolCount);
        row[^1] = MostFrequent(row[..^1], SymbolCount).Symbol;
        return (row.Length - 1, 1);
    }

    /// <summary>The most frequent symbol, the least of several, and how often it occurs.</summary>
    internal static (int Symbol, int Count) MostFrequent(ReadOnlySpan<int> symbols, int symbolCount)
    {
        Span<int> counts = stackalloc int[symbolCount + 1];
        counts.Clear();
        foreach (var symbol in symbols)
        {
            counts[symbol]++;
        }

        var best = 1;
        for (var symbol = 2; symbol <= symbolCount; symbol++)
        {
            best = counts[symbol] > counts[best] ? symbol : best;
        }

        return (best, counts[best]);
    }
}

/// <summary>
/// Majority count: how often the most frequent symbol occurs, as the symbol of that number, or as the last symbol if there is none so high.
/// The first xLSTM paper's own (appendix D).
/// </summary>
/// <remarks>Tokens: [PAD] and the symbols from 1. <c>1 7 6 4 1 -> 2</c>.</remarks>
public sealed record MajorityCount : FormalTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 63;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "majority-count";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => 1 + SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / SymbolCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token == 0 ? "[PAD]" : token.ToString(CultureInfo.InvariantCulture);

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        Draw(ref random, row[..^1], 1, SymbolCount);
        row[^1] = Math.Min(Majority.MostFrequent(row[..^1], SymbolCount).Count, SymbolCount);
        return (row.Length - 1, 1);
    }
}
