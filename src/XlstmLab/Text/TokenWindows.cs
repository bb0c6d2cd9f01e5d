using System.Security.Cryptography;

namespace XlstmLab.Text;

/// <summary>
/// Cuts token files into windows of one length and hands them out in batches, epoch after epoch, reading no more than it hands out.
/// </summary>
/// <remarks>
/// The files of a part, one after another, are one stream. Its windows are S + 1 tokens at a stride of S, as those of
/// <see cref="PackedTokens"/>: each token is read once and is a target once; what is left at the end, fewer than S + 1 tokens, is
/// dropped. Each epoch hands the windows out in an order drawn from seed and epoch, of which nothing is held in memory. The same files,
/// context length and seed give the same batches on every machine. The files stay open as long as their folder is. Not thread-safe.
/// </remarks>
public sealed class TokenWindows : BatchSource
{
    private readonly TokenFolder _folder;
    private readonly IReadOnlyList<TokenFile> _files;
    private readonly long[] _starts;
    private readonly int _endOfDocument;
    private int _epoch;
    private long _window;
    private (int Epoch, Permutation Order)? _order;

    /// <summary>Starts at the first batch.</summary>
    /// <param name="folder">The token folder, which stays its owner's.</param>
    /// <param name="split">The part to read.</param>
    /// <param name="contextLength">The number of tokens a model reads of a window, S, at least 1.</param>
    /// <param name="seed">The seed of all shuffling.</param>
    /// <exception cref="InvalidDataException">Not one window can be filled.</exception>
    public TokenWindows(TokenFolder folder, Split split, int contextLength, long seed = 0)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(contextLength, 1);
        _folder = folder;
        _files = [.. folder[split].Where(f => f.TokenCount > 0)];
        _starts = new long[_files.Count];
        var tokens = 0L;
        for (var k = 0; k < _starts.Length; k++)
        {
            _starts[k] = tokens;
            tokens += _files[k].TokenCount;
        }

        WindowsPerEpoch = (tokens - 1) / contextLength;
        if (WindowsPerEpoch < 1)
        {
            throw new InvalidDataException(
                $"The part {split} of '{folder.Path}' has {tokens} tokens, fewer than the {contextLength + 1L} of one window: "
                + "give more text or a shorter context.");
        }

        ContextLength = contextLength;
        Seed = seed;
        TokenCount = tokens;
        _endOfDocument = folder.Card.Plan.EndOfDocument;
        var hashes = _files.SelectMany(f => Convert.FromHexString(f.Sha256)).ToArray();
        Fingerprint = Convert.ToHexStringLower(SHA256.HashData(hashes).AsSpan(0, 8));
    }

    /// <inheritdoc/>
    public override int ContextLength { get; }

    /// <inheritdoc/>
    public override long Seed { get; }

    /// <inheritdoc/>
    public override long? TokenCount { get; }

    /// <summary>The number of windows in each epoch.</summary>
    public long WindowsPerEpoch { get; }

    /// <inheritdoc/>
    public override string Fingerprint { get; }

    /// <inheritdoc/>
    public override BatchPosition Position => new(_epoch, _window, Seed, ContextLength, Fingerprint);

    /// <summary>The next windows; past the end of an epoch the batch goes on with the next.</summary>
    /// <param name="rows">The number of windows, B.</param>
    /// <returns>[B, S].</returns>
    /// <exception cref="InvalidDataException">A file is damaged.</exception>
    public override TokenBatch Next(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        var tokens = new int[checked(rows * (ContextLength + 1))];
        for (var row = 0; row < rows; row++)
        {
            NextWindow(tokens.AsSpan(row * (ContextLength + 1), ContextLength + 1));
        }

        return TokenBatch.OfWindows(tokens, rows, ContextLength, _endOfDocument);
    }

    /// <inheritdoc/>
    public override void Resume(BatchPosition position)
    {
        BatchPosition.Require(position, Position, WindowsPerEpoch);
        (_epoch, _window) = (position.Epoch, position.Window);
    }

    /// <summary>All windows once, in the order of the files and nothing shuffled, as validation needs them.</summary>
    /// <param name="rows">The number of windows of a batch; the last batch may have fewer.</param>
    /// <remarks>It leaves <see cref="Position"/> as it is.</remarks>
    public IEnumerable<TokenBatch> Sequential(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(rows, 1);
        return Batches();

        IEnumerable<TokenBatch> Batches()
        {
            using var counter = _files.All(f => f.HasDocumentBytes) && _folder.TryOpenTokenizer() is { } tokenizer
                ? new TextByteCounter(tokenizer, _files.SelectMany(f => f.DocumentsWithTextBytes()))
                : null;
            counter?.Next(1);
            for (var first = 0L; first < WindowsPerEpoch; first += rows)
            {
                var count = (int)Math.Min(rows, WindowsPerEpoch - first);
                var tokens = new int[checked(count * (ContextLength + 1))];
                for (var row = 0; row < count; row++)
                {
                    Copy(first + row, tokens.AsSpan(row * (ContextLength + 1), ContextLength + 1));
                }

                yield return TokenBatch.OfWindows(tokens, count, ContextLength, _endOfDocument) with
                {
                    TextBytes = counter?.Next(count * (long)ContextLength),
                };
            }
        }
    }

    /// <summary>The token that opens every document.</summary>
    internal int EndOfDocument => _endOfDocument;

    /// <summary>Copies the next window, S + 1 tokens.</summary>
    internal void NextWindow(Span<int> target)
    {
        if (_order is not { } order || order.Epoch != _epoch)
        {
            _order = order = (_epoch, new Permutation(WindowsPerEpoch, Seed, _epoch));
        }

        Copy(order.Order[_window], target);
        if (++_window == WindowsPerEpoch)
        {
            (_epoch, _window) = (_epoch + 1, 0);
        }
    }

    /// <summary>Goes to where a number of windows have been handed out from the start.</summary>
    internal void GoTo(long windows) => (_epoch, _window) = (checked((int)(windows / WindowsPerEpoch)), windows % WindowsPerEpoch);

    private void Copy(long window, Span<int> target)
    {
        var position = window * ContextLength;
        var found = Array.BinarySearch(_starts, position);
        for (var k = found >= 0 ? found : ~found - 1; !target.IsEmpty; k++)
        {
            var offset = position - _starts[k];
            var count = (int)Math.Min(_files[k].TokenCount - offset, target.Length);
            _files[k].Copy(offset, target[..count]);
            target = target[count..];
            position += count;
        }
    }
}
