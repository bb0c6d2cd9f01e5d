using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Serialization;

namespace XlstmLab.Text;

/// <summary>How a corpus is made into a token folder.</summary>
public sealed record TokenFolderOptions
{
    /// <summary>The field of a JSON line, or the column of a Parquet file, that holds the text; dots lead into nested ones.</summary>
    public string TextField { get; init; } = "text";

    /// <summary>How documents are split.</summary>
    public SplitRule Split { get; init; } = new();

    /// <summary>
    /// Whether rows and lines whose text is null, or not there, are left out and counted; otherwise the first is an error.
    /// </summary>
    public bool SkipNull { get; init; }

    /// <summary>The bytes that a line may have, unpacked.</summary>
    public long MaxLineBytes { get; init; } = DocumentFile.UsualLineBytes;

    /// <summary>The tokenizer's file, which is copied into the folder; null where tokens are bytes.</summary>
    public string? TokenizerFile { get; init; }

    /// <summary>How many documents are encoded side by side; the files do not depend on it.</summary>
    public int Workers { get; init; } = Environment.ProcessorCount;

    /// <summary>The UTF-8 bytes of text after which a shard ends, with the document that reaches them: what a kill can cost.</summary>
    public long ShardBytes { get; init; } = 256 << 20;

    /// <summary>The shards after which the rest of the source is left out: a slice of a corpus that travels well. Null for all.</summary>
    public int? MostShards { get; init; }

    /// <summary>Refuses options that make no sense.</summary>
    /// <exception cref="ArgumentException">There is one; the message says which.</exception>
    public void Validate()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Workers, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(ShardBytes, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(MostShards ?? 1, 1, nameof(MostShards));
        ArgumentException.ThrowIfNullOrEmpty(TextField);
        Split.Check();
    }
}

/// <summary>How far the tokens of a corpus are.</summary>
/// <param name="SourceBytes">The bytes of the source files read, compressed as they are.</param>
/// <param name="TotalSourceBytes">Those of all source files.</param>
/// <param name="Counts">What has been made so far, earlier shards included.</param>
/// <param name="Shards">The shards that are finished.</param>
/// <param name="BytesPerSecond">UTF-8 bytes of text a second, since this call began.</param>
public readonly record struct TokenFolderProgress(
    long SourceBytes, long TotalSourceBytes, TokenCounts Counts, int Shards, double BytesPerSecond);

/// <summary>
/// Makes a corpus of any size into a <see cref="TokenFolder"/>, on all cores and in little memory, and goes on where it was stopped.
/// </summary>
/// <remarks>
/// Documents keep the order of <see cref="DocumentFile.Find(string)"/> and are split by <see cref="SplitRule"/> into the parts that a
/// <see cref="Corpus"/> has; empty ones are left out. A shard
/// is there as a whole or not at all. The same source, tokenizer and options give the same bytes, whatever the number of workers and
/// however often it was stopped or killed.
/// </remarks>
public static class TokenFolderWriter
{
    private const int ChunkBytes = 1 << 19;
    private const string ShardName = "shard.json";

