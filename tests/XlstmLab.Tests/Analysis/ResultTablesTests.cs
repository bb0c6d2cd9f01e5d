using XlstmLab.Analysis;
using XlstmLab.Evaluation;
using XlstmLab.Models;
using XlstmLab.Runs;
using XlstmLab.Tests.Runs;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Analysis;

public sealed class ResultTablesTests
{
    private static readonly EvaluationResult Evaluation = new(20, 10, 8, 2, [new(0, 5, 10, 20)], new());

    [Fact]
    public void Evaluation_IsTheSameAsTableDataFrameAndFrame()
    {
        var table = Evaluation.ToTable();
        Assert.Equal("nats/token", table.Columns.Single(c => c.Name == "loss").Unit);
        Assert.Equal([2.0], table.Numbers("loss"));
        Assert.Equal(table.Columns.Select(c => c.Name), Evaluation.ToDataFrame().Columns.Select(c => c.Name));
        Assert.Equal(2.0, Evaluation.ToFrame().GetColumn<double>("loss").GetAt(0));
        Assert.Null((Evaluation with { Bytes = 0 }).ToTable().Columns.Single(c => c.Name == "bits_per_byte").Values[0]);
    }

    [Fact]
    public void Training_HasSpeedAndLosses()
    {
        var table = new TrainingResult(TrainingStatus.Completed, 3, 300, 2, null, null, null).ToTable();
        Assert.Equal([150.0], table.Numbers("tokens_per_second"));
        Assert.Null(table.Columns.Single(c => c.Name == "validation_loss").Values[0]);
    }

    [Fact]
    public void Extrapolation_HasARowARange() =>
        Assert.Equal(2, new ExtrapolationResult(8, 16, 3, [new(0, 8, 24, 1, false), new(8, 16, 24, 2, true)]).ToTable().RowCount);

    [Fact]
    public void ConfigurationsAndModels_NameSizesAndWhatIsChanged()
    {
        var rows = Tiny.Config.ToTable();
        Assert.Contains("num_heads", rows.Columns[0].Values);
        Assert.DoesNotContain("normalize", rows.Columns[0].Values);
        Assert.Equal(rows.Columns.Select(c => c.Name), Tiny.Config.ToDataFrame().Columns.Select(c => c.Name));
        Assert.Contains("schedule.kind", Tiny.Recipe.ToTable().Columns[0].Values);
        using var model = new XlstmLanguageModel(Tiny.Config, 1);
        Assert.Contains("cpu", model.ToTable().Columns[1].Values);
    }

    [Fact]
    public void Of_ColumnsThatDoNotFit_AreRefused()
    {
        Assert.Contains(
            "has 2",
            Assert.Throws<ArgumentException>(() =>
                MetricsTable.Of(
                    new TableColumn("a", typeof(int), [1]), new TableColumn("b", typeof(int), [1, 2]))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(
            () => MetricsTable.Of(new TableColumn("a", typeof(int), [1]), new TableColumn("a", typeof(int), [1])));
    }
}
