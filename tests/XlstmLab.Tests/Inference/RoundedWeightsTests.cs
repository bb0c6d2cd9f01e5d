using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Layers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

public sealed class RoundedWeightsTests
{
    private static readonly XlstmConfig PostUp = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 24,
        BlockCount = 2,
        HeadCount = 2,
        FeedForwardRoundUpTo = 8,
    };

    private static readonly Dictionary<string, XlstmConfig> Variants = new()
    {
        ["as made"] = PostUp,
        ["fused, biases"] = PostUp with { WeightMode = WeightMode.Fused, UseBias = true },
        ["tied"] = PostUp with { TieWordEmbeddings = true },
        ["sLSTM"] = PostUp with { SLstmAt = [1], ConvKernelSize = 3 },
        ["pre-up"] = XlstmPresets.FirstPaper(32, 2) with { VocabularySize = 257, HeadCount = 2 },
        ["wide, shared by threads"] = PostUp with { EmbeddingDim = 512, BlockCount = 1 },
    };

    public static TheoryData<string, WeightFormat> Cases { get; } = new(
        from name in Variants.Keys
        from format in Enum.GetValues<WeightFormat>()
        where format != WeightFormat.Float8 // a GPU's
        select (name, format));

    [Theory]
    [MemberData(nameof(Cases))]
    public void Generate_WeightsInAFormat_WritesWhatTheModelOfRoundedWeightsWrites(string name, WeightFormat format)
    {
        using var model = Drawn(Variants[name]);
        RoundedWeights.Round(model, format);
        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 40, StopAtEndOfDocument = false, Weights = format };
        var byStep = generator.Generate([[1, 2, 3], [4]], options).Sequences;
        model.Observer = (_, _, _) => { };
        var byModel = generator.Generate([[1, 2, 3], [4]], options with { Weights = WeightFormat.Float32 }).Sequences;
        Assert.Equal(byModel.Select(s => s.Tokens), byStep.Select(s => s.Tokens));
        Assert.All(byModel.Zip(byStep), pair => Assert.Equal(pair.First.LogProbability, pair.Second.LogProbability, 1e-2));
    }

    [Theory]
    [InlineData(WeightFormat.BFloat16)]
    [InlineData(WeightFormat.Int8)]
    public void Read_WeightsThatChange_AreCopiedAnewAndReadInFewerBytes(WeightFormat format)
    {
        using var model = Drawn(PostUp);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var step = XlstmTokenStep.Of(model, format)!;
        using var whole = XlstmTokenStep.Of(model)!;
        Assert.InRange(step.WeightBytes, 1, 0.6 * whole.WeightBytes);
        using var state = model.Forward(zeros([1, 3], ScalarType.Int64), returnState: true).State!;
        _ = Read(step);
        foreach (var weight in model.parameters())
        {
            weight.mul_(0.9);
        }

        var read = Read(step);
        RoundedWeights.Round(model, format);
        var expected = model.Forward(ones([1, 1], ScalarType.Int64), state).Logits.view(-1);
        Assert.True((read - expected).abs().max().item<float>() <= 1e-4);

        Tensor Read(XlstmTokenStep by)
        {
            var (own, places) = by.Own(state);
            using (own)
            {
                return tensor(by.Read([1], places).ToArray());
            }
        }
    }

    [Theory]
    [InlineData(WeightFormat.BFloat16)]
    [InlineData(WeightFormat.Int8)]
    [InlineData(WeightFormat.Float8)]
    public void Round_Model_LeavesAllButProjectionsAsTheyAre(WeightFormat format)
    {
        using var model = Drawn(PostUp with { SLstmAt = [1] });
        using var scope = NewDisposeScope();
        var before = model.state_dict().ToDictionary(p => p.Key, p => p.Value.clone());
        RoundedWeights.Round(model, format);
        var changed = model.state_dict().Where(p => !p.Value.equal(before[p.Key]).all().item<bool>()).Select(p => p.Key).ToArray();
        Assert.Equal(RoundedWeights.Names(model).Order(), changed.Order());
        Assert.Contains("lm_head.weight", changed);
        Assert.DoesNotContain(
            changed,
            name => name.Contains("norm") || name.Contains("embeddings")
                || name.Contains("fgate_preact.bias") || name.Contains("kernel"));
        var rounded = model.state_dict().ToDictionary(p => p.Key, p => p.Value.clone());
        RoundedWeights.Round(model, format);
        Assert.All(model.state_dict(), p => Assert.True(p.Value.equal(rounded[p.Key]).all().item<bool>(), p.Key));
    }

    [Fact]
    public void Generate_WhatNoStepReads_IsRefusedInWords()
    {
        using var llama = new LlamaConfig { VocabularySize = 257, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 }.CreateModel();
        using var model = PostUp.CreateModel(1);
        var options = new GenerationOptions { MaxNewTokens = 2, Weights = WeightFormat.Int8 };
        foreach (var (of, texts) in new (LanguageModel, int)[] { (llama, 1), (model, XlstmTokenStep.MostRows + 1) })
        {
            var error = Assert.Throws<ArgumentException>(
                () => new TextGenerator(of, new ByteTokenizer()).Generate([.. Enumerable.Repeat<int[]>([1], texts)], options));
            Assert.Contains("Int8 serve up to 8 texts", error.Message, StringComparison.Ordinal);
        }

        var generator = new TextGenerator(model, new ByteTokenizer());
        var inFloat8 = Assert.Throws<ArgumentException>(() => generator.Generate([[1]], options with { Weights = WeightFormat.Float8 }));
        Assert.Contains("Weights of Float8", inFloat8.Message, StringComparison.Ordinal);
        model.to(ScalarType.Float64);
        Assert.Contains(
            "float32", Assert.Throws<ArgumentException>(() => RoundedWeights.Round(model, WeightFormat.Int8)).Message,
            StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => RoundedWeights.Round(model, (WeightFormat)99));
        Assert.Throws<ArgumentException>(() => (options with { Weights = (WeightFormat)99 }).Validate());
    }

    private static XlstmLanguageModel Drawn(XlstmConfig config)
    {
        var model = config.CreateModel(1);
        model.eval();
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var generator = new Generator(7);
        foreach (var weight in model.parameters())
        {
            weight.add_(randn(weight.shape, generator: generator) * (weight.dim() > 1 ? 1.5 / Math.Sqrt(weight.shape[^1]) : 0.2));
        }

        return model;
    }
}
