using System.Text.Json.Nodes;
using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Tests.Runs;
using XlstmLab.Text;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Cli;

/// <summary>Commands about runs as objects: settings by name, lists of runs, exports, branches.</summary>
public sealed class RunObjectCommandTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public async Task Train_Set_ChangesModelAndTraining()
    {
        var run = await TrainAsync(
            "a", "--set", "input_gate=sigmoid", "--set", "normalize=false", "--set", "peak_learning_rate=1e-4",
            "--set", "schedule.kind=constant", "--set", "steps=4");
        Assert.Equal(4, run["step"]!.GetValue<int>());
        var model = Assert.IsType<XlstmConfig>(RunFolder.ReadModelConfig(_temp["a"]));
        Assert.Equal((XlstmLab.Operations.InputGate.Sigmoid, false), (model.InputGate, model.Normalize));
        var training = RunFolder.ReadTrainingConfig(_temp["a"]);
        Assert.Equal((1e-4, DecayKind.Constant, 0), (training.PeakLearningRate, training.Schedule.Kind, training.Schedule.WarmupSteps));
        foreach (var (setting, expected) in new[] { ("input_gat=sigmoid", "Did you mean 'input_gate'?"),
            ("embedding_dim=x", "a whole number"), ("vocab_size=20", "do not fit together") })
        {
            var wrong = await CommandLine.RunAsync([.. Line("b"), "--set", setting]);
            Assert.Equal(2, wrong.Code);
            Assert.Contains(expected, wrong.Error, StringComparison.Ordinal);
            Assert.False(Directory.Exists(_temp["b"]));
        }

        // What the record itself refuses.
        Assert.Contains("num_heads", (await CommandLine.RunAsync([.. Line("b"), "--set", "num_heads=3"])).Error, StringComparison.Ordinal);

        // A run goes on with its own model only, but what is harmless may change.
        var other = await CommandLine.RunAsync("train", "--out", _temp["a"], "--resume", "--set", "embedding_dim=32", "--threads", "1");
        Assert.Contains("embedding_dim", other.Error, StringComparison.Ordinal);
        Assert.Equal(1, other.Code);
        Assert.Equal(
            0,
            (await CommandLine.RunAsync("train", "--out", _temp["a"], "--resume", "--set", "keep_checkpoints=3", "--threads", "1")).Code);
    }

    [Fact]
    public async Task Train_InitFrom_StartsFromWeightsAndModel()
    {
        await TrainAsync("a", "--set", "steps=2");
        var told = await CommandLine.RunAsync(
            "train", "--out", _temp["b"], "--init-from", _temp["a"], "--steps", "1", "--batch-size", "2", "--context", "16", "--lr",
            "1e-30", "--threads", "1", "--json");
        Assert.True(told.Code == 0, told.Error);
        using (TrainedRun first = TrainedRun.Open(_temp["a"]), second = TrainedRun.Open(_temp["b"]))
        {
            Assert.Equal(ModelIdentity.Of(first.Model), ModelIdentity.Of(second.Model));
            Assert.Equal((_temp["a"], first.Text!.Data), (second.Text!.InitialWeights, second.Text.Data));
        }

        // As a kill before the first checkpoint leaves it.
        Directory.Delete(_temp["b", "checkpoints"], recursive: true);
        var resumed = await CommandLine.RunAsync("train", "--out", _temp["b"], "--resume", "--threads", "1");
        Assert.True(resumed.Code == 0, resumed.Error);
        Assert.Contains("Starting from the weights in", resumed.Error, StringComparison.Ordinal);
        using (TrainedRun first = TrainedRun.Open(_temp["a"]), second = TrainedRun.Open(_temp["b"]))
        {
            Assert.Equal(ModelIdentity.Of(first.Model), ModelIdentity.Of(second.Model));
        }

        var misfit = await CommandLine.RunAsync([.. Line("c"), "--init-from", _temp["a"], "--set", "embedding_dim=32"]);
        Assert.Equal(1, misfit.Code);
        Assert.Contains("Shapes differ", misfit.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(_temp["c", "config.json"]));
        Assert.Contains(
            "There is no folder",
            (await CommandLine.RunAsync([.. Line("c"), "--init-from", _temp["none"]])).Error, StringComparison.Ordinal);
        Assert.Equal(2, (await CommandLine.RunAsync("train", "--out", _temp["b"], "--resume", "--init-from", _temp["a"])).Code);
    }

    [Fact]
    public async Task Runs_ListsStatesLossesAndDifferences()
    {
        await TrainAsync("runs/one", "--set", "steps=2");
        await TrainAsync("runs/deep/two", "--set", "steps=3", "--set", "gate_soft_cap=null");
        Assert.Equal(1, (await CommandLine.RunAsync([.. Line("runs/wild"), "--lr", "1e30", "--clip", "0", "--schedule", "constant"])).Code);
        var list = await CommandLine.RunAsync("runs", _temp["runs"], "--json");
        Assert.True(list.Code == 0, list.Error);
        var runs = list.Json["runs"]!.AsArray().ToDictionary(r => (string)r!["name"]!, r => r!);
        Assert.Equal(["deep/two", "one", "wild"], runs.Keys);
        Assert.Equal(
            ("finished", "finished", "diverged"),
            ((string)runs["one"]["state"]!, (string)runs["deep/two"]["state"]!, (string)runs["wild"]["state"]!));
        Assert.Equal(2, runs["one"]["best_step"]!.GetValue<int>());
        Assert.Contains("gate_soft_cap", list.Json["differences"]!.AsArray().Select(d => (string)d!));
        Assert.DoesNotContain("vocab_size", list.Json["differences"]!.AsArray().Select(d => (string)d!));
        var table = (await CommandLine.RunAsync("runs", _temp["runs"])).Out;
        Assert.Contains("gate_soft_cap=null", table, StringComparison.Ordinal);
        var diff = (await CommandLine.RunAsync("runs", _temp["runs"], "--diff")).Out;
        Assert.Contains(
            diff.Split('\n'), l => l.Contains("gate_soft_cap", StringComparison.Ordinal) && l.Contains("15", StringComparison.Ordinal));
        var csv = (await CommandLine.RunAsync("runs", _temp["runs"], "--csv")).Out.Split('\n');
        Assert.StartsWith("run,state,step,steps,tokens,", csv[0], StringComparison.Ordinal);
        Assert.Equal(5, csv.Length);

        // A killed run, and one that cannot be read.
        var meta = JsonNode.Parse(File.ReadAllText(_temp["runs", "one", "meta.json"]))!;
        meta["status"] = "running";
        File.WriteAllText(_temp["runs", "one", "meta.json"], meta.ToJsonString());
        File.WriteAllText(_temp["runs", "wild", "meta.json"], "{");
        var later = await CommandLine.RunAsync("runs", _temp["runs"], "--json");
        Assert.Equal("killed", (string)later.Json["runs"]![1]!["state"]!);
        Assert.Contains("warning: ", later.Error, StringComparison.Ordinal);
        Assert.Equal(2, (await CommandLine.RunAsync("runs", _temp["runs"], "--json", "--csv")).Code);
    }

    [Fact]
    public async Task Export_RunOfBytes_IsAFolderThatOpensTheSame()
    {
        await TrainAsync("a", "--set", "steps=2");
        var told = await CommandLine.RunAsync("export", _temp["a"], "--out", _temp["hf"], "--dtype", "bfloat16", "--json");
        Assert.True(told.Code == 0, told.Error);
        var config = JsonNode.Parse(File.ReadAllText(_temp["hf", "config.json"]))!;
        Assert.Equal(
            (256, 256, "bfloat16"),
            (config["bos_token_id"]!.GetValue<int>(), config["eos_token_id"]!.GetValue<int>(), (string)config["dtype"]!));
        using TrainedRun run = TrainedRun.Open(_temp["a"]), opened = TrainedRun.Open(_temp["hf"]);
        Assert.IsType<BpeTokenizer>(opened.Tokenizer);
        var latin = string.Concat(Enumerable.Range(0, 256).Select(c => (char)c));
        foreach (var text in new[] { "", "a b\n\nc", "äöü 𝄞 \u00a0 '", "<|endoftext|>"[..5], latin })
        {
            Assert.Equal(run.Tokens(text), opened.Tokens(text));
            Assert.Equal(text, opened.Tokenizer.Decode(opened.Tokens(text)));
        }

        foreach (var (name, value) in run.Model.state_dict())
        {
            Assert.True(
                opened.Model.state_dict()[name].equal(value.to(ScalarType.BFloat16).to(ScalarType.Float32)).all().item<bool>(), name);
        }

        // In place of itself, but not of other things.
        Assert.Equal(0, (await CommandLine.RunAsync("export", _temp["a"], "--out", _temp["hf"])).Code);
        File.WriteAllText(_temp["hf", "notes.txt"], "mine");
        Assert.Contains(
            "notes.txt", (await CommandLine.RunAsync("export", _temp["a"], "--out", _temp["hf"])).Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Models_Config_PrintsTheWholeRecord()
    {
        var json = (await CommandLine.RunAsync("models", "bytes-1m", "--config", "--json")).Json;
        Assert.Equal("xlstm", (string)json["kind"]!);
        Assert.Equal(ConfigSettings.Of(XlstmPresets.Bytes1M).Count, json["settings"]!.AsArray().Count);
        var table = await CommandLine.RunAsync("models", "mamba2-bytes-1m", "--config");
        Assert.Contains("time_step_lowest", table.Out, StringComparison.Ordinal);
        Assert.Equal(2, (await CommandLine.RunAsync("models", "bytes-1", "--config")).Code);
        Assert.Equal(2, (await CommandLine.RunAsync("models", "--config")).Code);
    }

    private string[] Line(string run) =>
    [
        "train", "--out", _temp[run.Split('/')], "--model", _temp.Write("model.json", ModelConfigJson.Text(Tiny.Config)), "--data",
        _temp.Write("text.txt", string.Join('\n', Enumerable.Range(0, 400).Select(k => $"line {k} of {k * 37 % 101} and more"))),
        "--batch-size", "2", "--context", "16", "--validation-tokens", "64", "--threads", "1",
    ];

    private async Task<JsonNode> TrainAsync(string run, params string[] more)
    {
        var result = await CommandLine.RunAsync([.. Line(run), "--json", .. more]);
        Assert.True(result.Code == 0, result.Error);
        return result.Json;
    }
}
