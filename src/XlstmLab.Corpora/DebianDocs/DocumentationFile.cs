using System.IO.Compression;
using System.Text;
using System.Text.RegularExpressions;

namespace XlstmLab.Corpora.DebianDocs;

/// <summary>Which files of a package are documentation in English, and the paragraphs in them.</summary>
internal static partial class DocumentationFile
{
    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private enum Kind
    {
        None,
        Html,
        Info,
        Man,
        Text,
    }

    /// <summary>Whether a file may hold English documentation, by its path, which begins with no slash.</summary>
    public static bool IsWanted(string path) => KindOf(path) != Kind.None;

    /// <summary>Whether a file is a page of HTML.</summary>
    public static bool IsHtml(string path) => KindOf(path) == Kind.Html;

    /// <summary>Whether a file is plain text, which may be what a page of HTML was made of.</summary>
    public static bool IsText(string path) => KindOf(path) == Kind.Text;

    /// <summary>The paragraphs that are kept of a file; null if it is no document.</summary>
    /// <exception cref="InvalidDataException">It is compressed and damaged.</exception>
    public static IReadOnlyList<string>? Paragraphs(string path, byte[] content)
    {
        if (path.EndsWith(".gz", StringComparison.Ordinal))
        {
            using var gzip = new GZipStream(new MemoryStream(content), CompressionMode.Decompress);
            var plain = new MemoryStream();
            gzip.CopyTo(plain);
            content = plain.ToArray();
        }

        return Prose.Keep(KindOf(path) switch
        {
            Kind.Html => HtmlText.Paragraphs(content),
            Kind.Info => PlainText.OfInfo(Decode(content)),
            Kind.Man => PlainText.OfMan(Decode(content)),
            Kind.Text or Kind.None => PlainText.Paragraphs(Decode(content)),
            var kind => throw UnknownValue.Of(kind),
        });
    }

    private static Kind KindOf(string path)
    {
        if (!path.StartsWith("usr/", StringComparison.Ordinal) || Unwanted().IsMatch(path))
        {
            return Kind.None;
        }

        var name = path.EndsWith(".gz", StringComparison.Ordinal) ? path[..^3] : path;
        name = name.EndsWith(".en", StringComparison.Ordinal) ? name[..^3] : name;
        return ManPage().IsMatch(name) ? Kind.Man
            : InfoFile().IsMatch(name) ? Kind.Info
            : HtmlFile().IsMatch(name) ? Kind.Html
            : TextFile().IsMatch(name) ? Kind.Text
            : Kind.None;
    }

    private static string Decode(byte[] content)
    {
        try
        {
            return StrictUtf8.GetString(content);
        }
        catch (DecoderFallbackException)
        {
            return Encoding.Latin1.GetString(content);
        }
    }

    // Sources and indices of the same pages, changes, licences, tests, and pages whose path says another language.
    [GeneratedRegex(
        @"/(?:_sources|_static|_modules|_images|class-use|index-files|src|sources?|tests?|search)/"
        + @"|/(?:changelog|copyright|NEWS|TODO|THANKS|AUTHORS|COPYING|LICEN[CS]E|genindex|py-modindex|search)[^/]*$"
        + @"|/(?:[a-z]{2}[_-][A-Z]{2}|[a-z]{2}[_-][a-z]{2}|af|ar|bg|bn|bs|ca|cs|cy|da|de|el|eo|es|et|eu|fa|fi|fr|ga"
        + @"|gl|he|hi|hr|hu|id|is|it|ja|ka|km|ko|lt|lv|nb|nl|nn|no|pa|pl|pt|ro|ru|sk|sl|sq|sr|sv|ta|th|tr|uk|vi|zh)"
        + @"(?<!/en[_-](?:US|us|GB|gb))/"
        + @"|\.(?:[a-z]{2}_[A-Z]{2}|cs|da|de|es|fr|it|ja|ko|nl|pl|pt|pt-br|ru|sv|tr|zh|zh-cn|utf8|euc-kr)(?:\.html|\.txt)?(?:\.gz)?$",
        RegexOptions.CultureInvariant)]
    private static partial Regex Unwanted();

    [GeneratedRegex(@"^usr/share/man/man[1-9][^/]*/[^/]+\.[1-9][a-z0-9]*$", RegexOptions.CultureInvariant)]
    private static partial Regex ManPage();

    [GeneratedRegex(@"^usr/share/info/.*\.info(?:-\d+)?$", RegexOptions.CultureInvariant)]
    private static partial Regex InfoFile();

    [GeneratedRegex(@"\.x?html?$", RegexOptions.CultureInvariant)]
    private static partial Regex HtmlFile();

    [GeneratedRegex(@"\.(?:txt|rst|md|text)$|/README[^/]*$|/FAQ[^/]*$|/vim\d+/doc/", RegexOptions.CultureInvariant)]
    private static partial Regex TextFile();
}
