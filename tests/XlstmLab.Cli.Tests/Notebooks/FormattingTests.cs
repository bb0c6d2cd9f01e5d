using Deedle;
using Microsoft.Data.Analysis;
using Microsoft.DotNet.Interactive.Formatting;
using Plotly.NET.CSharp;
using XlstmLab.Analysis;
using XlstmLab.Notebooks;
using Xunit;
using static TorchSharp.torch;
using Chart = Plotly.NET.CSharp.Chart;

namespace XlstmLab.Tests.Notebooks;

[Collection(NotebookTestSetup.Name)]
public sealed class FormattingTests
{
    private const string Html = "text/html";
    private const string Plain = "text/plain";
    private const string PlotlyStart = "<script data-xlstm=\"plotly\">";

    public FormattingTests() => LabFormatters.Register();

    [Fact]
    public void Chart_WithoutOwnLayout_GetsTheStyleAndIsAPictureOffline()
    {
        var chart = Chart.Line<int, double, string>([1, 2], [3.5, 4], Name: "</script>loss");
        string html = chart.ToDisplayString(Html);

        Assert.DoesNotContain(PlotlyStart, html, StringComparison.Ordinal);
        Assert.Contains("<svg ", html, StringComparison.Ordinal);
        string fragment = html.Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal);
        Assert.InRange(fragment.Length, 500, 12_000);
        Assert.Contains("\"autosize\":true", fragment, StringComparison.Ordinal);
        Assert.Contains("\"height\":420", fragment, StringComparison.Ordinal);
        Assert.Contains("#0b5fa5", fragment, StringComparison.Ordinal);
        Assert.DoesNotContain("</script>loss", fragment, StringComparison.Ordinal);
        Assert.DoesNotContain("http", fragment, StringComparison.Ordinal);
        Assert.Equal("chart, 1 trace: </script>loss", chart.ToDisplayString(Plain));
    }

    [Fact]
    public void Chart_WithOwnSize_KeepsIt()
    {
        string html = ChartHtml.WithoutLibrary(Chart.Point<int, int, string>([1], [2]).WithSize(700, 300).ToDisplayString(Html));

        Assert.Contains("\"width\":700", html, StringComparison.Ordinal);
        Assert.Contains("\"height\":300", html, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Charts_InCells_AreFiguresWithAPictureAndWithoutTheLibrary()
    {
        using CellEngine engine = new();
        const string chart =
            "Plotly.NET.CSharp.Chart.Line<int, double, string>(new[] { 1, 2 }, new[] { 1 / 3.0, 20_000 }, Name: \"a < b\")";
        var result = await engine.RunAsync($"display({chart});\n{chart}", cancellationToken: TestContext.Current.CancellationToken);

        foreach (var output in result.Outputs)
        {
            var data = output!["data"]!.AsObject();
            Assert.Equal(["application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"], data.Select(entry => entry.Key));
            Assert.Equal(0.333333, data["application/vnd.plotly.v1+json"]!["data"]![0]!["y"]![0]!.GetValue<double>());
            Assert.Equal("chart, 1 trace: a < b", output.Text(Plain));
            var svg = System.Xml.Linq.XDocument.Parse(output.Text("image/svg+xml"));
            Assert.Contains(svg.Descendants(), e => e.Name.LocalName == "text" && e.Value == "20k");
            Assert.InRange(data.ToJsonString().Length, 1000, 10_000);
        }
    }

    [Fact]
    public void DataFrame_LongerThanTheLimit_ShowsItsHeadAndSaysSo()
    {
        DataFrame frame = new(
            new Int32DataFrameColumn("step", Enumerable.Range(0, 40)),
            new DoubleDataFrameColumn("<loss>", Enumerable.Range(0, 40).Select(i => (double?)(i == 1 ? null : 1234.5678 / (i + 1)))),
            new StringDataFrameColumn("tag", Enumerable.Range(0, 40).Select(i => "<b>")));
        string html = frame.ToDisplayString(Html);

        Assert.Equal(26, html.Split("<tr>").Length - 1);
        Assert.Contains("first 25 of 40 rows, 3 columns", html, StringComparison.Ordinal);
        Assert.Contains("<td class=\"n\">0</td><td class=\"n\">1234.6</td><td>&lt;b&gt;</td>", html, StringComparison.Ordinal);
        Assert.Contains("class=\"n m\"", html, StringComparison.Ordinal);
        Assert.DoesNotContain("<loss>", html, StringComparison.Ordinal);
        Assert.Equal("DataFrame, 40 x 3: step (Int32), <loss> (Double), tag (String)", frame.ToDisplayString(Plain));
    }

    [Fact]
    public void Numbers_OfVeryDifferentSize_StayReadable()
    {
        DataFrame frame = new(
            new DoubleDataFrameColumn("tiny", [1e-12, 2.5e-3]), new DoubleDataFrameColumn("whole", [1, 20]),
            new DoubleDataFrameColumn("huge", [3.5e12, double.NaN]));
        string html = frame.ToDisplayString(Html);

        Assert.Contains("<td class=\"n\">1e-12</td><td class=\"n\">1</td><td class=\"n\">3.5e+12</td>", html, StringComparison.Ordinal);
        Assert.Contains("<td class=\"n\">0.0025000</td><td class=\"n\">20</td><td class=\"n\">NaN</td>", html, StringComparison.Ordinal);

        string counts = new[] { new { Year = 2026, Tokens = 1_843_200L, Rate = 12345.67 } }.ToDataFrame().ToDisplayString(Html);
        Assert.Contains(
            "<td class=\"n\">2026</td><td class=\"n\">1,843,200</td><td class=\"n\">12,346</td>", counts, StringComparison.Ordinal);
    }

    [Fact]
    public void Deedle_FrameSeriesAndRow_ShareTheTable()
    {
        var frame = Frame.FromColumns(
            new Dictionary<string, Series<int, double>> { ["a"] = new([1, 2], [0.5, double.NaN]), ["b"] = new([1, 2], [1.25, 3]) });

        string html = frame.ToDisplayString(Html);
        Assert.Contains("<th class=\"n\">1</th><td class=\"n\">0.5</td><td class=\"n\">1.25</td>", html, StringComparison.Ordinal);
        Assert.Equal("Frame, 2 x 2: a (Double), b (Double)", frame.ToDisplayString(Plain));
        Assert.Equal("Series, 2 x 1: Double", frame.GetColumn<double>("b").ToDisplayString(Plain));
        Assert.Contains("<th>a</th><td class=\"n\">0.50</td>", frame.Rows[1].ToDisplayString(Html), StringComparison.Ordinal);
        Assert.InRange(html.Length, 400, 2500);
    }

    [Fact]
    public void Tensor_AnyKind_IsDescribedInALineAndLeavesNoTensor()
    {
        using var values = arange(1, 1001, dtype: float32).reshape(10, 100);
        long before = Tensor.TotalCount;
        string text = values.ToDisplayString(Plain);

        Assert.Equal("float32 [10, 100] on cpu: mean 500.5, std 288.82, min 1, max 1000; 1, 2, 3, 4, 5, 6, ...", text);
        Assert.Equal(before, Tensor.TotalCount);
        string html = values.ToDisplayString(Html);
        Assert.StartsWith("<div", html, StringComparison.Ordinal);
        Assert.Contains("viewBox=\"0 0 48 10\"", html, StringComparison.Ordinal);
        Assert.Equal(480, html.Split("h1v1h-1z").Length - 1);
        Assert.Contains("the matrix in 10 x 48 means, from 2 (dark) to 999 (bright)", html, StringComparison.Ordinal);
        Assert.Equal(before, Tensor.TotalCount);
        using var identity = eye(3);
        Assert.Contains(
            "<path fill=\"#fde725\" d=\"M0 0h1v1h-1zM1 1h1v1h-1zM2 2h1v1h-1z\"/>",
            identity.ToDisplayString(Html), StringComparison.Ordinal);
        using var flags = tensor(new[] { true, false });
        Assert.Equal("bool [2] on cpu: 1, 0", flags.ToDisplayString(Plain));
        using var none = zeros(0, 3);
        Assert.Equal("float32 [0, 3] on cpu: empty", none.ToDisplayString(Plain));
        using var half = ones([200], dtype: bfloat16);
        Assert.StartsWith("bfloat16 [200] on cpu: mean 1, std 0", half.ToDisplayString(Plain), StringComparison.Ordinal);
        using var imaginary = zeros([2], dtype: complex64);
        Assert.Equal("complex64 [2] on cpu", imaginary.ToDisplayString(Plain));
        var gone = zeros(1);
        gone.Dispose();
        Assert.Equal("disposed tensor", gone.ToDisplayString(Plain));
    }

    [Fact]
    public async Task Values_OfOtherTypes_ArePlainOrTables()
    {
        CellEngine engine = new();
        var number = await engine.RunAsync("1.5", cancellationToken: TestContext.Current.CancellationToken);
        var list = await engine.RunAsync(
            "Enumerable.Range(0, 3000).Select(i => new { Name = \"<\" + i, Loss = i * 1.5 }).ToArray()",
            cancellationToken: TestContext.Current.CancellationToken);

        Assert.Equal("1.5", number.Outputs[0].Text(Plain));
        Assert.Null(number.Outputs[0]!["data"]![Html]);
        Assert.DoesNotContain("\r", list.Outputs[0].Text(Html), StringComparison.Ordinal);
        Assert.InRange(list.Outputs[0].Text(Plain).Length, 1, 2100);
    }

    [Fact]
    public void Results_ShowAsShortTablesWithUnits()
    {
        var evaluation = new XlstmLab.Evaluation.EvaluationResult(20, 10, 8, 2, [], new());
        Assert.Contains("loss (nats/token)", evaluation.ToDisplayString(Html), StringComparison.Ordinal);
        Assert.StartsWith("evaluation, 1 x 8: loss (Double)", evaluation.ToDisplayString(Plain), StringComparison.Ordinal);
        XlstmLab.Models.LanguageModelConfig config = XlstmLab.Models.XlstmPresets.Bytes1M;
        Assert.Contains("923,552", config.ToDisplayString(Html), StringComparison.Ordinal);
        Assert.Contains("MFLOP/token", config.ToDisplayString(Html), StringComparison.Ordinal);
        Assert.Contains("steps", new XlstmLab.Training.TrainingConfig().ToDisplayString(Html), StringComparison.Ordinal);
        IReadOnlyList<XlstmLab.Training.TrainingMetrics> metrics = [];
        Assert.StartsWith("metrics, 0 x", metrics.ToDisplayString(Plain), StringComparison.Ordinal);
        using var model = config.CreateModel(1);
        Assert.Contains("parameters", model.ToDisplayString(Html), StringComparison.Ordinal);
        Assert.Contains(
            "first 25 of 40 rows",
            XlstmLab.Analysis.MetricsTable.From(Enumerable.Range(0, 40).Select(k => new { k })).ToDisplayString(Html),
            StringComparison.Ordinal);
    }
}
