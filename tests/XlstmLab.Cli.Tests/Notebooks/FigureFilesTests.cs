using System.Text;
using Plotly.NET;
using XlstmLab.Notebooks;
using Xunit;
using Chart = Plotly.NET.CSharp.Chart;

namespace XlstmLab.Tests.Notebooks;

[Collection(NotebookTestSetup.Name)]
public sealed class FigureFilesTests : IDisposable
{
    private static readonly GenericChart Figure = Chart.Line<int, double, string>([1, 2, 3], [3.5, 4, 3], Name: "a < b, größer");

    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void SaveFigure_Html_HoldsItsLibrary()
    {
        Figure.SaveFigure(_temp["f.html"]);
        var html = File.ReadAllText(_temp["f.html"]);
        Assert.Contains("a \\u003C b, gr", html, StringComparison.Ordinal);
        Assert.True(html.Length > 1_000_000);
        Assert.Contains(
            ".pdf", Assert.Throws<ArgumentException>(() => Figure.SaveFigure(_temp["f.gif"])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SaveFigure_BrowserThatIsNotThere_IsSaid()
    {
        var before = Environment.GetEnvironmentVariable(FigureFiles.BrowserVariable);
        Environment.SetEnvironmentVariable(FigureFiles.BrowserVariable, _temp["none"]);
        try
        {
            Assert.Contains(
                "no such program", Assert.Throws<NotebookException>(() => Figure.SaveFigure(_temp["f.svg"])).Message,
                StringComparison.Ordinal);
        }
        finally
        {
            Environment.SetEnvironmentVariable(FigureFiles.BrowserVariable, before);
        }

        Assert.Empty(_temp.Entries);
    }

    [Fact]
    public void SaveFigure_Svg_IsWhatItSays()
    {
        Assert.SkipUnless(FigureFiles.HasBrowser, "There is no browser on this machine.");
        Figure.SaveFigure(_temp["f.svg"], 640, 320);
        var svg = File.ReadAllText(_temp["f.svg"]);
        Assert.StartsWith("<svg", svg, StringComparison.Ordinal);
        Assert.Contains("width=\"640\" height=\"320\"", svg, StringComparison.Ordinal);
    }

    [Fact]
    public void SaveFigure_PngPdf_AreWhatTheySay()
    {
        Assert.SkipUnless(FigureFiles.HasBrowser, "There is no browser on this machine.");
        LongTests.Skip();
        Figure.SaveFigure(_temp["f.png"], 640, 320);
        Figure.SaveFigure(_temp["f.pdf"], 640, 320);
        var png = File.ReadAllBytes(_temp["f.png"]);
        Assert.Equal([0x89, .. "PNG"u8], png[..4]);
        Assert.Equal((1280, 640), ((png[18] << 8) + png[19], (png[22] << 8) + png[23]));
        var pdf = File.ReadAllBytes(_temp["f.pdf"]);
        Assert.Equal("%PDF-", Encoding.ASCII.GetString(pdf, 0, 5));
        Assert.Contains("/MediaBox [0 0 480 240", Encoding.Latin1.GetString(pdf), StringComparison.Ordinal);
    }
}
