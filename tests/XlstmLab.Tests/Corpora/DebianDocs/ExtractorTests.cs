using System.Text;
using XlstmLab.Corpora.DebianDocs;
using XlstmLab.Tests.Text;
using Xunit;

namespace XlstmLab.Tests.Corpora.DebianDocs;

[Collection(nameof(TextCollection))]
public class ExtractorTests
{
    private const string Sentence = "This is a sentence of the manual that tells the reader what the program does with each of its files.";

    [Theory]
    [InlineData("usr/share/doc/git/html/git.html", true)]
    [InlineData("usr/share/doc/apache2-doc/manual/en/index.html", true)]
    [InlineData("usr/share/doc/apache2-doc/manual/fr/index.html", false)]
    [InlineData("usr/share/doc/x/index.html.en.gz", true)]
    [InlineData("usr/share/doc/x/index.html.pt-br", false)]
    [InlineData("usr/share/doc/x/index.de.html", false)]
    [InlineData("usr/share/man/man1/ls.1.gz", true)]
    [InlineData("usr/share/man/de/man1/ls.1.gz", false)]
    [InlineData("usr/share/info/bash.info.gz", true)]
    [InlineData("usr/share/info/bash.info-2.gz", true)]
    [InlineData("usr/share/vim/vim90/doc/change.txt", true)]
    [InlineData("usr/share/doc/x/_sources/index.rst.txt", false)]
    [InlineData("usr/share/doc/x/changelog.txt", false)]
    [InlineData("usr/share/doc/x/picture.png", false)]
    [InlineData("etc/x.txt", false)]
    public void IsWanted_Path_AsDocumented(string path, bool wanted) => Assert.Equal(wanted, DocumentationFile.IsWanted(path));

    [Fact]
    public void Html_Page_GivesItsParagraphsWithoutFrameAndCode()
    {
        var page = $"""
            <html lang="en"><head><title>T</title><style>p {"{"} {"}"}</style></head><body>
            <nav>Home Up Next</nav><div class="toc"><a href="a">1. Introduction</a></div>
            <h1>The <em>first</em>
              heading</h1>
            <p>{Sentence} It costs 3 &lt; 4&nbsp;euros.<br>A&#8209;b.</p><pre>int main(void);</pre>
            <ul><li><p>{Sentence}</p></li><li>short</li></ul>
            <table><tr><td>--all</td><td>shows all of it</td></tr></table>
            <script>var x;</script><footer>Back</footer></body></html>
            """;

        Assert.Equal(
            ["The first heading", $"{Sentence} It costs 3 < 4 euros. A\u2011b.", $"- {Sentence}", "- short", "--all shows all of it"],
            HtmlText.Paragraphs(Encoding.UTF8.GetBytes(page)));
    }

    [Fact]
    public void Html_OtherLanguageDeclared_GivesNothing() =>
        Assert.Empty(HtmlText.Paragraphs(Encoding.UTF8.GetBytes($"<html lang='de'><body><p>{Sentence}</p></body></html>")));

    [Fact]
    public void Html_Latin1Declared_IsReadAsSuch() =>
        Assert.Equal(["caf\u00E9"], HtmlText.Paragraphs(
            Encoding.Latin1.GetBytes("<html><head><meta charset=\"iso-8859-1\"></head><body><p>caf\u00E9</p></body></html>")));

    [Fact]
    public void Man_Page_LosesRoffAndCode()
    {
        const string Page = """
            .\" A comment.
            .TH LS 1 "May 2024"
            .SH NAME
            ls \- list directory contents
            .SH "EXIT STATUS"
            .PP
            The option \fB\-l\fR of
            .BR ls (1)
            shows the \(lqlong\(rq form
            .IR "of it" .
            .nf
            int code;
            .fi
            .TP
            .B \-a
            do not ignore
            """;

        Assert.Equal(
            ["ls - list directory contents", "The option -l of ls(1) shows the \"long\" form of it.", "-a do not ignore"],
            PlainText.OfMan(Page).Where(p => p is not ("NAME" or "EXIT STATUS")).Select(p => p.Replace('\n', ' ')));
        Assert.Contains("EXIT STATUS", PlainText.OfMan(Page));
    }

