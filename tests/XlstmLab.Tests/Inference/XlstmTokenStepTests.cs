using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

public sealed class XlstmTokenStepTests
{
    private static readonly XlstmConfig PostUp = new()
    {
        VocabularySize = 29,
        EmbeddingDim = 24,
        BlockCount = 2,
        HeadCount = 2,
        FeedForwardRoundUpTo = 8,
    };

    private static readonly XlstmConfig PreUp = XlstmPresets.FirstPaper(32, 2) with { VocabularySize = 29, HeadCount = 2 };

    private static readonly Dictionary<string, XlstmConfig> Variants = new()
    {
        ["as made"] = PostUp,
        ["fused"] = PostUp with { WeightMode = WeightMode.Fused },
        ["biases, LayerNorm"] = PostUp with { UseBias = true, PreNorm = NormKind.Layer },
        ["tied"] = PostUp with { TieWordEmbeddings = true },
        ["post-norm alone"] = PostUp with { PreNorm = NormKind.None, PostNorm = NormKind.Rms },
        ["no norm before the head"] = PostUp with { AddOutNorm = false },
        ["sandwich"] = PostUp with { PostNorm = NormKind.Layer },
        ["head norm rms"] = PostUp with { HeadNorm = HeadNormKind.Rms, HeadNormEpsilon = 1e-3 },
        ["head norm group"] = PostUp with { HeadNorm = HeadNormKind.Group, HeadNormGroups = 4 },
        ["head norm none"] = PostUp with { HeadNorm = HeadNormKind.None },
        ["no soft caps"] = PostUp with { GateSoftCap = null, OutputLogitSoftCap = null },
        ["sigmoid input gate"] = PostUp with { InputGate = InputGate.Sigmoid },
        ["exponential forget gate"] = PostUp with { ForgetGate = ForgetGate.Exponential, ForgetGateBiasFirst = -1, ForgetGateBiasLast = 0 },
        ["no forget gate"] = PostUp with { ForgetGate = ForgetGate.None },
        ["no input gate"] = PostUp with { InputGate = InputGate.None },
        ["gates of biases"] = PostUp with
        {
            InputGatePreactivation = GatePreactivation.BiasOnly,
            ForgetGatePreactivation = GatePreactivation.Fixed,
        },
        ["gates see q k v"] = PostUp with { GateSource = GateSource.Qkv },
        ["no output gate"] = PostUp with { OutputGate = false },
        ["not normalised"] = PostUp with { Normalize = false },
        ["q k norm"] = PostUp with { QkNorm = true },
        ["convolution"] = PostUp with { ConvKernelSize = 4 },
        ["ReLU squared"] = PostUp with { FeedForward = FeedForwardKind.ReluSquared },
        ["GeGLU"] = PostUp with { FeedForward = FeedForwardKind.GeGlu },
        ["GELU"] = PostUp with { FeedForward = FeedForwardKind.Mlp },
        ["no feed-forward"] = PostUp with { FeedForward = FeedForwardKind.None },
        ["sLSTM"] = PostUp with { SLstmAt = [1], SLstmRecurrentInit = RecurrentInit.Normal },
        ["sLSTM, exponential"] = PostUp with
        {
            SLstmAt = [0, 1],
            ConvKernelSize = 3,
            SLstmRecurrentInit = RecurrentInit.Normal,
            SLstmForgetGate = ForgetGate.Exponential,
        },
        ["pre-up"] = PreUp,
        ["pre-up with sLSTM"] = PreUp with { SLstmAt = [1], SLstmRecurrentInit = RecurrentInit.Uniform },
        ["pre-up, no skip"] = PreUp with { LearnableSkip = false, UseBias = true, OutputGate = false },
        ["pre-up, GELU"] = PreUp with { SLstmAt = [0], SLstmFeedForward = FeedForwardKind.Mlp },
        ["pre-up, no convolution"] = PreUp with
        {
            SLstmAt = [0],
            SLstmFeedForward = FeedForwardKind.SwiGlu,
            ConvKernelSize = 0,
            QkNorm = true,
        },
        ["pre-up around dense projections"] = PreUp with
        {
            Mixers = new MLstmMixerConfig { HeadCount = 2, UseBias = true },
            ConvKernelSize = 1,
        },
        ["headwise in post-up"] = PostUp with { Mixers = new MLstmMixerConfig { HeadCount = 2, Headwise = true } },
        ["pre-up, gates see x"] = PreUp with { GateSource = GateSource.Input, HeadNorm = HeadNormKind.Rms },
    };

