using System.CommandLine;
using System.Text.Json.Nodes;
using XlstmLab.Benchmarks;
using XlstmLab.Checkpoints;
using XlstmLab.Cli;
using XlstmLab.Cli.Terminals;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class MessageTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Theory]
    [InlineData("trian", "There is no command 'trian'. Did you mean 'train'?")]
    [InlineData("data lst", "Did you mean 'list'?")]
    [InlineData("train --out x --bach-size 3", "There is no option '--bach-size'. Did you mean '--batch-size'?")]
    [InlineData("train --out x --Steps 3", "Did you mean '--steps'?")]
    [InlineData("train --out x --verbos", "Did you mean '--verbose'?")]
    [InlineData("train --out x --preset byte-1m", "Did you mean 'bytes-1m'?")]
    [InlineData(
        "train --out x --schedule cosin", "--schedule: expected constant, cosine, exponential or wsd, got 'cosin'. Did you mean 'cosine'?")]
    [InlineData("eval x --split tset", "Did you mean 'test'?")]
    [InlineData("bench train --preset xlstm-162", "Did you mean 'xlstm-162m'?")]
    [InlineData("bench cells --forms recurent", "Did you mean 'recurrent'?")]
    [InlineData("synthetic run partiy --out x", "Did you mean 'parity'?")]
    [InlineData("synthetic run parity --recipe partiy --out x", "Did you mean 'parity'?")]
    [InlineData("synthetic run parity --model bytes1m --out x", "Did you mean 'bytes-1m'?")]
    [InlineData("ruler x --tasks niah_singel_1", "Did you mean 'niah_single_1'?")]
    [InlineData("score x --task piqua=a.jsonl", "Did you mean 'piqa'?")]
    [InlineData("models bytes-1n", "Did you mean 'bytes-1m'?")]
    public async Task WrongName_NearestOne_IsSaid_With2(string line, string expected)
    {
        var result = await CommandLine.RunAsync(line.Split(' '));
        Assert.Equal(2, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("(Parameter", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Dataset_Misspelt_NearestOneIsSaid() =>
        Assert.Contains(
            "Did you mean 'state-of-the-union'?",
            (await CommandLine.RunAsync("data", "info", "state-of-teh-union")).Error, StringComparison.Ordinal);

    /// <summary>Names in lists, which parsing does not look into.</summary>
    [Fact]
    public void Examples_PresetsTheyName_Exist()
    {
        foreach (var words in All(Program.CreateRoot()).OfType<ExampleCommand>().SelectMany(c => c.Examples).Select(e => e.Split(' ')))
        {
            foreach (var name in words.Zip(words.Skip(1)).Where(pair => pair.First == "--preset")
                .SelectMany(pair => pair.Second.Split(',')))
            {
                Assert.Contains(name.Split(':')[0], BenchModels.Names);
            }
        }

        static IEnumerable<Command> All(Command command) => command.Subcommands.SelectMany(All).Prepend(command);
    }

    [Fact]
    public void Message_ParametersOfMethods_AreLeftOut()
    {
        Assert.Equal("It is so.", Program.Message(new ArgumentException("It is so.", "documents")));
        Assert.Equal("It is so.", Program.Message(new ArgumentOutOfRangeException("step", 3, "It is so.")));
        Assert.Contains("--verbose shows where", Program.Message(new KeyNotFoundException("no")), StringComparison.Ordinal);
    }

    [Fact]
    public void Message_CpuOutOfMemory_SaysWhatHelps()
    {
        var message = Program.Message(new NativeException(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. "
            + "Error code 12 (Cannot allocate memory)\nException raised from x"));
        Assert.StartsWith("DefaultCPUAllocator: can't allocate memory", message, StringComparison.Ordinal);
        Assert.Contains("--micro-batch-size", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--model")]
    [InlineData("--config")]
    public async Task Train_FolderForAFile_IsSaid(string option)
    {
        var result = await CommandLine.RunAsync("train", "--out", _temp["run"], option, _temp.Path);
        Assert.Equal(1, result.Code);
        Assert.Contains("is a folder; expected", result.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_temp["run"]));
    }

    [Fact]
    public async Task Generate_PromptFileIsAFolder_IsSaid()
    {
        var result = await CommandLine.RunAsync("generate", "x", "--prompt-file", _temp.Path);
        Assert.Equal(1, result.Code);
        Assert.Contains("is a folder; a file was expected", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"embedding_dim":1048576,"hidden_size":1048576,"vocab_size":2000000}""", "parameters need")]
    [InlineData("""{"num_blocks":2147483647}""", "parameters need")]
    public async Task Train_ModelThatCannotFit_SaysWhatItNeeds_AndLeavesNothing(string changes, string expected)
    {
        var config = JsonNode.Parse(ModelConfigJson.Text(new XlstmConfig
        {
            VocabularySize = 257,
            EmbeddingDim = 16,
            BlockCount = 1,
            HeadCount = 2,
        }))!.AsObject();
        foreach (var (name, value) in JsonNode.Parse(changes)!.AsObject())
        {
            config[name] = value?.DeepClone();
        }

        await RefusesAsync(["--model", _temp.Write("config.json", config.ToJsonString())], expected);
    }

    [Fact]
    public Task Train_BatchThatCannotFit_SaysWhatItNeeds_AndLeavesNothing() => RefusesAsync(
        ["--batch-size", "100000000"], "does not fit into memory");

    [Fact]
    public async Task Eval_EmptyPart_SaysWhich_AndTrainRecommendsAnother()
    {
        for (var i = 0; i < 6; i++)
        {
            _temp.Write($"data/{i}.txt", "Some text.");
        }

        var tokens = await CommandLine.RunAsync("data", "tokenize", _temp["data"], "--out", _temp["tokens"], "--splits", "1,0,0");
        Assert.Equal(0, tokens.Code);
        var trained = await CommandLine.RunAsync(
            "train", "--out", _temp["run"], "--data", _temp["tokens"], "--steps", "1", "--batch-size", "1", "--context", "8", "--threads",
            "1");
        Assert.True(trained.Code == 0, trained.Error);
        Assert.Contains($"xlstm eval {_temp["run"]} --split train", trained.Error, StringComparison.Ordinal);
        var evaluated = await CommandLine.RunAsync("eval", _temp["run"], "--split", "test", "--threads", "1");
        Assert.Equal(1, evaluated.Code);
        Assert.Contains("The test part of", evaluated.Error, StringComparison.Ordinal);
        Assert.Contains("train 6, validation 0, test 0", evaluated.Error, StringComparison.Ordinal);
        Assert.Equal(0, (await CommandLine.RunAsync("eval", _temp["run"], "--split", "train", "--threads", "1")).Code);
    }

    /// <summary>What TorchSharp throws for an error of libtorch.</summary>
    private sealed class NativeException(string message) : System.Runtime.InteropServices.ExternalException(message);

    private async Task RefusesAsync(string[] options, string expected)
    {
        var result = await CommandLine.RunAsync(["train", "--out", _temp["run"], .. options]);
        Assert.Equal(1, result.Code);
        Assert.Contains(expected, result.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("overflow", result.Error, StringComparison.Ordinal);
        Assert.Single(result.Error.Trim().Split('\n'));
        Assert.False(Directory.Exists(_temp["run"]));
    }
}
