using System.Text;
using AngleSharp.Dom;
using AngleSharp.Html.Parser;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>The paragraphs of a page of HTML, less its navigation and its code.</summary>
internal static class HtmlText
{
    private const string Dropped =
        "script, style, noscript, template, nav, header, footer, aside, form, button, select, svg, math, pre, iframe, object, .highlight, "
        + ".toc, .contents, .sphinxsidebar, .related, .navheader, .navfooter, .headerlink, .viewcode-link, .genindextable, "
        + ".toctree-wrapper, .footer, .sidebar, .navigation, .nav, .navbar, .breadcrumb, .breadcrumbs, .MathJax, .math, .mw-editsection, "
        + ".skip, .indexterm, .programlisting, .literallayout, .screen, .synopsis, #sidebar, #navigation, #nav, #toc, #footer, #header, "
        + "#quickview, .tocset, .src-link, .srclink, .since, .rightside, .rust-logo, .navsetbottom, .navsettop, .sourceCode, .langs, "
        + "#preamble, #toolbar, .linenos, .admonition-title, .copyright";

    private const string Main =
        "main, [role=main], div.body, article, div.content, #main-content, #content, #docContent, div.main";

    private static readonly HashSet<string> Blocks =
    [
        "address", "article", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption",
        "figure", "h1", "h2",
        "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
        "caption",
    ];

    /// <summary>The paragraphs in the order of the page; a row of a table is one.</summary>
    /// <param name="content">The page; its own declaration tells the encoding.</param>
    /// <returns>Nothing for a page that declares another language than English.</returns>
    public static IReadOnlyList<string> Paragraphs(byte[] content)
    {
        using var stream = new MemoryStream(content);
        using var page = new HtmlParser().ParseDocument(stream);
        if (page.DocumentElement?.GetAttribute("lang") is { Length: > 0 } language && !language.StartsWith(
            "en", StringComparison.OrdinalIgnoreCase))
        {
            return [];
        }

        foreach (var element in page.QuerySelectorAll(Dropped).ToArray())
        {
            if (element is not { LocalName: "body" or "html" or "main" or "article" })
            {
                element.Remove();
            }
        }

        var paragraphs = new List<string>();
        var root = page.QuerySelector(Main) is { TextContent.Length: > Prose.MinimumDocument } main ? main : page.Body;
        if (root is not null)
        {
            var text = new StringBuilder();
            Add(root, text, paragraphs);
            Flush(text, paragraphs);
        }

        return paragraphs;
    }

    private static void Add(INode node, StringBuilder text, List<string> paragraphs)
    {
        foreach (var child in node.ChildNodes)
        {
            if (child is IText run)
            {
                AppendCollapsed(text, run.Data);
            }
            else if (child is IElement element)
            {
                var isBlock = Blocks.Contains(element.LocalName);
                if (isBlock)
                {
                    Flush(text, paragraphs);
                }

                if (element.LocalName == "br")
                {
                    AppendCollapsed(text, " ");
                }

                if (element.LocalName == "li")
                {
                    text.Append("- ");
                }

                if (element.LocalName is "td" or "th")
                {
                    AppendCollapsed(text, " ");
                }

                Add(element, text, paragraphs);
                if (isBlock)
                {
                    Flush(text, paragraphs);
                }
            }
        }
    }

    private static void AppendCollapsed(StringBuilder text, string run)
    {
        foreach (var c in run)
        {
            if (!char.IsWhiteSpace(c))
            {
                text.Append(c);
            }
            else if (text.Length > 0 && text[^1] != ' ')
            {
                text.Append(' ');
            }
        }
    }

    private static void Flush(StringBuilder text, List<string> paragraphs)
    {
        var paragraph = text.ToString().Trim();
        text.Clear();
        if (paragraph.Length == 0)
        {
            return;
        }

        if (paragraph == "-")
        {
            // The item's own first paragraph gets the dash.
            text.Append("- ");
            return;
        }

        paragraphs.Add(paragraph);
    }
}
