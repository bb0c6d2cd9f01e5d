using System.Net;
using System.Text;
using System.Text.RegularExpressions;

namespace XlstmLab.Notebooks;

/// <summary>
/// Makes HTML that other programs wrote independent of the network: plotly is the page's own, all else is named where it is missing.
/// </summary>
internal static partial class OfflineHtml
{
    /// <summary>
    /// What stands in for require.js, which other kernels' charts load plotly by: it hands out the page's plotly, and says so under the
    /// script that asked where another module is wanted.
    /// </summary>
    public const string ModuleLoader = """
        <script>(function(){
        if(window.requirejs)return;
        function load(names,done){
          if(typeof names==="string"){if(/plotly/i.test(names))return window.Plotly;throw new Error(names+" is not in this page");}
          var missing=(names||[]).filter(function(n){return !/plotly/i.test(n);});
          if(!missing.length){if(done)done.apply(null,names.map(function(){return window.Plotly;}));return load;}
          var note=document.createElement("p"),script=document.currentScript;
          note.className="network";note.textContent="This output needs "+missing.join(", ")+" from the network: it is not in this page.";
          if(script&&script.parentNode)script.parentNode.insertBefore(note,script);else document.querySelector("main").appendChild(note);
          return load;
        }
        load.config=function(){return load;};
        load.undef=load.specified=load.defined=function(){return false;};
        window.require=window.requirejs=load;
        window.define=window.define||function(){};
        })();</script>
        """;

    private const int MostNamed = 8;

    /// <summary>A script longer than this is a library, which names addresses that it need not load.</summary>
    private const int LongestOwnScript = 200_000;

    /// <summary>Whether a page that shows the output needs plotly, and the stand-in for require.js.</summary>
    public static bool DrawsWithForeignPlotly(string html) =>
        !ChartHtml.IsChart(html) && html.Contains("plotly", StringComparison.OrdinalIgnoreCase) && PlotlyUse().IsMatch(html);

    /// <summary>The output without anything that a page would load from elsewhere; a line under it says what is missing.</summary>
    public static string Render(string html)
    {
        if (ChartHtml.IsChart(html))
        {
            return html;
        }

        bool plotly = DrawsWithForeignPlotly(html);
        List<string> missing = [];
        StringBuilder page = new();
        int at = 0;
        foreach (Match script in Script().Matches(html))
        {
            page.Append(WithoutLoads(html[at..script.Index], missing));
            page.Append(WithoutModule(script, plotly, missing));
            at = script.Index + script.Length;
        }

        page.Append(WithoutLoads(html[at..], missing));
        if (missing.Count > 0)
        {
            page.Append("\n<p class=\"network\">This output needs ").AppendJoin(", ", missing.Distinct().Take(MostNamed).Select(Link))
                .Append(missing.Distinct().Count() > MostNamed ? " and more" : "").Append(" from the network: it is not in this page.</p>");
        }

        return page.ToString();
    }

    /// <summary>A picture or file that a page does not load, as a link that says so.</summary>
    public static string Link(string url)
    {
        string shown = url.Length > 100 ? url[..99] + "…" : url;
        string target = url.StartsWith("//", StringComparison.Ordinal) ? "https:" + url : url;
        return $"<a href=\"{WebUtility.HtmlEncode(target)}\">{WebUtility.HtmlEncode(shown)}</a>";
    }

    /// <summary>Whether an address leads to another machine.</summary>
    public static bool IsRemote(string url) => Remote().IsMatch(url);

    private static string WithoutModule(Match script, bool plotly, List<string> missing)
    {
        string opening = script.Groups["opening"].Value;
        if (Address(opening) is { } source)
        {
            if (!IsRemote(source))
            {
                return script.Value;
            }

            NoteUnless(plotly && IsOwn(source), source, missing);
            return "";
        }

        string code = script.Groups["code"].Value;
        if (code.Length > LongestOwnScript)
        {
            return script.Value;
        }

        foreach (Match load in ScriptAddress().Matches(code))
        {
            NoteUnless(plotly && IsOwn(load.Groups["url"].Value), load.Groups["url"].Value, missing);
        }

        return plotly && Import().IsMatch(code)
            ? script.Value.Replace(code, Import().Replace(code, ""), StringComparison.Ordinal) : script.Value;
    }

