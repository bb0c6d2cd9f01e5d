using TorchSharp;
using XlstmLab.Models;
using XlstmLab.Operations;
using XlstmLab.Text;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>How many texts run side by side, and how their prompts are read.</summary>
public sealed record BatchOptions
{
    /// <summary>The texts that are generated at a time; others wait.</summary>
    public int Slots { get; init; } = 8;

    /// <summary>
    /// The tokens of a prompt that are read at a time: between two tokens of the running texts about this many are read, so that a long
    /// prompt does not make them wait. Null, unless it is set, stands for 256 on the CPU and 2,048 on a GPU.
    /// </summary>
    public int? PrefillLength { get; init; }

    /// <summary>
    /// The states that are kept of prompts and texts, so that a prompt that begins like one of them need not be read again; null keeps
    /// none.
    /// </summary>
    public StateCache? Cache { get; init; }

    /// <summary>
    /// What projections are kept as while tokens are generated, of all texts: see <see cref="GenerationOptions.Weights"/>. The last token
    /// of a prompt is read with them too.
    /// </summary>
    public WeightFormat Weights { get; init; }

    /// <summary>
    /// What memories are kept as while tokens are generated, of all texts: see <see cref="GenerationOptions.States"/>. States in
    /// <see cref="Cache"/> are float32; of what was generated their memories have only numbers of the format, so that nothing is lost when
    /// a text goes on from them.
    /// </summary>
    public StateFormat States { get; init; }

    /// <summary>Looks at every option.</summary>
    /// <exception cref="ArgumentException">An option makes no sense; the message says which and what is expected.</exception>
    public void Validate()
    {
        Require(Slots, nameof(Slots));
        Require(PrefillLength ?? 1, nameof(PrefillLength));

        static void Require(int value, string name)
        {
            if (value < 1)
            {
                throw new ArgumentException(FormattableString.Invariant($"Expected {name} to be at least 1, got {value}."));
            }
        }
    }
}

/// <summary>One text of a <see cref="RunningBatch"/>.</summary>
public sealed class BatchedText
{
    private readonly RowInProgress _row;

    internal BatchedText(int[] prompt, GenerationOptions options, ModelState? state, bool keepsState, ITokenizer tokenizer)
    {
        (Prompt, State, KeepsState, BeganFromState) = (prompt, state, keepsState, state is not null);
        _row = new(options, 0, prompt, tokenizer);
    }

    /// <summary>The ids that are read first.</summary>
    public IReadOnlyList<int> Prompt { get; }

    /// <summary>How many of them need not be read, since the cache held the state after them.</summary>
    public int CachedTokens { get; internal set; }

    /// <summary>The ids that were generated so far.</summary>
    public IReadOnlyList<int> Tokens => _row.Tokens;

    /// <summary>The last of them.</summary>
    public GeneratedToken Last => _row.Last;

    /// <summary>The text that the last token made sure of.</summary>
    public string Piece => _row.Piece;

    /// <summary>What keeps this text from going on, and no other; null where nothing does.</summary>
    public Exception? Fault { get; internal set; }

    /// <summary>Whether no further token comes.</summary>
    public bool IsFinished => Fault is not null || Last.FinishReason is not null;

    /// <summary>The whole text.</summary>
    public GeneratedSequence ToSequence() => _row.ToSequence();

    internal RowInProgress Row => _row;

    /// <summary>What was read, until the text has a slot; after its end, where it is wanted.</summary>
    internal ModelState? State { get; set; }

    /// <summary>How many tokens of the prompt were read.</summary>
    internal int Read { get; set; }

    internal bool KeepsState { get; }

    internal bool BeganFromState { get; }

    /// <summary>Reads this text alone, where the model's states cannot share one.</summary>
    internal TokenReader? Reader { get; set; }

    /// <summary>
    /// The state after the end, if it was asked for, which has read the prompt and all tokens but the last; the caller owns it. Null
    /// before, and once taken.
    /// </summary>
    public ModelState? TakeState()
    {
        if (!IsFinished)
        {
            return null;
        }

        var state = State;
        State = null;
        return state;
    }
}

