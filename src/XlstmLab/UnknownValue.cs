namespace XlstmLab;

/// <summary>What a switch over an enum does with a value that it does not know: an axis must never fall to a default in silence.</summary>
public static class UnknownValue
{
    /// <summary>The exception to throw for a value of an enum that there is no case for.</summary>
    /// <param name="value">The value.</param>
    public static ArgumentOutOfRangeException Of<T>(T value)
        where T : struct, Enum =>
        new(typeof(T).Name, value, $"There is no {typeof(T).Name} {value}; expected one of {string.Join(", ", Enum.GetNames<T>())}.");

    /// <summary>The value, if its enum has it: for where an if, and no switch, tells values apart.</summary>
    /// <param name="value">The value.</param>
    /// <exception cref="ArgumentOutOfRangeException">The enum has no such value; the message lists those that it has.</exception>
    public static T Known<T>(this T value)
        where T : struct, Enum =>
        Enum.IsDefined(value) ? value : throw Of(value);

    /// <summary>What a configuration says of a value that its enum does not have.</summary>
    /// <param name="name">The property's name.</param>
    /// <param name="value">The value.</param>
    internal static string Fault<T>(string name, T value)
        where T : struct, Enum => $"{name} is {value}; expected one of {string.Join(", ", Enum.GetNames<T>())}";
}
