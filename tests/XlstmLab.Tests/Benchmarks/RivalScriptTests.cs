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

    /// <summary>As a library's compiler does that aborts: the measurements before and after it stay.</summary>
    [Fact]
    public async Task Run_MeasurementThatEndsTheProcess_TakesOnlyItsRow()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "A shell stands in for Python.");
        using var folder = CommandLine.Folder();
        File.WriteAllText(
            folder["rival.sh"],
            """
            read request
            echo "$request" >> "$(dirname "$0")/requests"
            has() { case "$request" in *"$1"*) return 0;; esac; return 1; }
            has '[0,"first"]' || { echo '{"index":0,"implementation":"first","begins":true}'; echo '{"index":0,"implementation":"first","forward_seconds":1}'; }
            has '[1,"broken"]' || { echo '{"index":1,"implementation":"broken","begins":true}'; echo 'it broke' >&2; kill -ABRT $$; }
            has '[1,"second"]' || { echo '{"index":1,"implementation":"second","begins":true}'; echo '{"index":1,"implementation":"second","training_seconds":2}'; }
            """);
        var script = new RivalScript(folder["rival.sh"], 60, 0) { Python = "/bin/sh" };
        var rows = await Run(script);
        Assert.Equal(["first", "broken", "second"], rows.Select(r => r.Implementation));
        Assert.Equal((1, null, 2), (rows[0].ForwardSeconds, rows[1].ForwardSeconds, rows[2].TrainingSeconds));
        Assert.Contains("it broke", rows[1].Remark, StringComparison.Ordinal);
        Assert.Equal(2, File.ReadAllLines(folder["requests"]).Length);
        Assert.Equal(2, script.Raw.Count);
    }

    [Fact]
    public async Task Run_WithoutPythonOrScript_SaysWhy()
    {
        Assert.True(File.Exists(RivalScript.Own));
        Assert.Contains(
            "could not be started",
            (await Run(new(RivalScript.Own, 60, 0) { Python = "no-such-python" }))[0].Remark, StringComparison.Ordinal);
        Assert.Contains("there is no file", (await Run(new("no-such-file.py", 60, 0)))[0].Remark, StringComparison.Ordinal);
    }

    private static Task<IReadOnlyList<Measurement>> Run(RivalScript script) =>
        script.RunAsync(
            [new DecodeWork("bytes-1m", 1), new TrainingWork("llama-bytes-1m", 1, 8)], "cpu", "float32", _ => { }, CancellationToken.None);
}
