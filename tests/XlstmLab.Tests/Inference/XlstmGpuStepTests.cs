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
    /// <summary>A model in the shape of the 7B's.</summary>
    internal static XlstmConfig Small { get; } = new()
    {
        VocabularySize = 47,
        EmbeddingDim = 64,
        HeadCount = 2,
        BlockCount = 2,
        FeedForwardRoundUpTo = 32,
    };

    /// <summary>Architectures, and how many sequences are read side by side.</summary>
    public static TheoryData<string, XlstmConfig, int> Cases => new()
    {
        { "7B", Small, 1 },
        { "7B, many sequences", Small, 21 },
        {
            "sigmoid gate, RMS, fused weights, no caps",
            Small with
            {
                InputGate = InputGate.Sigmoid, HeadNorm = HeadNormKind.Rms, Normalize = false,
                WeightMode = WeightMode.Fused, GateSoftCap = null,
                OutputLogitSoftCap = null,
            },
            9
        },
        { "tied, wide values", Small with { TieWordEmbeddings = true, VDimFactor = 2, QkDimFactor = 0.75, HeadCount = 4 }, 2 },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void Read_Tokens_IsAsNearToDoublePrecisionAsTheModelsOwnPass(string name, XlstmConfig config, int sequences)
    {
        LongTests.SkipUnless(name != "tied, wide values");
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
        using var step = XlstmGpuStep.Of(model, state)!;
        AssertReadsAsNear(name, step, state, model, exact, expected, tokens: 4);
        Assert.Contains(sequences > 16 ? "token_batch_product" : "token_product", run.Launched);
        Assert.Contains("token_memory", run.Launched);
    }

    /// <summary>
    /// Holds a step's logits and states against a model in double precision, no further off than a model's own pass in bfloat16.
    /// </summary>
    /// <param name="name">The case, for messages.</param>
    /// <param name="step">The step.</param>
    /// <param name="state">Its state, which it changes.</param>
    /// <param name="model">What makes the pass in bfloat16.</param>
    /// <param name="exact">The same weights in float64.</param>
    /// <param name="expected">The state of both to begin with, in float64; it is disposed of.</param>
    /// <param name="tokens">How many tokens.</param>
    internal static void AssertReadsAsNear(
        string name, XlstmGpuStep step, ModelState state, LanguageModel model, LanguageModel exact, ModelState expected, int tokens)
    {
        var own = state.Clone();
        for (var t = 0; t < tokens; t++)
        {
            var read = Tokens((XlstmConfig)model.Config, (int)state.BatchSize, 1, seed: 2 + t);
            step.Read(read, state);
            var (logits, after) = exact.Forward(read, expected, returnState: true);
            var (ownLogits, ownAfter) = model.Forward(read, own, returnState: true);
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

    /// <summary>Rows are copied 16 bytes at a time, and a weight may be a part of other memory.</summary>
    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(4, false)]
    [InlineData(8, true)]
    public void Of_WeightBehindOtherNumbers_ReadsOnlyWhatLiesAtWhole16Bytes(int numbers, bool reads)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var state = model.Forward(Tokens(Small, 1, 2), returnState: true).State!.Clone();
        model.to(ScalarType.BFloat16);
        var weight = model.get_parameter("backbone.blocks.1.mlstm_layer.out_proj.weight")!;
        var behind = empty(numbers + weight.numel(), ScalarType.BFloat16).narrow(0, numbers, weight.numel()).view(weight.shape);
        weight.set_(behind.copy_(weight));
        Assert.Equal(reads, XlstmGpuStep.MayRead(model, 1));
        using var step = XlstmGpuStep.Of(model, state);
        Assert.Equal(reads, step is not null);
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

    /// <summary>States in halves: written by the graph alone, and float32 where somebody else has them.</summary>
    [Fact]
    public void Generate_StatesInHalves_GivesStatesThatAreNearThoseInFloat32()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small with { VocabularySize = 288 });
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            Perturb(model);
        }

        model.ComputeType = ScalarType.BFloat16;
        var generator = new TextGenerator(model, new ByteTokenizer());
        GenerationOptions options = new() { Temperature = 0, MaxNewTokens = 12, StopAtEndOfDocument = false };
        var counts = run.Record();
        var whole = generator.Generate([[5, 6, 7]], options, returnState: true);
        var halves = generator.Generate([[5, 6, 7]], options with { States = StateFormat.BFloat16 }, returnState: true);
        Assert.Equal(2 * 9, counts.Started);
        Assert.Equal(whole.Sequences[0].Tokens, halves.Sequences[0].Tokens);
        using var state = whole.State!;
        using var near = halves.State!;
        foreach (var (name, tensor) in state.Tensors)
        {
            Assert.Equal(ScalarType.Float32, near[name].dtype);
            Assert.InRange(KernelRun.Error(near[name], tensor), name == "blocks.0.c" ? 1e-5 : 0, 0.03);
        }

        model.ComputeType = null;
        Assert.Contains("States", Assert.Throws<ArgumentException>(
            () => generator.Generate([[5]], options with { States = StateFormat.BFloat16 })).Message, StringComparison.Ordinal);
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
            var scale = name.Contains("igate_preact.bias", StringComparison.Ordinal)
                || name.Contains("ifgate_preact.bias", StringComparison.Ordinal) ? 3 : 0.1;
            weight.add_(randn(weight.shape, generator: generator, device: CPU).to(weight.device) * scale);
        }
    }
}
