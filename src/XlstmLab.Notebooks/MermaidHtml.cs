using System.IO.Compression;
using System.Net;
using System.Reflection;
using System.Text;

namespace XlstmLab.Notebooks;

/// <summary>Has pages draw Mermaid's diagrams by its own library, which they bring along.</summary>
internal static class MermaidHtml
{
    /// <summary>A diagram's text as JupyterLab knows it.</summary>
    public const string Type = "text/vnd.mermaid";

    private const string Resource = "XlstmLab.Notebooks.mermaid.min.js.br";
    private const string Opening = "<pre class=\"mermaid\">";

    /// <summary>What Markdig makes of fenced code that is a diagram.</summary>
    private const string Fenced = "class=\"language-mermaid\"";

    /// <summary>A diagram's place in a page: its text, where no script runs or it is no diagram.</summary>
    public static string Render(string text) => $"{Opening}{WebUtility.HtmlEncode(text)}</pre>";

    /// <summary>The library and what draws with it; empty for a page without diagrams.</summary>
    /// <param name="body">The page's content.</param>
    public static string Scripts(string body)
    {
        if (!body.Contains(Opening, StringComparison.Ordinal) && !body.Contains(Fenced, StringComparison.Ordinal))
        {
            return "";
        }

        using BrotliStream unpacked = new(Assembly.GetExecutingAssembly().GetManifestResourceStream(Resource)!, CompressionMode.Decompress);
        using StreamReader reader = new(unpacked, Encoding.UTF8);
        return $$"""
            <script data-xlstm="mermaid">{{reader.ReadToEnd()}}</script>
            <script>
            document.querySelectorAll("pre > code.language-mermaid").forEach(function (c) { c.parentNode.className = "mermaid"; c.parentNode.textContent = c.textContent; });
            window.mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme: "neutral", suppressErrorRendering: true });
            window.mermaid.run({ querySelector: "pre.mermaid", suppressErrors: true });
            </script>

            """;
    }
}
