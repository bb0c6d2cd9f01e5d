using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Tests.Tasks.Ruler;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class RulerCommandTests
{
    [Fact]
    public async Task RulerAndExtrapolation_OfARun_WriteTablesAndFiles()
    {
        using var folder = CommandLine.Folder();
        File.WriteAllText(folder["text.txt"], string.Join('\n', Enumerable.Range(0, 400).Select(k => $"line {k * 7 % 97} of the text.")));
        File.WriteAllText(folder["qa.jsonl"], RulerTexts.Jsonl);
        File.WriteAllText(folder["model.json"], ModelConfigJson.Text(
            new XlstmConfig { VocabularySize = 257, EmbeddingDim = 16, BlockCount = 1, HeadCount = 2, ChunkSize = 16 }));
        var train = await CommandLine.RunAsync(
            "train", "--out", folder["run"], "--threads", "1", "--model", folder["model.json"], "--data", folder["text.txt"], "--steps",
            "1", "--schedule", "constant",
            "--warmup", "0", "--batch-size", "1", "--context", "16");
        Assert.True(train.Code == 0, train.Error);

        string[] ruler = ["ruler", folder["run"], "--tasks", "niah_single_1,fwe,qa_1", "--lengths", "700,800",
            "--samples", "2", "--answer-tokens", "4", "--threads", "1", "--qa", folder["qa.jsonl"], "--out", folder["results"]];
        var result = await CommandLine.RunAsync([.. ruler, "--json"]);
        Assert.True(result.Code == 0, result.Error);
        Assert.Equal(
            ["niah_single_1", "niah_single_1", "fwe", "fwe", "qa_1", "qa_1"],
            result.Json["scores"]!.AsArray().Select(s => s!["task"]!.GetValue<string>()));
        Assert.Equal([700, 800], result.Json["averages"]!.AsArray().Select(a => a!["length"]!.GetValue<int>()));
        Assert.Equal(result.Json.ToJsonString(), JsonNode.Parse(File.ReadAllText(folder["results/ruler.json"]))!.ToJsonString());
        Assert.Equal(1 + 6, File.ReadAllLines(folder["results/ruler.csv"]).Length);
        Assert.Equal(6 * 2, File.ReadAllLines(folder["results/ruler-answers.jsonl"]).Count(
            l => JsonNode.Parse(l)!["prompt_tokens"]!.GetValue<int>() <= 800));

        var table = await CommandLine.RunAsync(ruler);
        Assert.Contains("| niah_single_1 |", table.Out, StringComparison.Ordinal);
        Assert.Contains("| mean          |", table.Out, StringComparison.Ordinal);

        var far = await CommandLine.RunAsync("eval", folder["run"], "--split", "train", "--extrapolate", "64", "--json", "--threads", "1");
        Assert.True(far.Code == 0, far.Error);
        Assert.Equal((16, 1), (far.Json["trained_length"]!.GetValue<int>(), far.Json["documents"]!.GetValue<int>()));
        Assert.Equal(["yes", "no", "no"],
            (await CommandLine.RunAsync("eval", folder["run"], "--split", "train", "--extrapolate", "64", "--threads", "1")).Out
                .Split('\n').Where(l => l.StartsWith('|')).TakeLast(3).Select(l => l.Split('|')[^2].Trim()));
    }

    [Theory]
    [InlineData("--tasks", "niah_9", "niah_9")]
    [InlineData("--tasks", "qa_1", "--qa")]
    [InlineData("--lengths", "512,x", "'x'")]
    public async Task Ruler_WrongOption_IsAUsageErrorBeforeAModelIsLoaded(string option, string value, string expected)
    {
        var result = await CommandLine.RunAsync("ruler", "no-such-folder", option, value);
        Assert.Equal(2, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
    }
}