    private static string WithoutLoads(string html, List<string> missing)
    {
        html = Styles().Replace(html, style => StyleAddress().Replace(style.Value, address =>
        {
            missing.Add(address.Groups["url"].Value);
            return "";
        }));
        return Loading().Replace(html, tag =>
        {
            foreach (Match attribute in Attribute().Matches(tag.Value))
            {
                string url = Value(attribute);
                if (Is(attribute, "srcdoc"))
                {
                    // A page in the page, as maps are, can do nothing without what it loads.
                    string[] loads = [.. ScriptAddress().Matches(url).Select(load => load.Groups["url"].Value)];
                    missing.AddRange(loads);
                    if (loads.Length > 0)
                    {
                        return "";
                    }
                }
                else if (IsRemote(url))
                {
                    missing.Add(url.Split(' ')[0]);
                    return "";
                }
            }

            return tag.Value;
        });
    }

    private static void NoteUnless(bool there, string url, List<string> missing)
    {
        if (!there)
        {
            missing.Add(url);
        }
    }

    private static string? Address(string tag) =>
        Attribute().Matches(tag).FirstOrDefault(attribute => Is(attribute, "src")) is { } source ? Value(source) : null;

    private static bool Is(Match attribute, string name) => attribute.Groups["name"].Value.Equals(name, StringComparison.OrdinalIgnoreCase);

    private static string Value(Match attribute) => WebUtility.HtmlDecode(attribute.Groups["value"].Value).Trim().Trim('"', '\'').Trim();

    /// <summary>What the page has itself: plotly, and what loads it.</summary>
    private static bool IsOwn(string url) => OwnAddress().IsMatch(url);

    [GeneratedRegex(@"https?://[^\s""'<>]*plotly|\brequire(js)?\b|\bPlotly\.(newPlot|react|plot)\b", RegexOptions.IgnoreCase)]
    private static partial Regex PlotlyUse();

    [GeneratedRegex(@"(?<opening><script\b[^>]*>)(?<code>.*?)</script\s*>", RegexOptions.Singleline | RegexOptions.IgnoreCase)]
    private static partial Regex Script();

    [GeneratedRegex(
        @"<(img|link|iframe|embed|object|source|video|audio|track|input|image)\b(?:[^>""']|""[^""]*""|'[^']*')*>",
        RegexOptions.IgnoreCase)]
    private static partial Regex Loading();

    [GeneratedRegex(@"\b(?<name>src|href|data|poster|srcset|srcdoc)\s*=\s*(?<value>""[^""]*""|'[^']*'|[^\s>]+)", RegexOptions.IgnoreCase)]
    private static partial Regex Attribute();

    [GeneratedRegex(@"^\s*(https?:|ftp:)?//", RegexOptions.IgnoreCase)]
    private static partial Regex Remote();

    [GeneratedRegex(@"plotly|//cdn\.plot\.ly|/require(\.min)?(\.js)?$", RegexOptions.IgnoreCase)]
    private static partial Regex OwnAddress();

    [GeneratedRegex(@"<style\b[^>]*>.*?</style\s*>|\bstyle\s*=\s*(""[^""]*""|'[^']*')", RegexOptions.Singleline | RegexOptions.IgnoreCase)]
    private static partial Regex Styles();

    [GeneratedRegex(
        @"(@import\s+)?url\(\s*[""']?(?<url>(https?:)?//[^""')\s]+)[""']?\s*\)|@import\s*[""'](?<url>(https?:)?//[^""']+)[""']",
        RegexOptions.IgnoreCase)]
    private static partial Regex StyleAddress();

    /// <summary>An address in a script that is one of code or style, not of a page.</summary>
    [GeneratedRegex(
        @"[""'`](?<url>(https?:)?//[^\s""'`<>]*?(\.m?js|\.css|\.wasm|(?<=//(cdn|unpkg|esm)[^\s""'`<>]*))([?#][^\s""'`<>]*)?)[""'`]",
        RegexOptions.IgnoreCase)]
    private static partial Regex ScriptAddress();

    [GeneratedRegex(@"\bimport\s*[""']https?://[^""']*plotly[^""']*[""']\s*;?", RegexOptions.IgnoreCase)]
    private static partial Regex Import();
}
