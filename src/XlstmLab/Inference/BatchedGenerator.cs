using System.Runtime.CompilerServices;
using System.Threading.Channels;
using XlstmLab.Models;
using XlstmLab.Text;

namespace XlstmLab.Inference;

/// <summary>
/// Generates texts that are asked for from any thread, side by side in one <see cref="RunningBatch"/> on a thread of its own.
/// </summary>
/// <remarks>
/// A consumer that reads slowly keeps nobody waiting: what it has not read is kept for it, at most as many tokens as were allowed. One that
/// stops reading, or is cancelled, frees its slot before the next token.
/// </remarks>
public sealed class BatchedGenerator : IAsyncDisposable
{
    private readonly RunningBatch _batch;
    private readonly Queue<Action> _requests = [];
    private readonly AutoResetEvent _wake = new(false);
    private readonly Dictionary<BatchedText, StreamedText> _streams = [];
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly int _most;
    private int _open;
    private volatile bool _stops;
    private volatile bool _isCut;

    /// <summary>Whether requests are looked at no more; read and written where <see cref="_requests"/> is locked.</summary>
    private bool _isClosed;
    private GenerationCounts _counts = new();

    /// <summary>Begins to wait for texts.</summary>
    /// <param name="model">The model, which nobody else may use meanwhile.</param>
    /// <param name="tokenizer">The tokenizer that it was trained with.</param>
    /// <param name="options">Slots, the reading of prompts, and the cache of states, which stays the caller's.</param>
    /// <param name="queueLength">How many texts may wait for a slot.</param>
    /// <exception cref="ArgumentException">The tokenizer has more ids than the model, or an option makes no sense.</exception>
    public BatchedGenerator(LanguageModel model, ITokenizer tokenizer, BatchOptions? options = null, int queueLength = 64)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(queueLength);
        Options = options ?? new();
        _batch = new(model, tokenizer, Options);
        _most = (int)Math.Min(int.MaxValue, (long)Options.Slots + queueLength);
        (Tokenizer, IsShared, StateBytes) = (tokenizer, _batch.IsShared, _batch.StateBytes);
        new Thread(Run) { IsBackground = true, Name = "generation" }.Start();
    }

    /// <summary>Slots, the reading of prompts, and the cache of states.</summary>
    public BatchOptions Options { get; }

    /// <summary>What spells the ids.</summary>
    public ITokenizer Tokenizer { get; }

    /// <inheritdoc cref="RunningBatch.IsShared"/>
    public bool IsShared { get; }

    /// <inheritdoc cref="RunningBatch.StateBytes"/>
    public long StateBytes { get; }

    /// <summary>The texts that have not ended, those that wait included.</summary>
    public int OpenCount => Volatile.Read(ref _open);

    /// <summary>What was read and generated so far.</summary>
    public GenerationCounts Counts => Volatile.Read(ref _counts);

    /// <summary>Begins texts, all or none.</summary>
    /// <param name="texts">Prompts with their options.</param>
    /// <returns>A stream for each; null where there is not enough room in the queue, or the generator is ending.</returns>
    /// <exception cref="ArgumentException">Options or prompts make no sense; the message says why.</exception>
    public IReadOnlyList<StreamedText>? TryStart(params IReadOnlyList<(int[] Prompt, GenerationOptions Options)> texts)
    {
        ArgumentNullException.ThrowIfNull(texts);
        var prepared = texts.Select(text => _batch.Prepare(text.Prompt, text.Options, null, false)).ToArray();
        if (Interlocked.Add(ref _open, prepared.Length) > _most || _stops)
        {
            _ = Interlocked.Add(ref _open, -prepared.Length);
            return null;
        }

        StreamedText[] streams = [.. prepared.Select(text => new StreamedText(this, text))];
        var isTaken = Request(() =>
        {
            foreach (var stream in streams)
            {
                _streams.Add(stream.Text, stream);
                _batch.Add(stream.Text);
            }
        });
        if (isTaken)
        {
            return streams;
        }

        _ = Interlocked.Add(ref _open, -prepared.Length);
        return null;
    }

    /// <summary>Generates a text token by token, with the text that each makes sure of.</summary>
    /// <param name="prompt">Token ids; without any, the end of document.</param>
    /// <param name="options">How to choose tokens; null is the default.</param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    /// <exception cref="InvalidOperationException">The queue is full.</exception>
    public IAsyncEnumerable<(GeneratedToken Token, string Piece)> StreamAsync(
        int[] prompt, GenerationOptions? options = null, CancellationToken cancellationToken = default) =>
        TryStart((prompt, options ?? new())) is [var stream]
            ? stream.ReadAllAsync(cancellationToken)
            : throw new InvalidOperationException($"The generator's queue is full: {OpenCount} texts run or wait. Ask again later.");

    /// <summary>Takes no further text, waits until all have ended or the time is over, and then ends those that have not.</summary>
    /// <param name="time">How long the running texts may take.</param>
    public async Task StopAsync(TimeSpan time)
    {
        _stops = true;
        using var deadline = new CancellationTokenSource(time);
        while (OpenCount > 0 && !deadline.IsCancellationRequested)
        {
            await Task.Delay(TimeSpan.FromMilliseconds(20)).ConfigureAwait(false);
        }

        await DisposeAsync().ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        (_stops, _isCut) = (true, true);
        _ = Request(() => { });
        await _ended.Task.ConfigureAwait(false);
    }

    /// <summary>Frees the slot of a text that nobody reads any more.</summary>
    internal void Leave(StreamedText stream) => _ = Request(() =>
    {
        if (_streams.Remove(stream.Text))
        {
            _batch.Remove(stream.Text);
            End(stream, null);
        }
    });

    private bool Request(Action request)
    {
        lock (_requests)
        {
            if (!_isClosed)
            {
                _requests.Enqueue(request);
                _ = _wake.Set();
            }

            return !_isClosed;
        }
    }

    private void DoRequests(bool last)
    {
        Action[] requests;
        lock (_requests)
        {
            requests = [.. _requests];
            _requests.Clear();
            _isClosed = last;
        }

        foreach (var request in requests)
        {
            request();
        }
    }

    private void Run()
    {
        while (!_isCut)
        {
            DoRequests(last: false);
            if (_streams.Count == 0)
            {
                Count([]);
                _ = _wake.WaitOne();
                continue;
            }

            Step();
        }

        DoRequests(last: true);
        EndAll(new OperationCanceledException("The generator was stopped."));
        _batch.Dispose();
        _wake.Dispose();
        _ended.SetResult();
    }

    private void Step()
    {
        try
        {
            var stepped = _batch.Step();
            Count(stepped);
            foreach (var text in stepped)
            {
                var stream = _streams[text];
                if (text.Fault is null)
                {
                    stream.Write((text.Last, text.Piece));
                }

                if (text.IsFinished)
                {
                    _ = _streams.Remove(text);
                    End(stream, text.Fault);
                }
            }
        }
#pragma warning disable CA1031 // Whatever it is, those who wait are told, and the next ones may fare better.
        catch (Exception e)
        {
            EndAll(e);
        }
#pragma warning restore CA1031
    }

    private void Count(IReadOnlyList<BatchedText> stepped)
    {
        var began = stepped.Where(text => text.Fault is null && text.Tokens.Count == 1).ToArray();
        Volatile.Write(ref _counts, new()
        {
            Running = _batch.RunningCount,
            Reading = _batch.ReadingCount,
            Waiting = _batch.WaitingCount,
            PromptTokens = _counts.PromptTokens + began.Sum(text => (long)text.Prompt.Count),
            CachedTokens = _counts.CachedTokens + began.Sum(text => (long)text.CachedTokens),
            GeneratedTokens = _counts.GeneratedTokens + stepped.Count(text => text.Fault is null),
            Steps = _counts.Steps + (stepped.Count > 0 ? 1 : 0),
        });
    }

    private void EndAll(Exception reason)
    {
        foreach (var (text, stream) in _streams)
        {
            _batch.Remove(text);
            End(stream, reason);
        }

        _streams.Clear();
    }

    private void End(StreamedText stream, Exception? reason)
    {
        stream.End(reason);
        _ = Interlocked.Decrement(ref _open);
    }
}

