using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace XlstmLab.Text;

/// <summary>How much text and how many tokens there are.</summary>
/// <param name="Documents">The number of documents.</param>
/// <param name="Tokens">The number of tokens, an end of document for each document included.</param>
/// <param name="Bytes">The UTF-8 bytes of the texts: what bits per byte are divided by.</param>
public sealed record TokenCounts(long Documents, long Tokens, long Bytes)
{
    /// <summary>Both together.</summary>
    public TokenCounts Plus(TokenCounts other) => new(Documents + other.Documents, Tokens + other.Tokens, Bytes + other.Bytes);
}

/// <summary>A file that tokens were made of.</summary>
/// <param name="Name">Its path in the source folder.</param>
/// <param name="Bytes">Its size.</param>
public sealed record TokenSource(string Name, long Bytes);

/// <summary>What decides a token folder's content: with the same plan, the same files are written.</summary>
public sealed record TokenPlan
{
    /// <summary>The files the text is read from, in their order.</summary>
    public required IReadOnlyList<TokenSource> Files { get; init; }

    /// <summary>The field or column of the text.</summary>
    public required string TextField { get; init; }

    /// <summary>How documents are split.</summary>
    public required SplitRule Split { get; init; }

    /// <summary>Whether every document is cut, as there are too few to be split whole; see <see cref="SplitRule"/>.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool ByPosition { get; init; }

    /// <summary>Whether rows and lines without a text are left out.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public bool SkipNull { get; init; }

    /// <summary>The <see cref="ITokenizer.Fingerprint"/> of the tokenizer.</summary>
    public required string Tokenizer { get; init; }

    /// <summary>The number of token ids there are.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>The token that opens every document.</summary>
    public required int EndOfDocument { get; init; }

    /// <summary>How that token is spelt in the folder's <c>tokenizer.json</c>; null where tokens are bytes.</summary>
    public string? EndOfDocumentText { get; init; }

    /// <summary>The UTF-8 bytes of text after which a shard ends, with the document that reaches them.</summary>
    public required long ShardBytes { get; init; }

    /// <summary>The shards after which the rest of the files is left out; null for none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? MostShards { get; init; }

    /// <summary>What differs from another plan, in words; null if nothing does.</summary>
    internal string? DifferenceFrom(TokenPlan other) =>
        Tokenizer != other.Tokenizer || EndOfDocument != other.EndOfDocument ? "another tokenizer"
        : TextField != other.TextField ? $"the text field '{other.TextField}', not '{TextField}'"
        : SkipNull != other.SkipNull ? $"rows without a text {(other.SkipNull ? "left out" : "as errors")}"
        : ByPosition != other.ByPosition ? $"another split (documents {(other.ByPosition ? "cut by position" : "whole")})"
        : Split != other.Split ? $"another split ({other.Split}, not {Split})"
        : ShardBytes != other.ShardBytes ? $"shards of {other.ShardBytes} bytes, not {ShardBytes}"
        : MostShards != other.MostShards
        ? $"{(other.MostShards is { } most ? $"the first {most}" : "all")} shards, "
            + $"not {(MostShards is { } wanted ? $"the first {wanted}" : "all")}"
        : !Files.SequenceEqual(other.Files)
        ? $"other source files ({other.Files.Count} of {other.Files.Sum(f => f.Bytes)} bytes, "
            + $"not {Files.Count} of {Files.Sum(f => f.Bytes)})"
        : null;
}

/// <summary>What a token folder holds: its <c>tokens.json</c>.</summary>
public sealed record TokenFolderCard
{
    /// <summary>What decided the content.</summary>
    public required TokenPlan Plan { get; init; }

    /// <summary>The number of shards: folders 00000, 00001 and on.</summary>
    public required int Shards { get; init; }

    /// <summary>How much is in each part.</summary>
    public required IReadOnlyDictionary<Split, TokenCounts> Parts { get; init; }

    /// <summary>The rows and lines without a text that were left out.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public long Skipped { get; init; }
}

/// <summary>
/// A corpus as tokens in memory-mapped files: each shard a folder with a <see cref="TokenFile"/> a part, and a card beside them.
/// </summary>
public sealed class TokenFolder : IDisposable
{
    /// <summary>The name of the card's file; it is there as soon as all shards are.</summary>
    public const string CardName = "tokens.json";

