using System.Diagnostics;
using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Cli;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Cli;

/// <summary>Runs that are killed or diverge, and texts that are gone on with, by the command line.</summary>
public sealed class RunCommandTests : IDisposable
{
    private static readonly XlstmConfig Config = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 16,
        BlockCount = 1,
        HeadCount = 2,
        ChunkSize = 16,
    };

    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public async Task Train_KilledBeforeItsFirstStep_ResumesAsTold()
    {
        WriteText();
        string[] settings = ["--model", Model(Config), "--data", _temp["text.txt"], "--schedule", "constant",
            "--warmup", "0", "--batch-size", "2", "--context", "16", "--threads", "1"];
        using var process = Start(["train", "--out", _temp["run"], .. settings, "--steps", "1000000"]);
        while (!process.HasExited && !File.Exists(_temp["run", "config.json"]))
        {
            await Task.Delay(1, TestContext.Current.CancellationToken);
        }

        process.Kill();
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(File.Exists(_temp["run", "config.json"]));
        Assert.True(File.Exists(_temp["run", "text.json"]));
        var again = await CommandLine.RunAsync(["train", "--out", _temp["run"], .. settings]);
        Assert.Contains("--resume goes on", again.Error, StringComparison.Ordinal);
        Assert.Contains("no checkpoint yet", (await CommandLine.RunAsync("generate", _temp["run"])).Error, StringComparison.Ordinal);
        var resumed = await CommandLine.RunAsync("train", "--out", _temp["run"], "--resume", "--steps", "3", "--threads", "1", "--json");
        Assert.True(resumed.Code == 0, resumed.Error);
        Assert.Equal(3, resumed.Json["step"]!.GetValue<int>());

        // The state that versions before left, which wrote text.json after the first step.
        File.Delete(_temp["run", "text.json"]);
        var old = await CommandLine.RunAsync("train", "--out", _temp["run"], "--resume", "--steps", "4", "--threads", "1");
        Assert.Equal(2, old.Code);
        Assert.Contains("name it again by --data", old.Error, StringComparison.Ordinal);
        Assert.Equal(
            0,
            (await CommandLine.RunAsync("train", "--out", _temp["run"], "--resume", "--steps", "4",
                "--data", _temp["text.txt"], "--threads", "1")).Code);

        // A kill before config.json: it is no run yet.
        File.WriteAllText(Path.Combine(Directory.CreateDirectory(_temp["early"]).FullName, "text.json"), "{");
        Assert.Equal(0, (await CommandLine.RunAsync(["train", "--out", _temp["early"], .. settings, "--steps", "1"])).Code);
    }

    [Fact]
    public async Task Train_Diverges_ExitsWith1AndSaysWhenAndWhatHelps()
    {
        WriteText();
        string[] train = ["train", "--out", _temp["run"], "--model", Model(Config), "--data", _temp["text.txt"],
            "--steps", "6", "--schedule", "constant", "--warmup", "0", "--batch-size", "2", "--context", "16", "--threads", "1"];
        var result = await CommandLine.RunAsync([.. train, "--lr", "1e30", "--clip", "0"]);
        Assert.Equal((1, ""), (result.Code, result.Out));
        Assert.Contains("not finite", result.Error, StringComparison.Ordinal);
        Assert.Contains("since step", result.Error, StringComparison.Ordinal);
        Assert.Contains("lower learning rate", result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Next: xlstm eval", result.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_temp["run", "checkpoints"]));
        Assert.Equal(TrainingStatus.Failed, RunFolder.ReadMetadata(_temp["run"]).Status);
        Assert.Contains("failed at step", (await CommandLine.RunAsync("generate", _temp["run"])).Error, StringComparison.Ordinal);

        var synthetic = await CommandLine.RunAsync(
            "synthetic", "run", "even-pairs", "--dim", "8", "--blocks", "2", "--heads", "1", "--steps", "6", "--batch-size", "4",
            "--train-lengths", "3-6", "--test-lengths", "6", "--test-rows", "8",
            "--validation-rows", "8", "--seeds", "1,2", "--lr", "1e30", "--warmup", "0", "--threads", "1", "--out", _temp["synthetic"]);
        Assert.Equal(1, synthetic.Code);
        Assert.Contains("Seed 1: ", synthetic.Error, StringComparison.Ordinal);
        Assert.Contains("Seed 2: ", synthetic.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task EvalScoreGenerate_WeightsThatAreNaN_ExitWith1()
    {
        WriteText();
        using var model = Config.CreateModel(1);
        using (no_grad())
        {
            model.parameters().Last().fill_(double.NaN);
        }

        HuggingFaceFolder.Save(_temp["nan"], Config, model.state_dict());
        var eval = await CommandLine.RunAsync(
            "eval", _temp["nan"], "--data", _temp["text.txt"], "--documents", "1", "--threads", "1", "--json");
        Assert.Equal((1, "NaN"), (eval.Code, eval.Json["loss"]!.GetValue<string>()));
        Assert.Contains("not finite", eval.Error, StringComparison.Ordinal);
        File.WriteAllText(_temp["piqa.jsonl"], """{"goal":"g","sol1":"a","sol2":"b","label":0}""");
        Assert.Equal(
            1, (await CommandLine.RunAsync("score", _temp["nan"], "--task", $"piqa={_temp["piqa.jsonl"]}", "--threads", "1")).Code);
        Assert.Equal(1, (await CommandLine.RunAsync("generate", _temp["nan"], "--threads", "1")).Code);
    }

    [Fact]
    public async Task EvalGenerateChatServe_Weights_AreRoundedOrRefusedInWords()
    {
        WriteText();
        using var model = Config.CreateModel(1);
        HuggingFaceFolder.Save(_temp["whole"], Config, model.state_dict());
        RoundedWeights.Round(model, WeightFormat.Float8);
        HuggingFaceFolder.Save(_temp["rounded"], Config, model.state_dict());
        var losses = new List<double>();
        foreach (var (folder, weights) in new[] { ("whole", "float32"), ("rounded", "float32"), ("whole", "fp8") })
        {
            var eval = await CommandLine.RunAsync(
                "eval", _temp[folder], "--data", _temp["text.txt"], "--split", "train", "--threads", "1", "--json", "--weights", weights);
            losses.Add(eval.Json["loss"]!.GetValue<double>());
        }

        Assert.Equal(losses[1], losses[2]);
        Assert.NotEqual(losses[0], losses[2]);
        foreach (var command in new[] { "generate", "chat", "serve" })
        {
            var refused = await CommandLine.RunAsync(command, _temp["whole"], "--threads", "1", "--weights", "fp8");
            Assert.Equal(2, refused.Code);
            Assert.Contains("--weights: tokens are read from fp8 on a GPU only", refused.Error, StringComparison.Ordinal);
        }

        Assert.Equal(
            0, (await CommandLine.RunAsync("generate", _temp["whole"], "--threads", "1", "--weights", "int8", "--max-tokens", "3")).Code);
        var halves = await CommandLine.RunAsync("generate", _temp["whole"], "--threads", "1", "--weights", "int8", "--compute", "bf16");
        Assert.Equal(2, halves.Code);
        Assert.Contains("--weights: tokens are read from narrower weights of an xLSTM", halves.Error, StringComparison.Ordinal);
        Assert.Contains("this is XlstmLanguageModel in BFloat16", halves.Error, StringComparison.Ordinal);
    }

    /// <summary>A large model takes minutes to be read.</summary>
    [Theory]
    [InlineData("--states", "bf16")]
    [InlineData("--weights", "fp8")]
    public async Task GenerateChatServe_WhatNoModelIsReadWithOnACpu_IsRefusedBeforeTheModelIsOpened(string option, string format)
    {
        foreach (var command in new[] { "generate", "chat", "serve" })
        {
            var refused = await CommandLine.RunAsync(command, _temp["nowhere"], option, format);
            Assert.Equal(2, refused.Code);
            Assert.Contains($"{option}: ", refused.Error, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task GenerateChatServe_States_AreFloat32OnACpuAndHalvesRefusedInWords()
    {
        Save("model", 1);
        foreach (var command in new[] { "generate", "chat", "serve" })
        {
            var refused = await CommandLine.RunAsync(command, _temp["model"], "--threads", "1", "--states", "bf16");
            Assert.Equal(2, refused.Code);
            Assert.Contains("--states: memories are kept in bfloat16 by the kernels of a GPU", refused.Error, StringComparison.Ordinal);
            Assert.Contains("--device cuda and --compute bf16", refused.Error, StringComparison.Ordinal);
            var unknown = await CommandLine.RunAsync(command, _temp["model"], "--threads", "1", "--states", "int8");
            Assert.Equal(2, unknown.Code);
            Assert.Contains("--states: expected float32 or bf16, got 'int8'", unknown.Error, StringComparison.Ordinal);
        }

        string[] generate = ["generate", _temp["model"], "--threads", "1", "--max-tokens", "5", "--greedy", "--json"];
        var texts = new List<string>();
        foreach (var line in new[] { generate, [.. generate, "--states", "float32"] })
        {
            texts.Add((await CommandLine.RunAsync(line)).Json["text"]!.ToJsonString());
        }

        Assert.Equal(texts[0], texts[1]);
    }

    [Theory]
    [InlineData("--greedy")]
    [InlineData("--seed", "5", "--temperature", "1")]
    [InlineData("--seed", "7", "--temperature", "0.8", "--top-p", "0.95", "--repetition-penalty", "1.3")]
    public async Task Generate_InThreeParts_IsTheTextInOne(params string[] how)
    {
        Save("model", 1);
        string[] generate = ["generate", _temp["model"], "--ignore-end", "--threads", "1", "--json", .. how];
        var whole = (await CommandLine.RunAsync([.. generate, "--prompt", "ab", "--max-tokens", "40"])).Json;
        for (var cut = 5; cut < 30; cut += 6)
        {
            JsonNode[] parts =
            [
                await PartAsync([.. generate, "--prompt", "ab", "--max-tokens", $"{cut}", "--state-out", _temp["s"]]),
                await PartAsync([.. generate, "--max-tokens", "7", "--state-in", _temp["s"], "--state-out", _temp["s"]]),
                await PartAsync([.. generate, "--max-tokens", $"{33 - cut}", "--state-in", _temp["s"]]),
            ];
            Assert.Equal(Tokens(whole), parts.SelectMany(Tokens));
            Assert.Equal((string?)whole["text"], string.Concat(parts.Select(p => (string?)p["text"])));
        }

        // The same from a prompt that was only read, as a stream, and without the options that the file knows.
        string[] plain = ["generate", _temp["model"], "--ignore-end", "--threads", "1", .. how.Where(
            (_, k) => how[0] != "--seed" || k > 1)];
        await PartAsync([.. generate, "--prompt", "ab", "--max-tokens", "0", "--state-out", _temp["s"]]);
        var first = await CommandLine.RunAsync([.. plain, "--max-tokens", "11", "--state-in", _temp["s"], "--state-out", _temp["s"]]);
        var rest = await CommandLine.RunAsync([.. plain, "--max-tokens", "29", "--state-in", _temp["s"]]);
        Assert.Equal((string?)whole["text"], Line(first) + Line(rest));

        static string Line(CommandResult result) => result.Out.Length == 0 ? "" : result.Out[..^Environment.NewLine.Length];

        static async Task<JsonNode> PartAsync(string[] line)
        {
            var result = await CommandLine.RunAsync(line);
            Assert.True(result.Code == 0, result.Error);
            return result.Json;
        }

        static IEnumerable<int> Tokens(JsonNode json) => json["tokens"]!.AsArray().Select(t => t!.GetValue<int>());
    }

    [Fact]
    public async Task Generate_StateOfAnotherModel_IsRefusedUnlessAskedFor()
    {
        Save("model", 1);
        Save("other", 2);
        string[] go = ["--max-tokens", "4", "--greedy", "--ignore-end", "--threads", "1", "--json"];
        Assert.Equal(
            0, (await CommandLine.RunAsync(["generate", _temp["model"], "--prompt", "ab", "--state-out", _temp["s"], .. go])).Code);
        var refused = await CommandLine.RunAsync(["generate", _temp["other"], "--state-in", _temp["s"], .. go]);
        Assert.Equal((1, ""), (refused.Code, refused.Out));
        Assert.Contains("another model's (the weights differ)", refused.Error, StringComparison.Ordinal);
        var taken = await CommandLine.RunAsync(["generate", _temp["other"], "--state-in", _temp["s"], "--state-any-model", .. go]);
        Assert.Equal(0, taken.Code);
        Assert.Contains("warning: ", taken.Error, StringComparison.Ordinal);
        Assert.Equal(2, (await CommandLine.RunAsync(["generate", _temp["other"], "--state-any-model", .. go])).Code);

        // A file of an older version: it says neither whose it is nor what comes next.
        using (var state = ModelStateFile.Load(_temp["s"]))
        {
            ModelStateFile.Save(state, _temp["old"]);
        }

        Assert.Contains(
            "does not say which model's",
            (await CommandLine.RunAsync(["generate", _temp["model"], "--state-in", _temp["old"], "--prompt", "c", .. go])).Error,
            StringComparison.Ordinal);
        Assert.Contains(
            "give a prompt",
            (await CommandLine.RunAsync(["generate", _temp["model"], "--state-in", _temp["old"], "--state-any-model", .. go])).Error,
            StringComparison.Ordinal);
        Assert.Equal(
            0,
            (await CommandLine.RunAsync(
                ["generate", _temp["model"], "--state-in", _temp["old"], "--state-any-model", "--prompt", "c", .. go])).Code);
    }

    [Fact]
    public async Task TokenizerOfAnotherModel_IsRefusedOrWarnedOf()
    {
        WriteText();
        Assert.Equal(0, (await CommandLine.RunAsync(
            "train", "--out", _temp["run"], "--model", Model(Config with { VocabularySize = 400 }), "--data", _temp["text.txt"], "--steps",
            "1", "--batch-size", "1", "--context", "16", "--threads", "1")).Code);
        var texts = Enumerable.Repeat("the cat sat on a mat and saw the dog", 50);
        BpeTrainer.Train(texts, new() { VocabularySize = 300 }).Save(_temp["tokenizer.json"]);
        var other = await CommandLine.RunAsync("generate", _temp["run"], "--tokenizer", _temp["tokenizer.json"], "--threads", "1");
        Assert.Equal(2, other.Code);
        Assert.Contains("another tokenizer", other.Error, StringComparison.Ordinal);
        var few = await CommandLine.RunAsync("generate", _temp["run"], "--tokenizer", "bytes", "--max-tokens", "2", "--threads", "1");
        Assert.Equal(0, few.Code);
        Assert.Contains("has 257 ids and the model 400", few.Error, StringComparison.Ordinal);
        Save("model", 1);
        Assert.Contains(
            "only 257",
            (await CommandLine.RunAsync("generate", _temp["model"], "--tokenizer", _temp["tokenizer.json"], "--threads", "1")).Error,
            StringComparison.Ordinal);
    }

    private void Save(string name, int seed)
    {
        using var model = Config.CreateModel(seed);
        using (no_grad())
        {
            foreach (var parameter in model.parameters())
            {
                parameter.mul_(3);
            }
        }

        HuggingFaceFolder.Save(_temp[name], Config, model.state_dict());
    }

    private string Model(XlstmConfig config) => _temp.Write("model.json", ModelConfigJson.Text(config));

    private void WriteText() => _temp.Write(
        "text.txt", string.Join('\n', Enumerable.Range(0, 400).Select(k => $"line {k} of {k * 37 % 101} and more")));

    private static Process Start(string[] line)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(typeof(Program).Assembly.Location);
        Array.ForEach(line, start.ArgumentList.Add);
        return Process.Start(start)!;
    }
}
