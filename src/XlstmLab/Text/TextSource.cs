using System.Globalization;

namespace XlstmLab.Text;

/// <summary>What a model is trained on and validated on.</summary>
/// <param name="Training">The training text, at its first batch.</param>
/// <param name="Validation">The validation batches; none where the text has no such part.</param>
public sealed record TextBatches(BatchSource Training, IReadOnlyList<TokenBatch> Validation);

/// <summary>
/// A text by its name: a <see cref="Corpus"/>, or tokens in a <see cref="TokenFolder"/> or in several with weights, as in
/// <c>tokens/dclm=0.7,tokens/code=0.3</c>.
/// </summary>
public sealed class TextSource : IDisposable
{
    private readonly IReadOnlyList<(TokenFolder Folder, double Weight)> _folders;
    private readonly Lazy<Corpus> _corpus;

    private TextSource(string name, IReadOnlyList<(TokenFolder Folder, double Weight)> folders, Func<Corpus> corpus)
    {
        Name = name;
        _folders = folders;
        _corpus = new(corpus);
    }

    /// <summary>A corpus that is read already.</summary>
    public TextSource(Corpus corpus)
        : this((corpus ?? throw new ArgumentNullException(nameof(corpus))).Name, [], () => corpus)
    {
    }

    /// <summary>What it was named by.</summary>
    public string Name { get; }

    /// <summary>Whether it is tokens already.</summary>
    public bool IsTokens => _folders.Count > 0;

    /// <summary>Whether it is several token folders.</summary>
    public bool IsMixture => _folders.Count > 1;

    /// <summary>The token folder, of several the first; null where it is text.</summary>
    public TokenFolder? Folder => IsTokens ? _folders[0].Folder : null;

    /// <summary>The texts, read when they are first asked for.</summary>
    /// <exception cref="InvalidOperationException">It is tokens.</exception>
    /// <exception cref="FileNotFoundException">There is neither a path nor a dataset of that name.</exception>
    /// <exception cref="InvalidDataException">The data are damaged.</exception>
    public Corpus Corpus => IsTokens ? throw new InvalidOperationException($"{Name} is tokens, not text.") : _corpus.Value;

    /// <summary>Names a text; token folders are opened, a corpus is read when it is first needed.</summary>
    /// <param name="data">A dataset's name, a file of text or a folder of such, a token folder, or token folders with weights.</param>
    /// <param name="options">How files of text are read.</param>
    /// <param name="cancellationToken">Stops the reading.</param>
    /// <exception cref="ArgumentException">A mixture has a part that is none.</exception>
    /// <exception cref="InvalidDataException">A token folder is damaged, or is none.</exception>
    public static TextSource Open(string data, CorpusOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(data);
        var folders = new List<(TokenFolder, double)>();
        try
        {
            foreach (var (path, weight) in Parse(data) ?? (TokenFolder.IsOne(data) ? [(data, 1)] : []))
            {
                folders.Add((TokenFolder.Open(path), weight));
            }

            return new(data, folders, () => Corpus.Open(data, options, cancellationToken));
        }
        catch
        {
            folders.ForEach(p => p.Item1.Dispose());
            throw;
        }
    }

    /// <summary>The same name with whole paths, so that it is found again from any working folder.</summary>
    /// <exception cref="ArgumentException">A mixture has a part that is none.</exception>
    public static string Absolute(string data) =>
        Parse(data) is { } parts ? string.Join(
            ',', parts.Select(p => string.Create(CultureInfo.InvariantCulture, $"{Path.GetFullPath(p.Path)}={p.Weight}")))
        : Path.Exists(data) ? Path.GetFullPath(data)
        : data;

    /// <summary>The tokenizer that the tokens were made by; bytes for text.</summary>
    /// <exception cref="InvalidDataException">The folder of the tokens does not hold it.</exception>
    public ITokenizer UsualTokenizer() => Folder is { } folder ? folder.OpenTokenizer() : new ByteTokenizer();

    /// <summary>Refuses a tokenizer other than that of the tokens.</summary>
    /// <exception cref="InvalidDataException">It is another.</exception>
    public void RequireTokenizer(ITokenizer tokenizer)
    {
        foreach (var (folder, _) in _folders)
        {
            folder.RequireTokenizer(tokenizer);
        }
    }

    /// <summary>
    /// What a model is trained and validated on. Of a mixture, the first windows of each folder's validation part, in its shares.
    /// </summary>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="contextLength">Tokens of a window.</param>
    /// <param name="rows">Windows of a validation batch.</param>
    /// <param name="seed">The seed of the order.</param>
    /// <param name="validationTokens">How many validation tokens are wanted of token folders; null is all there are.</param>
    /// <param name="progress">Told how far the tokenizing of the training text is.</param>
    /// <param name="cancellationToken">Stops the tokenizing.</param>
    /// <exception cref="InvalidDataException">The tokens were made by another tokenizer, or the data are damaged.</exception>
    public TextBatches Batches(
        ITokenizer tokenizer, int contextLength, int rows, long seed, long? validationTokens = null,
        IProgress<TokenizingProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        RequireTokenizer(tokenizer);
        if (IsTokens)
        {
            return new(
                _folders.Count == 1
                    ? new TokenWindows(_folders[0].Folder, Split.Train, contextLength, seed)
                    : new TokenMixture(
                        [.. _folders.Select(p => new MixturePart(new TokenWindows(p.Folder, Split.Train, contextLength, seed), p.Weight))],
                        seed),
                Validation(contextLength, rows, validationTokens));
        }

        var training = tokenizer.EncodeDocuments(Corpus[Split.Train], progress, cancellationToken);
        return new(
            new PackedTokens(training, tokenizer.EndOfDocument, contextLength, seed),
            [.. Windows(Split.Validation, tokenizer, contextLength, rows, cancellationToken)]);
    }

