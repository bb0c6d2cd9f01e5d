using System.Text;

namespace XlstmLab.Text;

/// <summary>How a corpus is read.</summary>
public sealed record CorpusOptions
{
    /// <summary>The field of a JSON line, or the column of a Parquet file, that holds the text; dots lead into nested ones.</summary>
    public string TextField { get; init; } = "text";

    /// <summary>
    /// Whether rows and lines whose text is null, or not there, are left out and counted; otherwise the first is an error.
    /// </summary>
    public bool SkipNull { get; init; }

    /// <summary>The bytes that a line may have, unpacked.</summary>
    public long MaxLineBytes { get; init; } = DocumentFile.UsualLineBytes;

    /// <summary>How documents are split; null is a dataset's own rule, or for other sources the default rule.</summary>
    public SplitRule? Rule { get; init; }
}

/// <summary>Documents in three parts: to train on, to validate on, to test on.</summary>
/// <remarks>
/// Documents are split by <see cref="SplitRule"/>, and where they are too few for that, cut. <see cref="SplitMethod"/>
/// says which it was. Empty documents are left out; texts are left as they are but for a byte order mark.
/// </remarks>
public sealed class Corpus
{
    private readonly Dictionary<Split, List<Document>> _parts = Enum.GetValues<Split>().ToDictionary(s => s, _ => new List<Document>());

    /// <summary>Splits documents.</summary>
    /// <exception cref="InvalidDataException">There is no text, two documents have one name, or the parts cannot all be filled.</exception>
    public Corpus(string name, IEnumerable<Document> documents, SplitRule? rule = null)
    {
        Name = name;
        Rule = rule ?? new SplitRule();
        Rule.Check();
        var names = new HashSet<string>();
        var all = documents.Where(d => d.Text.Length > 0).ToList();
        if (all.Count == 0)
        {
            throw new InvalidDataException($"'{name}' holds no text.");
        }

        if (all.Find(d => !names.Add(d.Name)) is { } twin)
        {
            throw new InvalidDataException($"'{name}' has two documents named '{twin.Name}'.");
        }

        var byPosition = Rule.CutsByPosition(all, name);
        foreach (var (split, document) in all.SelectMany(d => Rule.Parts(d, byPosition)))
        {
            _parts[split].Add(document);
        }

        SplitMethod = Rule.Describe(byPosition);
    }

    /// <summary>The name of the dataset, or the path.</summary>
    public string Name { get; }

    /// <summary>How it was read; of a corpus of the caller's documents, the usual options.</summary>
    public CorpusOptions Options { get; private init; } = new();

    /// <summary>The rule in force.</summary>
    public SplitRule Rule { get; }

    /// <summary>How the parts came about, in words for a log.</summary>
    public string SplitMethod { get; }

    /// <summary>The rows and lines that were left out, see <see cref="CorpusOptions.SkipNull"/>.</summary>
    public long Skipped { get; private init; }

    /// <summary>The documents of a part, in the order of the source.</summary>
    public IReadOnlyList<Document> this[Split split] => _parts[split];

    /// <summary>The UTF-8 bytes of a part's texts: what bits per byte are divided by.</summary>
    public long Bytes(Split split) => _parts[split].Sum(d => (long)Encoding.UTF8.GetByteCount(d.Text));

    /// <summary>Reads a dataset by name, or by path a file that <see cref="DocumentFile"/> knows, or a folder of such.</summary>
    /// <remarks>
    /// A folder is read with all folders below it, in ordinal order of the paths. Of a path and a dataset of the same name the path is
    /// taken. All text is held in memory: what is too big for that is made into tokens by <see cref="TokenFolderWriter"/>.
    /// </remarks>
    /// <exception cref="FileNotFoundException">
    /// There is neither a path nor a dataset of that name; the message lists the datasets.
    /// </exception>
    /// <exception cref="InvalidDataException">The data are damaged, not UTF-8 or empty; the message says where.</exception>
    public static Corpus Open(string source, CorpusOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= new CorpusOptions();
        if (File.Exists(source) || (Directory.Exists(source) && !File.Exists(Path.Combine(source, DatasetCard.FileName))))
        {
            if (TokenFolder.IsOne(source))
            {
                throw new InvalidDataException($"'{source}' holds tokens, and text is needed here: name what it was made of.");
            }

            var read = DocumentFile.Find(source, options.SkipNull, options.MaxLineBytes)
                .SelectMany(f => f.ReadRaw(options.TextField, 1, cancellationToken))
                .Select(raw => raw.ParseOrSkip(options.TextField, keepFields: true)).ToList();
            return new Corpus(source, read.OfType<Document>(), options.Rule) { Skipped = read.Count(d => d is null), Options = options };
        }

        var (card, documents) = DatasetArchive.Read(Directory.Exists(source) ? source : Datasets.FolderOf(source));
        return new Corpus(card.Name, documents, options.Rule ?? card.Split) { Options = options };
    }

    /// <summary>Reads documents from JSON lines; blank lines are skipped.</summary>
    /// <param name="content">The lines.</param>
    /// <param name="path">What messages call them.</param>
    /// <param name="name">What documents are named after, with the number of their line; null takes each line's field "name".</param>
    /// <param name="textField">The field of the text.</param>
    /// <param name="cancellationToken">Stops between lines.</param>
    /// <exception cref="InvalidDataException">A line is not what was expected; the message gives its number.</exception>
    internal static List<Document> ReadJsonLines(
        ReadOnlyMemory<byte> content, string path, string? name, string textField, CancellationToken cancellationToken = default)
    {
        var documents = new List<Document>();
        content = content.Span.StartsWith(Encoding.UTF8.Preamble) ? content[3..] : content;
        var line = 0;
        foreach (var range in content.Span.Split((byte)'\n'))
        {
            line++;
            cancellationToken.ThrowIfCancellationRequested();
            var json = content[range].Trim(" \t\r"u8);
            if (!json.IsEmpty)
            {
                documents.Add(
                    RawDocument.ParseJson(json, path, line, name is null ? null : $"{name}:{line}", textField, keepFields: true)!);
            }
        }

        return documents;
    }
}
