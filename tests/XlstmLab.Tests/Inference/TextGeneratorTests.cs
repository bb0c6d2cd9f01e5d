using System.Text;
using TorchSharp;
using XlstmLab.Checkpoints;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Tests.Models;
using XlstmLab.Tests.Operations;
using XlstmLab.Text;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Inference;

public sealed class TextGeneratorTests : IDisposable
{
    private static readonly ByteTokenizer Bytes = new();
    private static readonly GenerationOptions Greedy = new() { Temperature = 0, MaxNewTokens = 20, StopAtEndOfDocument = false };
    private static readonly GenerationOptions Random = Greedy with { Temperature = 0.8, TopP = 0.95, Seed = 5 };

    private readonly XlstmLanguageModel _model = Sharp(
        new() { VocabularySize = 257, EmbeddingDim = 32, HeadCount = 2, BlockCount = 2, ChunkSize = 4 });

    private TextGenerator Generator => new(_model, Bytes);

    public void Dispose() => _model.Dispose();

    [Theory]
    [InlineData(DeviceType.CPU, 1, 512)]
    [InlineData(DeviceType.CPU, 64, 512)]
    [InlineData(DeviceType.CUDA, 1, 16_384)]
    [InlineData(DeviceType.CUDA, 8, 2048)]
    [InlineData(DeviceType.CUDA, 64, 512)]
    public void UsualPrefill_OfAGpu_IsLongForFewPrompts(DeviceType device, int prompts, int expected) =>
        Assert.Equal(expected, Decoding.UsualPrefill(device, prompts));

    [Fact]
    public async Task StreamAsync_GoldenModel_GivesPublishedTokens()
    {
        Dictionary<string, Tensor> golden;
        using (var scope = NewDisposeScope())
        {
            golden = GoldenTensors.Read(TestSetup.Golden("xlstm_large_tiny.safetensors"));
            scope.Detach(golden.Values);
        }

        using var model = new XlstmLanguageModel(XlstmLanguageModelTests.GoldenConfig("xlstm_large_tiny"));
        using (no_grad())
        {
            foreach (var (name, value) in model.named_parameters())
            {
                value.copy_(golden["param." + name.Replace("backbone.embeddings.", "embedding.", StringComparison.Ordinal)]);
            }
        }

        Assert.Equal(24, await AssertGreedyAsync(model, golden, 7));
    }

    [Fact]
    public async Task StreamAsync_HuggingFaceModel_GivesPublishedTokens()
    {
        using var folder = HuggingFaceFolder.Open(TestSetup.Golden("hf_xlstm"));
        using var model = folder.Config.CreateModel();
        folder.LoadInto(model);
        Assert.Equal(20, await AssertGreedyAsync(model, GoldenTensors.Read(TestSetup.Golden("hf_xlstm_io.safetensors")), 9));
    }

    [Fact]
    public void Generate_FromSavedState_GoesOnAsIfNeverStopped()
    {
        using var temp = new TempFolder();
        int[] prompt = [256, 1, 2, 3, 4, 5];
        var whole = Generator.Generate([prompt], Greedy with { MaxNewTokens = 20 }).Sequences[0].Tokens;

        var (first, state) = Generator.Generate([prompt], Greedy with { MaxNewTokens = 8 }, returnState: true);
        using (state)
        {
            ModelStateFile.Save(state!, temp["state.safetensors"]);
        }

        using var saved = ModelStateFile.Load(temp["state.safetensors"]);
        var rest = Generator.Generate([[first[0].Tokens[^1]]], Greedy with { MaxNewTokens = 12 }, saved).Sequences[0].Tokens;
        Assert.Equal(whole, first[0].Tokens.Concat(rest));

        using var half = Generator.Read(prompt[..3]);
        Assert.Equal(whole, Generator.Generate([prompt[3..]], Greedy, half).Sequences[0].Tokens);
    }

    [Fact]
    public void Generate_ReturnedState_CanBeTrainedFrom()
    {
        using var scope = NewDisposeScope();
        var (_, state) = Generator.Generate([[1], [2, 3]], Greedy with { StopStrings = ["\u0003"] }, returnState: true);
        using var owned = state;
        _model.Forward(ones(2, 3, dtype: ScalarType.Int64), owned).Logits.sum().backward();
        Assert.All(_model.parameters(), p => Assert.NotNull(p.grad));
    }

