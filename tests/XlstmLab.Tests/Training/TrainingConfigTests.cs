using System.Text.Json;
using TorchSharp;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Training;

public sealed class TrainingConfigTests
{
    [Fact]
    public void Validate_PublishedRecipesAndDefaults_AreFine()
    {
        new TrainingConfig().Validate();
        TrainingConfig.Xlstm7B.Validate();
        TrainingConfig.Xlstm7BAblation.Validate();
    }

    [Fact]
    public void Validate_SeveralFaults_NamesThemAll()
    {
        var config = new TrainingConfig
        {
            Steps = 5,
            BatchSize = 0,
            PeakLearningRate = double.NaN,
            Beta1 = 1,
            GradientClip = 0,
            ComputeType = torch.ScalarType.Float16,
            Schedule = new() { WarmupSteps = 4, CooldownSteps = 2, EndFactor = 0 },
            BatchRamp = [new(10, 1), new(5, 2)],
            Spikes = new() { LossFactor = 1 },
        };
        var message = Assert.Throws<ArgumentException>(config.Validate).Message;
        Assert.All(
            [
                "BatchSize", "PeakLearningRate", "Beta1", "GradientClip", "Float16",
                "do not fit into 5 steps", "EndFactor", "BatchRamp", "Spikes",
            ],
            fault => Assert.Contains(fault, message, StringComparison.Ordinal));
        Assert.DoesNotContain("Beta2", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1, 128)]
    [InlineData(2000, 128)]
    [InlineData(2001, 256)]
    [InlineData(4001, 512)]
    [InlineData(550_000, 512)]
    public void BatchSizeAt_PaperRecipe_FollowsItsRamp(int step, int expected) =>
        Assert.Equal(expected, TrainingConfig.Xlstm7B.BatchSizeAt(step));

    [Fact]
    public void BatchSizeAt_BeforeTheFirstStage_IsTheBatchSize() =>
        Assert.Equal(8, new TrainingConfig { BatchRamp = [new(3, 4)] }.BatchSizeAt(3));

    [Fact]
    public void Json_Config_SurvivesTheRoundTrip()
    {
        var config = TrainingConfig.Xlstm7B with { Beta2 = 0.1 + 0.2, Spikes = null, GradientClip = null, EmaDecay = 0.999 };
        var json = JsonSerializer.Serialize(config, RunJson.Indented);
        var read = JsonSerializer.Deserialize<TrainingConfig>(json, RunJson.Indented)!;
        Assert.Equal(config.BatchRamp, read.BatchRamp);
        Assert.Equal(config, read with { BatchRamp = config.BatchRamp });
        Assert.Contains("\"compute_type\": \"bfloat16\"", json, StringComparison.Ordinal);
        Assert.Contains("\"gradient_clip\": null", json, StringComparison.Ordinal);
    }
}
