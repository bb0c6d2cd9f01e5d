using System.Runtime.InteropServices;
using System.Text;

namespace XlstmLab.Text;

/// <summary>Where a byte-level BPE cuts text into the pieces that it never merges across.</summary>
public enum BpePattern
{
    /// <summary>
    /// As GPT-2: a word with the space before it, a run of digits, a run of other characters, white space; English clitics are pieces.
    /// </summary>
    Gpt2,

    /// <summary>
    /// As GPT-4: words take any one character before them, digits are cut by threes, line ends stay with what is before them.
    /// </summary>
    Gpt4,
}

/// <summary>How a byte-level BPE is trained.</summary>
public sealed record BpeTrainerOptions
{
    /// <summary>The ids wanted: special tokens, the 256 bytes, and one for each merge that makes a new token.</summary>
    public int VocabularySize { get; init; } = 16384;

    /// <summary>How text is cut into pieces.</summary>
    public BpePattern Pattern { get; init; } = BpePattern.Gpt2;

    /// <summary>A pair that stands side by side fewer times is not merged.</summary>
    public long MinimumFrequency { get; init; } = 2;

    /// <summary>The special tokens in the order of their ids, which come first; the first of them opens documents.</summary>
    public IReadOnlyList<string> SpecialTokens { get; init; } = [BpeTokenizer.DefaultEndOfDocument];

    /// <summary>The field of a JSON line, or the column of a Parquet file, that holds the text; dots lead into nested ones.</summary>
    public string TextField { get; init; } = "text";

    /// <summary>Whether rows and lines whose text is null, or not there, are left out; otherwise the first is an error.</summary>
    public bool SkipNull { get; init; }

    /// <summary>The bytes that a line may have, unpacked.</summary>
    public long MaxLineBytes { get; init; } = DocumentFile.UsualLineBytes;

    /// <summary>What is outside the training part under this rule is left out; null takes all.</summary>
    public SplitRule? Split { get; init; }

    /// <summary>
    /// The most UTF-8 bytes of text to learn from, taken from the beginning of every file in proportion to the files' sizes; null takes
    /// all. The document that would go beyond them is cut, at the end of a line if one is near.
    /// </summary>
    public long? SampleBytes { get; init; }

    /// <summary>
    /// The distinct pieces that are counted at a time, which bounds the memory at about 250 bytes each; see <see cref="BpeTrainer"/>.
    /// </summary>
    public int MaximumPieces { get; init; } = 1 << 22;

    /// <summary>How many chunks of text are cut into pieces side by side; the result does not depend on it.</summary>
    public int Workers { get; init; } = Environment.ProcessorCount;