    /// <summary>A part in windows, in the order of the text; of a mixture, of one folder after another.</summary>
    /// <param name="part">The part.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="contextLength">Tokens of a window.</param>
    /// <param name="rows">Windows of a batch.</param>
    /// <param name="cancellationToken">Stops the tokenizing.</param>
    internal IEnumerable<TokenBatch> Windows(
        Split part, ITokenizer tokenizer, int contextLength, int rows, CancellationToken cancellationToken = default) => IsTokens
        ? _folders.Where(p => p.Folder[part].Sum(f => f.TokenCount) > contextLength).SelectMany(
            p => new TokenWindows(p.Folder, part, contextLength).Sequential(rows))
        : new PackedTokens(tokenizer.EncodeDocuments(Corpus[part], null, cancellationToken), tokenizer.EndOfDocument, contextLength)
            .Sequential(rows);

    /// <summary>The number of documents of a part, of several folders of the first one's.</summary>
    public long Count(Split part) =>
        Folder is null ? Corpus[part].Count : Folder.Card.Parts.TryGetValue(part, out var counts) ? counts.Documents : 0;

    /// <summary>The first documents of a part as tokens.</summary>
    /// <param name="part">The part.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="most">How many documents are wanted; fewer where there are fewer.</param>
    /// <param name="cancellationToken">Stops the tokenizing.</param>
    /// <exception cref="InvalidOperationException">It is a mixture.</exception>
    /// <exception cref="InvalidDataException">The part is empty, or its tokens were made by another tokenizer.</exception>
    public TokenDocuments Documents(
        Split part, ITokenizer tokenizer, int most = int.MaxValue, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        RequireDocuments(part);
        return Folder is null ? tokenizer.EncodeDocuments([.. Corpus[part].Take(most)], null, cancellationToken)
            : Folder.Read(part, tokenizer, most);
    }

    /// <summary>Refuses a mixture, and a part without documents.</summary>
    /// <exception cref="InvalidOperationException">It is a mixture.</exception>
    /// <exception cref="InvalidDataException">It has none; the message says which parts have some.</exception>
    public void RequireDocuments(Split part)
    {
        if (IsMixture)
        {
            throw new InvalidOperationException(
                "A mixture cannot be evaluated as one text: name one of its folders by --data: "
                + $"{string.Join(", ", _folders.Select(p => p.Folder.Path))}.");
        }

        if (Count(part) == 0)
        {
            var counts = Enum.GetValues<Split>().Select(s => string.Create(CultureInfo.InvariantCulture, $"{Word(s)} {Count(s):N0}"));
            throw new InvalidDataException(
                $"The {Word(part)} part of {Name} is empty; documents: {string.Join(", ", counts)}. "
                + "Choose another part by --split, or a text with more documents.");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var (folder, _) in _folders)
        {
            folder.Dispose();
        }
    }

    /// <summary>A part as the command line spells it.</summary>
    internal static string Word(Split split) => split switch
    {
        Split.Train => "train",
        Split.Validation => "validation",
        Split.Test => "test",
        _ => throw UnknownValue.Of(split),
    };

    private TokenBatch[] Validation(int contextLength, int rows, long? tokens)
    {
        var total = _folders.Sum(p => p.Weight);
        return [.. _folders
            .Where(p => p.Folder[Split.Validation].Sum(f => f.TokenCount) > contextLength)
            .SelectMany(p =>
            {
                var batchTokens = rows * (long)contextLength;
                var batches = tokens is { } wanted ? (int)Math.Ceiling(wanted * p.Weight / total / batchTokens) : int.MaxValue;
                return new TokenWindows(p.Folder, Split.Validation, contextLength).Sequential(rows).Take(batches);
            })];
    }

    /// <summary>The paths and weights of a mixture; null for what is none.</summary>
    private static List<(string Path, double Weight)>? Parse(string data)
    {
        if (!data.Contains('=', StringComparison.Ordinal) || Path.Exists(data))
        {
            return null;
        }

        var parts = new List<(string, double)>();
        foreach (var part in data.Split(','))
        {
            var equals = part.LastIndexOf('=');
            if (equals < 1
                || !double.TryParse(part[(equals + 1)..], NumberStyles.Float, CultureInfo.InvariantCulture, out var weight)
                || !(weight > 0 && double.IsFinite(weight)))
            {
                throw new ArgumentException(
                    $"'{part}' is no part of a mixture; expected a token folder and a weight, as in tokens/a=0.7,tokens/b=0.3.");
            }

            parts.Add((part[..equals], weight));
        }

        return parts;
    }
}
