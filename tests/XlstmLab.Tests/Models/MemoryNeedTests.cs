using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Training;
using Xunit;

namespace XlstmLab.Tests.Models;

public sealed class MemoryNeedTests
{
    private static readonly XlstmConfig Small = new() { VocabularySize = 257, EmbeddingDim = 16, BlockCount = 1, HeadCount = 2 };

    public static TheoryData<LanguageModelConfig> TooLarge() =>
    [
        Small with { EmbeddingDim = 1 << 20, VocabularySize = 1 << 24 },
        Small with { BlockCount = int.MaxValue },
        Small with { EmbeddingDim = 1 << 20, BlockCount = 1_000_000 },
        new LlamaConfig { VocabularySize = int.MaxValue },
        new LlamaConfig { BlockCount = int.MaxValue },
        new GlaConfig { VocabularySize = int.MaxValue },
        new LstmConfig { VocabularySize = int.MaxValue },
        new MambaConfig { BlockCount = int.MaxValue },
        new Mamba2Config { VocabularySize = int.MaxValue },
    ];

    [Theory]
    [MemberData(nameof(TooLarge))]
    public void CreateModel_TooLargeForTheMachine_SaysWhatItNeeds(LanguageModelConfig config)
    {
        var message = Assert.Throws<ConfigException>(() => config.CreateModel()).Message;
        Assert.Contains("parameters need", message, StringComparison.Ordinal);
        Assert.Contains("the machine has", message, StringComparison.Ordinal);
    }

    [Fact]
    public void CreateUnloaded_HalfOfWhatFloat32Takes_IsCountedInBfloat16()
    {
        // As many numbers as the machine has memory for in float32, and some more.
        var rows = (int)Math.Min(int.MaxValue, SystemMemory.Total / (sizeof(float) * 1024 * 2) * 11 / 10);
        var config = Small with { EmbeddingDim = 1024, VocabularySize = rows };

        Assert.Contains("in float32", Assert.Throws<ConfigException>(() => config.CreateUnloaded()).Message, StringComparison.Ordinal);
        MemoryNeed.RequireModel(Small);
        Assert.Contains(
            "in bfloat16",
            Assert.Throws<ConfigException>(() =>
                (config with { VocabularySize = rows / 10 * 20 }).CreateUnloaded(projections: torch.ScalarType.BFloat16)).Message,
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(100_000_000, 256, null)]
    [InlineData(100_000_000, 256, 1)]
    [InlineData(8, int.MaxValue, null)]
    public void Require_BatchTooLarge_SaysWhatItNeeds(int batch, int context, int? micro)
    {
        var training = new TrainingConfig { BatchSize = batch, ContextLength = context, MicroBatchSize = micro };
        Assert.Contains(
            "does not fit into memory",
            Assert.Throws<ConfigException>(() => TrainingMemory.Require(Small, training, torch.CPU)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Require_BatchOfTheRampTooLarge_IsRefused()
    {
        var training = new TrainingConfig { BatchRamp = [new(10, 100_000_000)] };
        Assert.Throws<ConfigException>(() => TrainingMemory.Require(Small, training, torch.CPU));
    }

    [Fact]
    public void Require_WhatFits_IsSilent() => TrainingMemory.Require(Small, new TrainingConfig(), torch.CPU);
}
