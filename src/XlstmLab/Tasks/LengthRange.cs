using System.Globalization;

namespace XlstmLab.Tasks;

/// <summary>The lengths that rows of a task are drawn with, evenly.</summary>
/// <param name="Minimum">The least number of tokens, question and answer together.</param>
/// <param name="Maximum">The greatest.</param>
public readonly record struct LengthRange(int Minimum, int Maximum)
{
    /// <summary>One length.</summary>
    public LengthRange(int length)
        : this(length, length)
    {
    }

    /// <summary>Reads <c>3-40</c> or <c>64</c>.</summary>
    /// <exception cref="FormatException">It is neither.</exception>
    public static LengthRange Parse(string text)
    {
        var parts = text.Split('-', 2);
        return int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out var minimum)
            && int.TryParse(parts[^1], NumberStyles.None, CultureInfo.InvariantCulture, out var maximum)
            && minimum >= 1 && maximum >= minimum
            ? new(minimum, maximum)
            : throw new FormatException($"'{text}' is no range of lengths; expected one such as 3-40, or a length such as 64.");
    }

    /// <inheritdoc/>
    public override string ToString() => Minimum == Maximum
        ? Minimum.ToString(CultureInfo.InvariantCulture)
        : string.Create(CultureInfo.InvariantCulture, $"{Minimum}-{Maximum}");
}