/// <summary>Texts that join and leave while others go on: a text is a row of one state, and a step adds a token to each.</summary>
/// <remarks>
/// <para>
/// A prompt but for its last token is read by itself, in chunks between the tokens of the running texts; then the text takes the next free
/// row, and its last token is read with the others'. With a cache of states, texts of the same prompt wait for the first to read it. A
/// row that becomes free is filled by the last one, so that a step computes as many rows as there are texts; a GPU's graph computes all
/// rows, whose number is fixed.
/// </para>
/// <para>
/// What a text becomes does not depend on its neighbours: options, draws and penalties are its own. Its logits are the same bits where an
/// xLSTM with float32 weights is read by loops on the CPU (<see cref="IsBitwise"/>); a matrix product of libtorch may round a row
/// differently where the number of rows differs, by some 1e-7 of float32.
/// </para>
/// <para>
/// Models whose state grows with the tokens, such as a Transformer's cache, run here too, but each text by itself (<see cref="IsShared"/>).
/// All calls have to come from one thread at a time.
/// </para>
/// </remarks>
public sealed class RunningBatch : IDisposable
{
    private readonly LanguageModel _model;
    private readonly ITokenizer _tokenizer;
    private readonly BatchOptions _options;
    private readonly Device _device;
    private readonly int _prefillLength;

    /// <summary>Reads the rows of all running texts at once; null where states cannot share one.</summary>
    private readonly TokenReader? _reader;

    /// <summary>What has read nothing; null where a state cannot be given then.</summary>
    private readonly ModelState? _empty;

    private readonly Queue<BatchedText> _waiting = [];
    private readonly Queue<BatchedText> _reading = [];

    /// <summary>Those that are generated; their index is their row.</summary>
    private readonly List<BatchedText> _running = [];

    /// <summary>An empty batch.</summary>
    /// <exception cref="ArgumentException">
    /// The tokenizer has more ids than the model, or an option makes no sense or not for this model.
    /// </exception>
    public RunningBatch(LanguageModel model, ITokenizer tokenizer, BatchOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        TextGenerator.RequireIds(model, tokenizer);
        (_model, _tokenizer, _options) = (model, tokenizer, options ?? new());
        _options.Validate();
        _device = model.WeightsDevice;
        _prefillLength = _options.PrefillLength ?? (_device.type == DeviceType.CUDA ? 2048 : 256);

        // Weights that the model cannot be read with are refused, whether its states can share one or not.
        var reader = NewReader();
        _empty = EmptyState(out var bytes);
        StateBytes = bytes;
        if (_empty is null)
        {
            reader.Dispose();
            return;
        }

        if (_device.type == DeviceType.CPU && (double)bytes * _options.Slots > GC.GetGCMemoryInfo().TotalAvailableMemoryBytes)
        {
            reader.Dispose();
            _empty.Dispose();
            throw new ArgumentException(
                FormattableString.Invariant($"Expected {nameof(BatchOptions.Slots)} whose states fit into memory: {_options.Slots} of ")
                + $"{Readable.Size(bytes)} are more than the {Readable.Size(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes)} there are.");
        }

        _reader = reader;
        _reader.SetState(_empty.SelectRows(new long[_options.Slots]));
    }

    /// <summary>The bytes of a text's state as it is handed out and kept in a cache; where it grows, those after two tokens.</summary>
    public long StateBytes { get; }

    /// <summary>Whether the running texts are rows of one state, each of a fixed size; otherwise each is read by itself.</summary>
    public bool IsShared => _reader is not null;

    /// <summary>Whether a text's logits are the same bits whatever its neighbours.</summary>
    public bool IsBitwise => _reader is null || _reader.IsRowByRow;

    /// <summary>The texts that are generated.</summary>
    public int RunningCount => _running.Count;

    /// <summary>The texts whose prompts are being read.</summary>
    public int ReadingCount => _reading.Count;

    /// <summary>The texts that wait for one of the slots.</summary>
    public int WaitingCount => _waiting.Count;

    /// <summary>Adds a text, which begins as soon as there is a slot.</summary>
    /// <param name="prompt">Token ids; without any, the end of document.</param>
    /// <param name="options">How its tokens are chosen; at least one of them.</param>
    /// <param name="state">
    /// The state of one sequence to start from, which the text owns from now on; null is the empty state, or what the cache holds.
    /// </param>
    /// <param name="keepsState">Whether its last state is wanted.</param>
    /// <exception cref="ArgumentException">Options, prompt or state make no sense; the message says why.</exception>
    public BatchedText Add(int[] prompt, GenerationOptions? options = null, ModelState? state = null, bool keepsState = false)
    {
        var text = Prepare(prompt, options, state, keepsState);
        Add(text);
        return text;
    }

