using TorchSharp;
using XlstmLab.Inference;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Tests.Operations;
using XlstmLab.Tests.Training;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

[Collection(nameof(AloneCollection))]
public sealed class RunningBatchTests
{
    private static readonly ByteTokenizer Bytes = new();
    private static readonly XlstmConfig Xlstm = new()
    {
        VocabularySize = 257,
        EmbeddingDim = 32,
        HeadCount = 2,
        BlockCount = 2,
        ChunkSize = 4,
    };

    /// <summary>Prompts of many lengths, each with options of its own.</summary>
    private static readonly (int[] Prompt, GenerationOptions Options)[] Texts =
    [
        ([.. Enumerable.Range(0, 40).Select(k => k * 7 % 250)], new() { Temperature = 0, MaxNewTokens = 6, StopAtEndOfDocument = false }),
        ([256], new() { Temperature = 1.3, Seed = 4, MaxNewTokens = 9, StopAtEndOfDocument = false }),
        ([], new() { Temperature = 0.9, TopK = 20, Seed = 5, MaxNewTokens = 12, StopAtEndOfDocument = false }),
        ([5, 6, 7, 8, 9],
            new() { Temperature = 0, RepetitionPenalty = 1.4, MaxNewTokens = 7, StopAtEndOfDocument = false, TopLogProbabilities = 2 }),
        ([.. Enumerable.Range(0, 19)],
            new() { Temperature = 1.1, TopP = 0.8, FrequencyPenalty = 0.3, Seed = 6, MaxNewTokens = 8, StopAtEndOfDocument = false }),
        ([1, 2, 3], new() { MinP = 0.01, Seed = 7, MaxNewTokens = 1, StopAtEndOfDocument = false }),
        ([9, 9], new() { Temperature = 1.5, Seed = 8, MaxNewTokens = 30, StopStrings = ["e", "t", "1", "7", "k", "a"] }),
    ];

