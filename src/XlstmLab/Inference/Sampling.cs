using System.Numerics.Tensors;

namespace XlstmLab.Inference;

/// <summary>The steps from logits to a token, each a pure function over logits in double precision.</summary>
/// <remarks>A token that a filter takes out has the logit negative infinity. The definitions are those of Hugging Face transformers.</remarks>
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
        foreach (var logit in logits)
        {
            if (largest.Count < k)
            {
                largest.Enqueue(logit, logit);
            }
            else if (logit > largest.Peek())
            {
                largest.DequeueEnqueue(logit, logit);
            }
        }

        RemoveBelow(logits, largest.Peek());
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

        var probabilities = new double[logits.Length];
        TensorPrimitives.SoftMax(logits, probabilities);

        // Tokens of a probability up to (1 - p) / V sum to 1 - p at most, so that all others reach p: only those need an order.
        var floor = (1 - p) / logits.Length;
        var ids = new List<int>();
        for (var id = 0; id < logits.Length; id++)
        {
            if (probabilities[id] > floor)
            {
                ids.Add(id);
            }
        }

        ids.Sort((a, b) => probabilities[a] != probabilities[b] ? probabilities[b].CompareTo(probabilities[a]) : a.CompareTo(b));
        var kept = new bool[logits.Length];
        var sum = 0.0;
        foreach (var id in ids)
        {
            kept[id] = true;
            sum += probabilities[id];
            if (sum >= p)
            {
                break;
            }
        }

        for (var id = 0; id < logits.Length; id++)
        {
            if (!kept[id])
            {
                logits[id] = double.NegativeInfinity;
            }
        }
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
        var weights = new double[logits.Length];
        TensorPrimitives.Subtract(logits, TensorPrimitives.Max(logits), weights);
        TensorPrimitives.Exp<double>(weights, weights);
        var rest = u * TensorPrimitives.Sum<double>(weights);
        var last = 0;
        for (var id = 0; id < weights.Length; id++)
        {
            if (weights[id] > 0)
            {
                last = id;
                rest -= weights[id];
                if (rest < 0)
                {
                    return id;
                }
            }
        }

        // Rounding can leave a trace of u at the end.
        return last;
    }

    /// <summary>The largest logit's id, of equals the lowest.</summary>
    public static int Greedy(ReadOnlySpan<double> logits) => TensorPrimitives.IndexOfMax(logits);

    /// <summary>log softmax(logits)[id].</summary>
    public static double LogProbability(ReadOnlySpan<double> logits, int id)
    {
        var max = TensorPrimitives.Max(logits);
        var shifted = new double[logits.Length];
        TensorPrimitives.Subtract(logits, max, shifted);
        TensorPrimitives.Exp<double>(shifted, shifted);
        return logits[id] - max - Math.Log(TensorPrimitives.Sum<double>(shifted));
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
