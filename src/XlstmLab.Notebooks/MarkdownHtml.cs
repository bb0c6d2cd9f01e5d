using System.Net;
using System.Text.Json.Nodes;
using Markdig;
using Markdig.Extensions.Mathematics;
using Markdig.Renderers;
using Markdig.Renderers.Html;
using Markdig.Syntax;
using Markdig.Syntax.Inlines;

namespace XlstmLab.Notebooks;

/// <summary>Renders markdown cells. HTML in them is shown as text, and pictures are taken into the page.</summary>
internal static class MarkdownHtml
{
    private static readonly MarkdownPipeline Pipeline = new MarkdownPipelineBuilder()
        .UsePipeTables().UseEmphasisExtras().UseAutoLinks().UseTaskLists().UseFootnotes().UseMathematics().UseAutoIdentifiers()
        .DisableHtml().Build();

    private static readonly Dictionary<string, string> PictureTypes = new(StringComparer.OrdinalIgnoreCase)
    {
        [".png"] = "image/png",
        [".jpg"] = "image/jpeg",
        [".jpeg"] = "image/jpeg",
        [".gif"] = "image/gif",
        [".svg"] = "image/svg+xml",
        [".webp"] = "image/webp",
    };

    /// <param name="markdown">The cell's source.</param>
    /// <param name="attachments">The cell's attachments, to which <c>attachment:name</c> refers.</param>
    /// <param name="folder">Where relative picture paths start; null if pictures in files are not to be taken in.</param>
    public static string Render(string markdown, JsonObject? attachments, string? folder)
    {
        MarkdownDocument document;
        try
        {
            document = Markdown.Parse(markdown, Pipeline);
        }
        catch (ArgumentException)
        {
            // Markdig refuses nesting of absurd depth.
            return $"<pre>{WebUtility.HtmlEncode(markdown)}</pre>";
        }

        foreach (var link in document.Descendants<LinkInline>().ToList())
        {
            if (!link.IsImage)
            {
                link.Url = SafeLink(link.Url);
            }
            else if (Picture(link.Url ?? "", attachments, folder) is { Length: > 0 } picture)
            {
                link.Url = picture;
            }
            else
            {
                string described = string.Concat(link.Descendants<LiteralInline>().Select(text => text.Content.ToString()));
                link.ReplaceBy(new HtmlInline(Missing(described, link.Url ?? "")), copyChildren: false);
            }
        }

        foreach (var link in document.Descendants<AutolinkInline>().Where(link => !link.IsEmail))
        {
            link.Url = SafeLink(link.Url);
        }

        using StringWriter writer = new() { NewLine = "\n" };
        HtmlRenderer renderer = new(writer);
        Pipeline.Setup(renderer);
        renderer.ObjectRenderers.Replace<HtmlMathInlineRenderer>(new MathInlines());
        renderer.ObjectRenderers.Replace<HtmlMathBlockRenderer>(new MathBlocks());
        renderer.Render(document);
        return writer.ToString();
    }

    /// <summary>Links may lead to pages and places, but run nothing.</summary>
    private static string SafeLink(string? url)
    {
        string target = (url ?? "").Trim();
        int colon = target.IndexOf(':', StringComparison.Ordinal);
        bool hasScheme = colon > 0 && target.AsSpan(0, colon).IndexOfAny("/?#") < 0;
        return !hasScheme || target[..colon].ToLowerInvariant() is "http" or "https" or "mailto" ? target : "#";
    }

    /// <summary>What stands in the place of a picture that a page cannot hold.</summary>
    private static string Missing(string described, string url)
    {
        string name = described.Length > 0 ? $"\"{WebUtility.HtmlEncode(described)}\", " : "";
        return OfflineHtml.IsRemote(url)
            ? $"<span class=\"network\">The picture {name}{OfflineHtml.Link(url)}, is on the network, not in this page.</span>"
            : $"<span class=\"network\">The picture {name}{WebUtility.HtmlEncode(url)}, is not in this page: "
                + "no such file or attachment was found.</span>";
    }

    private static string Picture(string url, JsonObject? attachments, string? folder)
    {
        const string attachment = "attachment:";
        if (url.StartsWith(attachment, StringComparison.Ordinal))
        {
            return attachments?[Uri.UnescapeDataString(url[attachment.Length..])] is JsonObject data
                && data.FirstOrDefault(entry =>
                    PictureTypes.ContainsValue(entry.Key) && MultilineText.IsValid(entry.Value)) is { Value: not null } picture
                ? $"data:{picture.Key};base64,{string.Concat(MultilineText.Join(picture.Value).Where(c => !char.IsWhiteSpace(c)))}" : "";
        }

        if (url.StartsWith("data:image/", StringComparison.OrdinalIgnoreCase))
        {
            return url;
        }

        try
        {
            string path = Path.Combine(folder ?? "", Uri.UnescapeDataString(url));
            return folder is not null && PictureTypes.TryGetValue(Path.GetExtension(path), out string? type) && File.Exists(path)
                ? $"data:{type};base64,{Convert.ToBase64String(File.ReadAllBytes(path))}" : "";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return "";
        }
    }

    private sealed class MathInlines : HtmlObjectRenderer<MathInline>
    {
        protected override void Write(HtmlRenderer renderer, MathInline obj) =>
            renderer.Write(MathHtml.Render(obj.Content.ToString(), display: obj.DelimiterCount > 1));
    }

    private sealed class MathBlocks : HtmlObjectRenderer<MathBlock>
    {
        protected override void Write(HtmlRenderer renderer, MathBlock obj) =>
            renderer.EnsureLine().Write("<div class=\"math\">").Write(MathHtml.Render(obj.Lines.ToString(), display: true))
                .WriteLine("</div>");
    }
}