/// <summary>What a <see cref="BatchedGenerator"/> did and does.</summary>
public sealed record GenerationCounts
{
    /// <summary>Texts that are being generated.</summary>
    public int Running { get; init; }

    /// <summary>Texts whose prompts are being read.</summary>
    public int Reading { get; init; }

    /// <summary>Texts that wait for a slot.</summary>
    public int Waiting { get; init; }

    /// <summary>Tokens of prompts of all texts that got a token.</summary>
    public long PromptTokens { get; init; }

    /// <summary>Those of them that the cache of states made superfluous.</summary>
    public long CachedTokens { get; init; }

    /// <summary>Tokens that were generated.</summary>
    public long GeneratedTokens { get; init; }

    /// <summary>Steps, each a token for every running text.</summary>
    public long Steps { get; init; }
}

/// <summary>A text of a <see cref="BatchedGenerator"/>, as it comes.</summary>
public sealed class StreamedText
{
    private readonly BatchedGenerator _generator;
    private readonly Channel<(GeneratedToken Token, string Piece)> _tokens =
        Channel.CreateUnbounded<(GeneratedToken, string)>(new() { SingleReader = true, SingleWriter = true });

    internal StreamedText(BatchedGenerator generator, BatchedText text) => (_generator, Text) = (generator, text);

    internal BatchedText Text { get; }

    /// <summary>How many tokens the prompt has.</summary>
    public int PromptTokens => Text.Prompt.Count;

    /// <summary>How many of them need not be read; known with the first token.</summary>
    public int CachedTokens => Text.CachedTokens;

    /// <summary>Gives the tokens, each with the text that it makes sure of; whoever leaves before the end frees the slot.</summary>
    /// <param name="cancellationToken">Ends the text.</param>
    /// <exception cref="InvalidOperationException">The model's logits are no numbers.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled, or the generator stopped.</exception>
    public async IAsyncEnumerable<(GeneratedToken Token, string Piece)> ReadAllAsync(
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        try
        {
            await foreach (var step in _tokens.Reader.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                yield return step;
            }
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Ends the text if it has not ended.</summary>
    public void Leave() => _generator.Leave(this);

    internal void Write((GeneratedToken Token, string Piece) step) => _ = _tokens.Writer.TryWrite(step);

    internal void End(Exception? reason) => _ = _tokens.Writer.TryComplete(reason);
}
