namespace XlstmLab.Analysis;

/// <summary>How much wider a head opens a gate for one class of tokens than for the others.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Class">The class of tokens.</param>
/// <param name="Count">The tokens of that class.</param>
/// <param name="Mean">The quantity's mean over them; for the logarithm of a gate in nats.</param>
/// <param name="Excess">
/// The mean over the class less the mean over all other tokens: for the logarithm of a gate in nats, so that exp(excess) says how many
/// times wider it opens. NaN where there are no others.
/// </param>
/// <param name="EffectSize">The excess in standard deviations of the quantity over all tokens; 0 where it does not vary.</param>
/// <param name="Explained">
/// The share of the quantity's variance that lies between classes, from 0 to 1 (eta squared): 1 where the class alone decides. The same in
/// all rows of a head; 0 where the quantity does not vary.
/// </param>
public sealed record GateSelectivity(
    int Layer, int Head, string Class, int Count, double Mean, double Excess, double EffectSize, double Explained);

/// <summary>What gates open for.</summary>
public static class GateSelectivities
{
    /// <summary>The selectivity of every head of a recording of one sequence.</summary>
    /// <param name="recording">A recording of one sequence.</param>
    /// <param name="classes">The class of each of its tokens, as <see cref="TokenClasses.Classify"/> or the caller sorts them.</param>
    /// <param name="quantity">What is compared; the logarithm of the input gate unless another is asked for.</param>
    /// <exception cref="ArgumentException">There is not a class for each token, or more than one sequence.</exception>
    public static IReadOnlyList<GateSelectivity> Selectivity<TClass>(
        this GateRecording recording, IReadOnlyList<TClass> classes, GateQuantity quantity = GateQuantity.LogInputGate)
        where TClass : notnull
    {
        ArgumentNullException.ThrowIfNull(classes);
        return recording.SequenceCount == 1 && classes.Count == recording.Length
            ? recording.Selectivity((_, token) => classes[token], quantity)
            : throw new ArgumentException(
                $"Expected one sequence and a class for each of its {recording.Length} tokens, "
                + $"got {recording.SequenceCount} sequences and {classes.Count} classes.", nameof(classes));
    }

    /// <summary>The selectivity of every head: rows by block, head and class, the classes in their natural order.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="classOf">The class of the token at a sequence and position; it is not asked about padding.</param>
    /// <param name="quantity">What is compared; tokens whose value is not finite are left out.</param>
    /// <exception cref="ArgumentException">The recording holds no finite value.</exception>
    public static IReadOnlyList<GateSelectivity> Selectivity<TClass>(
        this GateRecording recording, Func<int, int, TClass> classOf, GateQuantity quantity = GateQuantity.LogInputGate)
        where TClass : notnull
    {
        ArgumentNullException.ThrowIfNull(classOf);
        return
        [
            .. recording.Layers.SelectMany(layer => Enumerable.Range(0, layer.HeadCount).SelectMany(
                head => OfHead(recording, layer.Layer, head, classOf, quantity))),
        ];
    }

    private static IEnumerable<GateSelectivity> OfHead<TClass>(
        GateRecording recording, int layer, int head, Func<int, int, TClass> classOf, GateQuantity quantity)
        where TClass : notnull
    {
        var tokens = new List<(TClass Class, double Value)>();
        for (var sequence = 0; sequence < recording.SequenceCount; sequence++)
        {
            var values = recording.Values(quantity, layer, head, sequence);
            for (var token = 0; token < values.Length; token++)
            {
                if (!recording.IsPadding(sequence, token) && float.IsFinite(values[token]))
                {
                    tokens.Add((classOf(sequence, token), values[token]));
                }
            }
        }

        if (tokens.Count == 0)
        {
            throw new ArgumentException($"Block {layer}, head {head} has no finite {quantity}.", nameof(recording));
        }

        var mean = tokens.Average(t => t.Value);
        var variance = tokens.Average(t => (t.Value - mean) * (t.Value - mean));
        var groups = tokens.GroupBy(t => t.Class, t => t.Value).OrderBy(g => g.Key)
            .Select(g => (g.Key, Count: g.Count(), Mean: g.Average()))
            .ToArray();
        var between = groups.Sum(g => g.Count * (g.Mean - mean) * (g.Mean - mean)) / tokens.Count;
        foreach (var (key, count, classMean) in groups)
        {
            var others = tokens.Count - count;
            var excess = others == 0 ? double.NaN : classMean - (mean * tokens.Count - classMean * count) / others;
            yield return new(
                layer,
                head,
                key.ToString()!,
                count,
                classMean,
                excess,
                variance > 0 ? excess / Math.Sqrt(variance) : 0,
                variance > 0 ? between / variance : 0);
        }
    }
}
