using System.Globalization;

namespace XlstmLab.Notebooks;

/// <summary>Text that was written for a terminal, as the terminal shows it in the end, without colours.</summary>
public static class TerminalText
{
    /// <summary>
    /// Applies backspaces, carriage returns and movements within a line, and drops every other control character and escape sequence:
    /// colours, links (OSC 8), titles, charset selections. Tabs and line ends stay.
    /// </summary>
    /// <param name="text">What a program wrote.</param>
    /// <returns>Lines separated by <c>\n</c>.</returns>
    public static string Plain(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.Any(IsControl)
            ? string.Join('\n', text.Split('\n').Select(line => line.Any(IsControl) ? new TerminalLine().Read(line) : line))
            : text;
    }

    private static bool IsControl(char c) => char.IsControl(c) && c is not ('\n' or '\t');
}

/// <summary>A line of a terminal: what stands in each column, and where the next character goes.</summary>
internal sealed class TerminalLine
{
    /// <summary>A sequence moves the cursor no further than this: a number must not fill the memory.</summary>
    private const int LastColumn = 10_000;

    private readonly List<string> _columns = [];
    private int _cursor;

    /// <summary>Takes all of a line, and gives what it shows.</summary>
    public string Read(string line)
    {
        for (int at = 0; at < line.Length;)
        {
            at = line[at] switch
            {
                '\r' => MoveTo(0, at + 1),
                '\b' => MoveTo(_cursor - 1, at + 1),
                '\e' => Escape(line, at + 1),
                '\u009b' => Control(line, at + 1),
                '\u0090' or '\u0098' or '\u009d' or '\u009e' or '\u009f' => AfterString(line, at + 1),
                var c when char.IsControl(c) && c != '\t' => at + 1,
                _ => Write(line, at),
            };
        }

        return string.Concat(_columns);
    }

    private int MoveTo(int column, int next)
    {
        _cursor = Math.Clamp(column, 0, Math.Max(LastColumn, _columns.Count));
        return next;
    }

    private int Write(string line, int at)
    {
        string text = line.Substring(at, char.IsSurrogatePair(line, at) ? 2 : 1);
        if (_cursor > 0 && _cursor <= _columns.Count && CharUnicodeInfo.GetUnicodeCategory(line, at)
            is UnicodeCategory.NonSpacingMark or UnicodeCategory.EnclosingMark or UnicodeCategory.Format)
        {
            // A mark stands on the character before it.
            _columns[_cursor - 1] += text;
            return at + text.Length;
        }

        while (_columns.Count < _cursor)
        {
            _columns.Add(" ");
        }

        if (_cursor == _columns.Count)
        {
            _columns.Add(text);
        }
        else
        {
            _columns[_cursor] = text;
        }

        _cursor++;
        return at + text.Length;
    }

    /// <summary>What follows ESC.</summary>
    private int Escape(string line, int at)
    {
        if (at == line.Length)
        {
            return at;
        }

        switch (line[at])
        {
            case '[':
                return Control(line, at + 1);
            case ']' or 'P' or 'X' or '^' or '_':
                return AfterString(line, at + 1);
            default:
                // ESC ( B and its like: any number of intermediates and one character.
                at = SkipWhile(line, at, ' ', '/');
                return at < line.Length && line[at] is >= '0' and <= '~' ? at + 1 : at;
        }
    }

    /// <summary>A control sequence (CSI): parameters, intermediates, and the character that says what is done.</summary>
    private int Control(string line, int at)
    {
        int intermediates = SkipWhile(line, at, '0', '?');
        int final = SkipWhile(line, intermediates, ' ', '/');
        if (final == line.Length || line[final] is not (>= '@' and <= '~'))
        {
            return final;
        }

        string first = line[at..intermediates].Split(';')[0];
        int? number = int.TryParse(first, NumberStyles.None, CultureInfo.InvariantCulture, out int n) ? Math.Min(n, LastColumn) : null;
        int steps = Math.Max(1, number ?? 1);
        switch (line[final])
        {
            case 'C':
                return MoveTo(_cursor + steps, final + 1);
            case 'D':
                return MoveTo(_cursor - steps, final + 1);
            case 'G':
                return MoveTo(steps - 1, final + 1);
            case 'K':
                Erase(number ?? 0);
                return final + 1;
            default:
                return final + 1;
        }
    }

    private void Erase(int part)
    {
        if (part is 0 or 2 && _cursor < _columns.Count)
        {
            _columns.RemoveRange(_cursor, _columns.Count - _cursor);
        }

        if (part is 1 or 2)
        {
            for (int column = 0; column < Math.Min(_cursor + 1, _columns.Count); column++)
            {
                _columns[column] = " ";
            }
        }
    }

    /// <summary>A string that is not shown, such as a link's target or a title: it ends with ST, or BEL, or the line.</summary>
    private static int AfterString(string line, int at)
    {
        int end = line.AsSpan(at).IndexOfAny('\a', '\u009c', '\e');
        if (end < 0)
        {
            return line.Length;
        }

        end += at;
        return line[end] != '\e' ? end + 1 : end + 1 < line.Length && line[end + 1] == '\\' ? end + 2 : end;
    }

    private static int SkipWhile(string line, int at, char least, char greatest)
    {
        while (at < line.Length && line[at] >= least && line[at] <= greatest)
        {
            at++;
        }

        return at;
    }
}
