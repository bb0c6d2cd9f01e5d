using XlstmLab.Cli.Benchmarks;
using XlstmLab.Models;
using XlstmLab.Native;
using Xunit;

namespace XlstmLab.Tests.Cli;

public sealed class BenchTests
{
    private static readonly string[] Short = ["--threads", "1", "--min-time", "0", "--repetitions", "2"];

    [Fact]
    public async Task Cells_Shapes_AreComparedInBothGates_AndWrittenIntoAFolder()
    {
        using var folder = CommandLine.Folder();
        var result = await CommandLine.RunAsync(["bench", "cells", "--shapes", "1,2,33,8,16/2,5,1,8", "--output", folder["made"], "--json", .. Short]);
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
        var result = await CommandLine.RunAsync(["bench", "train", "--preset", "bytes-1m:2x16,llama-bytes-1m", "--context", "8", "--tokens", "24", "--json", .. Short]);
        Assert.True(result.Code == 0, result.Error);
        var rows = result.Json["rows"]!.AsArray();
        Assert.Equal([(2, 16), (3, 8)], rows.Select(r => ((int)r!["work"]!["batch"]!, (int)r["work"]!["context"]!)));
        Assert.All(rows, r => Assert.True((double)r!["training_seconds"]! > 0, r!.ToJsonString()));
    }

    [Theory]
    [InlineData("prefill --lengths 9 --compute float32")]
    [InlineData("decode --compute bf16")]
    public async Task Inference_OfEveryFamily(string command)
    {
        const string presets = "bytes-1m,llama-bytes-1m,mamba-bytes-1m,mamba2-bytes-1m,gla-bytes-1m,lstm-bytes-1m";
        var result = await CommandLine.RunAsync(["bench", .. command.Split(' '), "--preset", presets, "--batch", "2", "--json", .. Short]);
        Assert.True(result.Code == 0, result.Error);
        Assert.All(result.Json["rows"]!.AsArray(), r => Assert.True((double?)r!["forward_seconds"] > 0, r!.ToJsonString()));
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
    public async Task Seconds_Over_NoRowIsBegun()
    {
        var result = await CommandLine.RunAsync(["bench", "decode", "--preset", "bytes-1m", "--batch", "1,2", "--seconds", "1e-9", "--json", .. Short]);
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

    [Fact]
    public async Task Rival_ItsLines_BecomeRowsOfTheirWorks()
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
    public async Task Rival_ThatCannot_SaysWhyInEveryRow(string script, int seconds, string expected)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "A shell stands in for Python.");
        using var folder = CommandLine.Folder();
        File.WriteAllText(folder["rival.sh"], script);
        var rows = await Run(new(folder["rival.sh"], seconds, 0) { Python = "/bin/sh" });
        Assert.Equal(2, rows.Count);
        Assert.All(rows, r => Assert.Contains(expected, r.Remark, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Rival_WithoutPythonOrScript_SaysWhy()
    {
        Assert.True(File.Exists(RivalScript.Own));
        Assert.Contains("could not be started", (await Run(new(RivalScript.Own, 60, 0) { Python = "no-such-python" }))[0].Remark, StringComparison.Ordinal);
        Assert.Contains("there is no file", (await Run(new("no-such-file.py", 60, 0)))[0].Remark, StringComparison.Ordinal);
    }

    [Fact]
    public void Rivals_AreOfWorksThatTheBenchmarksHave()
    {
        var cells = CellShapes.Parse(CellShapes.Default)!;
        Assert.All(Rivals.Measured, rival => Assert.True(
            cells.Contains(rival.Work) || BenchModels.ByName(((dynamic)rival.Work).Preset) is LanguageModelConfig, rival.ToString()));
        Assert.Equal(3, Rivals.Of(new MLstmWork("exponential", 8, 4, 2048, 128, 256)).Count(r => !r.IsOtherWork));
        Assert.All(Rivals.Measured, rival => Assert.Matches(@"H100 80GB HBM3.*, (before )?20\d\d-\d\d-\d\d", rival.Source));
        Assert.All(Rivals.Measured, rival => Assert.Single(Rivals.Measured, rival.Replaces));
        Assert.Equal(162_303_840, BenchModels.ByName("xlstm-162m").CountParameters());
    }

    [Fact]
    public void Read_WhatAScriptWrote_NamesItsSourceAndLeavesOutWhatFailed()
    {
        var rows = Rivals.Read(
        [
            """{"command": "xlstm bench decode", "date": "2026-11-27", "machine": "a GPU", "remark": "raw output not kept", "works": [{"kind": "decode", "preset": "bytes-1m", "batch": 2}]}""",
            """{"index": 0, "implementation": "one", "versions": "one 1.0", "forward_seconds": 0.25}""",
            """{"index": 0, "implementation": "two", "remark": "not installed"}""",
            "words",
        ]).ToArray();

        var row = Assert.Single(rows);
        Assert.Equal((new DecodeWork("bytes-1m", 2), "one", 0.25), (row.Work, row.Implementation, row.ForwardSeconds));
        Assert.Equal("one 1.0, a GPU, 2026-11-27, raw output not kept", row.Source);
    }

    [Fact]
    public void Findings_HoldAgainstTheFastestThatDoesTheSameOnTheSameDevice()
    {
        var work = new MLstmWork("exponential", 8, 4, 2048, 128, 256);
        var own = new Measurement(work, Measurement.Own, RivalScript.ThisRun) { ForwardSeconds = 0.1e-3, TrainingSeconds = 0.5e-3 };
        string[] Findings(string device) =>
            [.. new Comparison
            {
                Works = [work], Device = "cuda", DeviceName = device, ComputeType = "bf16", Threads = [1], MinSeconds = 0, Repetitions = 1,
            }.Findings(
            [
                own,
                new(work, "other", "then") { ForwardSeconds = 0.45e-3, TrainingSeconds = 1.56e-3 },
                new(work, "attention", "then") { TrainingSeconds = 0.3e-3, IsOtherWork = true },
            ])];
        Assert.Contains(
            "forward 4.50 times as fast as the fastest other, other; forward and backward 3.12 times",
            Findings("NVIDIA H100 80GB HBM3").Single(),
            StringComparison.Ordinal);
        Assert.Empty(Findings("NVIDIA B300"));
    }

    [Fact]
    public void Counts_AreThoseOfTheEquations()
    {
        var work = new MLstmWork("sigmoid", 8, 4, 2048, 128, 256);
        Assert.Equal((65_536.0 * (2 * 64 * 384 + 4 * 128 * 256), 65_536.0 * 1536), (work.ForwardFlops, work.ForwardBytes));
        Assert.Equal(work.ForwardBytes / 3e12, DeviceLimit.Of("NVIDIA H100 80GB HBM3")!.Seconds(work.ForwardBytes, work.ForwardFlops), 12);
        Assert.Null(DeviceLimit.Of("another"));
    }

    private static Task<IReadOnlyList<Measurement>> Run(RivalScript script) =>
        script.RunAsync([new DecodeWork("bytes-1m", 1), new TrainingWork("llama-bytes-1m", 1, 8)], "cpu", "float32", _ => { }, CancellationToken.None);
}
