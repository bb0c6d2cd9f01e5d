using XlstmLab.Analysis;
using XlstmLab.Tests.Training;
using XlstmLab.Training;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Analysis;

[Collection(nameof(AloneCollection))]
public sealed class UpdateTraceTests
{
    [Fact]
    public void Updates_OfARun_EqualTheWeightsTheyMade()
    {
        using var scope = NewDisposeScope();
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var config = new TrainingConfig
        {
            Steps = 1,
            BatchSize = 4,
            ContextLength = 8,
            PeakLearningRate = 0.01,
            Schedule = new() { WarmupSteps = 0 },
            GradientClip = 0.1,
            StatisticsEvery = 1,
            TensorBoard = false,
        };
        var before = model.named_parameters().ToDictionary(p => p.name, p => p.parameter.detach().clone());

        new Trainer(model, config, TinyText.Packed(1), [], folder.Path).Run();
        var metrics = RunFolder.ReadMetrics(folder.Path);
        var updates = metrics.Updates(module => module);

        Assert.Equal(["embeddings", "fgate_preact", "igate_preact", "lm_head", "out_norm"], updates.Select(u => u.Group).Order());
        foreach (var update in updates)
        {
            var weights = model.named_parameters().Where(p => p.name.StartsWith(update.Group + ".", StringComparison.Ordinal)).ToArray();
            Assert.Equal(weights.Sum(w => w.parameter.NumberOfElements), update.Count);
            Assert.Equal(Norm(weights.Select(w => before[w.name])), update.WeightNorm, 1e-5);
            Assert.Equal(Norm(weights.Select(w => w.parameter.detach() - before[w.name])), update.UpdateNorm, 1e-6);
            Assert.Equal(update.UpdateNorm / update.WeightNorm, update.UpdateRatio, 1e-9);
            Assert.InRange(update.UpdateRatio, 1e-4, 0.5);
        }

        Assert.Equal(metrics[0].GradientNorm, Math.Sqrt(updates.Sum(u => u.GradientNorm * u.GradientNorm)), 1e-6);
        Assert.True(metrics[0].GradientNorm > 0.1);
        var whole = Assert.Single(metrics.Updates(_ => "all"));
        Assert.Equal(metrics[0].GradientNorm, whole.GradientNorm, 1e-6);
        Assert.Equal(before.Values.Sum(w => w.NumberOfElements), whole.Count);
    }

    [Fact]
    public void Run_WithStatistics_LeavesNoTensors()
    {
        using var folder = new TempFolder();
        using var model = new TinyModel();
        var config = new TrainingConfig
        {
            Steps = 8,
            BatchSize = 2,
            ContextLength = 8,
            StatisticsEvery = 2,
            CheckpointEvery = 100,
            TensorBoard = false,
        };
        var counts = new List<long>();

        new Trainer(model, config, TinyText.Packed(1), [], folder.Path, new ImmediateProgress<TrainingMetrics>(
            _ => counts.Add(TorchSharp.DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount))).Run();

        // Measured steps hold a copy of the weights until they end.
        Assert.Equal(counts[2], counts[6]);
        Assert.Equal(counts[3], counts[7]);
    }

    [Theory]
    [InlineData("backbone.blocks.12.mlstm_layer.q", "mlstm_layer.q", "block 12")]
    [InlineData("backbone.embeddings", "embeddings", "embeddings")]
    [InlineData("lm_head", "lm_head", "lm_head")]
    [InlineData("model.layers.3", "layers", "block 3")]
    public void Names_OfModules_GiveRoleAndBlock(string module, string role, string block) =>
        Assert.Equal((role, block), (UpdateTraces.Role(module), UpdateTraces.Block(module)));

    private static double Norm(IEnumerable<Tensor> tensors) => Math.Sqrt(
        tensors.Sum(t => t.to(ScalarType.Float64).square().sum().item<double>()));
}