    public static TheoryData<string> Names { get; } = [.. Variants.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void Read_EveryVariant_HasLogitsAndStateOfTheModel(string name)
    {
        using var model = Perturbed(Variants[name]);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var step = XlstmTokenStep.Of(model)!;
        var tokens = randint(0, 29, [3, 12], generator: new Generator(2));
        var state = model.Forward(tokens.narrow(1, 0, 5), returnState: true).State!;
        var (own, places) = step.Own(state);
        using var owned = own;
        for (var t = 5; t < 12; t++)
        {
            var before = state;
            var output = model.Forward(tokens.narrow(1, t, 1), before, returnState: true);
            (state, var logits) = (output.State!, output.Logits.squeeze(1));
            before.Dispose();
            var ids = tokens.select(1, t).data<long>().ToArray().Select(id => (int)id).ToArray();
            var read = tensor(step.Read(ids, places).ToArray()).view(3, -1);
            Assert.True((read - logits).abs().max().item<float>() <= 1e-5 * (1 + logits.abs().max().item<float>()), $"logits of token {t}");
        }

        Assert.Equal(state.Tensors.Keys, own.Tensors.Keys);
        foreach (var (key, value) in state.Tensors)
        {
            Assert.True((own[key] - value).abs().max().item<float>() <= 1e-5 * (1 + value.abs().max().item<float>()), key);
        }

        state.Dispose();
    }

    [Fact]
    public void Read_WeightsChangedBetweenTokens_SeesThem()
    {
        using var model = Perturbed(PostUp);
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var step = XlstmTokenStep.Of(model)!;
        using var state = model.Forward(zeros([1, 3], ScalarType.Int64), returnState: true).State!;
        foreach (var weight in model.parameters())
        {
            weight.mul_(0.9);
        }

        var expected = model.Forward(ones([1, 1], ScalarType.Int64), state).Logits.view(-1);
        var (own, places) = step.Own(state);
        using var owned = own;
        var read = tensor(step.Read([1], places).ToArray());
        Assert.True((read - expected).abs().max().item<float>() <= 1e-4);
    }

    [Fact]
    public void Read_SequenceAloneOrBesideOthers_IsTheSameBitForBit()
    {
        using var model = Perturbed(PostUp with { SLstmAt = [1], ConvKernelSize = 3 });
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var step = XlstmTokenStep.Of(model)!;
        using var state =
            model.Forward(randint(0, 29, [XlstmTokenStep.MostRows, 4], generator: new Generator(3)), returnState: true).State!;
        var (all, places) = step.Own(state);
        using var owned = all;
        var logits = step.Read([1, 2, 3, 4, 5, 6, 7, 8], places).ToArray();
        using var picked = state.SelectRows(6);
        var (one, place) = step.Own(picked);
        using var ownedOne = one;
        Assert.Equal(logits[(6 * 29)..(7 * 29)], step.Read([7], place).ToArray());
        Assert.True(one["blocks.0.c"][0].equal(all["blocks.0.c"][6]).all().item<bool>());
    }

    [Fact]
    public void Generate_TrainedBetweenTexts_ReadsWithTheNewWeights()
    {
        using var model = (PostUp with { VocabularySize = 257 }).CreateModel(3);
        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 20, StopAtEndOfDocument = false };
        _ = generator.Generate([[1, 2, 3]], options);
        using (no_grad())
        {
            foreach (var weight in model.parameters())
            {
                weight.add_(randn(weight.shape, generator: new Generator(5)));
            }
        }

        var byStep = generator.Generate([[1, 2, 3]], options).Sequences[0];
        model.Observer = (_, _, _) => { };
        var byModel = generator.Generate([[1, 2, 3]], options).Sequences[0];
        Assert.Equal(byModel.Tokens, byStep.Tokens);
        Assert.Equal(byModel.LogProbability, byStep.LogProbability, 1e-3);
    }

