using System.Globalization;
using System.Text.Json.Nodes;
using System.Xml.Linq;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

public sealed class ChartSvgTests
{
    [Fact]
    public void Draw_Line_SpansTheChartAndLeavesGaps()
    {
        var svg = Draw(
            """{"data":[{"type":"scatter","mode":"lines","x":[0,10,20,30],"y":[0,20000,null,40000],"line":{"color":"#123456","dash":"dot"}}],"layout":{"width":500,"height":300}}""");

        Assert.Equal(("500", "300"), (svg.Attribute("width")!.Value, svg.Attribute("height")!.Value));
        var path = svg.Descendants().Single(e => (string?)e.Attribute("stroke") == "#123456");
        string[] parts = path.Attribute("d")!.Value.Split('M', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, parts.Length);
        Assert.Contains('L', parts[0]);
        double[] heights = [.. parts.SelectMany(p => p.Split('L')).Select(
            p => double.Parse(p.Split(' ')[1], CultureInfo.InvariantCulture))];
        Assert.True(heights[0] > heights[1] && heights[1] > heights[2], "A greater value is drawn higher.");
        Assert.Equal((heights[0] + heights[2]) / 2, heights[1], 0.2);
        Assert.Superset(new HashSet<string> { "0", "10k", "20k", "30k", "40k", "30" }, Texts(svg).ToHashSet());
    }

    [Fact]
    public void Draw_LogarithmicAxisAndLegend_ShowPowersAndNames()
    {
        var svg = Draw("""
            {"data":[{"type":"scatter","name":"a <b>","x":[1,1000],"y":[1,2]},{"type":"scatter","name":"b & c","mode":"markers","x":[1,1000000],"y":[1,2]}],
            "layout":{"title":{"text":"Title"},"xaxis":{"type":"log","title":{"text":"tokens"}},"yaxis":{"tickvals":[1,2],"ticktext":["10<sup>−4</sup>","two"]}}}
            """);

        Assert.Superset(
            new HashSet<string> { "Title", "tokens", "a ", "b & c", "1", "1,000", "1M", "10−4", "two" }, Texts(svg).ToHashSet());
        double[] circles = [.. svg.Descendants().Where(e => e.Name.LocalName == "circle").Select(
            e => double.Parse(e.Attribute("cx")!.Value, CultureInfo.InvariantCulture))];
        Assert.Equal(2, circles.Length);
        Assert.True(circles[1] - circles[0] > 600);
    }

    [Fact]
    public void Draw_Bars_AreAsLongAsTheirValues()
    {
        var svg = Draw(
            """{"data":[{"type":"bar","orientation":"h","y":["x","y"],"x":[1,3],"text":["one","three"],"marker":{"color":["#111111","#222222"]}}],"layout":{}}""");
        double Length(string color) => double.Parse(
            svg.Descendants().Single(e => (string?)e.Attribute("fill") == color).Attribute("width")!.Value, CultureInfo.InvariantCulture);

        Assert.Equal(3, Length("#222222") / Length("#111111"), 0.02);
        Assert.Superset(new HashSet<string> { "x", "y", "one", "three" }, Texts(svg).ToHashSet());
    }

    [Fact]
    public void Draw_Band_IsAnAreaWithoutALineAround()
    {
        var svg = Draw(
            """{"data":[{"type":"scatter","mode":"lines","x":[0,1,1,0],"y":[2,3,1,0],"fill":"toself","fillcolor":"rgba(1,2,3,0.2)","line":{"width":0,"color":"#123456"}}],"layout":{}}""");
        var band = svg.Descendants().Single(e => (string?)e.Attribute("fill") == "rgba(1,2,3,0.2)");
        Assert.EndsWith("Z", band.Attribute("d")!.Value, StringComparison.Ordinal);
        Assert.DoesNotContain(svg.Descendants(), e => (string?)e.Attribute("stroke") == "#123456");
    }

