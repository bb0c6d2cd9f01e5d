using XlstmLab.Notebooks;
using Xunit;

namespace XlstmLab.Tests.Notebooks;

public sealed class ParameterFileTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Theory]
    [InlineData("v.json", """{"steps": 20, "rate": 1e-3, "name": "a: b", "fast": true, "path": null}""")]
    [InlineData("v.yaml", "---\nsteps: 20\nrate: 1e-3 # small\n\nname: \"a: b\"\nfast: true\npath: null\n")]
    [InlineData("v.yml", "steps: 20\r\nrate: 1e-3\r\nname: 'a: b'\r\nfast: true\r\npath: ~")]
    public void Read_SingleValuesByName_AreText(string file, string text)
    {
        File.WriteAllText(_temp[file], text);
        var values = ParameterFile.Read(_temp[file]);

        Assert.Equal(
            new Dictionary<string, string?> { ["steps"] = "20", ["rate"] = "1e-3", ["name"] = "a: b", ["fast"] = "true", ["path"] = null },
            values);
    }

    [Theory]
    [InlineData("v.json", "[1]", "no JSON object")]
    [InlineData("v.json", "{", "not valid JSON")]
    [InlineData("v.json", """{"a": [1]}""", "value of 'a' is no number")]
    [InlineData("v.yaml", "a:\n  b: 1", "value of 'a' is no number")]
    [InlineData("v.yaml", "a: 1\n- b", "line 2: expected 'name: value', got '- b'")]
    [InlineData("v.yaml", "a: 1\na: 2", "names 'a' twice")]
    [InlineData("v.toml", "a = 1", "ends in none of .json, .yaml and .yml")]
    public void Read_AnythingElse_SaysWhatIsWrong(string file, string text, string message)
    {
        File.WriteAllText(_temp[file], text);

        Assert.Contains(message, Assert.Throws<NotebookException>(() => ParameterFile.Read(_temp[file])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_FileThatIsNotThere_SaysSo() =>
        Assert.Contains(
            "cannot be read", Assert.Throws<NotebookException>(() => ParameterFile.Read(_temp["none.json"])).Message,
            StringComparison.Ordinal);
}
