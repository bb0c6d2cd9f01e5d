using XlstmLab.Checkpoints;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class ScoreCommandTests : IDisposable
{
    private readonly TempFolder _folder = CommandLine.Folder();

    public ScoreCommandTests()
    {
        var config = new XlstmConfig { VocabularySize = 257, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 };
        using var model = new XlstmLanguageModel(config, seed: 5);
        HuggingFaceFolder.Save(_folder["model"], config, model.state_dict());
        File.WriteAllText(_folder["piqa.jsonl"], """
            {"goal":"Open a jar","sol1":"Turn the lid.","sol2":"Sing to it.","label":0}
            {"goal":"Boil water","sol1":"Cool the pot.","sol2":"Heat the pot.","label":1}
            {"goal":"Sleep","sol1":"Lie down.","sol2":"Run.","label":0}
            """);
        File.WriteAllText(_folder["lambada.jsonl"], """{"text":"She looked at the moon"}""");
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Score_TwoTasks_JsonTableAndFilesAgree()
    {
        string[] score =
        [
            "score", _folder["model"], "--task", $"piqa={_folder["piqa.jsonl"]}", "--task", $"lambada_openai={_folder["lambada.jsonl"]}",
            "--threads", "1",
        ];
        var result = await CommandLine.RunAsync([.. score, "--json", "--samples", "--out", _folder["out"], "--batch-tokens", "64"]);
        Assert.True(result.Code == 0, result.Error);
        var tasks = result.Json["tasks"]!.AsArray();
        Assert.Equal(["piqa", "lambada_openai"], tasks.Select(t => t!["task"]!.GetValue<string>()));
        Assert.Equal(3, tasks[0]!["samples"]!.AsArray().Count);
        var perplexity = tasks[1]!["metrics"]![1]!;
        Assert.Equal("perplexity", perplexity["metric"]!.GetValue<string>());
        var logLikelihood = tasks[1]!["samples"]![0]!["answers"]![0]!["log_likelihood"]!.GetValue<double>();
        Assert.Equal(Math.Exp(-logLikelihood), perplexity["value"]!.GetValue<double>(), 1e-6);
        Assert.Equal(
            ["lambada_openai.json", "lambada_openai.samples.jsonl", "piqa.json", "piqa.samples.jsonl"],
            Directory.GetFiles(_folder["out"]).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));

        var table = await CommandLine.RunAsync([.. score, "--limit", "2", "--max-tokens", "16", "--samples"]);
        Assert.Contains("| piqa           |       | acc_norm ", table.Out, StringComparison.Ordinal);
        Assert.Contains("| moon ", table.Out, StringComparison.Ordinal);
        Assert.DoesNotContain("Lie down", table.Out, StringComparison.Ordinal);
        Assert.Contains("cut from the left", table.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Score_ShotsWithoutExamples_AreTakenFromTheOtherQuestions()
    {
        string[] score = ["score", _folder["model"], "--task", $"piqa={_folder["piqa.jsonl"]}", "--threads", "1", "--json"];
        var result = await CommandLine.RunAsync([.. score, "--shots", "2"]);
        Assert.True(result.Code == 0, result.Error);
        Assert.Equal(2, result.Json["tasks"]![0]!["metrics"]![0]!["shots"]!.GetValue<int>());
        Assert.Contains("ask for fewer shots", (await CommandLine.RunAsync([.. score, "--shots", "3"])).Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2, "Expected --task NAME=PATH", "--task", "arc=x.jsonl")]
    [InlineData(2, "Expected --task NAME=PATH", "--task", "piqa")]
    [InlineData(2, "no --task mmlu=PATH", "--task", "piqa=x.jsonl", "--examples", "mmlu=x.jsonl")]
    [InlineData(2, "named twice", "--task", "piqa=x.jsonl", "--task", "piqa=y.jsonl")]
    [InlineData(1, "There is no .jsonl or .parquet file 'x.jsonl'", "--task", "piqa=x.jsonl")]
    public async Task Score_WrongUsage_SaysWhatIsExpected(int code, string expected, params string[] args)
    {
        var result = await CommandLine.RunAsync(["score", _folder["model"], .. args]);
        Assert.Equal(code, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
    }
}
