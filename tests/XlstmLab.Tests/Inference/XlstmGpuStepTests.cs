using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

public sealed class XlstmGpuStepTests
{
    private static readonly XlstmConfig Small = new()
    {
        VocabularySize = 47,
        EmbeddingDim = 64,
        HeadCount = 2,
        BlockCount = 2,
        FeedForwardRoundUpTo = 32,
    };

    private static readonly XlstmConfig Other = Small with
    {
        InputGate = InputGate.Sigmoid,
        HeadNorm = HeadNormKind.Rms,
        Normalize = false,
        WeightMode = WeightMode.Fused,
        GateSoftCap = null,
        OutputLogitSoftCap = null,
    };

    private static readonly XlstmConfig Wide = Small with { TieWordEmbeddings = true, VDimFactor = 2, QkDimFactor = 0.75, HeadCount = 4 };

    /// <summary>Architectures, how many sequences are read side by side, and whether one kernel does it where it can.</summary>
    public static TheoryData<string, XlstmConfig, int, bool> Cases => new()
    {
        { "7B", Small, 1, true },
        { "7B by five kernels", Small, 1, false },
        { "sigmoid gate, RMS, fused weights, no caps", Other, 3, true },
        { "sigmoid gate, RMS, fused weights, no caps", Other, 9, true },
        { "heads of 12 channels", Small with { EmbeddingDim = 96, HeadCount = 8, HeadNorm = HeadNormKind.Group }, 8, true },
        {
            "one head of 168 keys, an inner width of 4224",
            Small with { EmbeddingDim = 96, HeadCount = 1, QkDimFactor = 1.75, FeedForwardFactor = 44, BlockCount = 1 }, 8, true
        },
        { "tied, wide values", Wide, 2, true },
        { "tied, wide values by five kernels", Wide, 2, false },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void Read_Tokens_IsAsNearToDoublePrecisionAsTheModelsOwnPass(string name, XlstmConfig config, int sequences, bool walks)
    {
        LongTests.SkipUnless(config != Wide);
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(config);
        using var exact = KernelRun.Model(config);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Perturb(model);
        exact.load_state_dict(model.state_dict());
        exact.to(ScalarType.Float64);
        model.eval();
        exact.eval();
        model.ComputeType = ScalarType.BFloat16;
        var expected = exact.Forward(Tokens(config, sequences, 5), returnState: true).State!;
        using var state = expected.Map(t => t.to(ScalarType.Float32).contiguous());
        var own = state.Clone();
        using var step = XlstmGpuStep.Of(model, state, walks: walks)!;
        for (var t = 0; t < 4; t++)
        {
            var tokens = Tokens(config, sequences, 1, seed: 2 + t);
            step.Read(tokens, state);
            var (logits, after) = exact.Forward(tokens, expected, returnState: true);
            var (ownLogits, ownAfter) = model.Forward(tokens, own, returnState: true);
            AssertNear("logits", step.Logits, ownLogits.squeeze(1), logits.squeeze(1));
            foreach (var (key, value) in after!.Tensors)
            {
                AssertNear(key, state[key], ownAfter![key], value);
            }

            expected.Dispose();
            own.Dispose();
            (expected, own) = (after, ownAfter!);

            void AssertNear(string what, Tensor actual, Tensor byModel, Tensor value)
            {
                var (error, allowed) = (KernelRun.Error(actual, value), KernelRun.Error(byModel, value));
                Assert.True(error <= 1.5 * allowed + 1e-3, $"{name}: {what} of token {t} is {error} off, the model's own {allowed}");
                Assert.True(error < 0.03, $"{name}: {what} of token {t} is {error} off");
            }
        }

        expected.Dispose();
        own.Dispose();
        Assert.Equal(walks && sequences <= 8, run.Launched.Contains("token_walk"));
        Assert.NotEqual(run.Launched.Contains("token_walk"), run.Launched.Contains("token_product") && run.Launched.Contains("token_memory"));
    }

    [Fact]
    public void Read_StateOfAnotherPlace_IsReadAndWrittenThere()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Perturb(model);
        model.eval();
        using var first = model.Forward(Tokens(Small, 1, 3), returnState: true).State!.Clone();
        model.ComputeType = ScalarType.BFloat16;
        using var step = XlstmGpuStep.Of(model, first)!;
        step.Read(Tokens(Small, 1, 1), first);
        using var second = first.Clone();
        var token = Tokens(Small, 1, 1, seed: 2);
        step.Read(token, first);
        var logits = step.Logits.clone();
        step.Read(token, second);
        Assert.True(logits.equal(step.Logits).all().item<bool>());
        Assert.All(first.Tensors, pair => Assert.True(pair.Value.equal(second[pair.Key]).all().item<bool>(), pair.Key));
    }

