using System.Numerics;

namespace XlstmLab.Tests.Tasks;

/// <summary>Evaluates arithmetic by the shunting-yard algorithm, in whole numbers of any size.</summary>
internal static class ExpressionSolver
{
    public static int Modulo(IEnumerable<string> tokens, int modulus)
    {
        var rest = (int)(Evaluate(tokens) % modulus);
        return rest < 0 ? rest + modulus : rest;
    }

    private static BigInteger Evaluate(IEnumerable<string> tokens)
    {
        var values = new Stack<BigInteger>();
        var operators = new Stack<string>();
        var before = "(";
        foreach (var token in tokens)
        {
            switch (token)
            {
                case "(":
                    operators.Push(token);
                    break;
                case ")":
                    while (operators.Peek() != "(")
                    {
                        Apply(values, operators.Pop());
                    }

                    operators.Pop();
                    break;
                case "+" or "-" or "*":
                    var unary = token == "-" && before is "(" or "+" or "-" or "*";
                    var symbol = unary ? "neg" : token;
                    while (!unary && operators.Count > 0 && Rank(operators.Peek()) >= Rank(symbol))
                    {
                        Apply(values, operators.Pop());
                    }

                    operators.Push(symbol);
                    break;
                default:
                    values.Push(BigInteger.Parse(token, System.Globalization.CultureInfo.InvariantCulture));
                    break;
            }

            before = token;
        }

        while (operators.Count > 0)
        {
            Apply(values, operators.Pop());
        }

        return values.Single();
    }

    private static int Rank(string symbol) => symbol switch { "(" => 0, "+" or "-" => 1, "*" => 2, _ => 3 };

    private static void Apply(Stack<BigInteger> values, string symbol)
    {
        var right = values.Pop();
        values.Push(symbol switch
        {
            "neg" => -right,
            "+" => values.Pop() + right,
            "-" => values.Pop() - right,
            _ => values.Pop() * right,
        });
    }
}
