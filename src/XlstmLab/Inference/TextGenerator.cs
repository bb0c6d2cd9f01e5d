using System.Runtime.CompilerServices;
using XlstmLab.Models;
using XlstmLab.Text;

namespace XlstmLab.Inference;

/// <summary>Lets a model write: token by token as a stream, or several texts at once.</summary>
/// <remarks>
/// It keeps nothing from one call to the next but in a <see cref="Cache"/>; what a model remembers is in the <see cref="ModelState"/> that
/// goes in and comes out. Tokens are drawn on the CPU in double precision from generators of its own, so that a seed gives the same text on
/// every device, up to logits that differ in their last digits. The model computes on the thread that asks for the next token.
/// </remarks>
public sealed class TextGenerator
{
    private readonly LanguageModel _model;
    private readonly ITokenizer _tokenizer;

    /// <summary>A generator for a model and the tokenizer it was trained with.</summary>
    /// <exception cref="ArgumentException">The tokenizer has more ids than the model.</exception>
    public TextGenerator(LanguageModel model, ITokenizer tokenizer)
    {
        RequireIds(model, tokenizer);
        (_model, _tokenizer) = (model, tokenizer);
    }

    /// <summary>
    /// The number of tokens of a prompt that are read at a time: memory grows with this number and not with the prompt. Null, unless it is
    /// set, stands for 512 on the CPU; on a GPU, which the host's starting of kernels would hold up, for as many as make 16,384 of all
    /// prompts, and for 512 at least. Of a prompt's logits only the last token's are computed.
    /// </summary>
    public int? PrefillLength
    {
        get;
        init
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value ?? 1, 1, nameof(PrefillLength));
            field = value;
        }
    }

    /// <summary>
    /// Where <see cref="Read"/> looks for what it has read before, and keeps what it reads from the empty state; null keeps none.
    /// </summary>
    public StateCache? Cache { get; init; }

    /// <summary>Reads tokens without generating any.</summary>
    /// <param name="tokens">At least one token.</param>
    /// <param name="state">The state of one sequence to start from, left as it is; null is the empty state.</param>
    /// <param name="cancellationToken">Stops between chunks.</param>
    /// <returns>The state after the last token; the caller owns it.</returns>
    /// <exception cref="ArgumentException">Tokens are not the model's, or the state is not of one sequence.</exception>
    public ModelState Read(int[] tokens, ModelState? state = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        var (length, known) = Cache is not null && state is null ? Cache.Find(tokens) : (0, null);
        if (known is not null && length == tokens.Length)
        {
            return known;
        }

        using (known)
        {
            var read = Generate(
                [tokens[length..]], new GenerationOptions { MaxNewTokens = 0 }, known ?? state, returnState: true, null,
                cancellationToken).State!;
            if (state is null && tokens.Length > 0)
            {
                Cache?.Add(tokens, read.Clone());
            }

            return read;
        }
    }

    /// <summary>Generates a text after each of several prompts, side by side.</summary>
    /// <remarks>
    /// Row r is what its prompt alone gives with the seed plus r, up to logits that differ in their last digits. On a GPU a few tokens may
    /// have been read before the first of them is reported: nobody may change the model meanwhile.
    /// </remarks>
    /// <param name="prompts">Token ids of any lengths; a prompt without tokens begins with the end of document.</param>
    /// <param name="options">How to choose tokens; null is the default.</param>
    /// <param name="state">The state to start from, a row for each prompt, left as it is; null is the empty state.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <param name="progress">Told the number of tokens generated so far, of all rows.</param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    /// <exception cref="ArgumentException">Options, prompts or state make no sense; the message says why.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public GenerationResult Generate(
        int[][] prompts, GenerationOptions? options = null, ModelState? state = null, bool returnState = false,
        IProgress<long>? progress = null,
        CancellationToken cancellationToken = default)
    {
        using var decoding = Start(prompts, options ?? new(), state, returnState, readsAhead: true, cancellationToken);
        var count = 0L;
        while (decoding.ActiveCount > 0)
        {
            cancellationToken.ThrowIfCancellationRequested();
            count += decoding.ActiveCount;
            decoding.Step();
            progress?.Report(count);
        }

        return new([.. decoding.Rows.Select(r => r.ToSequence())], returnState ? decoding.TakeState() : null);
    }

    /// <summary>Generates the text that follows the beginning of a document.</summary>
    /// <param name="prompt">The beginning; an end of document is put before it, as before every document in training.</param>
    /// <param name="options">How to choose tokens; null is the default.</param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    public GeneratedSequence Generate(string prompt, GenerationOptions? options = null, CancellationToken cancellationToken = default) =>
        Generate([Encode(prompt, null)], options, cancellationToken: cancellationToken).Sequences[0];

    /// <summary>Generates tokens one by one; the consumer may stop at any.</summary>
    /// <param name="prompt">Token ids; without any, the end of document.</param>
    /// <param name="options">How to choose tokens; null is the default.</param>
    /// <param name="state">The state of one sequence to start from; it has to stay until the stream ends. Null is the empty state.</param>
    /// <param name="takeState">
    /// Given, after the last token, the state that has read the prompt and all tokens but the last, and owns it. Not called when the
    /// stream is left or cancelled before.
    /// </param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    /// <exception cref="ArgumentException">Options, prompt or state make no sense; the message says why.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        int[] prompt, GenerationOptions? options = null, ModelState? state = null, Action<ModelState>? takeState = null,
        CancellationToken cancellationToken = default) =>
        StreamRowAsync(prompt, options ?? new(), state, takeState, row => row.Last, cancellationToken);

    /// <summary>Generates text piece by piece: whole characters, and never a stop string or what may become one.</summary>
    /// <param name="prompt">
    /// The text to go on from. Without a state it begins a document: an end of document is put before it, as in training.
    /// </param>
    /// <param name="options">How to choose tokens; null is the default.</param>
    /// <param name="state">The state of one sequence to start from; it has to stay until the stream ends. Null is the empty state.</param>
    /// <param name="takeState">
    /// Given, after the last piece, the state that has read the prompt and all that was generated, a stop string included and an end of
    /// document not, and owns it: the next prompt goes on from there. Not called when the stream is left or cancelled before.
    /// </param>
    /// <param name="cancellationToken">Stops between tokens.</param>
    /// <exception cref="ArgumentException">Options, prompt or state make no sense; the message says why.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public async IAsyncEnumerable<string> StreamTextAsync(
        string prompt, GenerationOptions? options = null, ModelState? state = null, Action<ModelState>? takeState = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ModelState? last = null;
        Action<ModelState>? take = takeState is null ? null : s => last = s;
        var end = _tokenizer.EndOfDocument;
        var unread = end;
        try
        {
            var rows = StreamRowAsync(
                Encode(prompt, state), options ?? new(), state, take, row => (row.Piece, row.Last.Id), cancellationToken);
            await foreach (var (piece, id) in rows.ConfigureAwait(false))
            {
                unread = id;
                if (piece.Length > 0)
                {
                    yield return piece;
                }
            }

            if (takeState is not null && last is not null)
            {
                if (unread != end)
                {
                    var before = last;
                    last = Read([unread], before, cancellationToken);
                    before.Dispose();
                }

                var taken = last;
                last = null;
                takeState(taken);
            }
        }
        finally
        {
            last?.Dispose();
        }
    }

    /// <summary>
    /// Generates tokens one by one with the text that each makes sure of: whole characters, and nothing of a stop string.
    /// </summary>
    /// <inheritdoc cref="StreamAsync"/>
    public IAsyncEnumerable<(GeneratedToken Token, string Piece)> StreamPiecesAsync(
        int[] prompt, GenerationOptions? options = null, ModelState? state = null, Action<ModelState>? takeState = null,
        CancellationToken cancellationToken = default) =>
        StreamRowAsync(prompt, options ?? new(), state, takeState, row => (row.Last, row.Piece), cancellationToken);

    private async IAsyncEnumerable<T> StreamRowAsync<T>(
        int[] prompt, GenerationOptions options, ModelState? state, Action<ModelState>? takeState, Func<RowInProgress, T> select,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        // Between two tokens the consumer may do anything, to the model's weights too.
        using var decoding = Start([prompt], options, state, takeState is not null, readsAhead: false, cancellationToken);
        while (decoding.ActiveCount > 0)
        {
            cancellationToken.ThrowIfCancellationRequested();
            decoding.Step();
            yield return select(decoding.Rows[0]);
        }

        takeState?.Invoke(decoding.TakeState());
    }

    private Decoding Start(
        int[][] prompts, GenerationOptions options, ModelState? state, bool keepStates, bool readsAhead,
        CancellationToken cancellationToken)
    {
        options.Validate();
        RequireBiased(options, _tokenizer);
        if (prompts.Length == 0)
        {
            throw new ArgumentException("Expected at least one prompt, got none.", nameof(prompts));
        }

        if (state is not null && state.BatchSize != prompts.Length)
        {
            throw new ArgumentException(
                $"Expected a state of {prompts.Length} sequences, one for each prompt, got one of {state.BatchSize}: SelectRows repeats or "
                + "picks rows.",
                nameof(state));
        }

        _model.ThrowIfDisposed();
        int[][] ids = [.. prompts.Select((prompt, r) => Readable(_model, _tokenizer, prompt, state is not null, r))];
        return Decoding.Start(_model, _tokenizer, ids, options, state, PrefillLength, keepStates, readsAhead, cancellationToken);
    }

    /// <summary>Refuses a tokenizer that is not the model's.</summary>
    /// <exception cref="ArgumentException">It has more ids than the model.</exception>
    internal static void RequireIds(LanguageModel model, ITokenizer tokenizer)
    {
        if (tokenizer.VocabularySize > model.VocabularySize)
        {
            throw new ArgumentException(
                $"The tokenizer has {tokenizer.VocabularySize} ids and the model only {model.VocabularySize}: "
                + "give the tokenizer that the model was trained with.",
                nameof(tokenizer));
        }
    }

    /// <summary>Refuses biases of ids that cannot be drawn.</summary>
    /// <exception cref="ArgumentException">The tokenizer does not know an id.</exception>
    internal static void RequireBiased(GenerationOptions options, ITokenizer tokenizer)
    {
        if (options.LogitBias.Keys.FirstOrDefault(id => id >= tokenizer.VocabularySize, -1) is var id and >= 0)
        {
            throw new ArgumentException(
                FormattableString.Invariant(
                    $"Expected {nameof(GenerationOptions.LogitBias)} of ids from 0 to {tokenizer.VocabularySize - 1}, got {id}."),
                nameof(options));
        }
    }

    /// <summary>A prompt that a model can read: the end of document where it has no tokens and begins a text.</summary>
    /// <exception cref="ArgumentException">It has no tokens though it goes on from a state, or one that is not the model's.</exception>
    internal static int[] Readable(LanguageModel model, ITokenizer tokenizer, int[] prompt, bool goesOn, int row)
    {
        if (prompt.Length == 0)
        {
            return goesOn
                ? throw new ArgumentException(
                    $"Prompt {row} is empty: going on from a state takes at least one token that it has not read.", nameof(prompt))
                : [tokenizer.EndOfDocument];
        }

        foreach (var id in prompt)
        {
            if (id < 0 || id >= model.VocabularySize)
            {
                throw new ArgumentException(
                    $"Expected token ids from 0 to {model.VocabularySize - 1}, got {id}: the tokenizer is another model's.",
                    nameof(prompt));
            }
        }

        return prompt;
    }

    private int[] Encode(string prompt, ModelState? state) =>
        state is null ? _tokenizer.EncodeDocument(prompt) : _tokenizer.Encode(prompt);
}
