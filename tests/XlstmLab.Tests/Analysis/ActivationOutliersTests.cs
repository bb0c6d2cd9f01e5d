using TorchSharp;
using XlstmLab.Analysis;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class ActivationOutliersTests
{
    [Fact]
    public void Measure_PlantedOutlier_IsFoundAndMeasured()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(4, CPU);
        var values = randn([2, 300, 6], generator: generator);
        values[1, 17, 4] = tensor(-5000f);
        using var model = new ActivationModel(values);

        var report = OutlierReport.Measure(model, zeros(2, 300, int64));

        var block = Assert.Single(report.Blocks);
        Assert.Equal((1, 17, 4, 5000.0), (block.Sequence, block.Token, block.Channel, block.MaxAbs));
        Assert.Equal((3600L, 1L), (block.Count, block.MassiveCount));
        Assert.Equal(values.square().mean().sqrt().item<float>(), block.Rms, 1e-3);
        Assert.Equal(block.MaxAbs / block.Rms, block.MaxOverRms, 1e-9);
        Assert.InRange(block.Kurtosis, 3000, 3600);
        Assert.Equal(6, report.Channels.Count);
        Assert.All(report.Channels.Where(c => c.Channel != 4), c => Assert.InRange(c.Kurtosis, 2.2, 4));
        Assert.Equal(values.select(2, 2).square().mean().sqrt().item<float>(), report.Channels[2].Rms, 1e-5);
        Assert.Equal(report.Channels[2].Rms / block.Rms, report.Channels[2].RelativeRms, 1e-9);
        Assert.Equal(4, report.Channels.MaxBy(c => c.RelativeRms)!.Channel);
    }

    [Fact]
    public void Measure_PaddedOutlier_DoesNotCount()
    {
        using var scope = NewDisposeScope();
        var values = tensor(new float[] { 1, -1, 2, -2, 99, 99 }, [1, 3, 2]);
        using var model = new ActivationModel(values);

        var report = OutlierReport.Measure(model, zeros(1, 3, int64), new(Padding: tensor(new[] { false, false, true }, [1, 3])));

        Assert.Equal((4L, 2.0, 1), (report.Blocks[0].Count, report.Blocks[0].MaxAbs, report.Blocks[0].Token));

        // (1 + 1 + 16 + 16) / 4 over ((1 + 1 + 4 + 4) / 4)^2.
        Assert.Equal(8.5 / 6.25, report.Blocks[0].Kurtosis, 1e-6);
        Assert.Equal(Math.Sqrt(2.5), report.Blocks[0].Rms, 1e-6);
    }

    [Fact]
    public void Measure_Xlstm_SeesResidualStreamAndHeads()
    {
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2 });
        OutlierReport.Measure(model, [1, 2, 3]);
        var before = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

        var residual = OutlierReport.Measure(model, [1, 2, 3]);
        var heads = OutlierReport.Measure(model, [1, 2, 3], "h");
        var error = Assert.Throws<InvalidOperationException>(() => OutlierReport.Measure(model, [1], "nothing"));

        Assert.Equal([(0, 48L), (1, 48L)], residual.Blocks.Select(b => (b.Layer, b.Count)));
        Assert.Equal((2, 32), (heads.Blocks.Count, heads.Channels.Count));
        Assert.Contains("'nothing'", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount);
    }

    private sealed class ActivationModel(Tensor values) : ShowingModel(nameof(ActivationModel), 1)
    {
        protected override void Show(Tensor tokens) => Observer?.Invoke(0, "block_out", values);
    }
}
