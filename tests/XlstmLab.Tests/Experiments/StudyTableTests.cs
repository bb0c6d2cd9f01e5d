using XlstmLab.Experiments;
using XlstmLab.Exports;
using Xunit;

namespace XlstmLab.Tests.Experiments;

public sealed class StudyTableTests
{
    [Fact]
    public void Read_WhatWasAppended_IsTheSame_AndTheLastLineOfAnIdCounts()
    {
        using var folder = new TempFolder();
        StudyTable.Append(folder.Path, Row("a", 1) with { Status = StudyStatus.Failed, Error = "gone" });
        StudyTable.Append(folder.Path, Row("b", 2) with { GradientNormMax = double.PositiveInfinity });
        StudyTable.Append(folder.Path, Row("a", 3));
        var rows = StudyTable.Read(folder.Path);
        Assert.Equal([("a", 3.0), ("b", 2.0)], rows.Select(row => (row.Id, row.TestLoss!.Value)));
        Assert.Equal(double.PositiveInfinity, rows[1].GradientNormMax);
        Assert.Equal(Row("a", 3).Curve, rows[0].Curve);
        Assert.Equal(Row("a", 3).Differences, rows[0].Differences);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(40)]
    public void Append_AfterATornLine_CutsItOff(int left)
    {
        using var folder = new TempFolder();
        StudyTable.Append(folder.Path, Row("a", 1));
        StudyTable.Append(folder.Path, Row("b", 2));
        var path = folder[StudyTable.FileName];
        var text = File.ReadAllText(path);
        var first = text.IndexOf('\n', StringComparison.Ordinal) + 1;
        File.WriteAllText(path, text[..(first + left)]);
        var damaged = new List<string>();
        Assert.Equal(["a"], StudyTable.Read(path, damaged).Select(row => row.Id));
        Assert.Contains("not written to its end", Assert.Single(damaged), StringComparison.Ordinal);
        StudyTable.Append(path, Row("c", 3));
        Assert.Equal(["a", "c"], StudyTable.Read(path).Select(row => row.Id));
    }

    [Fact]
    public void Read_ADamagedLine_IsToldWithItsNumber()
    {
        using var folder = new TempFolder();
        StudyTable.Append(folder.Path, Row("a", 1));
        File.AppendAllText(folder[StudyTable.FileName], "{\"id\": 3}\n");
        Assert.Contains(
            "line 2", Assert.Throws<InvalidDataException>(() => StudyTable.Read(folder.Path)).Message, StringComparison.Ordinal);
        var damaged = new List<string>();
        Assert.Single(StudyTable.Read(folder.Path, damaged));
        Assert.Single(damaged);
    }

    [Fact]
    public void Merge_OtherTables_AddsWhatIsMissingOrHadFailed()
    {
        using var folder = new TempFolder();
        StudyTable.Append(folder["here"], Row("a", 1));
        StudyTable.Append(folder["here"], Row("b", 1) with { Status = StudyStatus.Failed });
        StudyTable.Append(folder["there"], Row("a", 9));
        StudyTable.Append(folder["there"], Row("b", 9));
        StudyTable.Append(folder["there"], Row("c", 9));
        Assert.Equal(2, StudyTable.Merge(folder["here"], [folder["there"]]));
        Assert.Equal([1.0, 9.0, 9.0], StudyTable.Read(folder["here"]).Select(row => row.TestLoss!.Value));
        Assert.Equal(0, StudyTable.Merge(folder["here"], [folder["there"]]));
        Assert.Throws<FileNotFoundException>(() => StudyTable.Merge(folder["here"], [folder["nowhere"]]));
    }

    [Fact]
    public void ReadAll_Tables_TakesWhatCameAfterAFailure()
    {
        using var folder = new TempFolder();
        var failed = Row("a", 1) with { Status = StudyStatus.Failed, Error = "first" };
        StudyTable.Append(folder["1.jsonl"], failed);
        StudyTable.Append(folder["1.jsonl"], Row("b", 1));
        StudyTable.Append(folder["2.jsonl"], failed with { Error = "second", EndedAt = failed.EndedAt.AddSeconds(1) });
        StudyTable.Append(folder["2.jsonl"], Row("b", 2));
        string[] tables = [folder["1.jsonl"], folder["2.jsonl"], folder["none.jsonl"]];
        Assert.Equal(["second", null], StudyTable.ReadAll(tables).Select(row => row.Error));
        Assert.Equal(1, StudyTable.ReadAll(tables)[1].TestLoss);
        StudyTable.Append(folder["2.jsonl"], Row("a", 3));
        Assert.Equal([3.0, 1.0], StudyTable.ReadAll(tables).Select(row => row.TestLoss!.Value));
    }

    [Fact]
    public void ToTable_Rows_HaveAxesAndNumbers_AndGoIntoParquet()
    {
        using var folder = new TempFolder();
        var table = new[] { Row("a", 1), Row("b", 2) }.ToTable();
        Assert.True(table.Has("axis.size") && table.Has("scaled@8"));
        Assert.Equal([1.0, 2.0], table.Numbers("test_loss"));
        table.Save(folder["runs.parquet"]);
        table.Save(folder["runs.csv"]);
        Assert.Equal("PAR1"u8.ToArray(), File.ReadAllBytes(folder["runs.parquet"])[..4]);
        Assert.Contains("axis.size", File.ReadAllText(folder["runs.csv"]), StringComparison.Ordinal);
    }

    [Fact]
    public void Measure_UnknownName_OffersTheNearest() =>
        Assert.Contains(
            "'test_loss'", Assert.Throws<ArgumentException>(() => Row("a", 1).Measure("tes_loss")).Message, StringComparison.Ordinal);

    [Fact]
    public void Measure_LossByPosition_IsWeightedByTokens()
    {
        var row = Row("a", 1) with { Positions = [new(0, 10, 1, false), new(10, 20, 2, true), new(20, 50, 4, true)] };
        Assert.Equal((1.0, 3.5), (row.Measure("loss_within"), row.Measure("loss_beyond")));
    }

    [Fact]
    public void SpikesOf_Norms_CountsWhatStandsOut()
    {
        var norms = Enumerable.Repeat(1.0, 200).ToArray();
        (norms[5], norms[100], norms[150], norms[151]) = (50, 3.9, 4.1, double.PositiveInfinity);
        Assert.Equal(2, StudyRunner.SpikesOf(norms));
    }

    internal static StudyRow Row(string id, double loss, int seed = 1, string variant = "small") => new()
    {
        Id = id,
        Variant = variant,
        Differences = new Dictionary<string, string> { ["size"] = variant },
        Seed = seed,
        Status = StudyStatus.Completed,
        TestLoss = loss,
        Scores = [new("8", 0.75, 0.5, 0.1)],
        Curve = [new(10, 100, 2.5, 2.4, null, 0.5)],
    };
}
