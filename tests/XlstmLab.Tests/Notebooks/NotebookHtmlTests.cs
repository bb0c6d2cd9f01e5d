using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

[Collection(NotebookTestSetup.Name)]
public sealed class NotebookHtmlTests
{
    [Fact]
    public async Task Export_NotebookWithCharts_IsSelfContainedWithOneLibrary()
    {
        using NotebookFolder folder = new();
        const string chart = "Plotly.NET.CSharp.Chart.Line<int, int, string>(new[] { 1, 2 }, new[] { 3, 4 })";
        string input = folder.Notebook($"display({chart});\n{chart}", "Console.WriteLine(\"<i>text</i>\");");
        await NotebookRunner.RunAsync(input, folder["out.ipynb"], cancellationToken: TestContext.Current.CancellationToken);
        NotebookHtml.Export(Notebook.Load(folder["out.ipynb"]), folder["page.html"]);
        string page = await File.ReadAllTextAsync(folder["page.html"], TestContext.Current.CancellationToken);

        Assert.Equal(2, page.Split("<script data-xlstm=\"plotly\">").Length);
        Assert.Equal(3, page.Split("class=\"xlstm-chart\"").Length);
        Assert.True(page.IndexOf("data-xlstm=\"plotly\"", StringComparison.Ordinal) < page.IndexOf("class=\"xlstm-chart\"", StringComparison.Ordinal));
        Assert.Contains("&lt;i&gt;text&lt;/i&gt;", page, StringComparison.Ordinal);
        AssertSelfContained(ChartHtml.WithoutLibrary(page));
    }

    [Fact]
    public void Render_NotebookWithoutCharts_HasNoLibrary()
    {
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Code, "var s = \"<b>\"; // <i>"));
        string page = NotebookHtml.Render(notebook, "A & B");

        Assert.Contains("<title>A &amp; B</title>", page, StringComparison.Ordinal);
        Assert.Contains("<span class=\"k\">var</span> s = <span class=\"s\">&quot;&lt;b&gt;&quot;</span>; <span class=\"c\">// &lt;i&gt;</span>", page, StringComparison.Ordinal);
        Assert.InRange(page.Length, 1000, 20_000);
        AssertSelfContained(page);
    }

    [Fact]
    public void Render_Markdown_IsRenderedAndHardened()
    {
        string page = Prose("# The title\n\n*soft* [good](https://example.org) [bad](javascript:alert(1)) <script>alert(2)</script> <javascript:alert(3)>\n\n![far](http://example.org/a.png)\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n$x < y$");

        Assert.Contains("<title>The title</title>", page, StringComparison.Ordinal);
        Assert.Contains("<em>soft</em>", page, StringComparison.Ordinal);
        Assert.Contains("href=\"https://example.org\"", page, StringComparison.Ordinal);
        Assert.DoesNotContain("href=\"javascript", page, StringComparison.Ordinal);
        Assert.DoesNotContain("<script>alert", page, StringComparison.Ordinal);
        Assert.Contains("<table>", page, StringComparison.Ordinal);
        Assert.DoesNotContain("src=\"http", page, StringComparison.Ordinal);
        AssertSelfContained(page);
    }

    [Fact]
    public void Render_Pictures_AreTakenIntoThePage()
    {
        using NotebookFolder folder = new();
        File.WriteAllBytes(folder["dot.png"], [1, 2, 3]);
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, "![a](dot.png) ![b](missing.png)"));
        NotebookCell code = new(CellKind.Code, "");
        code.SetOutputs([new JsonObject { ["output_type"] = "display_data", ["metadata"] = new JsonObject(), ["data"] = new JsonObject { ["image/png"] = "AQID\n" } }], 1);
        notebook.Cells.Add(code);

        Assert.Equal(3, NotebookHtml.Render(notebook, "x", folder.Path).Split("src=\"data:image/png;base64,AQID\"").Length);
    }

    [Fact]
    public void Render_StreamsAndErrors_LookAsInATerminal()
    {
        Notebook notebook = new();
        NotebookCell code = new(CellKind.Code, "x");
        code.SetOutputs(
            [
                new JsonObject { ["output_type"] = "stream", ["name"] = "stdout", ["text"] = "10 %\r100 %\ndone\r\n" },
                new JsonObject { ["output_type"] = "error", ["ename"] = "E", ["evalue"] = "v", ["traceback"] = new JsonArray("\u001b[31mred\u001b[0m <x>") },
            ],
            1);
        notebook.Cells.Add(code);
        string page = NotebookHtml.Render(notebook, "x");

        Assert.Contains("<pre class=\"stdout\">100 %\ndone\n</pre>", page, StringComparison.Ordinal);
        Assert.Contains("<pre class=\"error\">red &lt;x&gt;</pre>", page, StringComparison.Ordinal);
    }

    private static string Prose(string markdown)
    {
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, markdown));
        return NotebookHtml.Render(notebook, "x");
    }

    private static void AssertSelfContained(string page)
    {
        Assert.DoesNotMatch(new Regex("<(script|img|iframe|link)[^>]*\\s(src|href)=[\"']?(?!data:|[\"'])"), page);
        Assert.DoesNotMatch(new Regex("@import|url\\("), page);
    }
}