    [Fact]
    public void Generate_ForkedStates_DivergeAndDoNotDisturbEachOther()
    {
        using var state = Generator.Read([256, 10, 20, 30]);
        using var before = state.Clone();
        using var fork = state.Clone();
        var a = Generator.Generate([[40]], Random, state).Sequences[0];
        var b = Generator.Generate([[40]], Random with { Seed = 6 }, fork).Sequences[0];
        Assert.NotEqual(a.Tokens, b.Tokens);
        Assert.Equal(a.Tokens, Generator.Generate([[40]], Random, state).Sequences[0].Tokens);

        using var both = state.SelectRows(0, 0);
        var rows = Generator.Generate([[40], [40]], Random, both).Sequences;
        Assert.Equal([a.Tokens, b.Tokens], rows.Select(s => s.Tokens));
        Assert.All(state.Tensors, pair => Assert.True(before[pair.Key].equal(pair.Value).all().item<bool>()));
    }

    [Theory]
    [InlineData(512)]
    [InlineData(3)]
    public async Task Generate_Batch_EqualsSinglesAndStreams(int prefill)
    {
        int[][] prompts = [[256, 1, 2, 3, 4, 5, 6, 7, 8], [], [9], [256, 9, 9, 7]];
        var options = Random with { RepetitionPenalty = 1.1, TopK = 40, MinP = 0.01, StopStrings = ["e", "3"] };
        var (batch, state) = new TextGenerator(_model, Bytes) { PrefillLength = prefill }.Generate(prompts, options, returnState: true);
        Assert.True(batch.Select(s => s.Tokens.Length).Distinct().Count() > 1);
        for (var r = 0; r < prompts.Length; r++)
        {
            var own = options with { Seed = options.Seed + r };
            var (alone, last) = Generator.Generate([prompts[r]], own, returnState: true);
            Assert.Equal(alone[0].Tokens, batch[r].Tokens);
            Assert.Equal(alone[0].Text, batch[r].Text);
            Assert.Equal(alone[0].FinishReason, batch[r].FinishReason);
            Assert.Equal(alone[0].LogProbability, batch[r].LogProbability, 1e-3);
            MLstmTests.Near(last!["blocks.1.c"][0], state!["blocks.1.c"][r], 1e-4, "state");
            last.Dispose();

            var streamed = await Generator.StreamAsync(prompts[r], own).ToListAsync();
            Assert.Equal(batch[r].Tokens, streamed.Select(t => t.Id));
            Assert.Equal(batch[r].FinishReason, streamed[^1].FinishReason);
            Assert.All(streamed[..^1], t => Assert.Null(t.FinishReason));
        }

        state!.Dispose();
    }

    [Fact]
    public async Task StreamTextAsync_AnyTokens_AreTheTextOfGenerate()
    {
        var text = string.Concat(await Generator.StreamTextAsync("To be", Random).ToListAsync());
        Assert.Equal(Generator.Generate("To be", Random).Text, text);
        Assert.Equal(Generator.Generate([[256, .. Bytes.Encode("To be")]], Random).Sequences[0].Text, text);
    }

    [Fact]
    public void Generate_LongPrompts_HaveLogitsOfTheirLastTokensOnly()
    {
        using var model = Says("_ab");
        var generator = new TextGenerator(model, Bytes) { PrefillLength = 50 };
        _ = generator.Generate([[.. Enumerable.Repeat(1, 170)], [.. Enumerable.Repeat(2, 20)]], Greedy with { MaxNewTokens = 3 });
        Assert.Equal(2, model.MostLogits);
    }

    [Fact]
    public void Read_WithACache_ReadsOnFromTheLongestKnownBeginning()
    {
        var before = Live();
        using (var cache = new StateCache(1 << 20))
        {
            var generator = new TextGenerator(_model, Bytes) { Cache = cache };
            foreach (var (length, known) in new[] { (4, 1), (9, 2), (4, 2), (6, 3) })
            {
                using var scope = NewDisposeScope();
                int[] prompt = [.. Enumerable.Range(3, length)];
                using var expected = Generator.Read(prompt);
                using var state = generator.Read(prompt);
                Assert.All(expected.Tensors, pair => MLstmTests.Near(pair.Value, state[pair.Key], 1e-4, pair.Key));
                Assert.Equal(known, cache.Count);
            }

            // What goes on from a state is no beginning.
            using var from = generator.Read([1]);
            generator.Read([2], from).Dispose();
            Assert.Equal(4, cache.Count);
        }

        Assert.Equal(before, Live());
    }

