using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>A formal-language task of symbols, [ACT], and as many symbols that are made of them.</summary>
public abstract record SymbolTask : FormalTask
{
    private const int Act = 1;
    private const int FirstSymbol = 2;

    /// <summary>The number of symbols.</summary>
    [JsonIgnore]
    public abstract int Symbols { get; }

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstSymbol + Symbols;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / Symbols;

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

    private protected sealed override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var count = (row.Length - 1) / 2;
        Draw(ref random, row[..count], FirstSymbol, Symbols);
        row[count] = Act;
        Answer(row[..count], row.Slice(count + 1, count));
        return (count + 1, count);
    }

    /// <summary>Makes the answer.</summary>
    private protected abstract void Answer(ReadOnlySpan<int> symbols, Span<int> answer);
}
