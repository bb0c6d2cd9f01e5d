using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Runs;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Runs;

public sealed class ConfigSettingsTests
{
    [Fact]
    public void With_NamesOfJsonAndCSharp_SetTheSame()
    {
        var config = new XlstmConfig().With(
            "igate_bias_init=-2", "input_gate=sigmoid", "slstm_at=1,3", "GateSoftCap=null", "block-style=pre_up", "use_bias=true");
        Assert.Equal(
            new XlstmConfig
            {
                InputGateBias = -2,
                InputGate = InputGate.Sigmoid,
                SLstmAt = [1, 3],
                GateSoftCap = null,
                BlockStyle = BlockStyle.PreUp,
                UseBias = true,
            }, config);
        Assert.Equal(new XlstmConfig { InputGateBias = -2, SLstmAt = [2] }, new XlstmConfig().With("input_gate_bias=-2", "SLstmAt=[2]"));
        Assert.Equal(384, new LlamaConfig().With("embedding_dim=384").EmbeddingDim);
        Assert.Equal(384, new LlamaConfig().With("hidden_size=384").EmbeddingDim);
        Assert.Equal(0.5, new Mamba2Config().With("time_step_lowest=0.5").TimeStepLowest);
        Assert.Equal(3, new LstmConfig().With("block_count=3").BlockCount);
    }

    [Fact]
    public void With_Training_ReachesIntoItsRecords()
    {
        var config = new TrainingConfig().With(
            "peak_learning_rate=1e-4", "schedule.kind=warmup_stable_decay", "warmup_steps=7", "spikes.window=64", "compute_type=bf16",
            "micro_batch_size=2");
        Assert.Equal(
            (1e-4, 64, torch.ScalarType.BFloat16, 2),
            (config.PeakLearningRate, config.Spikes!.Window, config.ComputeType, config.MicroBatchSize));
        Assert.Equal((DecayKind.WarmupStableDecay, 7), (config.Schedule.Kind, config.Schedule.WarmupSteps));
        Assert.Null(new TrainingConfig().With("spikes=null").Spikes);
        Assert.Equal(new BatchRampStage(0, 4), Assert.Single(
            new TrainingConfig().With("batch_ramp=[{\"after_step\":0,\"batch_size\":4}]").BatchRamp));
    }

    [Theory]
    [InlineData("input_gat=sigmoid", "Did you mean 'input_gate'")]
    [InlineData("input_gate=sigmoyd", "Did you mean 'sigmoid'")]
    [InlineData("embedding_dim=12.5", "a whole number")]
    [InlineData("eps=0,1", "a number, with a point")]
    [InlineData("use_bias=yes", "true or false")]
    [InlineData("vocab_size=null", "a whole number")]
    [InlineData("slstm_at=x", "slstm_at")]
    [InlineData("qk_head_dim=3", "no setting")]
    [InlineData("embedding_dim", "NAME=VALUE")]
    public void With_WhatCannotBe_IsRefusedByName(string setting, string expected) =>
        Assert.Contains(
            expected, Assert.Throws<ArgumentException>(() => new XlstmConfig().With(setting)).Message, StringComparison.Ordinal);

    [Fact]
    public void Changed_EveryKind_TakesEverySettingsOwnValue()
    {
        foreach (var (name, preset) in Presets.All)
        {
            var (model, training) = ConfigSettings.Changed(
                preset,
                TrainingConfig.Xlstm7B,
                [.. ConfigSettings.Of(preset).Select(s => $"model.{s.Name}={s.Value}"),
                    .. ConfigSettings.Of(TrainingConfig.Xlstm7B).Where(s => s.Name != "spikes")
                        .Select(s => $"training.{s.Name}={s.Value}")]);
            Assert.True(preset == model, name);
            Assert.Equal(TrainingConfig.Xlstm7B.Schedule, training!.Schedule);
            Assert.Equal(TrainingConfig.Xlstm7B.BatchRamp, training.BatchRamp);
        }
    }

    [Fact]
    public void Of_Preset_HasValuesDefaultsAndMeanings()
    {
        var settings = ConfigSettings.Of(XlstmPresets.Bytes1M);
        var width = settings.Single(s => s.Name == "embedding_dim");
        Assert.Equal(("EmbeddingDim", "4096", true), (width.Property, width.Default, width.IsChanged));
        Assert.Equal("The width of the residual stream, d.", width.Meaning);
        Assert.All(settings, s => Assert.NotEqual("", s.Meaning));
        Assert.Contains(ConfigSettings.Of(new TrainingConfig()), s => s is { Name: "schedule.warmup_steps", Value: "0" });
    }
}