    /// <summary>Writes the folder, or what is missing of it.</summary>
    /// <param name="source">A file or folder that <see cref="DocumentFile.Find(string)"/> takes.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="folder">The token folder: a new one, or one that was begun in the same way.</param>
    /// <param name="options">How; null is the default.</param>
    /// <param name="progress">Told after every half megabyte of text or so, from the calling thread.</param>
    /// <param name="cancellationToken">Stops; finished shards are kept.</param>
    /// <returns>The card.</returns>
    /// <exception cref="ArgumentException">The options make no sense, or a text holds what the vocabulary lacks.</exception>
    /// <exception cref="FileNotFoundException">There is no source.</exception>
    /// <exception cref="InvalidDataException">
    /// A document is not as expected or there is none, or the folder is damaged; the message says what to do.
    /// </exception>
    /// <exception cref="InvalidOperationException">
    /// The folder was begun in another way, holds other things, or is being written by another process.
    /// </exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static TokenFolderCard Write(
        string source, ITokenizer tokenizer, string folder, TokenFolderOptions? options = null,
        IProgress<TokenFolderProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        options.Validate();
        var files = DocumentFile.Find(source, options.SkipNull, options.MaxLineBytes);
        var plan = new TokenPlan
        {
            Files = [.. files.Select(f => new TokenSource(f.Name, new FileInfo(f.Path).Length))],
            TextField = options.TextField,
            Split = options.Split,

            // What is cancelled before it begins is begun all the same, so that the same call goes on with it.
            ByPosition = options.Split.CutsByPosition(files.SelectMany(f => f.Read(options.TextField, CancellationToken.None)), source),
            SkipNull = options.SkipNull,
            Tokenizer = tokenizer.Fingerprint,
            VocabularySize = tokenizer.VocabularySize,
            EndOfDocument = tokenizer.EndOfDocument,
            EndOfDocumentText = tokenizer is BpeTokenizer bpe ? bpe.Decode([bpe.EndOfDocument], keepSpecialTokens: true) : null,
            ShardBytes = options.ShardBytes,
            MostShards = options.MostShards,
        };
        Directory.CreateDirectory(folder);
        using var heldLock = Lock(folder);
        Begin(folder, plan, options.TokenizerFile);
        var card = TokenFolder.ReadCard(folder) ?? WriteShards(
            files, tokenizer, folder, plan, options.Workers, progress, cancellationToken);
        File.Delete(Path.Combine(folder, TokenFolder.PlanName));
        return card;
    }

    private static FileStream Lock(string folder)
    {
        try
        {
            return new(
                Path.Combine(folder, ".lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (IOException e)
        {
            throw new InvalidOperationException(
                $"Another process writes tokens to '{folder}': {e.Message} Wait for it to end, or choose another folder.", e);
        }
    }

    /// <summary>Makes sure that what is in the folder belongs to the plan.</summary>
    private static void Begin(string folder, TokenPlan plan, string? tokenizerFile)
    {
        var path = Path.Combine(folder, TokenFolder.PlanName);
        AtomicFile.Recover(path);
        AtomicFile.Recover(Path.Combine(folder, TokenFolder.CardName));
        if ((TokenFolder.ReadCard(folder)?.Plan ?? TokenFolder.Read<TokenPlan>(path)) is { } earlier)
        {
            if (plan.DifferenceFrom(earlier) is { } difference)
            {
                throw new InvalidOperationException(
                    $"The tokens in '{folder}' were begun with {difference}. Choose another folder, or delete this one.");
            }

            return;
        }

        if (Directory.EnumerateFileSystemEntries(folder).Any(e => Path.GetFileName(e) != ".lock"))
        {
            throw new InvalidOperationException($"The folder '{folder}' holds other things than tokens. Choose another, or empty it.");
        }

        if (tokenizerFile is not null)
        {
            var content = File.ReadAllBytes(tokenizerFile);
            AtomicFile.Write(Path.Combine(folder, TokenFolder.TokenizerName), stream => stream.Write(content));
        }

        AtomicFile.WriteText(path, TokenFolder.ToJson(plan));
    }

    private static TokenFolderCard WriteShards(
        IReadOnlyList<DocumentFile> files, ITokenizer tokenizer, string folder, TokenPlan plan, int workers,
        IProgress<TokenFolderProgress>? progress, CancellationToken cancellationToken)
    {
        var planHash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(TokenFolder.ToJson(plan))));
        var parts = Enum.GetValues<Split>().ToDictionary(s => s, _ => new TokenCounts(0, 0, 0));
        var (shards, position, skipped) = (0, new SourcePosition(0, 1), 0L);
        AtomicFile.Recover(TokenFolder.ShardPath(folder, 0));
        while (TokenFolder.Read<ShardCard>(Path.Combine(TokenFolder.ShardPath(folder, shards), ShardName)) is { } shard)
        {
            if (shard.Plan != planHash || shard.First != position)
            {
                throw new InvalidDataException(
                    $"'{TokenFolder.ShardPath(folder, shards)}' does not belong to the tokens in '{folder}': delete it and run again.");
            }

            foreach (var split in parts.Keys)
            {
                using var file = TokenFolder.OpenFile(folder, shards, split, plan);
                parts[split] = parts[split].Plus(TokenFolder.Sum([file]));
            }

            position = shard.Next;
            skipped += shard.Skipped;
            AtomicFile.Recover(TokenFolder.ShardPath(folder, ++shards));
        }

        var earlierBytes = parts.Values.Sum(p => p.Bytes);
        var watch = Stopwatch.StartNew();
        var filesBefore = new long[plan.Files.Count];
        for (var k = 1; k < filesBefore.Length; k++)
        {
            filesBefore[k] = filesBefore[k - 1] + plan.Files[k - 1].Bytes;
        }

        using var chunks = Encode(files, position, tokenizer, plan, workers, cancellationToken).GetEnumerator();
        var (chunk, next) = (chunks.MoveNext() ? chunks.Current : null, 0);
        while (chunk is not null && shards < (plan.MostShards ?? int.MaxValue))
        {
            AtomicFile.WriteFolder(
                TokenFolder.ShardPath(folder, shards),
                aside =>
                {
                    var writers = new Dictionary<Split, TokenFileWriter>();
                    try
                    {
                        foreach (var split in parts.Keys)
                        {
                            writers[split] = new(Path.Combine(aside, TokenFolder.FileName(split)), tokenizer);
                        }

                        var (first, bytes, skippedHere) = (position, 0L, 0L);
                        while (chunk is not null && bytes < plan.ShardBytes)
                        {
                            cancellationToken.ThrowIfCancellationRequested();
                            var document = chunk[next];
                            foreach (var part in document.Parts)
                            {
                                writers[part.Split].Append(part.Tokens, part.Bytes);
                                parts[part.Split] = parts[part.Split].Plus(new(1, part.Tokens.Length, part.Bytes));
                                bytes += part.Bytes;
                            }

                            skippedHere += document.IsSkipped ? 1 : 0;

                            position = document.Next;
                            if (++next == chunk.Length)
                            {
                                var counts = parts.Values.Aggregate((a, b) => a.Plus(b));
                                progress?.Report(new(
                                    filesBefore[document.Next.File] + document.FileBytes, plan.Files.Sum(f => f.Bytes), counts, shards,
                                    (counts.Bytes - earlierBytes) / watch.Elapsed.TotalSeconds));
                                (chunk, next) = (chunks.MoveNext() ? chunks.Current : null, 0);
                            }
                        }

                        foreach (var writer in writers.Values)
                        {
                            writer.Finish();
                        }

                        File.WriteAllText(
                            Path.Combine(aside, ShardName), TokenFolder.ToJson(new ShardCard(planHash, first, position, skippedHere)));
                        skipped += skippedHere;
                    }
                    finally
                    {
                        foreach (var writer in writers.Values)
                        {
                            writer.Dispose();
                        }
                    }
                },
                replace: true);
            shards++;
        }

        if (parts.Values.All(p => p.Documents == 0))
        {
            throw new InvalidDataException($"There is no text in the {files.Count} files of the source.");
        }

        var card = new TokenFolderCard { Plan = plan, Shards = shards, Parts = parts, Skipped = skipped };
        AtomicFile.WriteText(Path.Combine(folder, TokenFolder.CardName), TokenFolder.ToJson(card));
        return card;
    }

    /// <summary>The documents in their order, in chunks that are encoded side by side; only a few chunks are held at a time.</summary>
    private static IEnumerable<EncodedDocument[]> Encode(
        IReadOnlyList<DocumentFile> files, SourcePosition start, ITokenizer tokenizer, TokenPlan plan, int workers,
        CancellationToken cancellationToken)
    {
        var scheduler = new ConcurrentExclusiveSchedulerPair(TaskScheduler.Default, workers).ConcurrentScheduler;
        var pending = new Queue<Task<EncodedDocument[]>>();
        try
        {
            foreach (var chunk in Chunks(files, start, plan.TextField, cancellationToken))
            {
                pending.Enqueue(Task.Factory.StartNew(
                    () => Array.ConvertAll(chunk, raw => Encode(raw.File, raw.Document, tokenizer, plan, cancellationToken)),
                    cancellationToken, TaskCreationOptions.None, scheduler));
                if (pending.Count > 2 * workers)
                {
                    yield return pending.Dequeue().GetAwaiter().GetResult();
                }
            }

            while (pending.Count > 0)
            {
                yield return pending.Dequeue().GetAwaiter().GetResult();
            }
        }
        finally
        {
            // What else failed is of no interest once the first failure is on its way; nothing may go on behind the caller's back.
            Task.WhenAll(pending).ContinueWith(_ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default)
                .Wait(CancellationToken.None);
        }
    }

    private static IEnumerable<(int File, RawDocument Document)[]> Chunks(
        IReadOnlyList<DocumentFile> files, SourcePosition start, string textField, CancellationToken cancellationToken)
    {
        var chunk = new List<(int, RawDocument)>();
        var size = 0L;
        for (var file = start.File; file < files.Count; file++)
        {
            foreach (var document in files[file].ReadRaw(textField, file == start.File ? start.Line : 1, cancellationToken))
            {
                chunk.Add((file, document));
                size += document.Size;
                if (size >= ChunkBytes)
                {
                    yield return [.. chunk];
                    chunk.Clear();
                    size = 0;
                }
            }
        }

        if (chunk.Count > 0)
        {
            yield return [.. chunk];
        }
    }

    private static EncodedDocument Encode(
        int file, RawDocument raw, ITokenizer tokenizer, TokenPlan plan, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var document = raw.ParseOrSkip(plan.TextField, keepFields: false);
        EncodedPart[] parts;
        try
        {
            parts = document is null or { Text.Length: 0 } ? []
                : [.. plan.Split.Parts(document, plan.ByPosition).Select(p => new EncodedPart(
                p.Split, tokenizer.EncodeDocument(p.Document.Text), Encoding.UTF8.GetByteCount(p.Document.Text)))];
        }
        catch (ArgumentException e)
        {
            throw new ArgumentException($"'{raw.File.Path}', line {raw.Line}: {e.Message} Use a tokenizer that has every byte.", e);
        }

        return new(new(file, raw.Line + 1), parts, document is null, raw.FileBytes);
    }

    /// <summary>A place in the source.</summary>
    /// <param name="File">The number of the file, from 0.</param>
    /// <param name="Line">The line or row, from 1.</param>
    private sealed record SourcePosition(int File, long Line);

    /// <summary>What part of the source a finished shard was made of.</summary>
    /// <param name="Plan">The SHA-256 of the plan.</param>
    /// <param name="First">Where it begins.</param>
    /// <param name="Next">Where the next one does.</param>
    /// <param name="Skipped">The rows and lines without a text that were left out.</param>
    private sealed record ShardCard(
        string Plan, SourcePosition First, SourcePosition Next,
        [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)] long Skipped = 0);

    private sealed record EncodedDocument(SourcePosition Next, EncodedPart[] Parts, bool IsSkipped, long FileBytes);

    private sealed record EncodedPart(Split Split, int[] Tokens, long Bytes);
}
