using System.Runtime.InteropServices;
using System.Text;

namespace XlstmLab.Text;

/// <summary>Pieces of text as ids, and how often each pair of ids stands side by side in them; kept right as pairs are merged.</summary>
internal sealed class BpeWords
{
    private readonly int[] _ids;
    private readonly int[] _starts;
    private readonly int[] _lengths;
    private readonly long[] _counts;
    private readonly Dictionary<(int Left, int Right), Occurrences> _pairs = [];
    private readonly HashSet<(int Left, int Right)> _grown = [];

    /// <summary>Takes pieces with the number of times they occur, as their bytes.</summary>
    public BpeWords(IReadOnlyDictionary<string, long> pieces, int[] idOfByte)
    {
        _starts = new int[pieces.Count];
        _lengths = new int[pieces.Count];
        _counts = new long[pieces.Count];
        _ids = new int[checked((int)pieces.Keys.Sum(p => (long)Encoding.UTF8.GetByteCount(p)))];
        var (word, end) = (0, 0);
        var bytes = new byte[256];
        foreach (var (piece, count) in pieces)
        {
            if (bytes.Length < 3 * piece.Length)
            {
                bytes = new byte[3 * piece.Length];
            }

            var length = Encoding.UTF8.GetBytes(piece, bytes);
            (_starts[word], _lengths[word], _counts[word]) = (end, length, count);
            for (var k = 0; k < length; k++)
            {
                _ids[end++] = idOfByte[bytes[k]];
                if (k > 0)
                {
                    Grow((_ids[end - 2], _ids[end - 1]), word);
                }
            }

            word++;
        }

        _grown.Clear();
    }

    /// <summary>All pairs with their counts.</summary>
    public IEnumerable<((int Left, int Right) Pair, long Count)> Pairs => _pairs.Select(p => (p.Key, p.Value.Count));

    /// <summary>How often a pair occurs.</summary>
    public long CountOf((int Left, int Right) pair) => _pairs.TryGetValue(pair, out var found) ? found.Count : 0;

    /// <summary>Makes each occurrence of a pair, from the left, one id.</summary>
    /// <returns>The pairs that occur more often than before or may do so; valid until the next call.</returns>
    public IReadOnlyCollection<(int Left, int Right)> Merge((int Left, int Right) pair, int id)
    {
        _grown.Clear();
        var words = _pairs[pair];
        for (var k = 0; k < words.WordCount; k++)
        {
            MergeIn(words.Words[k], pair, id);
        }

        _pairs.Remove(pair);
        return _grown;
    }

    private void MergeIn(int word, (int Left, int Right) pair, int id)
    {
        var ids = _ids.AsSpan(_starts[word], _lengths[word]);
        var (written, afterMerge, oldBefore) = (0, false, 0);
        for (var k = 0; k < ids.Length; k++)
        {
            if (k + 1 < ids.Length && ids[k] == pair.Left && ids[k + 1] == pair.Right)
            {
                if (written > 0)
                {
                    Shrink((oldBefore, pair.Left), word);
                    Grow((ids[written - 1], id), word);
                }

                Shrink(pair, word);
                oldBefore = pair.Right;
                afterMerge = true;
                ids[written++] = id;
                k++;
                continue;
            }

            var unchanged = ids[k];
            if (afterMerge)
            {
                Shrink((oldBefore, unchanged), word);
                Grow((id, unchanged), word);
            }

            oldBefore = unchanged;
            afterMerge = false;
            ids[written++] = unchanged;
        }

        _lengths[word] = written;
    }

    private void Grow((int Left, int Right) pair, int word)
    {
        ref var occurrences = ref CollectionsMarshal.GetValueRefOrAddDefault(_pairs, pair, out _);
        occurrences.Add(word, _counts[word]);
        _grown.Add(pair);
    }

    private void Shrink((int Left, int Right) pair, int word)
    {
        ref var occurrences = ref CollectionsMarshal.GetValueRefOrNullRef(_pairs, pair);
        occurrences.Count -= _counts[word];
    }

    /// <summary>How often a pair occurs, and the words it occurs in; some of those may have lost it since.</summary>
    private struct Occurrences
    {
        public long Count;
        public int[] Words;
        public int WordCount;

        public void Add(int word, long count)
        {
            Count += count;
            if (WordCount > 0 && Words[WordCount - 1] == word)
            {
                return;
            }

            Words ??= new int[2];
            if (WordCount == Words.Length)
            {
                Array.Resize(ref Words, 2 * WordCount);
            }

            Words[WordCount++] = word;
        }
    }
}
