using XlstmLab.Checkpoints;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Tests.Models.Blocks;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Checkpoints;

public sealed class FirstPaperWeightsTests
{
    private static readonly XlstmConfig Config = BlockVariants.All["pre-up [1:1]"] with { PostNorm = NormKind.None };

    [Theory]
    [InlineData("backbone.embeddings.weight", "token_embedding.weight")]
    [InlineData("backbone.out_norm.weight", "xlstm_block_stack.post_blocks_norm.weight")]
    [InlineData("backbone.blocks.3.xlstm_norm.weight", "xlstm_block_stack.blocks.3.xlstm_norm.weight")]
    [InlineData("backbone.blocks.3.xlstm.mlstm_cell.igate.weight", "xlstm_block_stack.blocks.3.xlstm.mlstm_cell.igate.weight")]
    [InlineData("backbone.blocks.3.xlstm.igate.weight", "xlstm_block_stack.blocks.3.xlstm.fgate.weight")]
    [InlineData("backbone.blocks.3.xlstm.fgate.weight", "xlstm_block_stack.blocks.3.xlstm.igate.weight")]
    [InlineData("lm_head.weight", "lm_head.weight")]
    public void PublishedName_IsThatOfThePackage(string name, string expected) => Assert.Equal(
        expected, FirstPaperWeights.PublishedName(name));

    [Fact]
    public void Load_PublishedWeights_AddsOneToNormScalesOnly()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(Config, seed: 1);
        using var loaded = new XlstmLanguageModel(Config, seed: 2);
        var weights = model.named_parameters().ToDictionary(p => FirstPaperWeights.PublishedName(p.name), p => p.parameter.detach());
        FirstPaperWeights.Load(loaded, weights);
        foreach (var (name, parameter) in loaded.named_parameters())
        {
            var shift = name.Contains("norm", StringComparison.Ordinal) && name.EndsWith("weight", StringComparison.Ordinal) ? 1 : 0;
            Assert.True(parameter.equal(weights[FirstPaperWeights.PublishedName(name)] + shift).all().item<bool>(), name);
        }
    }

    [Fact]
    public void Load_WhatDoesNotFit_IsNamedAndNothingIsLoaded()
    {
        using var scope = NewDisposeScope();
        using var model = new XlstmLanguageModel(Config, seed: 1);
        var weights = model.named_parameters().ToDictionary(p => FirstPaperWeights.PublishedName(p.name), p => p.parameter.detach() + 1);
        weights.Remove("token_embedding.weight");
        weights["other.weight"] = zeros(2);
        weights["lm_head.weight"] = zeros(2, 3);
        var before = model.get_parameter("backbone.out_norm.weight")!.detach().clone();

        var message = Assert.Throws<CheckpointException>(() => FirstPaperWeights.Load(model, weights)).Message;
        Assert.Contains("token_embedding.weight is missing", message, StringComparison.Ordinal);
        Assert.Contains("other.weight is none of the model's", message, StringComparison.Ordinal);
        Assert.Contains("lm_head.weight is [2, 3] and the model's [11, 16]", message, StringComparison.Ordinal);
        Assert.True(before.equal(model.get_parameter("backbone.out_norm.weight")!).all().item<bool>());
    }
}
