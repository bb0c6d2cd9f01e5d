using System.Globalization;

namespace XlstmLab;

/// <summary>Amounts as people read them.</summary>
internal static class Readable
{
    /// <summary>Seconds as 4.2 s, 3:05 or 2:04:10.</summary>
    public static string Duration(double seconds) =>
        !double.IsFinite(seconds) ? "?"
        : seconds < 60 ? string.Create(CultureInfo.InvariantCulture, $"{seconds:0.0} s")
        : seconds < 3600 ? string.Create(CultureInfo.InvariantCulture, $"{(int)seconds / 60}:{(int)seconds % 60:00}")
        : string.Create(CultureInfo.InvariantCulture, $"{(long)seconds / 3600}:{(long)seconds / 60 % 60:00}:{(long)seconds % 60:00}");

    /// <summary>Bytes as 3.4 GiB.</summary>
    public static string Size(double bytes)
    {
        string[] units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        var unit = bytes < 1 ? 0 : (int)Math.Min(units.Length - 1, Math.Log(bytes, 1024));
        return string.Create(CultureInfo.InvariantCulture, $"{bytes / Math.Pow(1024, unit):0.#} {units[unit]}");
    }
}
