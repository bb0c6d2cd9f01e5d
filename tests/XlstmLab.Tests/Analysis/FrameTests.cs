using Deedle;
using Microsoft.Data.Analysis;
using XlstmLab.Analysis;
using Xunit;

namespace XlstmLab.Tests.Analysis;

public sealed class FrameTests
{
    private enum Kind
    {
        First,
        Second,
    }

    private static readonly Row[] Rows =
    [
        new(1, 2L, 0.5, 1.5f, true, "a", Kind.First, new(2026, 1, 2, 0, 0, 0, DateTimeKind.Utc), null, 7),
        new(2, 3L, double.NaN, 2.5f, false, null, Kind.Second, new(2026, 1, 3, 0, 0, 0, DateTimeKind.Utc), 4.0, null),
    ];

    [Fact]
    public void ToDataFrame_AllKindsOfProperty_KeepsTypesAndMissingValues()
    {
        var frame = Rows.ToDataFrame();

        Assert.Equal((2L, 10), (frame.Rows.Count, frame.Columns.Count));
        Assert.IsType<Int32DataFrameColumn>(frame["Step"]);
        Assert.IsType<Int64DataFrameColumn>(frame["Tokens"]);
        Assert.IsType<SingleDataFrameColumn>(frame["Share"]);
        Assert.IsType<BooleanDataFrameColumn>(frame["Done"]);
        Assert.IsType<DateTimeDataFrameColumn>(frame["At"]);
        Assert.Equal("Second", frame["Kind"][1]);
        Assert.Null(frame["Validation"][0]);
        Assert.Equal(4.0, frame["Validation"][1]);
        Assert.Null(frame["Name"][1]);
        Assert.Null(frame["Count"][1]);
    }

    [Fact]
    public void ToFrame_AllKindsOfProperty_KeepsTypesAndMissingValues()
    {
        var frame = Rows.ToFrame();

        Assert.Equal((2, 10), (frame.RowCount, frame.ColumnCount));
        Assert.Equal(2, frame.GetColumn<int>("Step")[1]);
        Assert.Equal("a", frame.GetColumn<string>("Name")[0]);
        Assert.Equal([1], frame.GetColumn<double>("Validation").Keys.Where(k => frame.GetColumn<double>("Validation").TryGet(k).HasValue));
        Assert.False(frame.GetColumn<double>("Loss").TryGet(1).HasValue);
        Assert.Equal("First", frame.GetColumn<string>("Kind")[0]);
    }

    [Fact]
    public void ToFrames_NoRecords_KeepColumns()
    {
        Assert.Equal((0L, 10), (Array.Empty<Row>().ToDataFrame().Rows.Count, Array.Empty<Row>().ToDataFrame().Columns.Count));
        Assert.Equal((0, 10), (Array.Empty<Row>().ToFrame().RowCount, Array.Empty<Row>().ToFrame().ColumnCount));
    }

    [Fact]
    public void ToDataFrame_PropertyOfUnsupportedType_NamesItAndCanLeaveItOut()
    {
        var nested = new[] { new Nested(1, [1, 2]) };

        var error = Assert.Throws<ArgumentException>(() => nested.ToDataFrame());

        Assert.Contains("Nested.Items is a Int32[]", error.Message, StringComparison.Ordinal);
        Assert.Equal(["Step"], nested.ToDataFrame("Items").Columns.Select(c => c.Name));
        Assert.Equal(["step"], MetricsTable.From(nested).Columns.Select(c => c.Name));
        Assert.Contains("'Item'", Assert.Throws<ArgumentException>(() => nested.ToFrame("Item")).Message, StringComparison.Ordinal);
        Assert.Contains(
            "Select", Assert.Throws<ArgumentException>(() => new[] { new object() }.ToFrame()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ToSeries_Records_LeaveOutMissingValues()
    {
        var series = Rows.ToSeries(r => r.Step, r => r.Validation);

        Assert.Equal([2], series.Keys);
        Assert.Equal(4.0, series[2]);
        Assert.Equal([1], Rows.ToSeries(r => r.Step, r => r.Loss).Keys);
    }

    [Fact]
    public void ToDataFrame_Recording_IsInLongFormat()
    {
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2 });
        var recording = GateCapture.Run(model, [1, 2, 3]);

        var data = recording.ToDataFrame();
        var frame = recording.ToFrame();

        Assert.Equal((12L, 17), (data.Rows.Count, data.Columns.Count));
        Assert.Equal((12, 17), (frame.RowCount, frame.ColumnCount));
        Assert.Equal(recording.Values(GateQuantity.MemoryNorm, 1, 1)[2], data["MemoryNorm"][11]);
    }

    [Fact]
    public void Read_RunFolder_HasColumnsByKeyAndRowsByStep()
    {
        var folder = Directory.CreateTempSubdirectory().FullName;
        File.WriteAllText(
            Path.Combine(folder, "metrics.jsonl"),
            """
            {"step":1,"loss":2.5,"gates":[{"block":0,"name":"igate_preact","mean":-9.5},{"block":1,"name":"igate_preact","mean":-8}]}
            {"step":3,"loss":"NaN","skipped":"not finite","memory":{"peak":5}}
            {"step":2,"loss":2.0,"validation_loss":1.75,"ok":true}
            {"step":3,"loss":1.5}
            {"step":4,"lo
            """);
        try
        {
            var table = MetricsTable.Read(folder);
            var frame = table.ToFrame();
            var data = table.ToDataFrame();

            Assert.Equal([1, 2, 3], frame.RowKeys);
            Assert.Equal([2.5, 2.0, 1.5], table.Numbers("loss"));
            Assert.Equal([double.NaN, 1.75, double.NaN], table.Numbers("validation_loss"));
            Assert.Equal([2], table.ToSeries("validation_loss").Keys);
            Assert.False(frame.GetColumn<double>("validation_loss").TryGet(1).HasValue);
            Assert.Null(data["validation_loss"][0]);
            Assert.Equal(true, data["ok"][1]);
            Assert.False(table.Has("gates"));

            var gates = MetricsTable.ReadNested(folder, "gates");
            Assert.Equal(["step", "block", "name", "mean"], gates.Columns.Select(c => c.Name));
            Assert.Equal([-9.5, -8], gates.Numbers("mean"));
            Assert.Equal([0, 1], gates.ToFrame().RowKeys);

            Assert.Contains(
                "Columns: step, loss", Assert.Throws<ArgumentException>(() => table.Numbers("los")).Message, StringComparison.Ordinal);
            Assert.Throws<ArgumentException>(() => gates.Numbers("name"));
            Assert.Throws<InvalidDataException>(() => MetricsTable.ReadNested(folder, "loss"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData("{\"step\":1}\nnonsense\n", "line 2")]
    [InlineData("[1]\n", "line 1")]
    [InlineData("{\"step\":1,\"a\":1}\n{\"step\":2,\"a\":\"x\"}\n", "'a'")]
    public void Read_DamagedFile_SaysWhere(string text, string expected)
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, text);
            Assert.Contains(expected, Assert.Throws<InvalidDataException>(() => MetricsTable.Read(path)).Message, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Read_NoSuchRun_NamesThePath() =>
        Assert.Contains(
            "metrics.jsonl", Assert.Throws<FileNotFoundException>(() => MetricsTable.Read("/nowhere")).Message, StringComparison.Ordinal);

    private sealed record Row(
        int Step, long Tokens, double Loss, float Share, bool Done, string? Name, Kind Kind, DateTime At, double? Validation, byte? Count);

    private sealed record Nested(int Step, int[] Items);
}
