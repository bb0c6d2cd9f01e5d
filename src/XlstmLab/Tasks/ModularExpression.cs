using XlstmLab.Text;

namespace XlstmLab.Tasks;

/// <summary>Fully bracketed expressions modulo a number: what two tasks have in common.</summary>
/// <remarks>
/// The grammar and how it is drawn are those of Deletang et al. 2023 (appendix A): up to four tokens are n, -n, (n) and (-n); more are two
/// expressions in brackets with an operator between them, the lengths of both drawn evenly.
/// </remarks>
internal static class ModularExpression
{
    public const int Plus = 1;
    public const int Minus = 2;
    public const int Times = 3;
    public const int EqualSign = 4;
    public const int Open = 5;
    public const int Close = 6;

    public static string Text(int token) => token switch
    {
        0 => "[PAD]",
        Plus => "+",
        Minus => "-",
        Times => "*",
        EqualSign => "=",
        Open => "(",
        _ => ")",
    };

    /// <summary>Fills a span with an expression.</summary>
    public static void Write(ref SplitMix64 random, Span<int> target, int firstNumber, int modulus)
    {
        var length = target.Length;
        if (length >= 5)
        {
            var left = 1 + random.Next(length - 4);
            target[0] = Open;
            Write(ref random, target.Slice(1, left), firstNumber, modulus);
            target[1 + left] = Plus + random.Next(3);
            Write(ref random, target[(2 + left)..^1], firstNumber, modulus);
            target[^1] = Close;
            return;
        }

        if (length >= 3)
        {
            (target[0], target[^1]) = (Open, Close);
            target = target[1..^1];
        }

        target[0] = Minus;
        target[^1] = firstNumber + random.Next(modulus);
    }

    /// <summary>The value of an expression, with a value for the unknown.</summary>
    public static int Evaluate(ReadOnlySpan<int> tokens, int firstNumber, int modulus, int unknown = -1, int unknownValue = 0)
    {
        var at = 0;
        return Term(tokens, ref at);

        int Term(ReadOnlySpan<int> tokens, ref int at)
        {
            var token = tokens[at++];
            if (token == Minus)
            {
                return (modulus - Term(tokens, ref at)) % modulus;
            }

            if (token != Open)
            {
                return token == unknown ? unknownValue : token - firstNumber;
            }

            var value = Term(tokens, ref at);
            var sign = tokens[at++];
            if (sign == Close)
            {
                return value;
            }

            var right = Term(tokens, ref at);
            at++;
            return sign switch
            {
                Plus => value + right,
                Minus => value + modulus - right,
                _ => value * right,
            } % modulus;
        }
    }
}