    /// <summary>An architecture of each kind, with whether its texts share one state.</summary>
    public static TheoryData<string, LanguageModelConfig, bool> Models => new()
    {
        { "mlstm", Xlstm, true },
        { "slstm", Xlstm with { Mixers = new SLstmMixerConfig { HeadCount = 2 } }, true },
        { "delta", Xlstm with { Mixers = new DeltaMixerConfig { HeadCount = 2 } }, true },
        { "gla", new GlaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 }, true },
        { "mamba", new MambaConfig { VocabularySize = 257, EmbeddingDim = 32, BlockCount = 2 }, true },
        { "mamba2", new Mamba2Config
        {
            VocabularySize = 257,
            EmbeddingDim = 32,
            BlockCount = 2,
            HeadCount = 4,
            HeadDim = 16,
            GroupCount = 1,
            StateSize = 16,
        }, true },
        { "lstm", new LstmConfig { VocabularySize = 257, EmbeddingDim = 32, BlockCount = 2 }, true },
        { "llama", new LlamaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 }, false },
    };

    [Theory]
    [InlineData(WeightFormat.BFloat16)]
    [InlineData(WeightFormat.Int8)]
    public void Step_NarrowWeightsOfTheBatch_GiveWhatTheRoundedModelDoes(WeightFormat format)
    {
        using var model = Xlstm.CreateModel(seed: 2);
        RoundedWeights.Round(model, format);
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 12, StopAtEndOfDocument = false };
        int[][] prompts = [[1, 2, 3], [4], [5, 6]];
        var expected = new TextGenerator(model, Bytes).Generate(prompts, options).Sequences.Select(sequence => sequence.Tokens);
        using var batch = new RunningBatch(model, Bytes, new() { Slots = 2, Weights = format });

        Assert.Equal(expected, Run(batch, [.. prompts.Select(prompt => (prompt, options))]).Select(text => text.Tokens));
    }

    [Fact]
    public void Batch_NarrowWeightsThatNothingReads_AreRefused()
    {
        using var llama = new LlamaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 }.CreateModel();
        var before = Live();
        var error = Assert.Throws<ArgumentException>(() => new RunningBatch(llama, Bytes, new() { Weights = WeightFormat.Int8 }));
        Assert.Contains("of LlamaLanguageModel", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, Live());

        using var model = Xlstm.CreateModel(seed: 2);
        using var batch = new RunningBatch(model, Bytes);
        error = Assert.Throws<ArgumentException>(() => batch.Add([1], new() { Weights = WeightFormat.Int8 }));
        Assert.Contains("Expected weights of Float32", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Step_AnyNeighbours_GiveEachTextWhatItGetsAlone(string name, LanguageModelConfig config, bool isShared)
    {
        // In double precision what a matrix product rounds otherwise for another number of rows decides nothing.
        using var model = config.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Bytes);
        var before = Live();
        using (var batch = new RunningBatch(model, Bytes, new() { Slots = 3, PrefillLength = 8 }))
        {
            Assert.Equal((name, isShared), (name, batch.IsShared));
            Assert.True(batch.StateBytes > 0);
            var texts = Run(batch, Texts);
            foreach (var (text, (prompt, options)) in texts.Zip(Texts))
            {
                var alone = generator.Generate([prompt], options).Sequences[0];
                Assert.Equal(alone.Tokens, text.Tokens);
                Assert.Equal(alone.Text, text.ToSequence().Text);
                Assert.Equal(alone.FinishReason, text.Last.FinishReason);
                Assert.Equal(alone.LogProbability, text.ToSequence().LogProbability, 1e-6);
            }

            Assert.Equal((0, 0, 0), (batch.RunningCount, batch.ReadingCount, batch.WaitingCount));
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public void Step_XlstmOnTheCpu_IsBitwiseTheSameWithAnyNeighbours()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        using var alone = new RunningBatch(model, Bytes, new() { Slots = 1, PrefillLength = 8 });
        using var many = new RunningBatch(model, Bytes, new() { Slots = 20, PrefillLength = 8 });
        Assert.True(alone.IsBitwise && many.IsBitwise);
        (int[], GenerationOptions)[] texts = [.. Texts, .. Texts, .. Texts];
        var expected = Run(alone, texts);
        Assert.All(expected.Zip(Run(many, texts)), pair => Assert.Equal(
            pair.First.ToSequence().Steps.Select(Bits), pair.Second.ToSequence().Steps.Select(Bits)));

        static (int, long) Bits(GeneratedToken token) => (token.Id, BitConverter.DoubleToInt64Bits(token.LogProbability));
    }

    [Fact]
    public void Step_RecordedOnADevice_IsThatOfTheHost()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(new GlaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 });
        model.to(ScalarType.Float64);
        using var byHost = new RunningBatch(model, Bytes, new() { Slots = 3, PrefillLength = 8 });
        var expected = Run(byHost, Texts);
        var counts = run.Record();
        using var recorded = new RunningBatch(model, Bytes, new() { Slots = 3, PrefillLength = 8 });
        Assert.Equal(expected.Select(t => t.Tokens), Run(recorded, Texts).Select(t => t.Tokens));

        // Texts come and go, and the graph stays the one of all slots.
        Assert.Equal(1, counts.Recorded);
        Assert.True(counts.Started > 10);
    }

    /// <summary>
    /// Keys and values in a room, each text's own: they go into the cache, from there into another text, and out to the caller.
    /// </summary>
    [Fact]
    public void Step_RecordedStatesThatGrow_AreThoseOfTheHost()
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(new LlamaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 });
        model.to(ScalarType.Float64);
        var before = Live();
        var byHost = Converse();
        var counts = run.Record();
        var recorded = Converse();
        Assert.Equal(byHost.Tokens, recorded.Tokens);
        Assert.Equal(byHost.Cached, recorded.Cached);
        Assert.True(counts.Recorded >= 3 && counts.Started > 10);
        using (byHost.State)
        using (recorded.State)
        {
            Assert.Equal(byHost.State.Tensors.Keys, recorded.State.Tensors.Keys);
            Assert.All(recorded.State.Tensors, pair => Assert.True(KernelRun.Error(pair.Value, byHost.State[pair.Key]) < 1e-12, pair.Key));
        }

        Assert.Equal(before, Live());

        (int[][] Tokens, int[] Cached, ModelState State) Converse()
        {
            using var cache = new StateCache(1 << 20);
            using var batch = new RunningBatch(model, Bytes, new() { Cache = cache, Slots = 2, PrefillLength = 4 });
            var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 9, StopAtEndOfDocument = false };
            int[] prompt = [256, 1, 2, 3, 4, 5, 6];
            var first = Run(batch, (prompt, options), ([7], options with { MaxNewTokens = 20 }));
            var second = batch.Add([.. prompt, .. first[0].Tokens, 9, 9], options, keepsState: true);
            var third = batch.Add(prompt, options);
            _ = Run(batch);
            BatchedText[] all = [.. first, second, third];
            return ([.. all.Select(text => text.Tokens.ToArray())], [.. all.Select(text => text.CachedTokens)], second.TakeState()!);
        }
    }

    /// <summary>Several tokens are started at a time while nobody waits; texts come, go and are removed in the midst of them.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Step_RecordedAndReadAhead_IsThatOfTheHost(bool keepsStates)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(new GlaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 });
        model.to(ScalarType.Float64);
        (int[] Prompt, GenerationOptions Options)[] texts =
        [
            ([1, 2], new() { Seed = 1, MaxNewTokens = 23, StopAtEndOfDocument = false, FrequencyPenalty = 0.5 }),
            ([3, 3], new() { Seed = 2, MaxNewTokens = 40, StopAtEndOfDocument = false, TopK = 30, RepetitionPenalty = 1.2 }),
            ([4, 5, 6], new() { Seed = 3, MaxNewTokens = 50, StopStrings = keepsStates ? [] : ["e", "t", "1"],
                StopAtEndOfDocument = !keepsStates }),
            ([5], new() { Temperature = 0, MaxNewTokens = 31, StopAtEndOfDocument = false }),
            ([6, 7], new() { Seed = 4, MaxNewTokens = 20, StopAtEndOfDocument = false, MinP = 0.1, PresencePenalty = 0.3 }),
        ];
        var generator = new TextGenerator(model, Bytes);
        GenerationResult[] expected = [.. texts.Select(text => generator.Generate([text.Prompt], text.Options, returnState: true))];
        var counts = run.Record();
        var before = Live();
        using (var batch = new RunningBatch(model, Bytes, new() { Slots = 3 }))
        {
            BatchedText Add(int k) => batch.Add(texts[k].Prompt, texts[k].Options, keepsState: keepsStates);
            void Steps(int count)
            {
                for (var step = 0; step < count; step++)
                {
                    _ = batch.Step();
                }
            }

            List<BatchedText> added = [Add(0), Add(1)];
            Steps(7);
            Assert.True(counts.Started > 7, "tokens are read ahead");
            added.Add(Add(2));
            var removed = Add(3);
            Steps(15);
            batch.Remove(removed);
            added.Add(Add(3));
            added.Add(Add(4));
            while (batch.RunningCount + batch.ReadingCount + batch.WaitingCount > 0)
            {
                Steps(1);
            }

            Assert.Equal(expected.Select(e => e.Sequences[0].Tokens), added.Select(text => text.Tokens));
            Assert.Equal(expected.Select(e => e.Sequences[0].Text), added.Select(text => text.ToSequence().Text));
            Assert.Equal(1, counts.Recorded);
            foreach (var (text, result) in added.Zip(expected))
            {
                using var state = text.TakeState();
                Assert.Equal(keepsStates, state is not null);
                if (state is not null)
                {
                    Assert.All(state.Tensors, pair => Assert.True(KernelRun.Error(pair.Value, result.State![pair.Key]) < 1e-12, pair.Key));
                }
            }
        }

        Assert.Equal(before, Live());
        foreach (var result in expected)
        {
            result.State!.Dispose();
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void Step_RecordedLogitsThatAreNoNumbers_EndThatTextOnly(double temperature)
    {
        using var run = KernelRun.Begin();
        using var model = KernelRun.Model(new GlaConfig { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2 });
        var options = new GenerationOptions { Temperature = temperature, MaxNewTokens = 30, StopAtEndOfDocument = false };
        var state = new TextGenerator(model, Bytes).Read([1]);
        using (no_grad())
        {
            state.Tensors.Values.First().fill_(double.NaN);
        }

        var counts = run.Record();
        using var batch = new RunningBatch(model, Bytes, new() { Slots = 2 });
        var sound = batch.Add([2], options);
        while (counts.Started == 0)
        {
            _ = batch.Step();
        }

        var damaged = batch.Add([2], options, state);
        while (batch.RunningCount + batch.ReadingCount + batch.WaitingCount > 0)
        {
            _ = batch.Step();
        }

        Assert.Contains("not all numbers", damaged.Fault!.Message, StringComparison.Ordinal);
        Assert.Empty(damaged.Tokens);
        Assert.Equal(new TextGenerator(model, Bytes).Generate([[2]], options).Sequences[0].Tokens, sound.Tokens);
    }

    [Fact]
    public void Step_LongPrompt_KeepsNobodyWaiting()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        using var batch = new RunningBatch(model, Bytes, new() { Slots = 3, PrefillLength = 10 });
        var options = new GenerationOptions { MaxNewTokens = 50, StopAtEndOfDocument = false };
        var first = batch.Add([1], options);
        _ = batch.Step();
        var prompt = batch.Add([.. Enumerable.Repeat(3, 201)], options);
        var later = batch.Add([1, 2], options);
        for (var step = 2; step <= 20; step++)
        {
            Assert.Contains(first, batch.Step());
            Assert.Equal(step, first.Tokens.Count);
        }

        Assert.Empty(prompt.Tokens);
        Assert.True(later.Tokens.Count >= 17, "a short prompt does not wait for a long one");
        while (!prompt.IsFinished)
        {
            _ = batch.Step();
        }
    }

    [Fact]
    public void Remove_AtAnyTime_TouchesNoOther()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var before = Live();
        using (var batch = new RunningBatch(model, Bytes, new() { Slots = 3, PrefillLength = 4 }))
        {
            var options = new GenerationOptions { MaxNewTokens = 20, StopAtEndOfDocument = false, Seed = 3 };
            BatchedText[] texts = [.. Enumerable.Range(0, 5).Select(k => batch.Add([k, k + 1], options))];
            var longOne = batch.Add([.. Enumerable.Range(0, 50)], options);
            for (var step = 0; step < 6; step++)
            {
                _ = batch.Step();
            }

            batch.Remove(texts[0]);
            batch.Remove(texts[4]);
            batch.Remove(texts[4]);
            for (var step = 0; step < 17; step++)
            {
                _ = batch.Step();
            }

            batch.Remove(longOne);
            while (batch.RunningCount + batch.ReadingCount + batch.WaitingCount > 0)
            {
                _ = batch.Step();
            }

            Assert.All(new[] { 1, 2, 3 }, k => Assert.Equal(
                new TextGenerator(model, Bytes).Generate([[k, k + 1]], options).Sequences[0].Tokens, texts[k].Tokens));
            Assert.Equal(6, texts[0].Tokens.Count);
            Assert.Empty(texts[4].Tokens);
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public void Add_StateThatIsGivenAndKept_GoesOnAsIfNeverStopped()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var generator = new TextGenerator(model, Bytes);
        var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 12, StopAtEndOfDocument = false };
        var whole = generator.Generate([[256, 7, 8]], options).Sequences[0].Tokens;
        using var batch = new RunningBatch(model, Bytes);
        var first = batch.Add([7, 8], options with { MaxNewTokens = 5 }, generator.Read([256]), keepsState: true);
        Assert.Null(first.TakeState());
        _ = Run(batch);
        var rest = batch.Add([first.Tokens[^1]], options with { MaxNewTokens = 7 }, first.TakeState());
        _ = Run(batch);
        Assert.Equal(whole, first.Tokens.Concat(rest.Tokens));
        Assert.Null(first.TakeState());
    }

    [Fact]
    public void Add_PromptThatBeginsLikeAnEarlierText_IsReadFromThereOn()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        model.to(ScalarType.Float64);
        var before = Live();
        using (var cache = new StateCache(1 << 20))
        using (var batch = new RunningBatch(model, Bytes, new() { Cache = cache, PrefillLength = 4 }))
        {
            var options = new GenerationOptions { Temperature = 0, MaxNewTokens = 5, StopAtEndOfDocument = false };
            int[] prompt = [256, 1, 2, 3, 4, 5, 6];
            var first = batch.Add(prompt, options);
            _ = Run(batch);
            Assert.Equal((0, 2), (first.CachedTokens, cache.Count));

            // The same prompt, and a conversation that goes on with what was generated.
            var same = batch.Add(prompt, options);
            int[] longer = [.. prompt, .. first.Tokens, 9, 9];
            var further = batch.Add(longer, options);
            _ = Run(batch);
            Assert.Equal((6, 11), (same.CachedTokens, further.CachedTokens));
            Assert.Equal(first.Tokens, same.Tokens);
            Assert.Equal(new TextGenerator(model, Bytes).Generate([longer], options).Sequences[0].Tokens, further.Tokens);
        }

        Assert.Equal(before, Live());
    }

    /// <summary>Choices of one prompt: the first reads it, though all are there at once, and if it leaves the next one goes on.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Add_TextsOfOnePrompt_ReadItOnce(bool firstLeaves)
    {
        using var model = Xlstm.CreateModel(seed: 2);
        var before = Live();
        using (var cache = new StateCache(1 << 20))
        using (var batch = new RunningBatch(model, Bytes, new() { Slots = 6, Cache = cache, PrefillLength = 16 }))
        using (var alone = new RunningBatch(model, Bytes, new() { Slots = 1, PrefillLength = 16 }))
        {
            int[] prompt = [.. Enumerable.Range(0, 40)];
            GenerationOptions Options(int k) => new() { MaxNewTokens = 6, Seed = k, StopAtEndOfDocument = false };
            BatchedText[] texts = [.. Enumerable.Range(0, 4).Select(k => batch.Add([.. prompt], Options(k)))];
            var other = batch.Add([.. prompt.Reverse()], Options(4));
            _ = batch.Step();
            if (firstLeaves)
            {
                batch.Remove(texts[0]);
                texts = texts[1..];
            }

            _ = Run(batch);
            Assert.Equal([0, .. texts.Skip(1).Select(_ => 39)], texts.Select(text => text.CachedTokens));
            Assert.Equal(0, other.CachedTokens);
            foreach (var (text, seed) in texts.Append(other).Zip(Enumerable.Range(firstLeaves ? 1 : 0, 5)))
            {
                var expected = Run(alone, ([.. text.Prompt], Options(seed)))[0];
                Assert.Equal((expected.ToSequence().Text, expected.Last), (text.ToSequence().Text, text.Last));
            }
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public void Step_LogitsThatAreNoNumbers_EndThatTextOnly()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        var state = new TextGenerator(model, Bytes).Read([1]);
        using (no_grad())
        {
            state["blocks.0.c"].fill_(double.NaN);
        }

        using var batch = new RunningBatch(model, Bytes);
        var options = new GenerationOptions { MaxNewTokens = 5, StopAtEndOfDocument = false };
        var (damaged, sound) = (batch.Add([2], options, state), batch.Add([2], options));
        _ = Run(batch);
        Assert.Contains("not all numbers", damaged.Fault!.Message, StringComparison.Ordinal);
        Assert.Equal(5, sound.Tokens.Count);
    }

    [Fact]
    public void Add_WrongArguments_SaysWhatWasExpected()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        using var batch = new RunningBatch(model, Bytes);
        Assert.Contains("got 257", Assert.Throws<ArgumentException>(() => batch.Add([257])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "at least 1", Assert.Throws<ArgumentException>(() => batch.Add([1], new() { MaxNewTokens = 0 })).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "Slots", Assert.Throws<ArgumentException>(() => new RunningBatch(model, Bytes, new() { Slots = 0 })).Message,
            StringComparison.Ordinal);
        using var two = new TextGenerator(model, Bytes).Read([1]).SelectRows(0, 0);
        Assert.Contains("1 sequence", Assert.Throws<ArgumentException>(() => batch.Add([1], null, two)).Message, StringComparison.Ordinal);
    }

    /// <summary>Float32 tokens in a batch, against the float64 recurrence over the same tokens.</summary>
    /// <remarks>
    /// The scale m, near the input gate's -10, adds the logarithm of the forget gate at each token and loses up to 5e-7 of it, often in one
    /// direction: over the 400 tokens that the longest memory lasts that is 2e-4 of c and n alike, and no more however long the text.
    /// </remarks>
    [Fact]
    public void Step_LongText_ItsStateDoesNotDrift()
    {
        using var model = Xlstm.CreateModel(seed: 2);
        using var exact = Xlstm.CreateModel(seed: 2);
        exact.to(ScalarType.Float64);
        using var batch = new RunningBatch(model, Bytes);
        Assert.True(batch.IsBitwise);
        foreach (var length in LongTests.Cases(all: new[] { 100, 1_000, 10_000 }, few: [100, 400]))
        {
            var text = batch.Add([256], new() { MaxNewTokens = length, Seed = length, StopAtEndOfDocument = false }, keepsState: true);
            _ = batch.Add([7], new() { MaxNewTokens = length / 2, Seed = 3, StopAtEndOfDocument = false });
            _ = Run(batch);
            using var scope = NewDisposeScope();
            using var state = text.TakeState()!;
            using var expected = new TextGenerator(exact, Bytes).Read([256, .. text.Tokens.SkipLast(1)]);
            foreach (var (name, tensor) in expected.Tensors)
            {
                var error = (state[name].to(ScalarType.Float64) - tensor).abs().max().item<double>() / tensor.abs().max().item<double>();
                Assert.True(error < 5e-4, $"{name} after {length} tokens is off by {error}");
            }
        }
    }

    /// <summary>Texts that join and leave all the time leave nothing behind.</summary>
    [Fact]
    public void Step_TextsThatComeAndGo_LeaveLiveTensorsConstant() =>
        ComeAndGo(LongTests.Cases(all: 64, few: 12), LongTests.Cases(all: 200_000, few: 4_000));

    /// <summary>The same for so long that memory would show it: run by hand.</summary>
    [Fact(Explicit = true)]
    public void Step_AMillionTokens_LeaveMemoryConstant() => ComeAndGo(64, 1_000_000);

    private static void ComeAndGo(int slots, long tokens)
    {
        using var model = Xlstm.CreateModel(seed: 2);
        using var cache = new StateCache(1 << 16);
        using var batch = new RunningBatch(model, Bytes, new() { Slots = slots, PrefillLength = 16, Cache = cache });
        var random = new Random(5);
        var (generated, counts, told) = (0L, new HashSet<long>(), 0L);
        while (generated < tokens)
        {
            if (generated >= told)
            {
                TestContext.Current.TestOutputHelper!.WriteLine(
                    FormattableString.Invariant($"{generated} tokens, {Environment.WorkingSet >> 10} KiB, {Live()} tensors"));
                told += tokens / 20;
            }

            while (batch.WaitingCount < 4)
            {
                _ = batch.Add([.. Enumerable.Range(0, random.Next(1, 12)).Select(_ => random.Next(257))], new()
                {
                    MaxNewTokens = random.Next(1, 80),
                    Seed = random.Next(),
                    StopAtEndOfDocument = false,
                    Temperature = random.Next(3) / 2.0,
                });
            }

            generated += batch.Step().Count;
            if (generated > 1_000 && batch.ReadingCount == 0)
            {
                counts.Add(Live() - cache.Count * 6);
            }
        }

        Assert.Single(counts);
    }

    private static BatchedText[] Run(RunningBatch batch, params (int[] Prompt, GenerationOptions Options)[] texts)
    {
        // They come while others are on their way.
        var added = new List<BatchedText>();
        foreach (var (prompt, options) in texts)
        {
            added.Add(batch.Add(prompt, options));
            _ = batch.Step();
        }

        while (batch.RunningCount + batch.ReadingCount + batch.WaitingCount > 0)
        {
            _ = batch.Step();
        }

        return [.. added];
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;
}
