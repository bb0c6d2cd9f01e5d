using System.Text.RegularExpressions;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>The paragraphs of plain text, Info manuals and manual pages.</summary>
internal static partial class PlainText
{
    private const int LongLine = 45;

    /// <summary>The paragraphs of a text between blank lines.</summary>
    /// <param name="text">The text.</param>
    /// <param name="filled">Whether all lines of a paragraph are joined, and not only those that were wrapped.</param>
    public static IEnumerable<string> Paragraphs(string text, bool filled = false)
    {
        var lines = new List<string>();
        foreach (var line in text.ReplaceLineEndings("\n").Split('\n'))
        {
            if (string.IsNullOrWhiteSpace(line) || Rule().IsMatch(line))
            {
                if (lines.Count > 0)
                {
                    yield return Join(lines, filled);
                    lines.Clear();
                }

                continue;
            }

            // An item of a list begins a paragraph of its own.
            if (lines.Count > 0 && Item().IsMatch(line))
            {
                yield return Join(lines, filled);
                lines.Clear();
            }

            lines.Add(line.Trim());
        }

        if (lines.Count > 0)
        {
            yield return Join(lines, filled);
        }
    }

    /// <summary>The paragraphs of an Info file, less its node lines, menus and indices.</summary>
    public static IEnumerable<string> OfInfo(string text)
    {
        foreach (var node in text.ReplaceLineEndings("\n").Split('\x1F').Skip(1))
        {
            var header = node.AsSpan().TrimStart('\n');
            var end = header.IndexOf('\n');
            if (end < 0 || !header.StartsWith("File:", StringComparison.Ordinal)
                || header[..end].Contains("Index", StringComparison.Ordinal))
            {
                continue;
            }

            var body = MenuPart().Replace(header[(end + 1)..].ToString(), "");
            body = Reference().Replace(body, m => m.Groups[1].Value);
            foreach (var paragraph in Paragraphs(body))
            {
                yield return paragraph;
            }
        }
    }

    /// <summary>The paragraphs of a manual page in roff's man or mdoc macros, less its code.</summary>
    public static IEnumerable<string> OfMan(string text)
    {
        var lines = new List<string>();
        var (inCode, inMacro) = (false, false);
        foreach (var line in text.ReplaceLineEndings("\n").Split('\n'))
        {
            if (inMacro)
            {
                inMacro = line != "..";
                continue;
            }

            if (line.Length == 0 || line[0] is not ('.' or '\''))
            {
                if (!inCode)
                {
                    lines.Add(Plain(line));
                }

                continue;
            }

            var request = Request().Match(line);
            var (name, rest) = (request.Groups[1].Value, request.Groups[2].Value);
            switch (name)
            {
                case "de" or "ig" or "am":
                    inMacro = true;
                    break;
                case "nf" or "EX" or "Bd" or "TS" or "Vb" or "EQ" or "SY":
                    inCode = true;
                    break;
                case "fi" or "EE" or "Ed" or "TE" or "Ve" or "EN" or "YS":
                    inCode = false;
                    lines.Add("");
                    break;
                case "SH" or "SS" or "Sh" or "Ss":
                    inCode = false;
                    lines.AddRange(["", Plain(Words(rest, " ")), ""]);
                    break;
                case "PP" or "P" or "LP" or "Pp" or "TP" or "TQ" or "RS" or "RE" or "HP" or "sp" or "It" or "El" or "Bl" or "br" or "IP":
                    lines.Add("");
                    if (name is "It")
                    {
                        lines.Add(Plain(Words(Callable().Replace(rest, ""), " ")));
                    }
                    else if (name is "IP" && Words(rest, " ") is { Length: > 4 } tag)
                    {
                        lines.Add(Plain(tag[..(tag.LastIndexOf(' ') is > 0 and var space && char.IsDigit(tag[^1]) ? space : tag.Length)]));
                    }

                    break;
                case "B" or "I" or "SM" or "SB" or "R" when !inCode:
                    lines.Add(Plain(Words(rest, " ")));
                    break;
                case "BR" or "IR" or "BI" or "IB" or "RB" or "RI" when !inCode:
                    lines.Add(Plain(Words(rest, "")));
                    break;
                case "Fl" when !inCode:
                    lines.Add("-" + Plain(Words(Callable().Replace(rest, ""), " ")));
                    break;
                case "Nm" or "Ar" or "Pa" or "Em" or "Sy" or "Va" or "Fa" or "Ft" or "Dv" or "Er" or "Ev"
                    or "Cm" or "Li" or "Nd" or "Xr" or "Dq" or "Sq"
                        or "Ql" or "Fn" or "Ic" or "Tn" or "Vt" or "Pq" or "Qq" or "No" when !inCode:
                    lines.Add(Plain(Words(Callable().Replace(rest, ""), " ")));
                    break;
                default:
                    break;
            }
        }

        return Paragraphs(string.Join('\n', lines), filled: true);
    }

