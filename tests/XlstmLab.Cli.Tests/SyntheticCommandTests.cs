using XlstmLab.Experiments;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class SyntheticCommandTests
{
    [Fact]
    public async Task List_Json_NamesEveryTask()
    {
        var tasks = (await CommandLine.RunAsync("synthetic", "list", "--json")).Json.AsArray();
        Assert.Equal(SyntheticRecipes.Tasks.Select(t => t.Name), tasks.Select(t => t!["name"]!.GetValue<string>()));
        Assert.All(tasks, t => Assert.Contains(" -> ", t!["example"]!.GetValue<string>(), StringComparison.Ordinal));
        Assert.Contains("| parity", (await CommandLine.RunAsync("synthetic", "list")).Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_FewSteps_WritesSummaryAndPlots_AndIsSkippedTheSecondTime()
    {
        using var folder = CommandLine.Folder();
        string[] run =
        [
            "synthetic", "run", "even-pairs", "--model", "bytes-1m", "--dim", "16", "--blocks", "1", "--heads", "1", "--steps", "6",
            "--batch-size", "8", "--train-lengths", "3-8", "--validation-lengths", "8-12", "--test-lengths", "3-8,12,16",
            "--test-rows", "16", "--validation-rows", "8", "--validate-every", "3", "--seeds", "1,2",
            "--threads", "1", "--out", folder["run"],
        ];
        var first = await CommandLine.RunAsync(run);
        Assert.True(first.Code == 0, first.Error);
        Assert.Contains("|     3-8 |", first.Out, StringComparison.Ordinal);
        Assert.Contains("seed 2  step      6", first.Error, StringComparison.Ordinal);
        string[] written = ["summary.json", "curve.csv", "accuracy.csv", "accuracy-curve.plotly.json", "accuracy-by-length.plotly.json"];
        foreach (var name in written)
        {
            Assert.True(File.Exists(folder[$"run/{name}"]), name);
        }

        var again = await CommandLine.RunAsync([.. run, "--json"]);
        Assert.DoesNotContain("step      3", again.Error, StringComparison.Ordinal);
        var runs = again.Json["runs"]!.AsArray();
        Assert.Equal([1, 2], runs.Select(r => r!["seed"]!.GetValue<int>()));
        Assert.All(runs, r => Assert.Equal(3, r!["scores"]!.AsArray().Count));

        var other = await CommandLine.RunAsync([.. run, "--lr", "0.5"]);
        Assert.Equal(1, other.Code);
        Assert.Contains("peak_learning_rate", other.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_NearestNeighbor_ReportsErrorsByLength()
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(
            "synthetic", "run", "nearest-neighbor", "--model", "bytes-1m", "--dim", "16", "--blocks", "1", "--heads", "1", "--steps", "2",
            "--batch-size", "4", "--test-lengths", "8,16", "--test-rows", "8", "--threads", "1", "--out", folder["run"], "--json");
        Assert.True(result.Code == 0, result.Error);
        Assert.Equal([8, 16], result.Json["runs"]![0]!["scores"]!.AsArray().Select(s => s!["length"]!.GetValue<int>()));
        Assert.True(File.Exists(folder["run/error-by-length.plotly.json"]));
    }

    [Theory]
    [InlineData("", "Name a TASK")]
    [InlineData("sorting", "bucket-sort")]
    [InlineData("parity --model gpt", "bytes-1m")]
    [InlineData("parity --train-lengths 40-3", "40-3")]
    [InlineData("parity --seeds 1,b", "separated by commas")]
    [InlineData("nearest-neighbor --until 0.9", "--until")]
    public async Task Run_WrongUsage_IsToldWith2(string line, string expected)
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(
            ["synthetic", "run", .. line.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--out", folder["run"]]);
        Assert.Equal(2, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(folder["run"]));
    }
}
