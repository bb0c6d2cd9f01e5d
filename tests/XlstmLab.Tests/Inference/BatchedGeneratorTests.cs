using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Inference;

public sealed class BatchedGeneratorTests : IDisposable
{
    private static readonly ByteTokenizer Bytes = new();
    private static readonly GenerationOptions Options = new() { MaxNewTokens = 15, StopAtEndOfDocument = false };

    private readonly LanguageModel _model = WritingModel.Create();

    public void Dispose() => _model.Dispose();

    [Fact]
    public async Task StreamAsync_FromManyThreads_GivesEachItsOwnText()
    {
        var expected = Enumerable.Range(0, 24)
            .Select(k => new TextGenerator(_model, Bytes).Generate([[k]], Options with { Seed = k }).Sequences[0].Tokens).ToArray();
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 5 });
        var texts = await Task.WhenAll(Enumerable.Range(0, 24).Select(k => Task.Run(async () =>
            await generator.StreamAsync([k], Options with { Seed = k }).Select(step => step.Token.Id).ToArrayAsync())));
        Assert.Equal(expected, texts);
        var counts = generator.Counts;
        Assert.Equal((24L, 24L * 15), (counts.PromptTokens, counts.GeneratedTokens));
        Assert.True(counts.Steps < 24 * 15 / 2, "texts go side by side");
    }

    [Fact]
    public async Task TryStart_QueueOfAnyLength_HasRoom()
    {
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 2 }, queueLength: int.MaxValue);
        Assert.Equal(15, await generator.StreamAsync([1], Options).CountAsync(TestContext.Current.CancellationToken));
    }

    [Fact]
    public void Constructor_MoreSlotsThanMemory_IsToldSo() => Assert.Contains(
        "whose states fit into memory: 2147483647 of ",
        Assert.Throws<ArgumentException>(() => new BatchedGenerator(_model, Bytes, new() { Slots = int.MaxValue })).Message,
        StringComparison.Ordinal);

    [Fact]
    public async Task TryStart_FullQueue_IsRefusedUntilSlotsAreFree()
    {
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 1 }, queueLength: 1);
        var endless = Options with { MaxNewTokens = int.MaxValue };
        Assert.Null(generator.TryStart(([1], endless), ([2], endless), ([3], endless)));
        var unknown = Options with { LogitBias = new Dictionary<int, double> { [Bytes.VocabularySize] = 1 } };
        Assert.Contains(
            "from 0 to 256, got 257", Assert.Throws<ArgumentException>(() => generator.TryStart(([1], unknown))).Message,
            StringComparison.Ordinal);
        var streams = generator.TryStart(([1], endless), ([2], Options))!;
        Assert.Null(generator.TryStart(([3], Options)));
        Assert.Contains(
            "full", Assert.Throws<InvalidOperationException>(() => generator.StreamAsync([3])).Message, StringComparison.Ordinal);
        Assert.Contains(
            "got 257", Assert.Throws<ArgumentException>(() => generator.TryStart(([257], Options))).Message, StringComparison.Ordinal);

        // Whoever leaves makes room for who waits.
        await foreach (var _ in streams[0].ReadAllAsync(TestContext.Current.CancellationToken))
        {
            break;
        }

        Assert.Equal(15, await streams[1].ReadAllAsync(TestContext.Current.CancellationToken).CountAsync());
        Assert.Equal(15, await generator.StreamAsync([3], Options).CountAsync());
    }

    [Fact]
    public async Task ReadAllAsync_Cancelled_EndsTheTextAndFreesItsSlot()
    {
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 1 });
        using var source = new CancellationTokenSource();
        var read = 0;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (var _ in generator.StreamAsync([1], Options with { MaxNewTokens = int.MaxValue }, source.Token))
            {
                if (++read == 3)
                {
                    await source.CancelAsync();
                }
            }
        });
        Assert.Equal(15, await generator.StreamAsync([2], Options).CountAsync());
    }

    [Fact]
    public async Task StopAsync_RunningTexts_EndOrAreCut()
    {
        var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 2 });
        var streams = generator.TryStart(([1], Options), ([1], Options with { MaxNewTokens = int.MaxValue }))!;
        var shortOne = streams[0].ReadAllAsync(TestContext.Current.CancellationToken).CountAsync().AsTask();
        var endless = streams[1].ReadAllAsync(TestContext.Current.CancellationToken).CountAsync().AsTask();
        Assert.Equal(15, await shortOne);
        await generator.StopAsync(TimeSpan.FromMilliseconds(50));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => endless);
        Assert.Null(generator.TryStart(([1], Options)));
        Assert.Equal(0, generator.OpenCount);
    }

    [Fact]
    public async Task Counts_LogitsThatAreNoNumbersAfterTheFirstToken_CountThePromptOnce()
    {
        using var model = new ScriptedModel(Bytes.VocabularySize, 5, -1);
        await using var generator = new BatchedGenerator(model, Bytes);
        await Assert.ThrowsAsync<InvalidOperationException>(() => generator.StreamAsync([1], Options).CountAsync().AsTask());
        Assert.Equal((1L, 1L), (generator.Counts.PromptTokens, generator.Counts.GeneratedTokens));
    }

    [Fact]
    public async Task Step_ModelThatFails_TellsAllAndServesTheNext()
    {
        await using var generator = new BatchedGenerator(_model, Bytes, new() { Slots = 2 });
        _model.Observer = (_, _, _) => throw new IOException("no more");
        await Assert.ThrowsAsync<IOException>(() => generator.StreamAsync([1], Options).CountAsync().AsTask());
        _model.Observer = null;
        Assert.Equal(15, await generator.StreamAsync([2], Options).CountAsync());
    }
}
