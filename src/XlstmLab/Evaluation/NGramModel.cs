namespace XlstmLab.Evaluation;

/// <summary>What a byte model makes of documents.</summary>
/// <param name="Bits">The information of all bytes and of the end of each document, in bits.</param>
/// <param name="Tokens">The number of predictions: bytes and ends of documents.</param>
/// <param name="Bytes">The number of bytes of text.</param>
public sealed record NGramScore(double Bits, long Tokens, long Bytes)
{
    /// <summary>Bits per byte of text, ends of documents included in the bits.</summary>
    public double BitsPerByte => Bits / Bytes;
}

/// <summary>A byte n-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, section 3).</summary>
/// <remarks>
/// The probability of symbol w after context h of n - 1 symbols is
/// (c(hw) - D(c(hw))) / c(h) + gamma(h) p(w | h'), where h' is h without its oldest symbol. In the highest order c counts
/// occurrences; below it, different symbols before hw. A context that begins a document holds the end of document as its
/// oldest symbol and has no longer one; it counts occurrences in every order. The lowest order is interpolated with the uniform
/// distribution over 257 symbols. Discounts D(1), D(2) and D(3 and more) of each order are estimated from counts of counts.
/// </remarks>
public sealed class NGramModel
{
    /// <summary>The number of symbols: 256 bytes and the end of document.</summary>
    public const int SymbolCount = 257;

    /// <summary>The highest order there can be.</summary>
    public const int MaxOrder = 8;

    private const int EndOfDocument = 256;
    private const int SymbolBits = 9;

    private readonly Level[] _levels;

    private NGramModel(Level[] levels) => _levels = levels;

    /// <summary>The order n: a symbol is predicted from the n - 1 before it.</summary>
    public int Order => _levels.Length;

    /// <summary>The number of different n-grams of all orders.</summary>
    public long GramCount => _levels.Sum(l => (long)l.Symbols.Length);

    /// <summary>Counts the n-grams of documents.</summary>
    /// <param name="documents">Byte tokens, each document opened by the end of document, 256.</param>
    /// <param name="order">The order n, from 1 to 8.</param>
    /// <param name="progress">Told the share that is done, from 0 to 1.</param>
    /// <param name="cancellationToken">Stops between orders.</param>
    /// <exception cref="ArgumentException">There are no documents, or one is not made of byte tokens.</exception>
    public static NGramModel Train(
        IReadOnlyList<int[]> documents, int order, IProgress<double>? progress = null, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(order, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(order, MaxOrder);
        ArgumentOutOfRangeException.ThrowIfZero(documents.Count);
        CheckDocuments(documents);

        var levels = new Level[order];
        for (var k = order; k >= 1; k--)
        {
            cancellationToken.ThrowIfCancellationRequested();
            levels[k - 1] = Level.Count(k == order ? Occurrences(documents, k) : Continuations(documents, k, levels[k]));
            progress?.Report((order - k + 1) / (double)order);
        }

        return new NGramModel(levels);
    }

    /// <summary>The probability of a symbol after a context.</summary>
    /// <param name="context">
    /// The symbols before it, the latest last; those before the last end of document, and those beyond n - 1, have no say.
    /// </param>
    /// <param name="symbol">A byte, or 256 for the end of the document.</param>
    public double Probability(ReadOnlySpan<int> context, int symbol)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(symbol);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(symbol, SymbolCount);
        var probability = _levels[0].Interpolate(0, symbol, 1.0 / SymbolCount);
        var key = 0UL;
        for (var k = 1; k < Order && k <= context.Length; k++)
        {
            var oldest = context[^k];
            key |= (ulong)oldest << (SymbolBits * (k - 1));
            probability = _levels[k].Interpolate(key, symbol, probability);
            if (oldest == EndOfDocument)
            {
                break;
            }
        }

        return probability;
    }

    /// <summary>Predicts every byte and the end of each document.</summary>
    /// <param name="documents">Byte tokens, each document opened by the end of document, 256.</param>
    /// <param name="cancellationToken">Stops between documents.</param>
    /// <exception cref="ArgumentException">A document is not made of byte tokens.</exception>
    public NGramScore Evaluate(IReadOnlyList<int[]> documents, CancellationToken cancellationToken = default)
    {
        CheckDocuments(documents);
        var bits = new double[documents.Count];
        Parallel.For(0, bits.Length, new ParallelOptions { CancellationToken = cancellationToken }, d =>
        {
            var document = documents[d].AsSpan();
            for (var t = 1; t <= document.Length; t++)
            {
                bits[d] -= Math.Log2(Probability(document[Math.Max(0, t - Order)..t], t < document.Length ? document[t] : EndOfDocument));
            }
        });

        // An end of document inside a document ends one too, and is no byte.
        return new NGramScore(bits.Sum(), documents.Sum(d => (long)d.Length), documents.Sum(d => d.LongCount(t => t != EndOfDocument)));
    }

    private static void CheckDocuments(IReadOnlyList<int[]> documents)
    {
        for (var k = 0; k < documents.Count; k++)
        {
            if (documents[k].Length == 0 || documents[k][0] != EndOfDocument
                || documents[k].AsSpan().ContainsAnyExceptInRange(0, EndOfDocument))
            {
                throw new ArgumentException(
                    $"Document {k} is not made of byte tokens: it must begin with the end of document, {EndOfDocument}, "
                    + $"and hold ids from 0 to {EndOfDocument}.",
                    nameof(documents));
            }
        }
    }

    /// <summary>Every n-gram of k symbols whose context lies in one document, as often as it occurs.</summary>
    private static Grams Occurrences(IReadOnlyList<int[]> documents, int k)
    {
        var grams = new Grams(documents.Sum(d => d.Length));
        foreach (var document in documents)
        {
            AddOccurrences(grams, document, k, onlyAtStart: false);
        }

        return grams;
    }

