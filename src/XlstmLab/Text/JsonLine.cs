using System.Text;
using System.Text.Json;

namespace XlstmLab.Text;

/// <summary>
/// Mends what published JSON lines hold and JSON does not allow: NaN and infinities as numbers, and halves of surrogate pairs.
/// </summary>
internal static class JsonLine
{
    private static readonly string[] NoNumbers = ["-Infinity", "Infinity", "NaN"];

    /// <summary>
    /// Reads a line, mended if need be: NaN and infinities are null, half of a surrogate pair is U+FFFD or another escape.
    /// </summary>
    /// <param name="json">The line.</param>
    /// <param name="half">The six characters that stand in place of each half; by them a caller can tell where halves were.</param>
    /// <exception cref="JsonException">It is no JSON, even so.</exception>
    public static JsonDocument Parse(ReadOnlyMemory<byte> json, string half = "\\ufffd")
    {
        var halves = MayHaveHalves(json);
        try
        {
            return JsonDocument.Parse(halves ? Mend(json.Span, half) : json);
        }
        catch (JsonException) when (!halves)
        {
            return JsonDocument.Parse(Mend(json.Span, half));
        }
    }

    /// <summary>False only if there surely is no half of a surrogate pair.</summary>
    public static bool MayHaveHalves(ReadOnlyMemory<byte> json) => json.Span.IndexOf("\\u"u8) >= 0;

    private static byte[] Mend(ReadOnlySpan<byte> json, string half)
    {
        var mended = new List<byte>(json.Length + 16);
        var inText = false;
        for (var at = 0; at < json.Length;)
        {
            var length = 1;
            if (json[at] == '"')
            {
                inText = !inText;
            }
            else if (inText && json[at] == '\\')
            {
                length = Surrogate(json[at..]) is not { } found ? Math.Min(2, json.Length - at)
                    : char.IsHighSurrogate(found) && Surrogate(json[Math.Min(at + 6, json.Length)..]) is { } other
                    && char.IsLowSurrogate(other) ? 12
                    : 6;
                if (length == 6)
                {
                    mended.AddRange(Encoding.ASCII.GetBytes(half));
                    at += length;
                    continue;
                }
            }
            else if (!inText && NoNumber(json[at..]) is { } word)
            {
                mended.AddRange("null"u8);
                at += word.Length;
                continue;
            }

            mended.AddRange(json.Slice(at, length));
            at += length;
        }

        return [.. mended];
    }

    private static string? NoNumber(ReadOnlySpan<byte> json)
    {
        foreach (var word in NoNumbers)
        {
            if (json.Length >= word.Length && Ascii.Equals(json[..word.Length], word))
            {
                return word;
            }
        }

        return null;
    }

    /// <summary>The half of a surrogate pair that is escaped here; null for anything else.</summary>
    private static char? Surrogate(ReadOnlySpan<byte> json)
    {
        if (json.Length < 6 || json[0] != '\\' || json[1] != 'u')
        {
            return null;
        }

        var value = 0;
        foreach (var digit in json[2..6])
        {
            if (!char.IsAsciiHexDigit((char)digit))
            {
                return null;
            }

            value = 16 * value + Convert.ToInt32(((char)digit).ToString(), 16);
        }

        return char.IsSurrogate((char)value) ? (char)value : null;
    }
}