    [Fact]
    public void Draw_HeatMap_ColoursItsCellsByTheScale()
    {
        var svg = Draw(
            """{"data":[{"type":"heatmap","z":[[0,1],[null,0.5]],"x":["a","b"],"y":["c","d"],"colorscale":[[0,"#000000"],[1,"#ffffff"]],"colorbar":{"title":{"text":"weight"}}}],"layout":{}}""");
        string[] fills =
            [.. svg.Descendants().Where(e => e.Name.LocalName == "path" && ((string?)e.Attribute("d"))!.Contains('h')
                && e.Attribute("fill") is not null).Select(e => e.Attribute("fill")!.Value)];

        Assert.Equal(3, fills.Length);
        Assert.Equal(("#000000", "#ffffff"), (fills[0], fills[^1]));
        Assert.Superset(new HashSet<string> { "a", "b", "c", "d", "weight" }, Texts(svg).ToHashSet());
    }

    [Fact]
    public void Draw_Violin_IsWidestWhereMostValuesAre()
    {
        var svg = Draw(
            """{"data":[{"type":"violin","x":["a","a","a","a","a","a"],"y":[0,5,5,5,5,10],"fillcolor":"#abcdef"}],"layout":{}}""");
        var points = svg.Descendants().Single(e => (string?)e.Attribute("fill") == "#abcdef").Attribute("d")!.Value
            .TrimStart('M').TrimEnd('Z').Split('L')
            .Select(p => p.Split(' ').Select(v => double.Parse(v, CultureInfo.InvariantCulture)).ToArray()).ToArray();
        var widest = points.MaxBy(p => p[0])!;

        Assert.Equal((points.Min(p => p[1]) + points.Max(p => p[1])) / 2, widest[1], 3.0);
    }

    [Theory]
    [InlineData("""{"data":[],"layout":{}}""")]
    [InlineData("""{"data":[{"type":"pie","values":[1,2]}],"layout":{}}""")]
    [InlineData("""{"data":[{"type":"scatter","x":[1],"y":[1]},{"type":"surface","z":[[1]]}],"layout":{}}""")]
    public void Draw_OtherKinds_AreLeftToPlotly(string figure) => Assert.Null(ChartSvg.Draw(JsonNode.Parse(figure)!.AsObject()));

    [Theory]
    [InlineData("""{"data":[{"type":"scatter"}]}""")]
    [InlineData("""{"data":[{"type":"scatter","x":[],"y":[]}],"layout":null}""")]
    [InlineData("""{"data":[{"type":"scatter","x":[1],"y":[5]}],"layout":{"xaxis":{"type":"log"},"yaxis":{"type":"log"}}}""")]
    [InlineData("""{"data":[{"type":"scatter","x":[1,2],"y":[0,-5]}],"layout":{"yaxis":{"type":"log"}}}""")]
    [InlineData("""{"data":[{"type":"heatmap","z":[]}],"layout":{}}""")]
    [InlineData("""{"data":[{"type":"heatmap","z":[[1]]}],"layout":{}}""")]
    [InlineData("""{"data":[{"type":"violin","y":[1]}],"layout":{}}""")]
    [InlineData(
        """{"data":[{"type":"bar","y":[null]}],"layout":{"width":"wide","annotations":[{"text":"a","x":1,"y":1}],"shapes":[{"type":"line"}]}}""")]
    public void Draw_SparseFigures_GiveADrawing(string figure)
    {
        var svg = Draw(figure);

        Assert.DoesNotContain("NaN", svg.ToString(), StringComparison.Ordinal);
        Assert.DoesNotContain("∞", svg.ToString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, "0")]
    [InlineData(0.004, "0.004")]
    [InlineData(-0.00005, "-0.00005")]
    [InlineData(1500, "1,500")]
    [InlineData(20_000, "20k")]
    [InlineData(1_500_000, "1.5M")]
    [InlineData(-2e9, "-2G")]
    [InlineData(2e-6, "2e-6")]
    public void Short_Number_IsWrittenWithoutPowers(double value, string text) => Assert.Equal(text, ChartAxis.Short(value));

    private static XElement Draw(string figure) => XDocument.Parse(ChartSvg.Draw(JsonNode.Parse(figure)!.AsObject())!).Root!;

    private static IEnumerable<string> Texts(XElement svg) => svg.Descendants().Where(e => e.Name.LocalName == "text").Select(e => e.Value);
}