    /// <summary>Refuses options that make no sense.</summary>
    /// <exception cref="ArgumentException">There is one; the message says which.</exception>
    public void Validate()
    {
        if (SpecialTokens.Count == 0 || SpecialTokens.Any(string.IsNullOrEmpty) || SpecialTokens.Distinct().Count() < SpecialTokens.Count
            || SpecialTokens.Any(t => t.Length == 1 && BpeTokenizer.CharOfByte.Contains(t[0])))
        {
            throw new ArgumentException(
                $"The special tokens are '{string.Join("', '", SpecialTokens)}'; expected at least one, to open documents, no two alike, "
                + "none empty or a single character.");
        }

        if (VocabularySize < SpecialTokens.Count + 256 || VocabularySize > 1 << 20)
        {
            throw new ArgumentException(
                $"A vocabulary of {VocabularySize} ids was asked for; it takes at least {SpecialTokens.Count + 256}, "
                + $"for the bytes and the special tokens, and at most {1 << 20}.");
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(MinimumFrequency, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(MaximumPieces, 2);
        ArgumentOutOfRangeException.ThrowIfLessThan(SampleBytes ?? 1, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(Workers, 1);
        ArgumentException.ThrowIfNullOrEmpty(TextField);
        Split?.Check();
    }
}

/// <summary>How far the training of a BPE is: first all text is read, then pairs are merged.</summary>
/// <param name="SourceShare">The share of the source that has been read, from 0 to 1; 0 where it is not known.</param>
/// <param name="TextBytes">The UTF-8 bytes of text read.</param>
/// <param name="DistinctPieces">The distinct pieces they were cut into.</param>
/// <param name="Tokens">The ids there are; 0 while text is being read.</param>
/// <param name="VocabularySize">The ids wanted.</param>
public readonly record struct BpeTrainingProgress(double SourceShare, long TextBytes, int DistinctPieces, int Tokens, int VocabularySize);

/// <summary>
/// Learns a byte-level byte pair encoding (Sennrich, Haddow and Birch 2016, arXiv:1508.07909, on bytes as GPT-2 does) from text.
/// </summary>
/// <remarks>
/// Text is cut into pieces by the pre-tokenizer, and equal pieces are counted. A piece begins as its UTF-8 bytes. Time and again the pair
/// of neighbours that occurs most often becomes one token; of pairs that occur equally often the one with the smaller left id is taken,
/// then the one with the smaller right id. Ids are: special tokens, bytes in the order of the characters that spell them, merged tokens in
/// the order they were made. Two merges that spell the same bytes share an id. These are the rules of Hugging Face's trainer. The same text
/// gives the same tokenizer, on every machine and with any number of workers. Where more distinct pieces turn up than
/// <see cref="BpeTrainerOptions.MaximumPieces"/>, the rarest of those counted so far are forgotten until half of them are left: counts of
/// rare pieces are then too small, by at most what <see cref="TrainedBpe.ForgottenCount"/> says.
/// </remarks>
public static class BpeTrainer
{
    private const int ChunkBytes = 1 << 21;

    /// <summary>Learns from a corpus and writes the <c>tokenizer.json</c>.</summary>
    /// <param name="source">A file, folder or dataset that <see cref="DocumentFile.Find(string)"/> takes.</param>
    /// <param name="path">The file to write, which is there as a whole or not at all.</param>
    /// <param name="options">How; null is the default.</param>
    /// <param name="progress">Told from the calling thread.</param>
    /// <param name="cancellationToken">Stops; nothing is written.</param>
    /// <exception cref="ArgumentException">The options make no sense.</exception>
    /// <exception cref="FileNotFoundException">There is no source.</exception>
    /// <exception cref="InvalidDataException">A document is not as expected, or there is no text.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static TrainedBpe Train(
        string source, string path, BpeTrainerOptions? options = null,
        IProgress<BpeTrainingProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var files = DocumentFile.Find(source, options.SkipNull, options.MaxLineBytes);
        var byPosition = options.Split?.CutsByPosition(files.SelectMany(f => f.Read(options.TextField, cancellationToken)), source)
            ?? false;
        var counts = Count(Chunks(files, byPosition, options, cancellationToken), options, progress, cancellationToken);
        var trained = Merge(counts, options, progress, cancellationToken);
        trained.Save(path);
        return trained;
    }

    /// <summary>
    /// Learns from texts; <see cref="BpeTrainerOptions.Split"/> and <see cref="BpeTrainerOptions.SampleBytes"/> have no say.
    /// </summary>
    /// <inheritdoc cref="Train(string, string, BpeTrainerOptions?, IProgress{BpeTrainingProgress}?, CancellationToken)"/>
    public static TrainedBpe Train(
        IEnumerable<string> texts, BpeTrainerOptions? options = null,
        IProgress<BpeTrainingProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var chunks = texts.Chunk(64).Select(c => (new Func<IEnumerable<string>>(() => c), 0.0));
        return Merge(Count(chunks, options, progress, cancellationToken), options, progress, cancellationToken);
    }

    /// <summary>The texts in chunks that can be parsed side by side, with the share of the source that has been read with each.</summary>
    private static IEnumerable<(Func<IEnumerable<string>> Texts, double Share)> Chunks(
        IReadOnlyList<DocumentFile> files, bool byPosition, BpeTrainerOptions options, CancellationToken cancellationToken)
    {
        var sampled = 0L;
        var sizes = files.Select(f => Math.Max(1, new FileInfo(f.Path).Length)).ToArray();
        var total = (double)sizes.Sum();
        var before = 0.0;
        for (var k = 0; k < sizes.Length; k++)
        {
            var (size, chunk) = (0L, new List<RawDocument>());
            if (options.SampleBytes is { } sample)
            {
                // What the files before fell short of is taken from this one.
                var texts = Sample(
                    files[k], byPosition, options, (long)(sample * ((before + sizes[k]) / total)) - sampled, cancellationToken);
                sampled += texts.Sum(t => (long)Encoding.UTF8.GetByteCount(t));
                before += sizes[k];
                yield return (() => texts, before / total);
                continue;
            }

            foreach (var document in files[k].ReadRaw(options.TextField, 1, cancellationToken))
            {
                chunk.Add(document);
                size += document.Size;
                if (size >= ChunkBytes)
                {
                    yield return (Texts(chunk, byPosition, options), (before + document.FileBytes) / total);
                    (size, chunk) = (0, []);
                }
            }

            before += sizes[k];
            if (chunk.Count > 0)
            {
                yield return (Texts(chunk, byPosition, options), before / total);
            }
        }
    }

    private static Func<IEnumerable<string>> Texts(List<RawDocument> chunk, bool byPosition, BpeTrainerOptions options) =>
        () => chunk.SelectMany(raw => TextsOf(raw, byPosition, options));

    /// <summary>What of a document is to be learned from.</summary>
    private static IEnumerable<string> TextsOf(RawDocument raw, bool byPosition, BpeTrainerOptions options) =>
        raw.ParseOrSkip(options.TextField, keepFields: false) is not { } document ? []
        : options.Split is null ? [document.Text]
        : options.Split.Parts(document, byPosition).Where(p => p.Split == Split.Train).Select(p => p.Document.Text);

    /// <summary>The first texts of a file, of so many UTF-8 bytes in all at most.</summary>
    private static List<string> Sample(
        DocumentFile file, bool byPosition, BpeTrainerOptions options, long bytes, CancellationToken cancellationToken)
    {
        var texts = new List<string>();
        foreach (var text in file.ReadRaw(options.TextField, 1, cancellationToken).SelectMany(raw => TextsOf(raw, byPosition, options)))
        {
            var size = Encoding.UTF8.GetByteCount(text);
            if (size > bytes)
            {
                texts.Add(Beginning(text, (int)Math.Max(0, bytes)));
                break;
            }

            texts.Add(text);
            bytes -= size;
        }

        return texts;
    }

    /// <summary>The beginning of a text of so many UTF-8 bytes at most, up to a line's end if one is in its second half.</summary>
    private static string Beginning(string text, int bytes)
    {
        Encoding.UTF8.GetEncoder().Convert(text, new byte[bytes], flush: false, out var characters, out _, out _);
        var line = text.AsSpan(0, characters).LastIndexOf('\n') + 1;
        characters = line > characters / 2 ? line : characters;
        return text[..(characters > 0 && char.IsHighSurrogate(text[characters - 1]) ? characters - 1 : characters)];
    }

    private static PieceCounts Count(
        IEnumerable<(Func<IEnumerable<string>> Texts, double Share)> chunks, BpeTrainerOptions options,
        IProgress<BpeTrainingProgress>? progress, CancellationToken cancellationToken)
    {
        var preTokenizer = new PreTokenizer(TrainedBpe.Step(options.Pattern));
        var counts = new PieceCounts(options.MaximumPieces);
        var scheduler = new ConcurrentExclusiveSchedulerPair(TaskScheduler.Default, options.Workers).ConcurrentScheduler;
        var pending = new Queue<Task<(Dictionary<string, long> Pieces, long Bytes, double Share)>>();
        try
        {
            foreach (var (texts, share) in chunks)
            {
                cancellationToken.ThrowIfCancellationRequested();
                pending.Enqueue(Task.Factory.StartNew(
                    () =>
                    {
                        var (pieces, bytes) = CountPieces(preTokenizer, texts(), cancellationToken);
                        return (pieces, bytes, share);
                    },
                    cancellationToken, TaskCreationOptions.None, scheduler));
                if (pending.Count > 2 * options.Workers)
                {
                    Add(pending.Dequeue());
                }
            }

            while (pending.Count > 0)
            {
                Add(pending.Dequeue());
            }
        }
        finally
        {
            // What else failed is of no interest once the first failure is on its way; nothing may go on behind the caller's back.
            Task.WhenAll(pending).ContinueWith(_ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default)
                .Wait(CancellationToken.None);
        }

        return counts.TextBytes > 0
            ? counts
            : throw new InvalidDataException(
                "There is no text to learn a tokenizer from: all documents are empty or outside the training part.");

        void Add(Task<(Dictionary<string, long> Pieces, long Bytes, double Share)> task)
        {
            // Chunks are added in their order, so that what is forgotten does not depend on which was counted first.
            var (pieces, bytes, share) = task.GetAwaiter().GetResult();
            counts.Add(pieces, bytes);
            progress?.Report(new(share, counts.TextBytes, counts.Pieces.Count, 0, options.VocabularySize));
        }
    }

    private static (Dictionary<string, long> Pieces, long Bytes) CountPieces(
        PreTokenizer preTokenizer, IEnumerable<string> texts, CancellationToken cancellationToken)
    {
        var pieces = new Dictionary<string, long>();
        var lookup = pieces.GetAlternateLookup<ReadOnlySpan<char>>();
        PieceAction count = piece => CollectionsMarshal.GetValueRefOrAddDefault(lookup, piece, out _)++;
        var bytes = 0L;
        foreach (var text in texts)
        {
            cancellationToken.ThrowIfCancellationRequested();
            bytes += Encoding.UTF8.GetByteCount(text);
            preTokenizer.Split(text, count);
        }

        return (pieces, bytes);
    }

    private static TrainedBpe Merge(
        PieceCounts counts, BpeTrainerOptions options, IProgress<BpeTrainingProgress>? progress, CancellationToken cancellationToken)
    {
        List<string> tokens = [.. options.SpecialTokens, .. BpeTokenizer.CharOfByte.Order().Select(c => c.ToString())];
        var ids = new Dictionary<string, int>(tokens.Select((token, id) => KeyValuePair.Create(token, id)));
        var idOfByte = Array.ConvertAll(BpeTokenizer.CharOfByte, c => ids[c.ToString()]);
        var words = new BpeWords(counts.Pieces, idOfByte);
        var queue = new PriorityQueue<(int Left, int Right), Rank>();
        foreach (var (pair, count) in words.Pairs)
        {
            Enqueue(pair, count);
        }

        var merges = new List<(int, int)>();
        while (tokens.Count < options.VocabularySize && queue.TryDequeue(out var pair, out var rank))
        {
            cancellationToken.ThrowIfCancellationRequested();
            var count = words.CountOf(pair);
            if (count != rank.Count)
            {
                // The count has grown, then a later entry tells of it, or it has shrunk, then it comes up again when its turn is.
                if (count < rank.Count)
                {
                    Enqueue(pair, count);
                }

                continue;
            }

            var token = tokens[pair.Left] + tokens[pair.Right];
            if (!ids.TryGetValue(token, out var id))
            {
                id = tokens.Count;
                ids.Add(token, id);
                tokens.Add(token);
            }

            merges.Add(pair);
            foreach (var grown in words.Merge(pair, id))
            {
                Enqueue(grown, words.CountOf(grown));
            }

            if (merges.Count % 64 == 0)
            {
                progress?.Report(new(1, counts.TextBytes, counts.Pieces.Count, tokens.Count, options.VocabularySize));
            }
        }

        progress?.Report(new(1, counts.TextBytes, counts.Pieces.Count, tokens.Count, options.VocabularySize));
        return new TrainedBpe(tokens, merges, options)
        {
            TextBytes = counts.TextBytes,
            Pieces = counts.Total,
            DistinctPieces = counts.Pieces.Count,
            ForgottenCount = counts.ForgottenCount,
        };

        void Enqueue((int Left, int Right) pair, long count)
        {
            if (count >= options.MinimumFrequency)
            {
                queue.Enqueue(pair, new(count, pair.Left, pair.Right));
            }
        }
    }

    /// <summary>The order in which pairs are merged: the most frequent first, then by ids.</summary>
    private readonly record struct Rank(long Count, int Left, int Right) : IComparable<Rank>
    {
        public int CompareTo(Rank other) =>
            Count != other.Count ? other.Count.CompareTo(Count)
                : Left != other.Left ? Left.CompareTo(other.Left) : Right.CompareTo(other.Right);
    }

    /// <summary>How often each piece occurs.</summary>
    private sealed class PieceCounts(int maximum)
    {
        public Dictionary<string, long> Pieces { get; } = [];

        public long TextBytes { get; private set; }

        public long Total { get; private set; }

        public long ForgottenCount { get; private set; }

        public void Add(Dictionary<string, long> pieces, long bytes)
        {
            TextBytes += bytes;
            foreach (var (piece, count) in pieces)
            {
                CollectionsMarshal.GetValueRefOrAddDefault(Pieces, piece, out _) += count;
                Total += count;
            }

            if (Pieces.Count > maximum)
            {
                Forget();
            }
        }

        private void Forget()
        {
            // The least count for which no more than half of the pieces are more frequent.
            var limit = Pieces.Values.Order().ElementAt(Pieces.Count - maximum / 2 - 1);
            foreach (var (piece, _) in Pieces.Where(p => p.Value <= limit).ToArray())
            {
                Pieces.Remove(piece);
            }

            ForgottenCount += limit;
        }
    }
}
