using System.Xml.Linq;
using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

public sealed class MathHtmlTests
{
    [Theory]
    [InlineData("x_t^2", "<math><mrow><msubsup><mi>x</mi><mi>t</mi><mn>2</mn></msubsup></mrow></math>")]
    [InlineData("a < 1.5", "<math><mrow><mi>a</mi><mo>&lt;</mo><mn>1.5</mn></mrow></math>")]
    [InlineData("\\frac{1}{T}", "<math><mrow><mfrac><mrow><mn>1</mn></mrow><mrow><mi>T</mi></mrow></mfrac></mrow></math>")]
    [InlineData("\\sum_i", "<math><mrow><munder><mo>∑</mo><mi>i</mi></munder></mrow></math>")]
    [InlineData("\\unknown{<x}", "<code class=\"tex\">\\unknown{&lt;x}</code>")]
    [InlineData("x_1_2", "<code class=\"tex\">x_1_2</code>")]
    public void Render_Formula_IsMathMlOrItsSource(string tex, string expected) => Assert.Equal(
        expected, MathHtml.Render(tex, display: false));

    [Fact]
    public void Render_AnyText_IsWellFormed()
    {
        string[] pieces = ["x", "_", "^", "{", "}", "\\frac", "\\left(", "\\right)", "\\tilde", "\\text{a}",
            "1.2", "<", "'", " ", "\\", "\\sqrt", "\\mathbf"];
        Random random = new(3);
        for (int i = 0; i < 3000; i++)
        {
            string tex = string.Concat(Enumerable.Range(0, random.Next(12)).Select(_ => pieces[random.Next(pieces.Length)]));
            XElement.Parse(MathHtml.Render(tex, display: true));
        }

        Assert.StartsWith("<code", MathHtml.Render(new string('{', 5000), display: true), StringComparison.Ordinal);
    }
}