    [Fact]
    public void Mdoc_Page_KeepsTheWordsOfItsMacros()
    {
        const string Page = """
            .Dd May 1, 2024
            .Sh DESCRIPTION
            The
            .Nm cat
            utility reads files in the order of
            .Ar file
            names.
            """;

        Assert.Equal("The cat utility reads files in the order of file names.", PlainText.OfMan(Page).Last().Replace('\n', ' '));
    }

    [Fact]
    public void Info_Manual_LosesNodeLinesMenusAndIndices()
    {
        var info = "This is x.info.\n\n\x1F\nFile: x.info,  Node: Top,  Up: (dir)\n\nXY\n**\n\n" + Sentence[..60] + "\n"
            + Sentence[60..].Trim()
            + "\n\n* Menu:\n\n* Intro::   The beginning.\n\n\x1F\nFile: x.info,  Node: Intro\n\n"
            + "See *note Next part: Next, for more of it.\n\n\x1F\nFile: x.info,  Node: Concept Index\n\nabc 12\n";

        Assert.Equal(["XY", Sentence, "See Next part, for more of it."], PlainText.OfInfo(info).Select(p => p.Replace('\n', ' ')));
    }

    [Fact]
    public void Text_Wrapped_IsJoinedAndListItemsStandAlone()
    {
        var text = $"Title\n=====\n\n{Sentence[..60]}\n{Sentence[60..].Trim()}\n - one item of the list\n - another\n\n\n    last\n";

        Assert.Equal(["Title", Sentence, "- one item of the list", "- another", "last"], PlainText.Paragraphs(text));
    }

    [Theory]
    [InlineData("This is a sentence of the manual that tells the reader what it does.", true)]
    [InlineData("for (int i = 0; i < n; i++) { the[i] = a(of, and); } // to the end of it", false)]
    [InlineData("12.5 33.1 0.25 17.0 44.2 18.1 the of 12.25 a 33.1", false)]
    [InlineData("Dies ist ein Satz des Handbuchs, der dem Leser sagt, was das Programm mit seinen Dateien tut.", false)]
    [InlineData("Ceci est une phrase du manuel qui dit au lecteur ce que fait le programme avec ses fichiers.", false)]
    [InlineData("See also", false)]
    public void IsSentences_Paragraph_AsOneWouldSay(string text, bool expected) => Assert.Equal(expected, Prose.IsSentences(text));

    [Fact]
    public void Keep_Paragraphs_DropsLinkListsCodeAndShortDocuments()
    {
        string[] body = [.. Enumerable.Range(0, 8).Select(k => $"{Sentence} Number {k} of them.")];
        var kept = Prose.Keep(
            ["Home", "Index", "Contents", "Chapter", "Section  1\u00B6", body[0], "x = f(y);", .. body[1..], "Related links"]);

        Assert.Equal(["Chapter", "Section 1", .. body], kept);
        Assert.Null(Prose.Keep(body[..2]));
        Assert.Null(Prose.Keep(["for (;;) { }", "Home"]));
    }

    [Fact]
    public void Paragraphs_GzippedManPage_IsRead()
    {
        using var folder = new TempFolder();
        CorpusFiles.WriteGzip(folder["x"], Encoding.UTF8.GetBytes(".SH NAME\n" + string.Join("\n.PP\n", Enumerable.Repeat(Sentence, 6))));

        Assert.Equal(["NAME", .. Enumerable.Repeat(Sentence, 6)], DocumentationFile.Paragraphs(
            "usr/share/man/man1/x.1.gz", File.ReadAllBytes(folder["x"])));
    }
}
