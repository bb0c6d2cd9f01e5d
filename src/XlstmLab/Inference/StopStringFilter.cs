namespace XlstmLab.Inference;

/// <summary>Lets text through up to the first stop string, and holds back an end that may become one.</summary>
internal sealed class StopStringFilter(IReadOnlyList<string> stopStrings)
{
    private string _held = "";

    /// <summary>Whether a stop string has come; nothing is let through after it.</summary>
    public bool Stopped { get; private set; }

    /// <summary>The text that can be shown now that more has come.</summary>
    public string Push(string text)
    {
        if (Stopped || text.Length == 0)
        {
            return "";
        }

        text = _held + text;
        // What ends first counts, as if the text had come character by character.
        var found = stopStrings.Select(s => (At: text.IndexOf(s, StringComparison.Ordinal), s.Length)).Where(f => f.At >= 0).ToList();
        if (found.Count > 0)
        {
            (Stopped, _held) = (true, "");
            return text[..found.OrderBy(f => f.At + f.Length).ThenBy(f => f.At).First().At];
        }

        var held = stopStrings.Select(s => HeldLength(text, s)).DefaultIfEmpty(0).Max();
        _held = text[^held..];
        return text[..^held];
    }

    /// <summary>What was held back and has not become a stop string.</summary>
    public string Flush()
    {
        var text = _held;
        _held = "";
        return text;
    }

    /// <summary>The length of the text's longest end that begins the stop string.</summary>
    private static int HeldLength(string text, string stop)
    {
        var length = Math.Min(text.Length, stop.Length - 1);
        while (length > 0 && !text.AsSpan(text.Length - length).SequenceEqual(stop.AsSpan(0, length)))
        {
            length--;
        }

        return length;
    }
}