    /// <summary>A text that <see cref="Add(BatchedText)"/> takes, from any thread.</summary>
    /// <inheritdoc cref="Add(int[], GenerationOptions?, ModelState?, bool)"/>
    internal BatchedText Prepare(int[] prompt, GenerationOptions? options, ModelState? state, bool keepsState)
    {
        options ??= new();
        options.Validate();
        TextGenerator.RequireBiased(options, _tokenizer);
        if (options.MaxNewTokens == 0)
        {
            throw new ArgumentException(
                $"Expected {nameof(options.MaxNewTokens)} to be at least 1: TextGenerator.Read reads a prompt alone.", nameof(options));
        }

        if (options.Weights != WeightFormat.Float32 && options.Weights != _options.Weights)
        {
            throw new ArgumentException(
                $"Expected weights of {_options.Weights}, those of all texts of this batch, got {options.Weights}: "
                + $"{nameof(BatchOptions)}.{nameof(BatchOptions.Weights)} says it for all.",
                nameof(options));
        }

        if (options.States != StateFormat.Float32 && options.States != _options.States)
        {
            throw new ArgumentException(
                $"Expected states of {_options.States}, those of all texts of this batch, got {options.States}: "
                + $"{nameof(BatchOptions)}.{nameof(BatchOptions.States)} says it for all.",
                nameof(options));
        }

        if (state is { BatchSize: not 1 })
        {
            throw new ArgumentException($"Expected a state of 1 sequence, got one of {state.BatchSize}.", nameof(state));
        }

        return new(TextGenerator.Readable(_model, _tokenizer, prompt, state is not null, 0), options, state, keepsState, _tokenizer);
    }

    /// <summary>Adds a prepared text.</summary>
    internal void Add(BatchedText text) => _waiting.Enqueue(text);

    /// <summary>Takes a text out before its end; one that is out already stays so.</summary>
    public void Remove(BatchedText text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (_running.Contains(text))
        {
            FreeRow(text);
        }

        foreach (var queue in new[] { _waiting, _reading })
        {
            for (var k = queue.Count; k > 0; k--)
            {
                if (queue.Dequeue() is var other && other != text)
                {
                    queue.Enqueue(other);
                }
            }
        }

        text.State?.Dispose();
        text.State = null;
    }

    /// <summary>Reads about <see cref="BatchOptions.PrefillLength"/> tokens of prompts, and adds a token to each running text.</summary>
    /// <returns>
    /// The texts that got a token, or whose <see cref="BatchedText.Fault"/> ended them; none while prompts are read only.
    /// </returns>
    public IReadOnlyList<BatchedText> Step()
    {
        _model.ThrowIfDisposed();
        ReadPrompts();
        if (_running.Count == 0)
        {
            return [];
        }

        ReadTokens();
        var stepped = _running.ToArray();
        foreach (var text in stepped)
        {
            AddToken(text);
        }

        return stepped;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var text in _running.Concat(_reading).Concat(_waiting))
        {
            text.State?.Dispose();
            text.Reader?.Dispose();
        }

