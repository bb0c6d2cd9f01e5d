namespace XlstmLab.Cli.Verification;

/// <summary>How a comparison ended.</summary>
public enum GoldenOutcome
{
    /// <summary>The error is within its bound.</summary>
    Pass,

    /// <summary>The error is beyond its bound, or the case could not be run.</summary>
    Fail,

    /// <summary>The case is of a kind that this version does not know.</summary>
    Unknown,
}

/// <summary>One quantity of one golden case, compared.</summary>
/// <param name="Case">The case's name.</param>
/// <param name="Quantity">What was compared, and in which form it was computed.</param>
/// <param name="Error">The error in the case's own measure; NaN where there is none.</param>
/// <param name="Bound">The largest error that passes.</param>
/// <param name="Outcome">How it ended.</param>
/// <param name="Note">Why, where numbers do not say it.</param>
public sealed record GoldenRow(string Case, string Quantity, double Error, double Bound, GoldenOutcome Outcome, string? Note = null)
{
    /// <summary>A comparison: an error that is not a number fails.</summary>
    public static GoldenRow Compare(string name, string quantity, double error, double bound) =>
        new(name, quantity, error, bound, error <= bound ? GoldenOutcome.Pass : GoldenOutcome.Fail);

    /// <summary>A case that could not be run at all.</summary>
    public static GoldenRow Broken(string name, string why) => new(name, "case", double.NaN, double.NaN, GoldenOutcome.Fail, why);
}
