using System.Net;

namespace XlstmLab.Notebooks;

/// <summary>Shows TeX formulas.</summary>
internal static class MathHtml
{
    public static string Render(string tex, bool display) =>
        $"<code class=\"tex\">{WebUtility.HtmlEncode(tex.Trim())}</code>{(display ? "\n" : "")}";
}