    /// <summary>The words of a request's arguments, which quotes may hold together.</summary>
    private static string Words(string arguments, string separator) =>
        string.Join(separator, Argument().Matches(arguments).Select(
            m => m.Groups[1].Success ? m.Groups[1].Value.Replace("\"\"", "\"", StringComparison.Ordinal) : m.Value));

    private static string Plain(string roff) => Escape().Replace(roff, m => m.Value switch
    {
        @"\-" or @"\(mi" or @"\(hy" => "-",
        @"\e" or @"\(rs" or @"\\" => "\\",
        @"\(aq" or @"\(oq" or @"\(cq" or @"\'" or @"\`" => "'",
        @"\(dq" or @"\(lq" or @"\(rq" or @"\*(L""" or @"\*(R""" or @"\*(lq" or @"\*(rq" => "\"",
        @"\(em" or @"\(en" => "-",
        @"\(bu" => "-",
        @"\(co" => "(c)",
        @"\(+-" => "+-",
        @"\(ti" => "~",
        @"\(ha" => "^",
        @"\(ga" => "`",
        @"\ " or @"\~" or @"\0" => " ",
        @"\." => ".",
        _ => "",
    });

    private static string Join(List<string> lines, bool filled)
    {
        var wrapped = filled || lines.Count == 1 || lines.SkipLast(1).Average(l => l.Length) >= LongLine;
        return string.Join(wrapped ? ' ' : '\n', lines);
    }

    [GeneratedRegex(@"^\s*[-=*_~#.+^]{2,}\s*$", RegexOptions.CultureInvariant)]
    private static partial Regex Rule();

    [GeneratedRegex(@"^\s*(?:[-*+\u2022o]|\(?[0-9]{1,2}[.)]|\(?[a-z]\))\s+\S", RegexOptions.CultureInvariant)]
    private static partial Regex Item();

    [GeneratedRegex(@"^\* Menu:.*\z", RegexOptions.Multiline | RegexOptions.Singleline | RegexOptions.CultureInvariant)]
    private static partial Regex MenuPart();

    [GeneratedRegex(@"\*[Nn]ote\s+([^:.]+?)(?:::|:\s*[^.,]*(?=[.,]))", RegexOptions.CultureInvariant)]
    private static partial Regex Reference();

    [GeneratedRegex(@"^[.']\s*([A-Za-z0-9\\""]{1,3})[ \t]*(.*)$", RegexOptions.CultureInvariant)]
    private static partial Regex Request();

    [GeneratedRegex("\"((?:[^\"]|\"\")*)\"|[^\\s\"]+", RegexOptions.CultureInvariant)]
    private static partial Regex Argument();

    [GeneratedRegex(
        @"(?<=^|\s)(?:Fl|Ar|Nm|Pa|Em|Sy|Va|Fa|Ft|Dv|Er|Ev|Cm|Li|Xr|Dq|Sq|Ql|Fn|Ic|Pq|Qq|No|Ns|Oo|Oc|Op|Xo|Xc|Ap)(?=\s|$)",
        RegexOptions.CultureInvariant)]
    private static partial Regex Callable();

    [GeneratedRegex(
        @"\\(?:f(?:\(..|\[[^\]]*\]|.)|s[-+]?\d+|\*?\(..|\*?\[[^\]]*\]|\*.|[hvwN]'[^']*'|m\[[^\]]*\]|"".*$|.|$)",
        RegexOptions.CultureInvariant)]
    private static partial Regex Escape();
}
