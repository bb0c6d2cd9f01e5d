using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>Parity: whether the number of b is even (answer a) or odd (b). Regular; Deletang et al. 2023, appendix A.</summary>
/// <remarks>Tokens: [PAD], a, b. <c>a b b b -> b</c>.</remarks>
public sealed record Parity : FormalTask
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "parity";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => 3;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 0.5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token switch { 0 => "[PAD]", 1 => "a", _ => "b" };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var question = row[..^1];
        var odd = 0;
        for (var k = 0; k < question.Length; k++)
        {
            var bit = random.Next(2);
            question[k] = 1 + bit;
            odd ^= bit;
        }

        row[^1] = 1 + odd;
        return (question.Length, 1);
    }
}

/// <summary>
/// Even pairs: whether the pairs ab and ba are together even in number (answer a) or odd (b), which is whether the first symbol equals the
/// last. Regular; Deletang et al. 2023, appendix A.
/// </summary>
/// <remarks>Tokens: [PAD], a, b. <c>a b b a a -> a</c>.</remarks>
public sealed record EvenPairs : FormalTask
{
    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "even-pairs";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => 3;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 0.5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token switch { 0 => "[PAD]", 1 => "a", _ => "b" };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var question = row[..^1];
        Draw(ref random, question, 1, 2);
        row[^1] = question[0] == question[^1] ? 1 : 2;
        return (question.Length, 1);
    }
}

/// <summary>
/// Cycle navigation: the place on a cycle after steps forward, steps back and rests, from place 0. Regular; Deletang et al. 2023, appendix
/// A.
/// </summary>
/// <remarks>Tokens: [PAD], STAY, +1, -1, and the places. <c>+1 +1 STAY -1 +1 -> P2</c>.</remarks>
public sealed record CycleNavigation : FormalTask
{
    private const int FirstPlace = 4;

    /// <summary>The number of places on the cycle.</summary>
    public int PlaceCount { get; init; } = 5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "cycle-navigation";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstPlace + PlaceCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / PlaceCount;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 2;

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        0 => "[PAD]",
        1 => "STAY",
        2 => "+1",
        3 => "-1",
        _ => string.Create(CultureInfo.InvariantCulture, $"P{token - FirstPlace}"),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var question = row[..^1];
        var place = 0;
        for (var k = 0; k < question.Length; k++)
        {
            var move = random.Next(3);
            question[k] = 1 + move;
            place += move == 2 ? PlaceCount - 1 : move;
        }

        row[^1] = FirstPlace + place % PlaceCount;
        return (question.Length, 1);
    }
}

/// <summary>
/// Modular arithmetic without brackets: the value of a chain of numbers with +, - and *, where * binds first, modulo
/// <see cref="Modulus"/>. Regular; Deletang et al. 2023, appendix A.
/// </summary>
/// <remarks>Tokens: [PAD], +, -, *, =, and the numbers. <c>2 + 4 * 3 = -> 4</c> modulo 5. Lengths are odd.</remarks>
public sealed record ModularArithmetic : FormalTask
{
    private const int Plus = 1;
    private const int Minus = 2;
    private const int Times = 3;
    private const int EqualSign = 4;
    private const int FirstNumber = 5;

    /// <summary>The modulus: numbers go from 0 to it, without it.</summary>
    public int Modulus { get; init; } = 5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "modular-arithmetic";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstNumber + Modulus;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / Modulus;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 3;

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        0 => "[PAD]",
        Plus => "+",
        Minus => "-",
        Times => "*",
        EqualSign => "=",
        _ => (token - FirstNumber).ToString(CultureInfo.InvariantCulture),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var terms = (row.Length - 1) / 2;
        var product = random.Next(Modulus);
        row[0] = FirstNumber + product;
        var sum = 0;
        for (var k = 1; k < terms; k++)
        {
            var sign = Plus + random.Next(3);
            var number = random.Next(Modulus);
            row[2 * k - 1] = sign;
            row[2 * k] = FirstNumber + number;
            if (sign == Times)
            {
                product = product * number % Modulus;
            }
            else
            {
                sum += product;
                product = sign == Plus ? number : (Modulus - number) % Modulus;
            }
        }

        row[2 * terms - 1] = EqualSign;
        row[2 * terms] = FirstNumber + (sum + product) % Modulus;
        return (2 * terms, 1);
    }
}