        _running.Clear();
        _reading.Clear();
        _waiting.Clear();
        _reader?.Dispose();
        _empty?.Dispose();
    }

    private TokenReader NewReader() => new(
        _model, _tokenizer.VocabularySize, null, rowByRow: true, _options.Weights, _options.Slots, _options.States);

    private void AddToken(BatchedText text)
    {
        try
        {
            _ = text.Row.Add();
        }
        catch (InvalidOperationException e)
        {
            // Logits that are no numbers are this text's alone.
            text.Fault = e;
        }

        if (!text.IsFinished)
        {
            return;
        }

        if (text.Fault is null && !text.BeganFromState)
        {
            _options.Cache?.Add([.. text.Prompt, .. text.Tokens.SkipLast(1)], StateOf(text));
        }

        text.State = text.KeepsState && text.Fault is null ? StateOf(text) : null;
        FreeRow(text);
    }

    private void ReadTokens()
    {
        if (_reader is null)
        {
            foreach (var text in _running)
            {
                text.Reader!.Read([text.Row.Unread], [text.Row]);
            }

            return;
        }

        var count = _reader.WantsAllRows ? _options.Slots : _running.Count;
        var (tokens, rows) = (new int[count], new RowInProgress?[count]);
        for (var r = 0; r < _running.Count; r++)
        {
            (tokens[r], rows[r]) = (_running[r].Row.Unread, _running[r].Row);
        }

        _reader.Read(tokens, rows, Ahead());
    }

    /// <summary>
    /// How many tokens may be read before any is looked at: several only while nobody waits for a row, and no state is wanted that would be
    /// past its text's end.
    /// </summary>
    private int Ahead() => _waiting.Count + _reading.Count > 0 || _running.Any(text => text.Row.MayEndEarly && WantsState(text))
        ? 1
        : _running.Min(text => text.Row.Remaining);

    private bool WantsState(BatchedText text) => text.KeepsState || (_options.Cache is not null && !text.BeganFromState);

    /// <summary>Reads chunks of prompts in turn, so that a long one does not keep back a short one that came after it.</summary>
    private void ReadPrompts()
    {
        if (_reader?.Pending > 0)
        {
            // Its tokens come first, and rows are written between two of them only.
            return;
        }

        while (_waiting.Count > 0 && _running.Count + _reading.Count < _options.Slots)
        {
            _reading.Enqueue(_waiting.Dequeue());
        }

        for (var budget = _prefillLength; budget > 0 && _reading.Count > 0;)
        {
            var text = _reading.Dequeue();
            if (UsesCache(text) && _reading.Any(other => IsAhead(other, text)))
            {
                // What the other reads will be in the cache.
                _reading.Enqueue(text);
                continue;
            }

            if (UsesCache(text) && text.Read == text.CachedTokens)
            {
                Find(text);
            }

            var length = Math.Min(_prefillLength, text.Prompt.Count - 1 - text.Read);
            if (length > 0)
            {
                ReadChunk(text, length);
                budget -= length;
            }

            if (text.Read < text.Prompt.Count - 1)
            {
                _reading.Enqueue(text);
            }
            else
            {
                TakeRow(text);
            }
        }
    }

    private bool UsesCache(BatchedText text) => !text.BeganFromState && _options.Cache is not null;

    /// <summary>Whether a text has read more of the same prompt, from the same beginning.</summary>
    private bool IsAhead(BatchedText other, BatchedText text) =>
        other.Read > text.Read && UsesCache(other) && ((int[])other.Prompt).AsSpan().SequenceEqual((int[])text.Prompt);

    /// <summary>Begins a text, which has read nothing by itself, with what is known of its prompt.</summary>
    private void Find(BatchedText text)
    {
        var (length, state) = _options.Cache!.Find(((int[])text.Prompt).AsSpan(0, text.Prompt.Count - 1));
        text.State?.Dispose();
        (text.Read, text.CachedTokens, text.State) = (length, length, state);
    }

    private void ReadChunk(BatchedText text, int length)
    {
        using var scope = NewDisposeScope();
        using var mode = EvaluationMode.Of(_model);
        var ids = TokenReader.Ids(((int[])text.Prompt).AsSpan(text.Read, length));
        var state = _model.Read(tensor(ids, [1, length], device: _device), text.State);
        text.State?.Dispose();
        text.State = state;
        text.Read += length;
    }

    /// <summary>Has a text, whose prompt was read but for the last token, be generated from now on.</summary>
    private void TakeRow(BatchedText text)
    {
        if (text is { BeganFromState: false, Read: > 0 } && text.Read > text.CachedTokens)
        {
            _options.Cache?.Add([.. text.Prompt.Take(text.Read)], text.State!.Clone());
        }

        if (_reader is not null)
        {
            _reader.SetRow(_running.Count, text.State ?? _empty!, 0);
            text.State?.Dispose();
        }
        else
        {
            text.Reader = NewReader();
            text.Reader.SetState(text.State);
        }

        text.State = null;
        _running.Add(text);
    }

    /// <summary>A copy of what a running text has read.</summary>
    private ModelState StateOf(BatchedText text) =>
        _reader is not null ? _reader.SelectRows(_running.IndexOf(text)) : text.Reader!.SelectRows(0);

    private void FreeRow(BatchedText text)
    {
        var (row, last) = (_running.IndexOf(text), _running.Count - 1);
        if (row < last)
        {
            _reader?.SetRow(row, _reader.State!, last);
        }

        text.Reader?.Dispose();
        text.Reader = null;
        _running[row] = _running[last];
        _running.RemoveAt(last);
        if (_running.Count == 0)
        {
            // Nobody is left who would get what was read ahead.
            _reader?.TakePending();
        }
    }

    /// <summary>The state that has read nothing, if one that has read tokens is of the same form; otherwise null.</summary>
    private ModelState? EmptyState(out long bytes)
    {
        using var scope = NewDisposeScope();
        using var mode = EvaluationMode.Of(_model);
        var token = tensor([(long)_tokenizer.EndOfDocument], [1, 1], device: _device);
        var nothing = _model.Read(token, null, new SequenceLayout(Padding: tensor([true], [1, 1], device: _device)));
        using var first = _model.Read(token, null);
        using var second = _model.Read(token, first);
        bytes = second.SizeInBytes;
        if (RecordedTokenStep.KeepsForm(nothing, first) && RecordedTokenStep.KeepsForm(first, second))
        {
            return nothing;
        }

        nothing.Dispose();
        return null;
    }
}