    [Fact]
    public async Task StreamAsync_TopLogProbabilities_HoldTheGreedyTokenFirst()
    {
        var options = Greedy with { TopLogProbabilities = 3 };
        var steps = await Generator.StreamAsync([256, 1, 2], options).ToListAsync();
        Assert.All(steps, step =>
        {
            Assert.Equal(3, step.Likeliest!.Count);
            Assert.Equal(new TokenLogProbability(step.Id, step.LogProbability), step.Likeliest[0]);
            Assert.True(
                step.Likeliest[0].LogProbability >= step.Likeliest[1].LogProbability
                && step.Likeliest[1].LogProbability >= step.Likeliest[2].LogProbability);
        });
        var sequence = Generator.Generate([[256, 1, 2]], options).Sequences[0];
        Assert.Equal(steps.Select(s => s.Likeliest![2]), sequence.Steps.Select(s => s.Likeliest![2]));
        Assert.Equal(sequence.LogProbability, sequence.Steps.Sum(s => s.LogProbability), 1e-12);
    }

    [Fact]
    public async Task StreamTextAsync_CharactersOfSeveralTokens_ComeWhole()
    {
        using var model = Says("_Zoë 🐘");
        Assert.Equal(
            ["Z", "o", "ë", " ", "🐘"],
            await new TextGenerator(model, Bytes).StreamTextAsync("", Greedy with { StopAtEndOfDocument = true }).ToListAsync());
    }

    [Fact]
    public async Task StreamTextAsync_StopStringOverTokenBorders_IsNeverSeen()
    {
        using var model = Says("_one\n\nUsed\n\nUser: two");
        var options = Greedy with { StopStrings = ["\n\nUser:", "zzz"], MaxNewTokens = 100 };
        var generator = new TextGenerator(model, Bytes);
        Assert.Equal(["o", "n", "e", "\n\nUsed"], await generator.StreamTextAsync("", options).ToListAsync());

        var sequence = generator.Generate("", options);
        Assert.Equal("one\n\nUsed", sequence.Text);
        Assert.Equal(FinishReason.StopString, sequence.FinishReason);
        Assert.Equal("one\n\nUsed\n\nUser:", Bytes.Decode(sequence.Tokens));

        // What only began like a stop string is text after all.
        Assert.Equal("one\n\nUse", string.Concat(await generator.StreamTextAsync("", options with { MaxNewTokens = 8 }).ToListAsync()));
    }

    [Fact]
    public void Generate_EndOfDocument_StopsOrIsATokenWithoutText()
    {
        using var model = Says("_ab");
        var stopped = new TextGenerator(model, Bytes).Generate("", Greedy with { StopAtEndOfDocument = true });
        Assert.Equal((FinishReason.EndOfDocument, "ab", 3), (stopped.FinishReason, stopped.Text, stopped.Tokens.Length));
        var on = new TextGenerator(model, Bytes).Generate("", Greedy with { MaxNewTokens = 5 });
        Assert.Equal([97, 98, 256, 256, 256], on.Tokens);
        Assert.Equal(("ab", FinishReason.Length), (on.Text, on.FinishReason));
    }

    [Fact]
    public void Generate_ModelWithMoreIdsThanTokenizer_DrawsKnownIdsOnly()
    {
        using var model = new ScriptedModel(300, 299);
        Assert.Equal(0, new TextGenerator(model, Bytes).Generate([[1]], Greedy with { MaxNewTokens = 1 }).Sequences[0].Tokens[0]);
    }

    [Fact]
    public async Task StreamTextAsync_Conversation_GoesOnFromTakenState()
    {
        ModelState? memory = null;
        var first = await Generator.StreamTextAsync("ab", Greedy with { MaxNewTokens = 4 }, takeState: s => memory = s).ToListAsync();
        Assert.NotEmpty(first);
        var ids = Generator.Generate([[256, 97, 98]], Greedy with { MaxNewTokens = 4 }).Sequences[0].Tokens;
        using (memory)
        {
            var second = string.Concat(await Generator.StreamTextAsync("cd", Greedy, memory).ToListAsync());
            Assert.Equal(Generator.Generate([[256, 97, 98, .. ids, 99, 100]], Greedy).Sequences[0].Text, second);
        }
    }

