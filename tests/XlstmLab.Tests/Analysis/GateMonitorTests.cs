using TorchSharp;
using XlstmLab.Analysis;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

public sealed class GateMonitorTests
{
    [Fact]
    public void Observe_SeveralBatches_EqualsStatisticsOfAllValues()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(1, CPU);
        var monitor = new GateMonitor();
        var all = new List<float>();
        for (var batch = 0; batch < 3; batch++)
        {
            var value = randn([4, 2, 50], generator: generator) * 3 + 1;
            monitor.Observe(5, "fgate_preact", value);
            monitor.Observe(5, "ogate_preact", value);
            all.AddRange(value.select(1, 1).contiguous().data<float>().ToArray());
        }

        var found = monitor.Distributions().Single(d => d.Head == 1);
        var mean = all.Average();
        all.Sort();

        Assert.Equal((5, "fgate_preact", 600L), (found.Layer, found.Gate, found.Count));
        Assert.Equal(2, monitor.Distributions().Count);
        Assert.Equal((all[0], all[^1]), ((float)found.Minimum, (float)found.Maximum));
        Assert.Equal(mean, found.Mean, 1e-4);
        Assert.Equal(Math.Sqrt(all.Average(x => Math.Pow(x - mean, 2))), found.StandardDeviation, 1e-3);
        Assert.Equal(all[300], found.Median, GateMonitor.BinWidth);
        Assert.Equal(all[570], found.Quantile95, GateMonitor.BinWidth);
        Assert.Equal(all[0], monitor.Quantile("fgate_preact", 5, 1, 0), GateMonitor.BinWidth);
        Assert.Equal(600, monitor.Histogram("fgate_preact", 5, 1).Sum(b => b.Count));
    }

    [Fact]
    public void Observe_NaNAndHugeValues_AreCountedApartAndInTheLastBin()
    {
        using var value = tensor(new float[] { float.NaN, 1000, -1000, float.PositiveInfinity }, [1, 1, 4]);
        var monitor = new GateMonitor();

        monitor.Observe(0, "igate_preact", value);

        var histogram = monitor.Histogram("igate_preact", 0, 0);
        Assert.Equal((1L, 2L), (histogram[0].Count, histogram[^1].Count));
        Assert.Equal((3L, 1L), (monitor.Distributions()[0].Count, monitor.Distributions()[0].NaNCount));
    }

    [Fact]
    public void Observe_AsObserverOfTraining_LeavesNoTensors()
    {
        using var scope = NewDisposeScope();
        using var model = GateCaptureTests.Lively(new() { VocabularySize = 9, EmbeddingDim = 16, HeadCount = 2, BlockCount = 2 });
        var monitor = new GateMonitor();
        model.Observer = monitor.Observe;
        var tokens = zeros(2, 5, int64);
        long Live()
        {
            using var step = NewDisposeScope();
            model.Forward(tokens).Logits.sum().backward();
            model.zero_grad();
            return DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
        }

        Live();
        Assert.Equal(Live(), Live());
        Assert.Equal(30, monitor.Distributions()[0].Count);
        monitor.Clear();
        Assert.Empty(monitor.Distributions());
        Assert.Throws<ArgumentException>(() => monitor.Quantile("igate_preact", 0, 0, 0.5));
    }
}