    /// <summary>The name of the plan's file, which is there until the card is.</summary>
    internal const string PlanName = "plan.json";

    /// <summary>The name of the copy of the tokenizer's file.</summary>
    internal const string TokenizerName = "tokenizer.json";

    private static readonly JsonSerializerOptions Options = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        DictionaryKeyPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false) },
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        WriteIndented = true,
    };

    private readonly Dictionary<Split, TokenFile[]> _files;

    private TokenFolder(string path, TokenFolderCard card, Dictionary<Split, TokenFile[]> files)
    {
        Path = path;
        Card = card;
        _files = files;
    }

    /// <summary>The folder.</summary>
    public string Path { get; }

    /// <summary>What it holds.</summary>
    public TokenFolderCard Card { get; }

    /// <summary>The files of a part, in the order of the documents.</summary>
    public IReadOnlyList<TokenFile> this[Split split] => _files[split];

    /// <summary>Whether a path is a token folder, be it finished or not.</summary>
    public static bool IsOne(string path) =>
        File.Exists(System.IO.Path.Combine(path, CardName)) || File.Exists(System.IO.Path.Combine(path, PlanName));

    /// <summary>
    /// Opens a folder, and checks that its files are those its card describes; what is in them is checked by <see cref="Verify"/>.
    /// </summary>
    /// <exception cref="FileNotFoundException">It is no token folder.</exception>
    /// <exception cref="InvalidDataException">It is not finished, or damaged; the message says what to do.</exception>
    public static TokenFolder Open(string path)
    {
        if (!IsOne(path))
        {
            throw new FileNotFoundException($"'{path}' is no token folder: it has no {CardName}. Make one by 'xlstm data tokenize'.");
        }

        var card = ReadCard(path)
            ?? throw new InvalidDataException(
                $"The tokens in '{path}' are not all written: run the same 'xlstm data tokenize' again, it goes on where it stopped.");
        var opened = new List<TokenFile>();
        try
        {
            var files = Enum.GetValues<Split>().ToDictionary(split => split, split => Enumerable.Range(0, card.Shards).Select(shard =>
            {
                var file = OpenFile(path, shard, split, card.Plan);
                opened.Add(file);
                return file;
            }).ToArray());
            foreach (var (split, counts) in card.Parts)
            {
                var found = Sum(files[split]);
                if (found != counts)
                {
                    throw new InvalidDataException(
                        $"'{path}' is damaged: of {split} its card says {counts}, its files hold {found}. Delete it and tokenize again.");
                }
            }

            return new(path, card, files);
        }
        catch
        {
            opened.ForEach(file => file.Dispose());
            throw;
        }
    }

    /// <summary>The documents of a part, read as they are asked for.</summary>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    public IEnumerable<int[]> Documents(Split split)
    {
        foreach (var file in _files[split])
        {
            for (var index = 0L; index < file.DocumentCount; index++)
            {
                yield return file.Document(index);
            }
        }
    }

    /// <summary>The first documents of a part, with the bytes of their texts.</summary>
    /// <param name="split">The part.</param>
    /// <param name="tokenizer">The tokenizer of the tokens.</param>
    /// <param name="most">How many documents are wanted; fewer where there are fewer.</param>
    /// <exception cref="InvalidDataException">A file is damaged, or made by another tokenizer.</exception>
    public TokenDocuments Read(Split split, ITokenizer tokenizer, int most = int.MaxValue)
    {
        RequireTokenizer(tokenizer);
        int[][] tokens = [.. Documents(split).Take(most)];
        var all = _files[split].Sum(f => f.DocumentCount) == tokens.Length;
        var sizes = _files[split].SelectMany(f => Enumerable.Range(0, checked((int)f.DocumentCount)).Select(d => f.DocumentBytes(d)))
            .Take(tokens.Length).ToArray();
        return sizes.Contains(null)
            ? new(tokenizer, tokens, null)
            {
                TextBytes = all ? _files[split].Sum(f => f.TextBytes) : TokenDocuments.TextBytesOf(tokens, tokenizer),
            }
            : new(tokenizer, tokens, Array.ConvertAll(sizes, s => s!.Value));
    }

    /// <summary>The tokenizer the tokens were made by.</summary>
    /// <exception cref="InvalidDataException">The folder holds another tokenizer, or none though tokens are no bytes.</exception>
    public ITokenizer OpenTokenizer()
    {
        ITokenizer bytes = new ByteTokenizer();
        var file = System.IO.Path.Combine(Path, TokenizerName);
        if (Card.Plan.Tokenizer == bytes.Fingerprint)
        {
            return bytes;
        }

        var tokenizer = Card.Plan.EndOfDocumentText is { } end && File.Exists(file)
            ? BpeTokenizer.Load(file, end)
            : throw new InvalidDataException($"'{Path}' holds no {TokenizerName}: name the tokenizer that its tokens were made by.");
        RequireTokenizer(tokenizer);
        return tokenizer;
    }

    /// <summary>The tokenizer the tokens were made by; null where the folder does not hold it.</summary>
    internal ITokenizer? TryOpenTokenizer()
    {
        try
        {
            return OpenTokenizer();
        }
        catch (InvalidDataException)
        {
            return null;
        }
    }

    /// <summary>Refuses a tokenizer other than that of the tokens.</summary>
    /// <exception cref="InvalidDataException">It is another.</exception>
    public void RequireTokenizer(ITokenizer tokenizer)
    {
        if (tokenizer.Fingerprint != Card.Plan.Tokenizer)
        {
            throw new InvalidDataException(
                $"The tokens in '{Path}' were made by another tokenizer: fingerprint {Card.Plan.Tokenizer}, here {tokenizer.Fingerprint}. "
                + "Use the same tokenizer.json and end of document, or tokenize the text with this one.");
        }
    }

    /// <summary>Reads all files and compares them with their checksums.</summary>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public void Verify(CancellationToken cancellationToken = default)
    {
        foreach (var file in _files.Values.SelectMany(f => f))
        {
            file.Verify(cancellationToken);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var file in _files.Values.SelectMany(f => f))
        {
            file.Dispose();
        }
    }

    /// <summary>The card; null if there is none yet.</summary>
    internal static TokenFolderCard? ReadCard(string path) => Read<TokenFolderCard>(System.IO.Path.Combine(path, CardName));

    /// <summary>The folder of a shard.</summary>
    internal static string ShardPath(string path, int shard) => System.IO.Path.Combine(path, FormattableString.Invariant($"{shard:00000}"));

    /// <summary>The file of a part of a shard.</summary>
    internal static string FileName(Split split) => split.ToString().ToLowerInvariant() + ".tokens";

    /// <summary>Opens the file of a part of a shard and checks that it belongs to a plan.</summary>
    internal static TokenFile OpenFile(string path, int shard, Split split, TokenPlan plan)
    {
        var name = System.IO.Path.Combine(ShardPath(path, shard), FileName(split));
        if (!File.Exists(name))
        {
            throw new InvalidDataException($"'{name}' is missing: delete '{path}' and tokenize again.");
        }

        var file = TokenFile.Open(name);
        if (file.TokenizerFingerprint != plan.Tokenizer || file.EndOfDocument != plan.EndOfDocument
            || file.VocabularySize != plan.VocabularySize)
        {
            file.Dispose();
            throw new InvalidDataException(
                $"'{name}' was made by another tokenizer than the folder's card says: delete '{path}' and tokenize again.");
        }

        return file;
    }

    /// <summary>What some files hold together.</summary>
    internal static TokenCounts Sum(IEnumerable<TokenFile> files) =>
        files.Aggregate(new TokenCounts(0, 0, 0), (sum, file) => sum.Plus(new(file.DocumentCount, file.TokenCount, file.TextBytes)));

    /// <summary>Reads a JSON file; null if there is none.</summary>
    internal static T? Read<T>(string path)
        where T : class
    {
        try
        {
            return File.Exists(path) ? StrictJson.Read<T>(File.ReadAllText(path), Options) : null;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"'{path}' cannot be read: {e.Message.TrimEnd('.')}. Delete its folder and tokenize again.", e);
        }
    }

    /// <summary>The JSON of a file.</summary>
    internal static string ToJson<T>(T value) => JsonSerializer.Serialize(value, Options) + "\n";
}
