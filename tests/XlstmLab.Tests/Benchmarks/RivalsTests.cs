using XlstmLab.Benchmarks;
using XlstmLab.Models;
using Xunit;

namespace XlstmLab.Tests.Benchmarks;

public sealed class RivalsTests
{
    [Fact]
    public void Measured_AreOfWorksThatTheBenchmarksHave()
    {
        var cells = CellShapes.Parse(CellShapes.Default)!;
        Assert.All(Rivals.Measured, rival => Assert.True(
            cells.Contains(rival.Work) || BenchModels.ByName(((dynamic)rival.Work).Preset) is LanguageModelConfig, rival.ToString()));
        Assert.Equal(3, Rivals.Of(new MLstmWork("exponential", 8, 4, 2048, 128, 256)).Count(r => !r.IsOtherWork));
        Assert.All(Rivals.Measured, rival => Assert.Matches(
            @"^older, results/h100/\w+\.rivals\.jsonl: .*H100 80GB HBM3.*, (before )?20\d\d-\d\d-\d\d", rival.Source));
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
}
