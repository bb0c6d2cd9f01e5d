using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Layers;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>The step of a GPU with projections of one byte a weight.</summary>
public sealed class NarrowGpuStepTests
{
    [Theory]
    [InlineData(WeightFormat.Int8, WeightMode.Single)]
    [InlineData(WeightFormat.Float8, WeightMode.Single)]
    [InlineData(WeightFormat.Int8, WeightMode.Fused)]
    public void Read_WeightsOfOneByte_IsAsNearToTheRoundedModelAsItsOwnPass(WeightFormat format, WeightMode mode)
    {
        using var run = KernelRun.Begin();
        var config = XlstmGpuStepTests.Small with { WeightMode = mode };
        using var model = KernelRun.Model(config);
        using var rounded = KernelRun.Model(config);
        using var exact = KernelRun.Model(config);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        XlstmGpuStepTests.Perturb(model);
        rounded.load_state_dict(model.state_dict());
        RoundedWeights.Round(rounded, format);
        exact.load_state_dict(rounded.state_dict());
        exact.to(ScalarType.Float64);
        foreach (var each in new[] { model, rounded, exact })
        {
            each.eval();
        }

        model.ComputeType = rounded.ComputeType = ScalarType.BFloat16;
        var expected = exact.Forward(XlstmGpuStepTests.Tokens(config, 2, 5), returnState: true).State!;
        using var state = expected.Map(t => t.to(ScalarType.Float32).contiguous());
        using var step = XlstmGpuStep.Of(model, state, format)!;
        using var wide = XlstmGpuStep.Of(model, state)!;
        Assert.InRange(step.WeightBytes, 0.5 * wide.WeightBytes, 0.7 * wide.WeightBytes);
        XlstmGpuStepTests.AssertReadsAsNear($"{format}, {mode}", step, state, rounded, exact, expected, tokens: 3);
        Assert.Contains("token_product", run.Launched);
        Assert.Contains("token_memory", run.Launched);
    }

    [Theory]
    [InlineData(WeightFormat.Int8)]
    [InlineData(WeightFormat.Float8)]
    public void Refresh_WeightsThatChanged_ArePackedAnew(WeightFormat format)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(XlstmGpuStepTests.Small);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        model.eval();
        using var state = model.Forward(XlstmGpuStepTests.Tokens(XlstmGpuStepTests.Small, 1, 3), returnState: true).State!.Clone();
        using var before = state.Clone();
        model.ComputeType = ScalarType.BFloat16;
        using var step = XlstmGpuStep.Of(model, state, format)!;
        XlstmGpuStepTests.Perturb(model);
        step.Refresh();
        var tokens = XlstmGpuStepTests.Tokens(XlstmGpuStepTests.Small, 1, 1);
        step.Read(tokens, state);
        RoundedWeights.Round(model, format);
        Assert.InRange(KernelRun.Error(step.Logits, model.Forward(tokens, before).Logits.squeeze(1)), 0, 0.03);
    }

    [Fact]
    public void Of_HeadThatIsTheEmbedding_StaysAsItIs()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(XlstmGpuStepTests.Small with { TieWordEmbeddings = true });
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        XlstmGpuStepTests.Perturb(model);
        model.eval();
        using var state = model.Forward(XlstmGpuStepTests.Tokens(XlstmGpuStepTests.Small, 1, 3), returnState: true).State!.Clone();
        using var before = state.Clone();
        model.ComputeType = ScalarType.BFloat16;
        using var step = XlstmGpuStep.Of(model, state, WeightFormat.Int8)!;
        var tokens = XlstmGpuStepTests.Tokens(XlstmGpuStepTests.Small, 1, 1);
        step.Read(tokens, state);
        RoundedWeights.Round(model, WeightFormat.Int8);
        Assert.InRange(KernelRun.Error(step.Logits, model.Forward(tokens, before).Logits.squeeze(1)), 0, 0.03);
    }

    [Theory]
    [InlineData(WeightFormat.Int8)]
    [InlineData(WeightFormat.Float8)]
    public void Generate_Recorded_WritesWhatTheRoundedModelWrites(WeightFormat format)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(XlstmGpuStepTests.Small with { VocabularySize = 288 });
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            XlstmGpuStepTests.Perturb(model);
        }

        RoundedWeights.Round(model, format);
        var generator = new TextGenerator(model, new ByteTokenizer());
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 16, StopAtEndOfDocument = false };
        int[][] prompts = [[5, 6, 7], [9], [1, 2], [40], [200, 3]];
        var expected = generator.Generate(prompts, options).Sequences; // in float32
        model.ComputeType = ScalarType.BFloat16;
        var counts = run.Record();
        var actual = generator.Generate(prompts, options with { Weights = format }).Sequences;
        Assert.InRange(counts.Started, 10, 16);
        Assert.Contains("token_product", run.Launched);
        model.ComputeType = null;
        model.eval();
        var longest = 0;
        foreach (var (prompt, known, read) in prompts.Zip(expected.Select(s => s.Tokens), actual.Select(s => s.Tokens)))
        {
            var equal = known.AsSpan().CommonPrefixLength(read);
            longest = Math.Max(longest, equal);
            if (equal == known.Length)
            {
                continue;
            }

            // They differ only where two tokens are about equally likely.
            using var grad = no_grad();
            long[] before = [.. prompt.Select(id => (long)id), .. known[..equal].Select(id => (long)id)];
            var logits = model.Forward(tensor(before, [1, before.Length]).to(get_default_device())).Logits[0, -1];
            Assert.InRange((logits[known[equal]] - logits[read[equal]]).item<float>(), 0, 0.05f * logits.std().item<float>());
        }

        Assert.True(longest > 4, "the recorded step has chosen nothing alike");
    }

    [Fact]
    public void Generate_ModelsThatNoKernelsRead_AreRefusedInWords()
    {
        using var run = KernelRun.Begin();
        _ = run.Record();
        using var other = KernelRun.Model(XlstmGpuStepTests.Small with { VocabularySize = 288, UseBias = true });
        using var many = KernelRun.Model(XlstmGpuStepTests.Small with { VocabularySize = 288 });
        other.ComputeType = many.ComputeType = ScalarType.BFloat16;
        var options = new GenerationOptions { MaxNewTokens = 4, Weights = WeightFormat.Float8 };
        foreach (var (model, texts) in new[] { (other, 1), (many, TokenStepKernels.MostSequences + 1) })
        {
            var generator = new TextGenerator(model, new ByteTokenizer());
            var error = Assert.Throws<ArgumentException>(() => generator.Generate([.. Enumerable.Repeat<int[]>([1], texts)], options));
            Assert.Contains("Weights of Float8 serve", error.Message, StringComparison.Ordinal);
            Assert.Contains("64 of one in the 7B's shape", error.Message, StringComparison.Ordinal);
        }

        using var batch = new RunningBatch(many, new ByteTokenizer(), new() { Slots = 64, Weights = WeightFormat.Float8 });
        Assert.True(batch.IsShared);
        Assert.Throws<ArgumentException>(
            () => new RunningBatch(many, new ByteTokenizer(), new() { Slots = 65, Weights = WeightFormat.Float8 }));
    }
}
