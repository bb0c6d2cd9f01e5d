using System.Collections.ObjectModel;
using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Tests.Operations;
using XlstmLab.Tests.Training;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

/// <summary>On a GPU the steps are graphs; elsewhere the emulator does what would be recorded again at each start.</summary>
[Collection(nameof(AloneCollection))]
public sealed class RecordedTokenStepTests
{
    private const int Length = 12;
    private static readonly ByteTokenizer Tokenizer = new();
    private static readonly int[][] Prompts = [[1, 2, 3], [7]];
    private static readonly XlstmConfig Xlstm =
        XlstmPresets.ByName("bytes-1m") with { EmbeddingDim = 128, HeadCount = 2, BlockCount = 1, VocabularySize = 288 };

    private static readonly LlamaConfig Llama =
        new() { VocabularySize = 288, EmbeddingDim = 32, HeadCount = 4, KeyValueHeads = 2, BlockCount = 2, FeedForwardDim = 48 };

    /// <summary>Architectures whose state keeps its form.</summary>
    public static TheoryData<string, LanguageModelConfig> Recurrent => new()
    {
        { "mlstm", Xlstm },
        { "slstm", Xlstm with { Mixers = new SLstmMixerConfig { HeadCount = 2 } } },
        { "gla", new GlaConfig { VocabularySize = 288, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 } },
        { "delta", Xlstm with { EmbeddingDim = 32, Mixers = new DeltaMixerConfig { HeadCount = 2 } } },
        { "mamba", new MambaConfig { VocabularySize = 288, EmbeddingDim = 32, BlockCount = 2 } },
        { "mamba2", new Mamba2Config
        {
            VocabularySize = 288,
            EmbeddingDim = 32,
            BlockCount = 2,
            HeadCount = 4,
            HeadDim = 16,
            GroupCount = 1,
            StateSize = 16,
        } },
        { "lstm", new LstmConfig { VocabularySize = 288, EmbeddingDim = 32, BlockCount = 2 } },
    };

    [Theory]
    [MemberData(nameof(Recurrent))]
    public void Generate_Recorded_IsThatOfTheHost(string name, LanguageModelConfig config)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(config);

        if (name is "mlstm" or "slstm")
        {
            // In float32 a CPU reads their tokens by loops of its own, in bfloat16 a GPU those of the first by kernels of its own.
            model.to(ScalarType.Float64);
        }

