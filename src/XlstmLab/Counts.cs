using System.Numerics;

namespace XlstmLab;

/// <summary>Numbers of parameters and bytes, whose products may exceed every fixed type on the way.</summary>
internal static class Counts
{
    /// <summary>A number of parameters as a long.</summary>
    /// <exception cref="ConfigException">It is none.</exception>
    public static long Parameters(BigInteger count) => Long(count, "parameters");

    /// <summary>A number of bytes as a long.</summary>
    /// <exception cref="ConfigException">It is none.</exception>
    public static long Bytes(BigInteger count) => Long(count, "bytes of state");

    /// <summary>A width that a product gives, or the largest int where it is none.</summary>
    public static int Width(double width) => (int)Math.Min(width, int.MaxValue);

    /// <summary>A width from <see cref="Width"/>.</summary>
    /// <exception cref="ConfigException">It was none.</exception>
    public static BigInteger Fitting(int width, string name) =>
        width < int.MaxValue ? width : throw new ConfigException($"{name} makes a width beyond 2^31 - 2; expected smaller values.");

    private static long Long(BigInteger count, string what) => count <= long.MaxValue
        ? (long)count
        : throw new ConfigException(FormattableString.Invariant($"The configuration needs {count:N0} {what}; expected fewer than 2^63."));
}
