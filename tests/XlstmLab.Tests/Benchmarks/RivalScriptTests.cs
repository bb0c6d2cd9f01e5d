using XlstmLab.Benchmarks;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

[Collection(nameof(ProcessCollection))]
public sealed class RivalScriptTests
{
    [Fact]
    public async Task Run_ItsLines_BecomeRowsOfTheirWorks()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "A shell stands in for Python.");
        using var folder = CommandLine.Folder();
        File.WriteAllText(
            folder["rival.sh"],
            """
            read request
            case "$request" in *'"model_type":"llama"'*) llama=yes;; esac
            echo 'a warning of some library'
            echo '{"index":1,"implementation":"theirs '$llama'","versions":"v1","training_seconds":0.25,"peak_bytes":5}'
            echo '{"index":7,"implementation":"of no work"}'
            """);
        var rows = await Run(new(folder["rival.sh"], 60, 0) { Python = "/bin/sh" });
        Assert.Equal(["theirs yes", "rival.sh"], rows.Select(r => r.Implementation));
        Assert.Equal((0.25, "this run, v1"), (rows[0].TrainingSeconds, rows[0].Source));
        Assert.Contains("has nothing", rows[1].Remark, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("exit 3", 60, "code 3")]
    [InlineData("echo 'PyTorch is not installed' >&2; exit 1", 60, "PyTorch is not installed")]
    [InlineData("sleep 60", 1, "--rival-seconds")]
    public async Task Run_ThatCannot_SaysWhyInEveryRow(string script, int seconds, string expected)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "A shell stands in for Python.");
        using var folder = CommandLine.Folder();
        File.WriteAllText(folder["rival.sh"], script);
        var rows = await Run(new(folder["rival.sh"], seconds, 0) { Python = "/bin/sh" });
        Assert.Equal(2, rows.Count);
        Assert.All(rows, r => Assert.Contains(expected, r.Remark, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Run_WithoutPythonOrScript_SaysWhy()
    {
        Assert.True(File.Exists(RivalScript.Own));
        Assert.Contains("could not be started", (await Run(new(RivalScript.Own, 60, 0) { Python = "no-such-python" }))[0].Remark, StringComparison.Ordinal);
        Assert.Contains("there is no file", (await Run(new("no-such-file.py", 60, 0)))[0].Remark, StringComparison.Ordinal);
    }

    private static Task<IReadOnlyList<Measurement>> Run(RivalScript script) =>
        script.RunAsync([new DecodeWork("bytes-1m", 1), new TrainingWork("llama-bytes-1m", 1, 8)], "cpu", "float32", _ => { }, CancellationToken.None);
}
