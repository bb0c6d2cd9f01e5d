using XlstmLab.Checkpoints;
using XlstmLab.Cli;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>Memories in bfloat16: who may have them, and what of them is handed out, saved and kept by prefix.</summary>
public sealed class StateFormatTests
{
    private static readonly XlstmConfig Small = XlstmGpuStepTests.Small with { VocabularySize = 288 };

    [Fact]
    public void KeepAndRestore_BFloat16_RoundMemoriesOnceAndNothingElse()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3, CPU);
        var (c, n) = (randn([2, 2, 8, 8], generator: generator, device: CPU), randn([2, 2, 8], generator: generator, device: CPU));
        using var state = new ModelState([new("blocks.0.c", c.clone()), new("blocks.0.n", n.clone())]);
        using var kept = StateFormat.BFloat16.Keep(state);
        Assert.Equal((ScalarType.BFloat16, ScalarType.Float32), (kept["blocks.0.c"].dtype, kept["blocks.0.n"].dtype));
        Assert.Equal((2 * 2 * 8 * 8 * 2) + (2 * 2 * 8 * 4), kept.SizeInBytes);
        using var restored = StateFormat.BFloat16.Restore(kept);
        Assert.Equal(state.SizeInBytes, restored.SizeInBytes);
        Assert.True(restored["blocks.0.n"].equal(n).all().item<bool>());
        Assert.InRange(KernelRun.Error(restored["blocks.0.c"], c), 1e-5, 1.0 / 256);

        // What was rounded is kept again without a loss.
        using var again = StateFormat.BFloat16.Keep(restored);
        Assert.True(again["blocks.0.c"].equal(kept["blocks.0.c"]).all().item<bool>());
    }

    [Fact]
    public void ForGeneration_ModelOnACpu_IsToldWhatTakesHalves()
    {
        using var model = Small.CreateModel(1);
        Assert.Equal(StateFormat.Float32, StateOptions.ForGeneration(model, null, 1000));
        Assert.Equal(StateFormat.Float32, StateOptions.ForGeneration(model, "float32", 1000));
        model.ComputeType = ScalarType.BFloat16;
        var refused = Assert.Throws<UsageException>(() => StateOptions.ForGeneration(model, "bf16", 1)).Message;
        Assert.Contains("--states: ", refused, StringComparison.Ordinal);
        Assert.Contains("here the CPU computes", refused, StringComparison.Ordinal);
        Assert.Contains("--device cuda and --compute bf16", refused, StringComparison.Ordinal);
        Assert.Contains("here the CPU computes", Assert.Throws<ArgumentException>(
            () => new RunningBatch(model, new ByteTokenizer(), new() { States = StateFormat.BFloat16 })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ForGeneration_ModelThatGraphsCannotRead_IsToldWhy()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small);
        Assert.Contains("the test records nothing", Refusal(model, 1), StringComparison.Ordinal);
        _ = run.Record();
        Assert.Contains("this one computes in Float32", Refusal(model, 1), StringComparison.Ordinal);
        model.ComputeType = ScalarType.BFloat16;
        Assert.Equal(StateFormat.BFloat16, StateOptions.ForGeneration(model, "bf16", 64));
        Assert.Contains("up to 64 texts side by side; these are 65", Refusal(model, 65), StringComparison.Ordinal);
        model.Observer = (_, _, _) => { };
        Assert.Contains("somebody does", Refusal(model, 1), StringComparison.Ordinal);

        using var llama = KernelRun.Model(new LlamaConfig { VocabularySize = 288, EmbeddingDim = 32, HeadCount = 4, BlockCount = 1 });
        llama.ComputeType = ScalarType.BFloat16;
        Assert.Contains("an xLSTM in the 7B's shape", Refusal(llama, 1), StringComparison.Ordinal);

        // Values of 4 a head.
        using var narrow = KernelRun.Model(Small with { VDimFactor = 0.5, HeadCount = 8 });
        narrow.ComputeType = ScalarType.BFloat16;
        Assert.Contains("a multiple of 8 values", Refusal(narrow, 1), StringComparison.Ordinal);

        static string Refusal(LanguageModel model, int texts) =>
            Assert.Throws<UsageException>(() => StateOptions.ForGeneration(model, "bf16", texts)).Message;
    }

    /// <summary>What is kept by prefix or saved is float32; a text goes on from there as if it had never stopped.</summary>
    [Fact]
    public void RunningBatch_StatesInHalves_AreKeptAndSavedSoThatTextsGoOnUnchanged()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Small);
        using (var scope = NewDisposeScope())
        using (no_grad())
        {
            XlstmGpuStepTests.Perturb(model);
        }

        model.ComputeType = ScalarType.BFloat16;
        _ = run.Record();
        using var temp = new TempFolder();
        using var cache = new StateCache(1 << 20);
        using var batch = new RunningBatch(
            model, new ByteTokenizer(), new() { Slots = 2, Cache = cache, States = StateFormat.BFloat16 });
        var options = new GenerationOptions { Temperature = 0, StopAtEndOfDocument = false };
        _ = Finish(batch.Add([9], options with { MaxNewTokens = 4 })); // from now on a graph reads
        int[] prompt = [5, 6, 7];
        var whole = Finish(batch.Add(prompt, options with { MaxNewTokens = 14 }, keepsState: true));
        using var last = whole.TakeState()!;

        var begun = Finish(batch.Add(prompt, options with { MaxNewTokens = 8 }, keepsState: true));
        Assert.Equal(whole.Tokens.Take(8), begun.Tokens);
        int[] read = [.. prompt, .. begun.Tokens];
        var (length, kept) = cache.Find(read);
        using (kept)
        {
            Assert.Equal((read.Length - 1, batch.StateBytes), (length, kept!.SizeInBytes));
            using var scope = NewDisposeScope();
            foreach (var (name, tensor) in kept.Tensors)
            {
                Assert.Equal(ScalarType.Float32, tensor.dtype);
                var rounded = tensor.to(ScalarType.BFloat16).to(ScalarType.Float32);
                Assert.Equal(name.EndsWith(".c", StringComparison.Ordinal), rounded.equal(tensor).all().item<bool>());
            }
        }

        using (var saved = begun.TakeState()!)
        {
            ModelStateFile.Save(saved, temp["state.safetensors"]);
        }

        foreach (var state in new[] { null, ModelStateFile.Load(temp["state.safetensors"], get_default_device()) })
        {
            var rest = Finish(batch.Add(state is null ? read : read[^1..], options with { MaxNewTokens = 6 }, state, keepsState: true));
            Assert.Equal(state is null ? read.Length - 1 : 0, rest.CachedTokens);
            Assert.Equal(whole.Tokens.Skip(8), rest.Tokens);
            using var end = rest.TakeState()!;
            Assert.All(last.Tensors, pair => Assert.True(pair.Value.equal(end[pair.Key]).all().item<bool>(), pair.Key));
        }

        BatchedText Finish(BatchedText text)
        {
            while (!text.IsFinished)
            {
                _ = batch.Step();
            }

            return text.Fault is null ? text : throw text.Fault;
        }
    }
}