    [Fact]
    public async Task StreamAsync_Cancelled_StopsBetweenTokensAndLeavesNothing()
    {
        var before = Live();
        using var source = new CancellationTokenSource();
        var seen = 0;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (var token in Generator.StreamAsync(
                [1], Greedy with { MaxNewTokens = 1000 }, takeState: _ => Assert.Fail("cancelled"), cancellationToken: source.Token))
            {
                if (++seen == 3)
                {
                    await source.CancelAsync();
                }
            }
        });
        Assert.Equal(3, seen);
        Assert.Equal(before, Live());

        await foreach (var token in Generator.StreamTextAsync("a", Greedy))
        {
            break;
        }

        Assert.Equal(before, Live());
        Assert.Throws<OperationCanceledException>(() => Generator.Generate([[1]], Greedy, cancellationToken: new(true)));
        Assert.Equal(before, Live());
    }

    [Fact]
    public async Task StreamAsync_FiveHundredTokens_LeaveLiveTensorsConstant()
    {
        var before = Live();
        var counts = new List<long>();
        await foreach (var token in Generator.StreamAsync([1, 2, 3], Random with { MaxNewTokens = 500 }))
        {
            counts.Add(Live());
        }

        Assert.Equal(500, counts.Count);
        Assert.Single(counts[..^1].Distinct());
        Assert.Equal(before, Live());

        var (_, state) = Generator.Generate([[1], [2, 3]], Random with { MaxNewTokens = 20 }, returnState: true);
        state!.Dispose();
        Assert.Equal(before, Live());
    }

    [Fact]
    public void Generate_WrongArguments_SaysWhatWasExpected()
    {
        using var state = Generator.Read([1]);
        Assert.Contains("got 257", Assert.Throws<ArgumentException>(() => Generator.Generate([[257]])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "at least one prompt", Assert.Throws<ArgumentException>(() => Generator.Generate([])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "2 sequences", Assert.Throws<ArgumentException>(() => Generator.Generate([[1], [2]], state: state)).Message,
            StringComparison.Ordinal);
        Assert.Contains(
            "Prompt 0 is empty",
            Assert.Throws<ArgumentException>(() => Generator.Generate([[]], state: state)).Message, StringComparison.Ordinal);
        Assert.Contains(
            "TopK", Assert.Throws<ArgumentException>(() => Generator.Generate([[1]], new() { TopK = 0 })).Message,
            StringComparison.Ordinal);
        using var small = new ScriptedModel(100, 1);
        Assert.Contains(
            "257 ids", Assert.Throws<ArgumentException>(() => new TextGenerator(small, Bytes)).Message, StringComparison.Ordinal);
    }

    private static long Live() => DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount;

    private static ScriptedModel Says(string text) => new(257, [.. Encoding.UTF8.GetBytes(text)[1..], 256]);

    /// <summary>A model whose fresh weights are made larger, so that its choices are far apart.</summary>
    private static XlstmLanguageModel Sharp(XlstmConfig config)
    {
        var model = new XlstmLanguageModel(config, seed: 4);
        using var grad = no_grad();
        foreach (var (name, value) in model.named_parameters())
        {
            if (name.EndsWith("igate_preact.bias", StringComparison.Ordinal))
            {
                value.fill_(0);
            }
            else if (value.dim() == 2)
            {
                value.mul_(3);
            }
        }

        return model;
    }

    private static async Task<int> AssertGreedyAsync(LanguageModel model, Dictionary<string, Tensor> golden, int promptLength)
    {
        var prompt = golden["input_ids"][0].narrow(0, 0, promptLength).data<long>().Select(id => (int)id).ToArray();
        var expected = golden["greedy"].data<long>().Select(id => (int)id).ToArray();
        foreach (var prefill in new[] { 512, 2 })
        {
            var stream = new TextGenerator(model, new IdTokenizer(model.VocabularySize)) { PrefillLength = prefill }
                .StreamAsync(prompt, Greedy with { MaxNewTokens = expected.Length });
            Assert.Equal(expected, (await stream.ToListAsync()).Select(t => t.Id));
        }

        return expected.Length;
    }

    /// <summary>Any number of ids without text.</summary>
    private sealed class IdTokenizer(int vocabularySize) : ITokenizer
    {
        public int VocabularySize => vocabularySize;

        public int EndOfDocument => 0;

        public int[] Encode(string text) => [];

        public string Decode(IEnumerable<int> ids) => "";

        public ReadOnlySpan<byte> Bytes(int id) => default;
    }
}