        var generator = new TextGenerator(model, Tokenizer);
        foreach (var options in new GenerationOptions[]
        {
            new() { Temperature = 0, MaxNewTokens = Length, StopAtEndOfDocument = false },
            new() { TopK = 40, RepetitionPenalty = 1.2, MaxNewTokens = Length, StopAtEndOfDocument = false, Seed = 3 },
            new()
            {
                Temperature = 1.4,
                TopP = 0.9,
                MinP = 0.01,
                RepetitionPenalty = 1.1,
                FrequencyPenalty = 0.3,
                PresencePenalty = 0.1,
                MaxNewTokens = Length,
                StopAtEndOfDocument = false,
                Seed = 4,
                EarlierDraws = 2,
                EarlierTokens = [7, 8],
            },
        })
        {
            var (byHost, before) = ByHost(model, generator, options);
            var counts = run.Record();
            var (recorded, after) = generator.Generate(Prompts, options, returnState: true);
            Assert.Equal(byHost.Select(s => s.Tokens), recorded.Select(s => s.Tokens));
            Assert.All(byHost.Zip(recorded), pair => Assert.Equal(pair.First.LogProbability, pair.Second.LogProbability, 1e-6));
            foreach (var (tensor, value) in before!.Tensors)
            {
                Assert.True(value.equal(after![tensor]).all().item<bool>(), tensor);
            }

            // The prompt's pass chooses the first token, and the host reads two before it records.
            Assert.Equal((name, 1, Length - 3), (name, counts.Recorded, counts.Started));
            Assert.Contains("token_choice", run.Launched);
            before.Dispose();
            after!.Dispose();
        }
    }

    /// <summary>
    /// Where nobody wants the state tokens are read ahead of those that end texts, and what is read too much touches nobody.
    /// </summary>
    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(0, 1.5)]
    public void Generate_TextsThatEndAtAnyTime_AreThoseOfTheHost(int likeliest, double bias = 0)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Tokenizer);
        int[][] prompts = [.. Enumerable.Range(0, 5).Select(k => new[] { k, 2 * k })];
        var options = new GenerationOptions
        {
            MaxNewTokens = 70,
            StopAtEndOfDocument = true,
            StopStrings = ["e", "t", "1", "7"],
            Seed = 5,
            PresencePenalty = 0.2,
            TopLogProbabilities = likeliest,
            LogitBias = bias == 0 ? ReadOnlyDictionary<int, double>.Empty : new Dictionary<int, double> { ['a'] = bias, [3] = -bias },
        };
        model.Observer = (_, _, _) => { };
        var byHost = generator.Generate(prompts, options).Sequences;
        model.Observer = null;
        var counts = run.Record();
        var before = Live();
        var recorded = generator.Generate(prompts, options).Sequences;
        Assert.Equal(before, Live());
        Assert.Equal(byHost.Select(s => (s.Text, s.FinishReason)), recorded.Select(s => (s.Text, s.FinishReason)));
        Assert.Equal(byHost.Select(s => s.Tokens), recorded.Select(s => s.Tokens));
        Assert.Equal(byHost.SelectMany(Likeliest), recorded.SelectMany(Likeliest));
        Assert.True(byHost.Select(s => s.Tokens.Length).Distinct().Count() > 2, "the texts end at different times");
        Assert.True(counts.Started > 10);

        // Of five rows three are read until two are left, and those to the end of the last but one.
        Assert.InRange(counts.Recorded, 1, 3);

        static IEnumerable<int> Likeliest(GeneratedSequence text) => text.Steps.SelectMany(s => s.Likeliest ?? []).Select(t => t.Id);
    }

    [Fact]
    public void Generate_LongTexts_AreStartedSeveralTokensAhead()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2);
        var counts = run.Record();
        List<int> started = [];
        var progress = new ImmediateProgress<long>(_ => started.Add(counts.Started));
        _ = new TextGenerator(model, Tokenizer).Generate(
            [[1]], new() { MaxNewTokens = 22, StopAtEndOfDocument = false }, progress: progress);
        Assert.Equal([0, 0, 0, .. Enumerable.Range(0, 19).Select(taken => Math.Min(8 + taken, 19))], started);
    }

    [Fact]
    public void Generate_RowsThatEnd_AreRecordedAnew()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2);
        var generator = new TextGenerator(model, Tokenizer);
        var options = new GenerationOptions
        {
            MaxNewTokens = 60,
            StopAtEndOfDocument = false,
            StopStrings = ["e", "t", "1", "7", "k", "a"],
            Seed = 5,
        };
        var (byHost, before) = ByHost(model, generator, options);
        var counts = run.Record();
        var (recorded, after) = generator.Generate(Prompts, options, returnState: true);
        Assert.NotEqual(byHost[0].Tokens.Length, byHost[1].Tokens.Length);
        Assert.Equal(byHost.Select(s => s.Text), recorded.Select(s => s.Text));
        Assert.All(before!.Tensors, pair => Assert.True(pair.Value.equal(after![pair.Key]).all().item<bool>(), pair.Key));
        Assert.Equal(2, counts.Recorded);
        before.Dispose();
        after!.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Generate_WeightsThatMoveWhileTokensAreOnTheirWay_GivesThoseTokensFirst(bool grows)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(grows ? Llama : Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2);
        var generator = new TextGenerator(model, Tokenizer);
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 40, StopAtEndOfDocument = false };
        var byHost = generator.Generate([[1]], options).Sequences[0].Tokens;
        var counts = run.Record();
        var progress = new ImmediateProgress<long>(count =>
        {
            if (count == 10)
            {
                model.to(ScalarType.Float64);
            }
        });
        Assert.Equal(byHost, generator.Generate([[1]], options, progress: progress).Sequences[0].Tokens);
        Assert.Equal(2, counts.Recorded);
    }

    /// <summary>Models whose state grows with the tokens, and how often a step is recorded for so many of them.</summary>
    public static TheoryData<string, LanguageModelConfig, int, int> Growing => new()
    {
        { "attention", Llama, Length, 1 },
        { "attention, more than there is room for", Llama, 800, 3 },
        { "attention and mlstm", Hybrid(new MLstmMixerConfig { HeadCount = 2 }, new AttentionMixerConfig()), 40, 1 },
        { "window and attention", Hybrid(new SlidingWindowMixerConfig { Window = 4, SinkTokens = 1 }, new AttentionMixerConfig()), 40, 1 },
    };

    [Theory]
    [MemberData(nameof(Growing))]
    public void Generate_StateThatGrows_IsRecordedWithRoomForMore(string name, LanguageModelConfig config, int length, int recorded)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(config);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Tokenizer);
        foreach (var prompts in new int[][][] { Prompts, [[5, 6]] })
        {
            var options = new GenerationOptions { TopK = 40, MaxNewTokens = length, StopAtEndOfDocument = false, Seed = 3 };
            var (byHost, before) = ByHost(model, generator, options, prompts);
            var counts = run.Record();
            var live = Live();
            var (sequences, after) = generator.Generate(prompts, options, returnState: true);
            Assert.Equal(live + after!.Tensors.Count, Live());
            Assert.Equal(byHost.Select(s => s.Tokens), sequences.Select(s => s.Tokens));

            // A sum over tokens, of which a GPU rounds each to float32.
            Assert.All(byHost.Zip(sequences), pair => Assert.Equal(pair.First.LogProbability, pair.Second.LogProbability, 3e-8 * length));
            AssertNear(before!, after);
            Assert.Equal((name, recorded), (name, counts.Recorded));
            Assert.InRange(counts.Started, length - 10, length - 3);
            before!.Dispose();
            after.Dispose();
        }
    }

    [Fact]
    public void Generate_StateThatGrowsAndTextsThatEnd_AreThoseOfTheHost()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Llama);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Tokenizer);
        int[][] prompts = [.. Enumerable.Range(0, 5).Select(k => new[] { k, 2 * k })];
        foreach (var keepsStates in new[] { false, true })
        {
            var options = new GenerationOptions { MaxNewTokens = 70, StopStrings = ["e", "t", "1", "7"], Seed = 5, PresencePenalty = 0.2 };
            model.Observer = (_, _, _) => { };
            var byHost = generator.Generate(prompts, options, returnState: keepsStates);
            model.Observer = null;
            var counts = run.Record();
            var recorded = generator.Generate(prompts, options, returnState: keepsStates);
            Assert.Equal(byHost.Sequences.Select(s => (s.Text, s.FinishReason)), recorded.Sequences.Select(s => (s.Text, s.FinishReason)));
            Assert.True(counts.Started > 10);
            if (keepsStates)
            {
                AssertNear(byHost.State!, recorded.State!);
            }

            byHost.State?.Dispose();
            recorded.State?.Dispose();
        }
    }

    [Fact]
    public void Generate_StateThatGrowsAndIsGiven_StaysAsItWas()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Llama);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Tokenizer);
        using var given = generator.Read([1, 2, 3]);
        using var kept = given.Clone();
        var counts = run.Record();
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = Length, StopAtEndOfDocument = false };
        var first = generator.Generate([[4]], options, given).Sequences[0].Tokens;
        Assert.Equal(first, generator.Generate([[4]], options, given).Sequences[0].Tokens);
        Assert.Equal(2, counts.Recorded);
        Assert.All(kept.Tensors, pair => Assert.True(pair.Value.equal(given[pair.Key]).all().item<bool>(), pair.Key));
    }

    [Fact]
    public void Generate_StateThatGrowsAndStepThatCannotBeRecorded_IsLeftToTheHost()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Llama);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Tokenizer);
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = Length, StopAtEndOfDocument = false };
        var (byHost, before) = ByHost(model, generator, options);
        var counts = run.Record();
        counts.Fault = "something waits for the GPU";
        var (sequences, after) = generator.Generate(Prompts, options, returnState: true);
        Assert.Equal(byHost.Select(s => s.Tokens), sequences.Select(s => s.Tokens));
        Assert.Equal(before!["blocks.0.k"].shape, after!["blocks.0.k"].shape);
        Assert.Equal(0, counts.Started);
        before.Dispose();
        after.Dispose();
    }

    [Fact]
    public void Generate_StepThatCannotBeRecorded_IsLeftToTheHost()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Recurrent.Single(row => row.Data.Item1 == "mamba").Data.Item2);
        var generator = new TextGenerator(model, Tokenizer);
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = Length, StopAtEndOfDocument = false };
        var byHost = ByHost(model, generator, options).Sequences;
        var counts = run.Record();
        counts.Fault = "something waits for the GPU";
        Assert.Equal(byHost.Select(s => s.Tokens), generator.Generate(Prompts, options).Sequences.Select(s => s.Tokens));
        Assert.Equal(0, counts.Started);
    }

    [Fact]
    public async Task StreamAsync_WeightsThatChangeAndMove_AreThoseThatTheNextTokenSees()
    {
        using var run = KernelRun.Begin();
        var config = Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2;
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 20, StopAtEndOfDocument = false };
        async Task<(int[] Ids, int Recorded)> Stream(bool records)
        {
            using var model = KernelRun.Model(config);
            var counts = records ? run.Record() : new();
            List<int> ids = [];
            await foreach (var token in new TextGenerator(model, Tokenizer).StreamAsync(
                [1, 2], options, cancellationToken: TestContext.Current.CancellationToken))
            {
                ids.Add(token.Id);
                using var grad = no_grad();
                using var scope = NewDisposeScope();
                if (ids.Count == 6)
                {
                    model.parameters().Last().mul_(-1);
                }
                else if (ids.Count == 12)
                {
                    // In another type the weights lie elsewhere.
                    model.to(ScalarType.Float64);
                }
            }

            return ([.. ids], counts.Recorded);
        }

        var byHost = await Stream(records: false);
        var recorded = await Stream(records: true);
        Assert.Equal(byHost.Ids, recorded.Ids);
        Assert.Equal(2, recorded.Recorded);
    }

    [Fact]
    public void Generate_LogitsThatAreNoNumbers_AreRefused()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(Recurrent.Single(row => row.Data.Item1 == "gla").Data.Item2);
        run.Record();
        var progress = new ImmediateProgress<long>(count =>
        {
            if (count == 2 * 6)
            {
                using var grad = no_grad();
                model.parameters().Last().fill_(double.NaN);
            }
        });
        var failure = Assert.Throws<InvalidOperationException>(
            () => new TextGenerator(model, Tokenizer).Generate(
                Prompts, new() { Temperature = 0, MaxNewTokens = 40, StopAtEndOfDocument = false }, progress: progress));
        Assert.Contains("not all numbers", failure.Message, StringComparison.Ordinal);
    }

    private static void AssertNear(ModelState expected, ModelState actual)
    {
        using var scope = NewDisposeScope();
        Assert.Equal(expected.Tensors.Keys, actual.Tensors.Keys);
        foreach (var (name, tensor) in expected.Tensors)
        {
            Assert.Equal(tensor.shape, actual[name].shape);
            var difference = tensor.to(ScalarType.Float64) - actual[name].to(ScalarType.Float64);
            Assert.InRange(difference.abs().max().item<double>(), 0, 1e-9);
        }
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    /// <summary>What the host makes of it: whoever looks on keeps anything from being recorded.</summary>
    private static GenerationResult ByHost(
        LanguageModel model, TextGenerator generator, GenerationOptions options, int[][]? prompts = null)
    {
        model.Observer = (_, _, _) => { };
        try
        {
            return generator.Generate(prompts ?? Prompts, options, returnState: true);
        }
        finally
        {
            model.Observer = null;
        }
    }

    private static XlstmConfig Hybrid(params MixerConfig[] mixers) =>
        Xlstm with { EmbeddingDim = 32, BlockCount = 2, Mixers = [.. mixers] };
}
