using System.Globalization;
using System.Text.Json.Serialization;
using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>
/// Modular arithmetic with brackets: the value of a fully bracketed expression with +, - and *, modulo <see cref="Modulus"/>. Deterministic
/// context-free; Deletang et al. 2023, appendix A, with the first xLSTM paper's third operator.
/// </summary>
/// <remarks>Tokens: [PAD], +, -, *, =, (, ), and the numbers. <c>( 2 * ( 4 - 3 ) ) = -> 2</c> modulo 5.</remarks>
public sealed record ModularArithmeticBrackets : FormalTask
{
    private const int FirstNumber = 7;

    /// <summary>The modulus: numbers go from 0 to it, without it.</summary>
    public int Modulus { get; init; } = 5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "modular-arithmetic-brackets";

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
    public override string Text(int token) =>
        token >= FirstNumber ? (token - FirstNumber).ToString(CultureInfo.InvariantCulture) : ModularExpression.Text(token);

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var expression = row[..^2];
        ModularExpression.Write(ref random, expression, FirstNumber, Modulus);
        row[^2] = ModularExpression.EqualSign;
        row[^1] = FirstNumber + ModularExpression.Evaluate(expression, FirstNumber, Modulus);
        return (row.Length - 1, 1);
    }
}

/// <summary>
/// Solve equation: the number that the unknown x of a fully bracketed equation stands for, modulo <see cref="Modulus"/>. Deterministic
/// context-free; Deletang et al. 2023, appendix A, with the first xLSTM paper's third operator.
/// </summary>
/// <remarks>
/// Tokens: [PAD], +, -, *, =, (, ), [ACT], x, and the numbers. <c>( 3 - ( x + 4 ) ) = 0 [ACT] -> 4</c> modulo 5. Multiplication by zero can
/// hide x: an equation with several solutions is drawn anew.
/// </remarks>
public sealed record SolveEquation : FormalTask
{
    private const int Act = 7;
    private const int Unknown = 8;
    private const int FirstNumber = 9;

    /// <summary>The modulus: numbers go from 0 to it, without it.</summary>
    public int Modulus { get; init; } = 5;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "solve-equation";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstNumber + Modulus;

    /// <inheritdoc/>
    [JsonIgnore]
    public override double Chance => 1.0 / Modulus;

    /// <inheritdoc/>
    [JsonIgnore]
    public override int MinimumLength => 5;

    /// <inheritdoc/>
    public override string Text(int token) => token switch
    {
        Act => "[ACT]",
        Unknown => "x",
        >= FirstNumber => (token - FirstNumber).ToString(CultureInfo.InvariantCulture),
        _ => ModularExpression.Text(token),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        var expression = row[..^4];
        int value, solution;
        do
        {
            ModularExpression.Write(ref random, expression, FirstNumber, Modulus);
            value = ModularExpression.Evaluate(expression, FirstNumber, Modulus);

            // The next number from a random place on; behind the last one there are only brackets.
            var at = random.Next(expression.Length);
            while (expression[at] < FirstNumber)
            {
                at = (at + 1) % expression.Length;
            }

            solution = expression[at];
            expression[at] = Unknown;
        }
        while (SolutionCount(expression, value) > 1);
        row[^4] = ModularExpression.EqualSign;
        row[^3] = FirstNumber + value;
        row[^2] = Act;
        row[^1] = solution;
        return (row.Length - 1, 1);
    }

    private int SolutionCount(ReadOnlySpan<int> expression, int value)
    {
        var count = 0;
        for (var x = 0; x < Modulus; x++)
        {
            count += ModularExpression.Evaluate(expression, FirstNumber, Modulus, Unknown, x) == value ? 1 : 0;
        }

        return count;
    }
}

/// <summary>Reverse string: the symbols, last first. Deterministic context-free; Deletang et al. 2023, appendix A.</summary>
/// <remarks>Tokens: [PAD], [ACT], and the symbols. <c>2 4 8 [ACT] -> 8 4 2</c>. Lengths are odd.</remarks>
public sealed record ReverseString : SymbolTask
{
    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 10;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "reverse-string";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int Symbols => SymbolCount;

    private protected override void Answer(ReadOnlySpan<int> symbols, Span<int> answer)
    {
        symbols.CopyTo(answer);
        answer.Reverse();
    }
}

/// <summary>
/// Stack manipulation: a stack from bottom to top, then pushes and pops; the answer is the stack that is left, from bottom to top.
/// Deterministic context-free; Deletang et al. 2023, appendix A.
/// </summary>
/// <remarks>
/// Tokens: [PAD], [ACT], POP, the symbols ST and as many pushes PS. <c>ST1 ST3 POP PS2 [ACT] -> ST1 ST2</c>. At least one symbol is always
/// left: no answer is empty, and no pop is without effect. Lengths are odd.
/// </remarks>
public sealed record StackManipulation : FormalTask
{
    private const int Act = 1;
    private const int Pop = 2;
    private const int FirstSymbol = 3;

    /// <summary>The number of symbols.</summary>
    public int SymbolCount { get; init; } = 4;

    /// <inheritdoc/>
    [JsonIgnore]
    public override string Name => "stack-manipulation";

    /// <inheritdoc/>
    [JsonIgnore]
    public override int VocabularySize => FirstSymbol + 2 * SymbolCount;

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
        Pop => "POP",
        _ => string.Create(
            CultureInfo.InvariantCulture,
            $"{(token < FirstSymbol + SymbolCount ? "ST" : "PS")}{(token - FirstSymbol) % SymbolCount}"),
    };

    private protected override (int Question, int Answer) Write(ref SplitMix64 random, Span<int> row)
    {
        // A symbol stands in the question and in the answer, and so does a push; a pop takes one from the answer for its own place.
        var size = 1 + random.Next((row.Length - 1) / 2);
        var operations = row.Length - 1 - 2 * size;
        var pushes = operations / 2;
        var stack = row.Length <= 1024 ? stackalloc int[row.Length] : new int[row.Length];
        Draw(ref random, stack[..size], FirstSymbol, SymbolCount);
        stack[..size].CopyTo(row);
        var question = size;
        for (var k = 0; k < operations; k++)
        {
            if (size > 1 && random.Next(2) == 0)
            {
                row[question++] = Pop;
                size--;
            }
            else if (pushes > 0)
            {
                var symbol = random.Next(SymbolCount);
                row[question++] = FirstSymbol + SymbolCount + symbol;
                stack[size++] = FirstSymbol + symbol;
                pushes--;
            }
        }

        row[question++] = Act;
        stack[..size].CopyTo(row[question..]);
        return (question, size);
    }
}
