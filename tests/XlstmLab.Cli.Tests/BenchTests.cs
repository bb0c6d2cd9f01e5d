using XlstmLab.Checkpoints;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Tests.Mixers;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class BenchTests
{
    private static readonly string[] Short = ["--threads", "1", "--min-time", "0", "--repetitions", "2"];

    [Fact]
    public async Task Cells_Shapes_AreComparedInBothGates_AndWrittenIntoAFolder()
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(
            ["bench", "cells", "--shapes", "1,2,33,8,16/2,5,1,8", "--output", folder["made"], "--json", .. Short]);
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        Assert.Equal(["exponential", "sigmoid", null], rows.Select(r => (string?)r!["work"]!["gate"]));
        Assert.All(rows, r => Assert.True((double)r!["forward_seconds"]! > 0 && (double)r["training_seconds"]! > 0, r!.ToJsonString()));
        Assert.Equal(3 + 7, File.ReadAllLines(folder["made/cells.csv"]).Length);
        var text = File.ReadAllText(folder["made/cells.md"]);
        Assert.Contains("| mLSTM sigmoid ", text, StringComparison.Ordinal);
        Assert.DoesNotContain("% of limit", text, StringComparison.Ordinal); // nobody knows this processor's
    }

    [Fact]
    public async Task Train_PresetsOfAnyFamily_EachWithItsOwnSize()
    {
        var result = await CommandLine.RunAsync(
            ["bench", "train", "--preset", "bytes-1m:2x16,llama-bytes-1m", "--context", "8", "--tokens", "24", "--json", .. Short]);
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        Assert.Equal([(2, 16), (3, 8)], rows.Select(r => ((int)r!["work"]!["batch"]!, (int)r["work"]!["context"]!)));
        Assert.All(rows, r => Assert.True((double)r!["training_seconds"]! > 0, r!.ToJsonString()));
    }

    [Theory]
    [InlineData("prefill --lengths 9 --compute float32", 0)]
    [InlineData("decode --compute bf16", 1)]
    public async Task Inference_OfEveryFamily(string command, int part)
    {
        // One by each command; every row is a process.
        string[] families = ["bytes-1m", "llama-bytes-1m", "mamba-bytes-1m", "mamba2-bytes-1m", "gla-bytes-1m", "lstm-bytes-1m"];
        var presets = string.Join(',', LongTests.Cases(all: families, few: [families[part]]));
        var result = await CommandLine.RunAsync(["bench", .. command.Split(' '), "--preset", presets, "--batch", "2", "--json", .. Short]);
        Assert.True(result.Code == 0, result.Error);
        Assert.All(result.Json["rows"]!.AsArray(), r => Assert.True((double?)r!["forward_seconds"] > 0, r!.ToJsonString()));
    }

    [Fact]
    public async Task Load_ModelOfRandomWeights_IsOpenedBesideWhatItsBytesTake()
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(
            "bench", "load", "--preset", "bytes-1m", "--folder", folder[""], "--threads", "1", "--json");
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        string[] fromDisk = OperatingSystem.IsLinux() ? ["read from the disk", "opened from the disk"] : [];
        Assert.Equal([.. fromDisk, "read from memory", "opened from memory"], rows.Select(r => (string?)r!["what"]));
        var bytes = 2 * Presets.ByName("bytes-1m").CountParameters();
        Assert.All(rows, r => Assert.True((double)r!["seconds"]! > 0, r!.ToJsonString()));
        Assert.All(rows, r => Assert.InRange((long)r!["bytes"]!, bytes, bytes + 100_000));
        Assert.Empty(Directory.GetFileSystemEntries(folder[""])); // nothing is left
    }

    [Fact]
    public async Task Load_WhatCannotBeWritten_SaysSoInEveryRow_AndTheOthersGoOn()
    {
        using var folder = CommandLine.Folder();
        var tooLarge = new XlstmConfig { VocabularySize = 1 << 30, EmbeddingDim = 1 << 20, HeadCount = 4 };
        File.WriteAllText(folder["config.json"], ModelConfigJson.Text(tooLarge));
        var result = await CommandLine.RunAsync(
            "bench", "load", "--preset", folder["config.json"] + ",bytes-1m", "--folder", folder["made"], "--output", folder["out"],
            "--threads", "1", "--seconds", "100");
        Assert.True(result.Code == 0, result.Error);
        var lines = File.ReadAllLines(folder["out/load.csv"])[7..];
        Assert.All(lines[..4], line => Assert.Contains("the files were not written", line, StringComparison.Ordinal));
        Assert.All(lines[4..], line => Assert.StartsWith("bytes-1m,", line, StringComparison.Ordinal));
        Assert.Equal(4, lines[4..].Count(line => line.EndsWith(',')));
    }

    [Theory]
    [InlineData("train")]
    [InlineData("prefill")]
    [InlineData("decode")]
    public async Task Profile_WithoutAGpu_IsRefused(string command)
    {
        var result = await CommandLine.RunAsync("bench", command, "--profile");
        Assert.Equal(2, result.Code);
        Assert.Contains("--profile needs a GPU", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Memory_SequencesSideBySide_AreCountedTogether()
    {
        var result = await CommandLine.RunAsync(
            "bench", "memory", "--steps", "20", "--tokens", "4500", "--batch", "2", "--threads", "1", "--json");
        var rows = result.Json["rows"]!.AsArray().Where(r => (string?)r!["work"] == "generation").ToArray();

        // A sample each 450 tokens, in two texts side by side.
        Assert.Equal([450, 900, 1350, 1800, 2250, 2700, 3150, 3600, 4050], rows.Select(r => (int)r!["count"]!));
        Assert.Single(rows.Select(r => (long)r!["tensors"]!).Distinct());
    }

    [Fact]
    public async Task InferenceFigures_OfEveryModel_HaveEveryPoint()
    {
        using var folder = CommandLine.Folder();
        string[] presets = LongTests.Cases(
            all: new[] { "bytes-1m", "llama-bytes-1m", "mamba-bytes-1m", "mamba2-bytes-1m" }, few: ["llama-bytes-1m"]);
        var result = await CommandLine.RunAsync(
            "bench", "inference", "--preset", string.Join(',', presets), "--lengths", "8,4", "--prompts", "3", "--prefill-tokens", "12",
            "--prefill-batch", "3",
            "--batch", "2", "--threads", "1", "--output", folder["made"], "--json");
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        Assert.All(rows, r => Assert.True((double?)r!["seconds"] > 0 && (long?)r["peak_bytes"] > 0, r!.ToJsonString()));
        (string Figure, int Batch, int Prompt, int Tokens)[] points =
            [("generation", 1, 1, 4), ("generation", 1, 1, 8), ("first tokens", 1, 3, 1), ("first tokens", 1, 3, 100),
                ("prefill", 3, 4, 0), ("batch", 2, 0, 1)];
        Assert.Equal(
            presets.SelectMany(preset => points.Select(p => (preset, p.Figure, p.Batch, p.Prompt, p.Tokens))),
            rows.Select(r => ((string)r!["preset"]!, (string)r["figure"]!, (int)r["batch"]!, (int)r["prompt"]!, (int)r["tokens"]!)));
        Assert.All(rows.GroupBy(r => (string)r!["preset"]!), model => Assert.True(
            (double)model.ElementAt(1)!["seconds"]! > (double)model.First()!["seconds"]!));
        Assert.Equal(6 + 1 + (6 * presets.Length), File.ReadAllLines(folder["made/inference.csv"]).Length);
        var refused = await CommandLine.RunAsync("bench", "inference", "--prefill-tokens", "4", "--prefill-batch", "8");
        Assert.Equal(2, refused.Code);
        Assert.Contains("more prompts than --prefill-tokens", refused.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Notebook_OneRun_HasEveryFigure()
    {
        LongTests.Skip();
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync("bench", "notebook", "--repetitions", "1", "--output", folder["made"], "--json");
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        Assert.Equal(5, rows.Count);
        Assert.All(rows, r => Assert.True((double)r!["median"]! > 0 && (double)r["prototype"]! > (double)r["goal"]!, r!.ToJsonString()));
        Assert.InRange((double)rows[^1]!["median"]!, 100, 2000);
        Assert.Contains("| warm cell, ms", File.ReadAllText(folder["made/notebook.md"]), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Rows_ThatFail_SayWhy_AndTheOthersGoOn()
    {
        var result = await CommandLine.RunAsync(["bench", "cells", "--shapes", "1,1,4,8,8/2147483647,1,2147483647,8", "--json", .. Short]);
        Assert.Equal(0, result.Code);
        var remarks = result.Json["rows"]!.AsArray().Select(r => (string?)r!["remark"]).ToArray();
        Assert.Equal([null, null], remarks[..2]);
        Assert.NotEmpty(remarks[2]!);
    }

    [Fact]
    public async Task Preset_FileWithAMixerOfAPlugin_IsMeasuredByProcessesThatHaveIt()
    {
        using var folder = CommandLine.Folder();
        File.WriteAllText(folder["config.json"], ModelConfigJson.Text(new XlstmConfig
        {
            VocabularySize = 257,
            EmbeddingDim = 16,
            BlockCount = 2,
            HeadCount = 2,
            FeedForwardRoundUpTo = 8,
            Mixers = ["mlstm", new MovingAverageMixerConfig()],
        }));
        string[] plugin = ["--plugin", typeof(BenchTests).Assembly.Location];
        foreach (var command in LongTests.Cases(all: new[] { "train", "prefill", "decode" }, few: ["train"]))
        {
            string[] sizes = command switch { "train" => ["--context", "8"], "prefill" => ["--lengths", "8"], _ => [] };
            var result = await CommandLine.RunAsync(
                ["bench", command, "--preset", folder["config.json"], "--json", .. sizes, .. Short, .. plugin]);
            Assert.True(result.Code == 0, result.Error);
            var row = result.Json["rows"]!.AsArray().Single()!;
            Assert.True(((double?)row["forward_seconds"] ?? (double?)row["training_seconds"]) > 0, row.ToJsonString());
        }
    }

    [Theory]
    [InlineData("inference", 17)]
    [InlineData("load", 4)]
    [InlineData("prefill --lengths 8", 1)]
    public async Task Seconds_Over_EveryRowStandsInTheFile(string command, int rows)
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(
            ["bench", .. command.Split(' '), "--preset", "bytes-1m", "--seconds", "1e-9", "--threads", "1", "--output", folder["made"]]);
        Assert.Equal(1, result.Code); // nothing was measured
        var lines = File.ReadAllLines(folder[$"made/{command.Split(' ')[0]}.csv"])[7..];
        Assert.Equal(rows, lines.Length);
        Assert.All(lines, line => Assert.Contains("left out", line, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Seconds_Over_NoRowIsBegun()
    {
        var result = await CommandLine.RunAsync(
            ["bench", "decode", "--preset", "bytes-1m", "--batch", "1,2", "--seconds", "1e-9", "--json", .. Short]);
        Assert.Equal(1, result.Code); // nothing was measured
        Assert.All(result.Json["rows"]!.AsArray(), r => Assert.Contains("left out", (string)r!["remark"]!, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Device_WithoutGpu_IsOneMessage()
    {
        Assert.SkipWhen(NativeTorch.IsCudaAvailable, "There is a GPU.");
        foreach (var command in new[] { "cells", "train", "prefill", "decode" })
        {
            var result = await CommandLine.RunAsync("bench", command, "--device", "cuda");
            Assert.Equal((1, ""), (result.Code, result.Out));
            Assert.Contains("sees no CUDA device", result.Error, StringComparison.Ordinal);
        }
    }
}