    /// <summary>Every n-gram of k symbols, once for each symbol before it; those that begin a document as often as they occur.</summary>
    private static Grams Continuations(IReadOnlyList<int[]> documents, int k, Level above)
    {
        var grams = new Grams(above.Symbols.Length + documents.Count);
        var mask = (1UL << (SymbolBits * (k - 1))) - 1;
        for (var c = 0; c < above.Contexts.Length; c++)
        {
            for (var g = above.Starts[c]; g < above.Starts[c + 1]; g++)
            {
                grams.Add(above.Contexts[c] & mask, above.Symbols[g]);
            }
        }

        foreach (var document in documents)
        {
            AddOccurrences(grams, document, k, onlyAtStart: true);
        }

        return grams;
    }

    private static void AddOccurrences(Grams grams, int[] document, int k, bool onlyAtStart)
    {
        var mask = (1UL << (SymbolBits * (k - 1))) - 1;
        var (key, length) = (0UL, 0);
        for (var t = 1; t <= document.Length; t++)
        {
            length = document[t - 1] == EndOfDocument ? 1 : length + 1;
            key = ((length == 1 ? 0 : key << SymbolBits) | (uint)document[t - 1]) & mask;

            // The empty context of the first order begins no document.
            if (onlyAtStart ? k > 1 && length == k - 1 : length >= k - 1)
            {
                grams.Add(key, t < document.Length ? document[t] : EndOfDocument);
            }
        }
    }

    /// <summary>N-grams as they are collected: the context, nine bits a symbol with the latest lowest, and the symbol after it.</summary>
    private sealed class Grams(int capacity)
    {
        private ulong[] _contexts = new ulong[capacity];
        private ushort[] _symbols = new ushort[capacity];

        public int Count { get; private set; }

        public Span<ulong> Contexts => _contexts.AsSpan(0, Count);

        public Span<ushort> Symbols => _symbols.AsSpan(0, Count);

        public void Add(ulong context, int symbol)
        {
            if (Count == _contexts.Length)
            {
                Array.Resize(ref _contexts, Math.Max(16, Count * 2));
                Array.Resize(ref _symbols, _contexts.Length);
            }

            _contexts[Count] = context;
            _symbols[Count++] = (ushort)symbol;
        }

        /// <summary>Sorts by context and, within one, by symbol.</summary>
        public void Sort()
        {
            var contexts = Contexts;
            var symbols = Symbols;
            contexts.Sort(symbols);
            for (int start = 0, end; start < contexts.Length; start = end)
            {
                end = start + contexts[start..].IndexOfAnyExcept(contexts[start]);
                end = end < start ? contexts.Length : end;
                symbols[start..end].Sort();
            }
        }
    }

    /// <summary>All n-grams of one order: contexts in order, and for each its symbols in order with what they contribute.</summary>
    private sealed record Level(ulong[] Contexts, int[] Starts, ushort[] Symbols, double[] Shares, double[] Gammas)
    {
        /// <summary>The share of the symbol after the context, plus what the context leaves to the order below.</summary>
        public double Interpolate(ulong context, int symbol, double below)
        {
            var c = Array.BinarySearch(Contexts, context);
            if (c < 0)
            {
                return below;
            }

            var g = Array.BinarySearch(Symbols, Starts[c], Starts[c + 1] - Starts[c], (ushort)symbol);
            return (g < 0 ? 0 : Shares[g]) + Gammas[c] * below;
        }

        public static Level Count(Grams grams)
        {
            grams.Sort();
            var (contexts, starts, symbols, counts) = (new List<ulong>(), new List<int>(), new List<ushort>(), new List<int>());
            for (var k = 0; k < grams.Count; k++)
            {
                var (context, symbol) = (grams.Contexts[k], grams.Symbols[k]);
                if (contexts.Count == 0 || contexts[^1] != context)
                {
                    contexts.Add(context);
                    starts.Add(symbols.Count);
                }
                else if (symbols[^1] == symbol)
                {
                    counts[^1]++;
                    continue;
                }

                symbols.Add(symbol);
                counts.Add(1);
            }

            starts.Add(symbols.Count);
            var discounts = Discounts(counts);
            var shares = new double[counts.Count];
            var gammas = new double[contexts.Count];
            for (var c = 0; c < gammas.Length; c++)
            {
                var (total, discounted) = (0.0, 0.0);
                for (var g = starts[c]; g < starts[c + 1]; g++)
                {
                    total += counts[g];
                    discounted += discounts[Math.Min(counts[g], 3)];
                }

                gammas[c] = discounted / total;
                for (var g = starts[c]; g < starts[c + 1]; g++)
                {
                    shares[g] = (counts[g] - discounts[Math.Min(counts[g], 3)]) / total;
                }
            }

            return new Level([.. contexts], [.. starts], [.. symbols], shares, gammas);
        }

        /// <summary>
        /// D(0) = 0, D(1), D(2) and D(3 and more), Chen and Goodman 1999, equation 26; 0.5, 1 and 1.5 where counts are too few for it.
        /// </summary>
        private static double[] Discounts(List<int> counts)
        {
            var n = new double[5];
            foreach (var count in counts)
            {
                if (count < n.Length)
                {
                    n[count]++;
                }
            }

            var y = n[1] / (n[1] + 2 * n[2]);
            double[] estimated = [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]];
            return estimated.Index().Skip(1).All(d => d.Item > 0 && d.Item < d.Index) ? estimated : [0, 0.5, 1, 1.5];
        }
    }
}
