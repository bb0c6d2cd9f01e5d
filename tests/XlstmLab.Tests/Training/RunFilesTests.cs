using XlstmLab.Models;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

public sealed class RunFilesTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Theory]
    [InlineData("{", "no valid JSON")]
    [InlineData("null", "an object")]
    [InlineData("""{"stauts":"completed"}""", "Did you mean 'status'?")]
    [InlineData("""{"status":"done"}""", "status has a value of the wrong kind")]
    public void ReadMetadata_Damaged_NamesTheFile(string json, string expected)
    {
        var path = _temp.Write("meta.json", json);
        var message = Assert.Throws<InvalidDataException>(() => RunFolder.ReadMetadata(_temp.Path)).Message;
        Assert.StartsWith(path, message, StringComparison.Ordinal);
        Assert.Contains(expected, message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"model":{},"training":{"stps":3}}""", "there is no 'training.stps'. Did you mean 'steps'?")]
    [InlineData("""{"model":{},"training":null}""", "it has no object 'training'")]
    [InlineData("""{"model":{},"training":{},"trianing":{}}""", "there is no 'trianing'. Did you mean 'training'?")]
    [InlineData("""{"model":{},"training":{"schedule":null}}""", "training.schedule has a value of the wrong kind")]
    public void ReadTrainingConfig_Fault_IsNamedWithFileAndPlace(string json, string expected)
    {
        var path = _temp.Write("config.json", json);
        var message = Assert.Throws<InvalidDataException>(() => RunFolder.ReadTrainingConfig(_temp.Path)).Message;
        Assert.StartsWith(path, message, StringComparison.Ordinal);
        Assert.Contains(expected, message, StringComparison.Ordinal);
    }

    /// <summary>A folder in the lock's place cannot be opened, even by root: as in a folder that is read-only.</summary>
    [Fact]
    public void Open_FolderThatCannotBeWritten_DoesNotBlameAnotherProcess()
    {
        Directory.CreateDirectory(_temp[".lock"]);
        var message = Assert.Throws<InvalidOperationException>(() =>
            RunFolder.Open(_temp.Path, new TrainingConfig(), new XlstmConfig(), null, false)).Message;
        Assert.Contains("cannot be written", message, StringComparison.Ordinal);
        Assert.DoesNotContain("Another process", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_FolderThatAnotherHolds_SaysSo()
    {
        using var first = RunFolder.Open(_temp.Path, new TrainingConfig(), new XlstmConfig(), null, false);
        Assert.Contains(
            "Another process",
            Assert.Throws<InvalidOperationException>(() =>
                RunFolder.Open(_temp.Path, new TrainingConfig(), new XlstmConfig(), null, false)).Message,
            StringComparison.Ordinal);
    }
}
