using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;

namespace XlstmLab.Cli;

/// <summary>The numbers that a real option takes.</summary>
/// <param name="Words">They, in words.</param>
/// <param name="Holds">Whether a finite number is one of them.</param>
internal sealed record NumberRange(string Words, Func<double, bool> Holds)
{
    /// <summary>Above 0.</summary>
    public static NumberRange Positive { get; } = new("a number above 0 such as 0.001", x => x > 0);

    /// <summary>Seconds that a timer takes: above 0, and at most some 46 days.</summary>
    public static NumberRange Seconds { get; } = new("a number of seconds above 0, and at most 4000000", x => x is > 0 and <= 4e6);

    /// <summary>Minutes of a day at most.</summary>
    public static NumberRange Minutes { get; } = new("a number of minutes above 0, and at most 1440", x => x is > 0 and <= 1440);

    /// <summary>Any.</summary>
    public static NumberRange Any { get; } = new("a number such as -0.5", _ => true);

    /// <summary>0 or above.</summary>
    public static NumberRange NotNegative { get; } = new("a number of at least 0 such as 0.5", x => x >= 0);

    /// <summary>From 0 to 1.</summary>
    public static NumberRange Share { get; } = new("a number from 0 to 1 such as 0.05", x => x is >= 0 and <= 1);

    /// <summary>From 0 to below 1.</summary>
    public static NumberRange BelowOne { get; } = new("a number from 0 to below 1 such as 0.9", x => x is >= 0 and < 1);

    /// <summary>Above 0, and at most 1.</summary>
    public static NumberRange PositiveShare { get; } = new("a number above 0 and at most 1 such as 0.9", x => x is > 0 and <= 1);
}

/// <summary>
/// Numbers on a command line: with a point, without separators, whatever the user's culture; nothing stands before or behind them.
/// </summary>
internal static class NumberOption
{
    /// <summary>The seeds of <c>--seeds</c>: whole numbers with commas between them, each once.</summary>
    /// <exception cref="UsageException">It is something else.</exception>
    public static int[] SeedList(string list)
    {
        int[] seeds =
        [
            .. list.Split(',').Select(text => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var seed)
                ? seed
                : throw new UsageException($"--seeds takes whole numbers, separated by commas, not '{text}'.")),
        ];
        return seeds.GroupBy(seed => seed).FirstOrDefault(same => same.Count() > 1) is { } twice
            ? throw new UsageException(FormattableString.Invariant($"--seeds names {twice.Key} more than once."))
            : seeds;
    }

    private const NumberStyles RealStyle = NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent;

    /// <summary>Has an option take whole numbers.</summary>
    /// <param name="option">The option.</param>
    /// <param name="least">The least number it takes; null for any.</param>
    public static Option<T?> Whole<T>(Option<T?> option, int? least = null)
        where T : struct, IBinaryInteger<T>, IMinMaxValue<T>
    {
        option.CustomParser = result => ReadWhole<T>(result, option.Name, least);
        return option;
    }

    /// <inheritdoc cref="Whole{T}(Option{T?}, int?)"/>
    public static Option<T> Whole<T>(Option<T> option, int? least = null)
        where T : struct, IBinaryInteger<T>, IMinMaxValue<T>
    {
        option.CustomParser = result => ReadWhole<T>(result, option.Name, least) ?? default;
        return option;
    }

    /// <summary>Has an option take finite numbers of a range.</summary>
    public static Option<double?> Real(Option<double?> option, NumberRange range)
    {
        option.CustomParser = result => ReadReal(result, option.Name, range);
        return option;
    }

    /// <inheritdoc cref="Real(Option{double?}, NumberRange)"/>
    public static Option<double> Real(Option<double> option, NumberRange range)
    {
        option.CustomParser = result => ReadReal(result, option.Name, range) ?? default;
        return option;
    }

    private static T? ReadWhole<T>(ArgumentResult result, string name, int? least)
        where T : struct, IBinaryInteger<T>, IMinMaxValue<T>
    {
        var text = result.Tokens[^1].Value;
        if (Whole<T>(text) is { } number)
        {
            if (least is not { } bound || number >= T.CreateChecked(bound))
            {
                return number;
            }

            result.AddError(string.Create(CultureInfo.InvariantCulture, $"{name} must be at least {bound}, got {number}."));
            return null;
        }

        var from = least is { } first ? T.CreateChecked(first) : T.MinValue;
        Refuse(
            result, name, text, string.Create(
                CultureInfo.InvariantCulture, $"a whole number from {from} to {T.MaxValue}, without separators"),
            text.Replace(",", "", StringComparison.Ordinal), t => Whole<T>(t) >= from);
        return null;
    }

    private static double? ReadReal(ArgumentResult result, string name, NumberRange range)
    {
        var text = result.Tokens[^1].Value;
        if (Finite(text) is { } number && range.Holds(number))
        {
            return number;
        }

        var comma = text.Count(c => c == ',') == 1 && !text.Contains('.', StringComparison.Ordinal);
        Refuse(
            result, name, text, range.Words + (text.Contains(',', StringComparison.Ordinal) ? ", with a point and without separators" : ""),
            comma ? text.Replace(',', '.') : text.Replace(",", "", StringComparison.Ordinal),
            t => Finite(t) is { } meant && range.Holds(meant));
        return null;
    }

    private static double? Finite(string text) =>
        double.TryParse(text, RealStyle, CultureInfo.InvariantCulture, out var number) && double.IsFinite(number) ? number : null;

    private static T? Whole<T>(string text)
        where T : struct, IBinaryInteger<T> =>
        T.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) ? number : null;

    private static void Refuse(ArgumentResult result, string name, string text, string expected, string guess, Func<string, bool> fits) =>
        result.AddError($"{name}: expected {expected}, got '{text}'.{(guess != text && fits(guess) ? $" Did you mean {guess}?" : "")}");
}

/// <summary>Options that take one of some words.</summary>
internal static class Words
{
    /// <summary>Has an option take these words only.</summary>
    public static Option<T> OneOf<T>(this Option<T> option, params string[] words)
    {
        option.CompletionSources.Add(words);
        option.Validators.Add(result => Check(result, option.Name, words));
        return option;
    }

    /// <summary>Has an argument take these words only.</summary>
    public static Argument<T> OneOf<T>(this Argument<T> argument, params string[] words)
    {
        argument.CompletionSources.Add(words);
        argument.Validators.Add(result => Check(result, argument.Name, words));
        return argument;
    }

    private static void Check(SymbolResult result, string name, string[] words)
    {
        foreach (var token in result.Tokens.Where(t => !words.Contains(t.Value)))
        {
            result.AddError(
                $"{name}: expected {string.Join(", ", words[..^1])}{(words.Length > 1 ? " or " : "")}{words[^1]}, "
                + $"got '{token.Value}'.{NearestName.Hint(token.Value, words)}");
        }
    }
}