    [Fact]
    public void Generate_MoreTextsThanAStepReads_FallsToTheStepAsTheyFinish()
    {
        using var model = Perturbed(PostUp with { VocabularySize = 257 });
        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { MaxNewTokens = 40, StopAtEndOfDocument = false, StopStrings = ["e", "t", "1", "7", "k"] };
        var prompts = Enumerable.Range(0, XlstmTokenStep.MostRows + 3).Select(r => new[] { r, 2, 3 }).ToArray();
        var (byStep, state) = generator.Generate(prompts, options, returnState: true);
        model.Observer = (_, _, _) => { };
        var (byModel, expected) = generator.Generate(prompts, options, returnState: true);
        Assert.True(byStep.Select(s => s.Tokens.Length).Distinct().Count() > 1);
        Assert.Equal(byModel.Select(s => s.Text), byStep.Select(s => s.Text));
        foreach (var (name, tensor) in expected!.Tensors)
        {
            Assert.True((state![name] - tensor).abs().max().item<float>() <= 1e-4 * (1 + tensor.abs().max().item<float>()), name);
        }

        state!.Dispose();
        expected.Dispose();
    }

    [Fact]
    public void Of_ModelsThatItCannotRead_IsNull()
    {
        using var model = PostUp.CreateModel();
        using var other = (PostUp with { Mixers = new GlaMixerConfig() }).CreateModel();
        using var llama = new LlamaConfig { VocabularySize = 7, EmbeddingDim = 16, HeadCount = 2, BlockCount = 1 }.CreateModel();
        Assert.Null(XlstmTokenStep.Of(other));
        Assert.Null(XlstmTokenStep.Of(llama));
        model.ComputeType = ScalarType.BFloat16;
        Assert.Null(XlstmTokenStep.Of(model));
        model.ComputeType = null;
        using var step = XlstmTokenStep.Of(model)!;
        Assert.True(step.Serves(XlstmTokenStep.MostRows));
        Assert.False(step.Serves(XlstmTokenStep.MostRows + 1));
        model.Observer = (_, _, _) => { };
        Assert.False(step.Serves(1));
        model.Observer = null;
        model.to(ScalarType.Float64);
        Assert.False(step.Serves(1));
    }

    [Fact]
    public void Generate_WithAndWithoutStep_GivesTheSameText()
    {
        using var model = (PostUp with { VocabularySize = 257, SLstmAt = [1] }).CreateModel(3);
        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 30, StopAtEndOfDocument = false };
        var byStep = generator.Generate([[1, 2, 3], [4]], options, returnState: true);
        model.Observer = (_, _, _) => { };
        var byModel = generator.Generate([[1, 2, 3], [4]], options, returnState: true);
        Assert.Equal(byModel.Sequences.Select(s => s.Tokens), byStep.Sequences.Select(s => s.Tokens));
        byModel.State!.Dispose();
        byStep.State!.Dispose();
    }

    private static XlstmLanguageModel Perturbed(XlstmConfig config)
    {
        var model = config.CreateModel(1);
        model.eval();
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using var generator = new Generator(7);
        foreach (var weight in model.parameters())
        {
            weight.add_(randn(weight.shape, generator: generator) * 0.2);
        }

        return model;
    }
}
