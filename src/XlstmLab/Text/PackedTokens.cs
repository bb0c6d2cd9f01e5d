using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace XlstmLab.Text;

/// <summary>Cuts tokenised documents into windows of one length and hands them out in batches, epoch after epoch.</summary>
/// <remarks>
/// An epoch's stream is all documents in an order drawn from seed and epoch. Its windows are S + 1 tokens at a stride of S: the
/// last token of one is the first of the next, so that each token is read once and is a target once; what is left at the end, fewer
/// than S + 1 tokens, is dropped. The windows are handed out in an order that is drawn too. A single document, which has no order, is read
/// in a circle from a place that is drawn, lest its windows be the same in every epoch. The same documents, context length and seed give
/// the same batches on every machine. No tensors are held. Not thread-safe.
/// </remarks>
public sealed class PackedTokens : BatchSource
{
    private readonly IReadOnlyList<int[]> _documents;
    private readonly int _endOfDocument;
    private readonly int[] _inOrder;
    private readonly long[] _startsInOrder;
    private readonly int[] _order;
    private readonly long[] _starts;
    private readonly int[] _windows;
    private readonly long _tokenCount;
    private int _shift;
    private int _preparedEpoch = -1;

    /// <summary>Starts at the first batch.</summary>
    /// <param name="documents">The tokens of each document; each begins with the end of document. They are kept, not copied.</param>
    /// <param name="endOfDocument">The end of document; where it stands inside a document, another one starts.</param>
    /// <param name="contextLength">The number of tokens a model reads of a window, S, at least 1.</param>
    /// <param name="seed">The seed of all shuffling.</param>
    /// <exception cref="ArgumentException">A document does not begin with the end of document, or not one window can be filled.</exception>
    public PackedTokens(IReadOnlyList<int[]> documents, int endOfDocument, int contextLength, long seed = 0)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(contextLength, 1);
        for (var k = 0; k < documents.Count; k++)
        {
            if (documents[k].Length == 0 || documents[k][0] != endOfDocument)
            {
                throw new ArgumentException($"Document {k} does not begin with the end of document, {endOfDocument}.", nameof(documents));
            }
        }

        _tokenCount = documents.Sum(d => (long)d.Length);
        var windows = (_tokenCount - 1) / contextLength;
        if (windows < 1)
        {
            throw new ArgumentException(
                $"The {documents.Count} documents have {_tokenCount} tokens, fewer than the {contextLength + 1L} of one window: "
                + "give more text or a shorter context.",
                nameof(contextLength));
        }

        if (windows > Array.MaxLength)
        {
            throw new ArgumentException(
                $"{windows} windows are more than a loader can order; give a longer context or load the documents in parts.",
                nameof(contextLength));
        }

