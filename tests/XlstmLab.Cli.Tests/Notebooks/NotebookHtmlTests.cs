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
        using TempFolder folder = new();
        const string chart = "Plotly.NET.CSharp.Chart.Line<int, int, string>(new[] { 1, 2 }, new[] { 3, 4 })";
        string input = folder.Notebook($"display({chart});\n{chart}", "Console.WriteLine(\"<i>text</i>\");");
        await NotebookRunner.RunAsync(input, folder["out.ipynb"], cancellationToken: TestContext.Current.CancellationToken);
        NotebookHtml.Export(Notebook.Load(folder["out.ipynb"]), folder["page.html"]);
        string page = await File.ReadAllTextAsync(folder["page.html"], TestContext.Current.CancellationToken);

        Assert.Equal(2, page.Split("<script data-xlstm=\"plotly\">").Length);
        Assert.Equal(3, page.Split("class=\"xlstm-chart\"").Length);
        Assert.True(page.IndexOf("data-xlstm=\"plotly\"", StringComparison.Ordinal) < page.IndexOf(
            "class=\"xlstm-chart\"", StringComparison.Ordinal));
        Assert.Contains("&lt;i&gt;text&lt;/i&gt;", page, StringComparison.Ordinal);
        AssertSelfContained(ChartHtml.WithoutLibrary(page));
    }

    [Fact]
    public async Task Export_TenCharts_IsASmallPageThatABrowserDrawsOffline()
    {
        Assert.SkipUnless(FigureFiles.HasBrowser, "There is no Chromium, Chrome or Edge.");
        LongTests.Skip();
        using TempFolder folder = new();
        string input = folder.Notebook(
            [
                "using XlstmLab.Visualization;",
                .. Enumerable.Range(1, 10).Select(n => $$"""
                    double[] tokens{{n}} = [.. Enumerable.Range(1, 200).Select(k => 10_000.0 * k)];
                    Plots.Lines([new PlotSeries("loss", tokens{{n}}, [.. tokens{{n}}.Select(t => 1 + Math.Exp(-t / {{n}}e5))])], "tokens", "loss, nats per byte").Titled("Loss {{n}}")
                    """),
            ]);
        await NotebookRunner.RunAsync(input, input, cancellationToken: TestContext.Current.CancellationToken);
        Assert.InRange(new FileInfo(input).Length, 10_000, 500_000);
        NotebookHtml.Export(Notebook.Load(input), folder["page.html"]);
        Assert.InRange(new FileInfo(folder["page.html"]).Length, 1_000_000, 5_000_000);

        using var browser = await Browser.OpenAsync(new Uri(folder["page.html"]).AbsoluteUri, folder["profile"]);
        await browser.WaitAsync(
            "[...document.querySelectorAll('.xlstm-chart')].filter(c => c.querySelector('.plot .js-line')).length == 10");
        Assert.Equal("Loss 10", (string?)await browser.EvaluateAsync("[...document.querySelectorAll('.gtitle')].at(-1).textContent"));
        Assert.Equal(0, (int?)await browser.EvaluateAsync("performance.getEntriesByType('resource').length"));
        await browser.SaveAsync("ten-charts");
    }

    [Fact]
    public void Render_NotebookWithoutCharts_HasNoLibrary()
    {
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Code, "var s = \"<b>\"; // <i>"));
        string page = NotebookHtml.Render(notebook, "A & B");

        Assert.Contains("<title>A &amp; B</title>", page, StringComparison.Ordinal);
        Assert.Contains(
            "<span class=\"k\">var</span> s = <span class=\"s\">&quot;&lt;b&gt;&quot;</span>; <span class=\"c\">// &lt;i&gt;</span>",
            page, StringComparison.Ordinal);
        Assert.InRange(page.Length, 1000, 20_000);
        AssertSelfContained(page);
    }

    [Fact]
    public async Task Render_Mermaid_BringsItsLibraryOnceWhereThereAreDiagrams()
    {
        using TempFolder folder = new();
        string input = folder.Notebook("#!mermaid\ngraph LR\nA --> B<i>", "#!mermaid\nsequenceDiagram\nA->>B: x");
        await NotebookRunner.RunAsync(input, input, cancellationToken: TestContext.Current.CancellationToken);
        var notebook = Notebook.Load(input);
        Assert.InRange(new FileInfo(input).Length, 100, 5000);
        string page = NotebookHtml.Render(notebook, "x");

        Assert.Equal(3, page.Split("<pre class=\"mermaid\">").Length);
        Assert.Contains("A --&gt; B&lt;i&gt;</pre>", page, StringComparison.Ordinal);
        Assert.Equal(2, page.Split("<script data-xlstm=\"mermaid\">").Length);
        Assert.InRange(page.Length, 3_500_000, 3_700_000);
        Assert.Contains("data-xlstm=\"mermaid\"", Prose("Text\n\n```mermaid\ngraph LR\n```\n"), StringComparison.Ordinal);
    }

    [Fact]
    public void Render_Markdown_IsRenderedAndHardened()
    {
        string page = Prose(
            "# The title\n\n*soft* [good](https://example.org) [bad](javascript:alert(1)) <script>alert(2)</script> "
            + "<javascript:alert(3)>\n\n![far](http://example.org/a.png)\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n$x < y$");

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
        using TempFolder folder = new();
        File.WriteAllBytes(folder["dot.png"], [1, 2, 3]);
        Notebook notebook = new();
        notebook.Cells.Add(new NotebookCell(CellKind.Markdown, "![a](dot.png) ![b](missing.png)"));
        NotebookCell code = new(CellKind.Code, "");
        code.SetOutputs(
            [new JsonObject
            {
                ["output_type"] = "display_data",
                ["metadata"] = new JsonObject(),
                ["data"] = new JsonObject { ["image/png"] = "AQID\n" },
            }], 1);
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
                new JsonObject
                {
                    ["output_type"] = "error",
                    ["ename"] = "E",
                    ["evalue"] = "v",
                    ["traceback"] = new JsonArray("\u001b[31mred\u001b[0m <x>"),
                },
            ],
            1);
        notebook.Cells.Add(code);
        string page = NotebookHtml.Render(notebook, "x");

        Assert.Contains("<pre class=\"stdout\">100 %\ndone\n</pre>", page, StringComparison.Ordinal);
        Assert.Contains("<pre class=\"error\">red &lt;x&gt;</pre>", page, StringComparison.Ordinal);
    }

    [Fact]
    public void Render_TerminalSequences_AreInNoOutput()
    {
        const string text = "\e[31mred\e[0m \e]8;;http://localhost/\e\\\\link\e]8;;\e\\\\ \e(B\e[m \e[38:2::255:0:0mcolon\e[0m abc\b\bX";
        string page = Outputs(
            new JsonObject { ["output_type"] = "stream", ["name"] = "stdout", ["text"] = text },
            new JsonObject { ["output_type"] = "error", ["ename"] = "E", ["evalue"] = text, ["traceback"] = new JsonArray() },
            new JsonObject { ["output_type"] = "error", ["ename"] = "E", ["evalue"] = "v", ["traceback"] = new JsonArray(text) },
            Data("text/plain", text));

        Assert.DoesNotContain('\e', page);
        Assert.DoesNotContain('\b', page);
        Assert.Equal(5, page.Split("colon aXc").Length);
        Assert.DoesNotContain("localhost", page, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(
        """<div id="own"></div><script>var r=requirejs.config({context:"own",paths:{plotly:"https://cdn.plot.ly/plotly-2.6.3.min"}})||require;r(["plotly"],function(P){P.newPlot("own",[]);});</script>""")]
    [InlineData(
        """<script src="https://cdn.plot.ly/plotly-latest.min.js"></script><div id="own"></div><script>Plotly.newPlot("own",[]);</script>""")]
    [InlineData(
        """<script type="module">import "https://cdn.plot.ly/plotly-3.0.1.min"</script><div id="own"></div><script>Plotly.newPlot("own",[]);</script>""")]
    public void Render_ChartOfAnotherKernel_IsDrawnByThePagesLibrary(string html)
    {
        string page = Outputs(Data("text/html", html), Data("text/html", html));

        Assert.Equal(2, page.Split("<script data-xlstm=\"plotly\">").Length);
        Assert.Contains("window.requirejs=load", page, StringComparison.Ordinal);
        Assert.DoesNotContain("class=\"network\"", page, StringComparison.Ordinal);
        Assert.Contains("newPlot(\"own\"", page, StringComparison.Ordinal);
        AssertSelfContained(ChartHtml.WithoutLibrary(page));
        Assert.DoesNotContain("import \"http", page, StringComparison.Ordinal);
    }

    [Fact]
    public void Render_PlotlyFigureWithoutHtml_IsDrawn()
    {
        JsonObject output = Data("text/plain", "Figure");
        output["data"]!["application/vnd.plotly.v1+json"] = JsonNode.Parse(
            """{"data":[{"x":[1],"y":[2],"name":"</script>"}],"layout":{"height":300}}""");
        string page = Outputs(output);

        Assert.Contains("<script data-xlstm=\"plotly\">", page, StringComparison.Ordinal);
        Assert.Contains("height:300px", page, StringComparison.Ordinal);
        Assert.DoesNotContain("\"</script>\"", page, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("<img src='https://example.org/a.png'>")]
    [InlineData("<img alt=\"a > b\" src=//example.org/a.png>")]
    [InlineData("<link rel=stylesheet href=\"https://example.org/a.css\"><b>x</b>")]
    [InlineData("<script src=\"https://example.org/a.js\"></script>")]
    [InlineData("<script>var s=document.createElement('script');s.src='https://example.org/a.js';</script>")]
    [InlineData("<script>require(['https://cdn.example.org/npm/x'],function(){});</script>")]
    [InlineData("<style>@import url('https://example.org/a.css'); b{background:url(https://example.org/b.png)}</style>")]
    [InlineData("<iframe srcdoc=\"&lt;script src=&quot;https://example.org/a.js&quot;&gt;\"></iframe>")]
    public void Render_OutputThatNeedsTheNetwork_SaysSo(string html)
    {
        string page = Outputs(Data("text/html", html));

        Assert.Contains("class=\"network\"", page, StringComparison.Ordinal);
        Assert.Contains("example.org", page, StringComparison.Ordinal);
        Assert.Contains("from the network", page, StringComparison.Ordinal);
        AssertSelfContained(page);
    }

    [Fact]
    public void Render_OutputThatNeedsNoNetwork_StaysAsItIs()
    {
        const string html = "<a href=\"https://example.org\">link</a><img src=\"data:image/png;base64,AQID\"><p>see "
            + "https://example.org/a.js</p><script>var x='<img src=\"y\">';</script>";

        Assert.Contains(html, Outputs(Data("text/html", html)), StringComparison.Ordinal);
        Assert.DoesNotContain("class=\"network\"", Outputs(Data("text/html", html)), StringComparison.Ordinal);
    }

    [Fact]
    public void Render_PicturesThatAPageCannotHold_AreNamed()
    {
        string page = Prose("![the far one](http://example.org/a.png) and ![](gone.png)");

        Assert.Contains("the far one", page, StringComparison.Ordinal);
        Assert.Contains("href=\"http://example.org/a.png\"", page, StringComparison.Ordinal);
        Assert.Contains("gone.png", page, StringComparison.Ordinal);
        Assert.Contains("not in this page", page, StringComparison.Ordinal);
        AssertSelfContained(page);
    }

    [Fact]
    public void Render_NotebookOfAnotherLanguage_IsNotColouredAsCSharp()
    {
        var notebook = Notebook.Parse("""
            {"nbformat":4,"nbformat_minor":5,"metadata":{"language_info":{"name":"python"}},"cells":[{"cell_type":"code","source":"class A: pass # x","id":"a","metadata":{}}]}
            """);

        Assert.Contains("<pre class=\"code\">class A: pass # x</pre>", NotebookHtml.Render(notebook, "x"), StringComparison.Ordinal);
    }

    private static JsonObject Data(string mimeType, string text) =>
        new() { ["output_type"] = "display_data", ["metadata"] = new JsonObject(), ["data"] = new JsonObject { [mimeType] = text } };

    private static string Outputs(params JsonNode[] outputs)
    {
        Notebook notebook = new();
        NotebookCell code = new(CellKind.Code, "x");
        code.SetOutputs(new JsonArray([.. outputs.Select(output => output.DeepClone())]), 1);
        notebook.Cells.Add(code);
        return NotebookHtml.Render(notebook, "x");
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