    /// <summary>The 407 M model: its phases have more pieces than there are multiprocessors, and copies run far ahead.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    public void Read_LargeModel_OneKernelDoesWhatFiveDo(int sequences)
    {
        using var run = KernelRun.BeginOnGpu();
        XlstmConfig config = new() { EmbeddingDim = 1024, BlockCount = 24, HeadCount = 4 };
        using var drawn = KernelRun.Model(config);
        using var model = config.CreateUnloaded(get_default_device(), ScalarType.BFloat16);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        model.load_state_dict(drawn.state_dict());
        foreach (var (_, bias) in model.named_parameters().Where(p => p.name.EndsWith("igate_preact.bias", StringComparison.Ordinal)))
        {
            bias.zero_(); // gates that open
        }

        model.eval();
        model.ComputeType = ScalarType.BFloat16;
        using var started = model.Forward(Tokens(config, sequences, 16), returnState: true).State!;
        using var byOne = started.Map(t => t.to(ScalarType.Float32).contiguous());
        using var byFive = byOne.Clone();
        using var one = XlstmGpuStep.Of(model, byOne)!;
        using var five = XlstmGpuStep.Of(model, byFive, walks: false)!;
        var tokens = Tokens(config, sequences, 1, seed: 2);
        for (var t = 0; t < 20; t++)
        {
            one.Read(tokens, byOne);
            five.Read(tokens, byFive);
            Assert.True(five.Logits.isfinite().all().item<bool>(), $"token {t} by five kernels");
            Assert.True(one.Logits.isfinite().all().item<bool>(), $"token {t} by one kernel");
            Assert.InRange(KernelRun.Error(one.Logits, five.Logits), 0, 0.03);
            tokens = five.Logits.argmax(-1, keepdim: true);
            var chosen = five.Logits.gather(-1, tokens) - five.Logits.gather(-1, one.Logits.argmax(-1, keepdim: true));
            Assert.InRange(chosen.max().item<float>(), 0, 0.05f * five.Logits.std().item<float>());
        }

        Assert.All(byOne.Tensors, pair => Assert.InRange(KernelRun.Error(pair.Value, byFive[pair.Key]), 0, 0.03));
        Assert.Contains("token_walk", run.Launched);
    }

    [Fact]
    public void Read_WeightsThatChanged_AreReadAnew()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        model.eval();
        using var state = model.Forward(Tokens(Small, 1, 3), returnState: true).State!.Clone();
        model.ComputeType = ScalarType.BFloat16;
        using var step = XlstmGpuStep.Of(model, state)!;
        Perturb(model);
        step.Refresh();
        using var before = state.Clone();
        var tokens = Tokens(Small, 1, 1);
        step.Read(tokens, state);
        var expected = model.Forward(tokens, before).Logits.squeeze(1);
        Assert.True(KernelRun.Error(step.Logits, expected) < 0.03);
    }

    [Fact]
    public void Of_ModelsOfAnotherShape_IsNull()
    {
        using var run = KernelRun.Begin();
        foreach (var other in new[]
        {
            Small with { UseBias = true }, Small with { Mixers = new SLstmMixerConfig { HeadCount = 2 } }, Small with { QkNorm = true },
            Small with { FeedForward = FeedForwardKind.ReluSquared }, Small with { OutputGate = false }, Small with { ConvKernelSize = 4 },
        })
        {
            using var model = KernelRun.Model(other);
            using var scope = NewDisposeScope();
            using var grad = no_grad();
            using var state = model.Forward(Tokens(other, 1, 2), returnState: true).State!;
            model.ComputeType = ScalarType.BFloat16;
            Assert.Null(XlstmGpuStep.Of(model, state));
        }

        using var small = KernelRun.Model(Small);
        using var kept = NewDisposeScope();
        using var still = no_grad();
        using var memory = small.Forward(Tokens(Small, 1, 2), returnState: true).State!.Clone();
        Assert.Null(XlstmGpuStep.Of(small, memory)); // its activations are float32
        small.ComputeType = ScalarType.BFloat16;
        using (var step = XlstmGpuStep.Of(small, memory))
        {
            Assert.NotNull(step);
        }

        small.Observer = (_, _, _) => { };
        Assert.Null(XlstmGpuStep.Of(small, memory));
    }

    [Fact]
    public void Generate_Greedy_DiffersFromTheModelsOwnPassOnlyWhereTwoTokensAreEquallyLikely()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small with { VocabularySize = 288 });
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            Perturb(model);
        }

        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 24, StopAtEndOfDocument = false };
        int[][] prompts = [[5, 6, 7], [9]];
        var byHost = generator.Generate(prompts, options).Sequences; // in float32
        model.ComputeType = ScalarType.BFloat16;
        var counts = run.Record();
        var recorded = generator.Generate(prompts, options).Sequences;
        Assert.Equal(21, counts.Started);
        model.ComputeType = null;
        model.eval();
        foreach (var (prompt, expected, actual) in prompts.Zip(byHost.Select(s => s.Tokens), recorded.Select(s => s.Tokens)))
        {
            var equal = expected.AsSpan().CommonPrefixLength(actual);
            Assert.True(equal > 2, "the recorded step has chosen nothing yet");
            if (equal == expected.Length)
            {
                continue;
            }

            using var grad = no_grad();
            long[] read = [.. prompt.Select(id => (long)id), .. expected[..equal].Select(id => (long)id)];
            var logits = model.Forward(tensor(read, [1, read.Length]).to(get_default_device())).Logits[0, -1];
            var gap = (logits[expected[equal]] - logits[actual[equal]]).item<float>();
            Assert.InRange(gap, 0, 0.05f * logits.std().item<float>());
        }
    }

    /// <summary>The same tokens whatever other tests draw.</summary>
    internal static Tensor Tokens(XlstmConfig config, int sequences, int length, long seed = 1)
    {
        using var generator = new Generator((ulong)seed, CPU);
        return randint(0, config.VocabularySize, [sequences, length], int64, device: CPU, generator: generator).to(get_default_device());
    }

    /// <summary>Gates that open, norms that scale, and logits that differ.</summary>
    internal static void Perturb(LanguageModel model)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(11, CPU);
        foreach (var (name, weight) in model.named_parameters())
        {
            var scale = name.Contains("igate_preact.bias", StringComparison.Ordinal) || name.Contains("ifgate_preact.bias", StringComparison.Ordinal) ? 3 : 0.1;
            weight.add_(randn(weight.shape, generator: generator, device: CPU).to(weight.device) * scale);
        }
    }
}
