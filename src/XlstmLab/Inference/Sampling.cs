using System.Buffers;
using System.Numerics.Tensors;

namespace XlstmLab.Inference;

/// <summary>The steps from logits to a token, each a pure function over logits in double precision.</summary>
/// <remarks>
/// A token that a filter takes out has the logit negative infinity. The definitions are those of Hugging Face transformers.
/// </remarks>
public static class Sampling
{
    /// <summary>Divides positive logits of tokens that occurred by the penalty, and multiplies negative ones.</summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="occurred">Different ids: an id that is given twice is penalised twice.</param>
    /// <param name="penalty">More than 1 makes tokens rarer.</param>
    public static void Penalize(Span<double> logits, IEnumerable<int> occurred, double penalty)
    {
        foreach (var id in occurred)
        {
            logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
        }
    }

    /// <summary>
    /// Takes the frequency penalty off a token's logit for each time that it was generated, and the presence penalty once.
    /// </summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="counts">How often each of the generated ids was.</param>
    /// <param name="frequency">The penalty for each time.</param>
    /// <param name="presence">The penalty for having been generated at all.</param>
    public static void PenalizeCounts(Span<double> logits, IReadOnlyDictionary<int, int> counts, double frequency, double presence)
    {
        foreach (var (id, count) in counts)
        {
            logits[id] -= count * frequency + presence;
        }
    }

    /// <summary>Keeps the k largest logits and any that equal the k-th; all if k exceeds V.</summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="k">At least 1.</param>
    public static void KeepTopK(Span<double> logits, int k)
    {
        if (k >= logits.Length)
        {
            return;
        }

        var largest = new PriorityQueue<double, double>(k);
        foreach (var logit in logits[..k])
        {
            largest.Enqueue(logit, logit);
        }

        var least = largest.Peek();
        foreach (var logit in logits[k..])
        {
            if (logit > least)
            {
                largest.DequeueEnqueue(logit, logit);
                least = largest.Peek();
            }
        }

        RemoveBelow(logits, least);
    }

    /// <summary>Keeps the smallest set of likeliest tokens whose probabilities sum to p at least; of equals, low ids come first.</summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="p">More than 0, at most 1.</param>
    public static void KeepTopP(Span<double> logits, double p)
    {
        if (p >= 1)
        {
            return;
        }

        var probabilities = ArrayPool<double>.Shared.Rent(logits.Length);
        var total = Exponentials(logits, probabilities.AsSpan(0, logits.Length));

        // Tokens of a probability up to (1 - p) / V sum to 1 - p at most, so that all others reach p: only those need an order.
        var floor = (1 - p) / logits.Length * total;
        var candidates = new List<double>();
        foreach (var probability in probabilities.AsSpan(0, logits.Length))
        {
            if (probability > floor)
            {
                candidates.Add(probability);
            }
        }

        candidates.Sort();
        var (sum, least, equals) = (0.0, double.PositiveInfinity, 0);
        for (var k = candidates.Count - 1; k >= 0 && sum < p * total; k--)
        {
            equals = candidates[k] == least ? equals + 1 : 1;
            least = candidates[k];
            sum += least;
        }

        for (var id = 0; id < logits.Length; id++)
        {
            if (probabilities[id] < least || (probabilities[id] == least && --equals < 0))
            {
                logits[id] = double.NegativeInfinity;
            }
        }

        ArrayPool<double>.Shared.Return(probabilities);
    }

    /// <summary>Keeps tokens whose probability is at least p times the likeliest token's.</summary>
    /// <param name="logits">[V], changed in place.</param>
    /// <param name="p">From 0 to 1.</param>
    public static void KeepMinP(Span<double> logits, double p) =>
        RemoveBelow(logits, TensorPrimitives.Max<double>(logits) + Math.Log(p));

    /// <summary>The token at u of the cumulative distribution in the order of ids.</summary>
    /// <param name="logits">[V], at least one of them finite.</param>
    /// <param name="u">From 0 to 1, 1 excluded.</param>
    public static int Draw(ReadOnlySpan<double> logits, double u)
    {
        var rented = ArrayPool<double>.Shared.Rent(logits.Length);
        var weights = rented.AsSpan(0, logits.Length);
        var rest = u * Exponentials(logits, weights);
        var last = 0;
        for (var id = 0; id < weights.Length && rest >= 0; id++)
        {
            if (!double.IsNegativeInfinity(logits[id]))
            {
                // Rounding can leave a trace of u at the end: then the last token that can be drawn is.
                last = id;
                rest -= weights[id];
            }
        }

        ArrayPool<double>.Shared.Return(rented);
        return last;
    }

    /// <summary>The largest logit's id, of equals the lowest.</summary>
    public static int Greedy(ReadOnlySpan<double> logits) => TensorPrimitives.IndexOfMax(logits);

    /// <summary>log softmax(logits)[id].</summary>
    public static double LogProbability(ReadOnlySpan<double> logits, int id) => logits[id] - LogSum(logits);

    /// <summary>The n likeliest tokens with log softmax(logits), the likeliest first; of equals, low ids come first.</summary>
    /// <param name="logits">[V].</param>
    /// <param name="n">At least 1; all tokens if n exceeds V.</param>
    public static TokenLogProbability[] Likeliest(ReadOnlySpan<double> logits, int n)
    {
        // The queue's first is the worst that is kept: the least logit, of equals the highest id.
        var best = new PriorityQueue<int, (double Logit, int NegativeId)>(n + 1);
        for (var id = 0; id < logits.Length; id++)
        {
            if (best.Count < n)
            {
                best.Enqueue(id, (logits[id], -id));
            }
            else if (logits[id] > logits[best.Peek()])
            {
                _ = best.DequeueEnqueue(id, (logits[id], -id));
            }
        }

        var likeliest = new TokenLogProbability[best.Count];
        var sum = LogSum(logits);
        for (var k = likeliest.Length - 1; k >= 0; k--)
        {
            var id = best.Dequeue();
            likeliest[k] = new(id, logits[id] - sum);
        }

        return likeliest;
    }

    /// <summary>log of the sum of exp(logits).</summary>
    private static double LogSum(ReadOnlySpan<double> logits)
    {
        var rented = ArrayPool<double>.Shared.Rent(logits.Length);
        var sum = Exponentials(logits, rented.AsSpan(0, logits.Length));
        ArrayPool<double>.Shared.Return(rented);
        return TensorPrimitives.Max(logits) + Math.Log(sum);
    }

    /// <summary>exp(logits - max), and their sum; no value is 0.</summary>
    private static double Exponentials(ReadOnlySpan<double> logits, Span<double> values)
    {
        TensorPrimitives.Subtract(logits, TensorPrimitives.Max(logits), values);

        // Below -708 the exponential leaves its vector code; what is left of such logits is lost in the sum.
        TensorPrimitives.Max(values, -700.0, values);
        TensorPrimitives.Exp(values, values);
        return TensorPrimitives.Sum<double>(values);
    }

    private static void RemoveBelow(Span<double> logits, double threshold)
    {
        foreach (ref var logit in logits)
        {
            if (logit < threshold)
            {
                logit = double.NegativeInfinity;
            }
        }
    }
}