        _documents = documents;
        _endOfDocument = endOfDocument;
        ContextLength = contextLength;
        Seed = seed;
        WindowsPerEpoch = (int)windows;
        Fingerprint = Hash(documents);
        _inOrder = [.. Enumerable.Range(0, documents.Count)];
        _order = [.. _inOrder];
        _startsInOrder = new long[documents.Count];
        _starts = new long[documents.Count];
        _windows = new int[WindowsPerEpoch];
        FillStarts(_inOrder, _startsInOrder);
    }

    /// <summary>The same documents in the order of another seed, from the first batch on.</summary>
    /// <param name="seed">The seed of all shuffling.</param>
    public PackedTokens WithSeed(long seed) => new(_documents, _endOfDocument, ContextLength, seed);

    /// <inheritdoc/>
    public override int ContextLength { get; }

    /// <inheritdoc/>
    public override long Seed { get; }

    /// <summary>The number of tokens of all documents.</summary>
    public override long? TokenCount => _tokenCount;

    /// <summary>The number of windows in each epoch.</summary>
    public int WindowsPerEpoch { get; }

    /// <inheritdoc/>
    public override string Fingerprint { get; }

    /// <inheritdoc/>
    public override BatchPosition Position => new(Epoch, Window, Seed, ContextLength, Fingerprint);

    private int Epoch { get; set; }

    private int Window { get; set; }

    /// <summary>The next windows; past the end of an epoch the batch goes on with the next.</summary>
    /// <param name="rows">The number of windows, B.</param>
    /// <returns>[B, S].</returns>
    public override TokenBatch Next(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        var tokens = new int[checked(rows * (ContextLength + 1))];
        for (var row = 0; row < rows; row++)
        {
            Prepare();
            Copy(((long)_windows[Window] * ContextLength + _shift) % _tokenCount, Row(tokens, row), _order, _starts);
            Window++;
            if (Window == WindowsPerEpoch)
            {
                (Epoch, Window) = (Epoch + 1, 0);
            }
        }

        return TokenBatch.OfWindows(tokens, rows, ContextLength, _endOfDocument);
    }

    /// <inheritdoc/>
    public override void Resume(BatchPosition position)
    {
        BatchPosition.Require(position, Position, WindowsPerEpoch);
        (Epoch, Window) = (position.Epoch, (int)position.Window);
    }

    /// <summary>All windows once, documents in their given order and nothing shuffled, as validation needs them.</summary>
    /// <param name="rows">The number of windows of a batch; the last batch may have fewer.</param>
    /// <remarks>It leaves <see cref="Position"/> as it is.</remarks>
    public IEnumerable<TokenBatch> Sequential(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        return Batches();

        IEnumerable<TokenBatch> Batches()
        {
            using var counter = _documents is TokenDocuments known && known.WithTextBytes() is { } sized
                ? new TextByteCounter(known.Tokenizer, sized) : null;
            counter?.Next(1);
            for (var first = 0; first < WindowsPerEpoch; first += rows)
            {
                var count = Math.Min(rows, WindowsPerEpoch - first);
                var tokens = new int[checked(count * (ContextLength + 1))];
                for (var row = 0; row < count; row++)
                {
                    Copy((long)(first + row) * ContextLength, Row(tokens, row), _inOrder, _startsInOrder);
                }

                yield return TokenBatch.OfWindows(tokens, count, ContextLength, _endOfDocument) with
                {
                    TextBytes = counter?.Next(count * (long)ContextLength),
                };
            }
        }
    }

    private void Prepare()
    {
        if (_preparedEpoch == Epoch)
        {
            return;
        }

        var random = new SplitMix64(Seed, Epoch);
        _inOrder.CopyTo(_order, 0);
        random.Shuffle(_order);
        FillStarts(_order, _starts);
        for (var k = 0; k < _windows.Length; k++)
        {
            _windows[k] = k;
        }

        random.Shuffle(_windows);
        _shift = _documents.Count == 1 ? random.Next((int)_tokenCount) : 0;
        _preparedEpoch = Epoch;
    }

    private void FillStarts(int[] order, long[] starts)
    {
        var start = 0L;
        for (var k = 0; k < order.Length; k++)
        {
            starts[k] = start;
            start += _documents[order[k]].Length;
        }
    }

    private Span<int> Row(int[] tokens, int row) => tokens.AsSpan(row * (ContextLength + 1), ContextLength + 1);

    private void Copy(long position, Span<int> target, int[] order, long[] starts)
    {
        var found = Array.BinarySearch(starts, position);
        var k = found >= 0 ? found : ~found - 1;
        var offset = (int)(position - starts[k]);
        while (!target.IsEmpty)
        {
            var source = _documents[order[k]].AsSpan(offset);
            (k, offset) = ((k + 1) % order.Length, 0);
            var count = Math.Min(source.Length, target.Length);
            source[..count].CopyTo(target);
            target = target[count..];
        }
    }

    private static string Hash(IReadOnlyList<int[]> documents)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var document in documents)
        {
            hash.AppendData(MemoryMarshal.AsBytes(document.AsSpan()));
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset().AsSpan(0, 8));
    }
}
