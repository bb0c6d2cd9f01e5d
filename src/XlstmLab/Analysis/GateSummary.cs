namespace XlstmLab.Analysis;

/// <summary>What the gates of one head add up to, over all sequences and tokens of a recording.</summary>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="MeanInputGate">The mean of the input gate.</param>
/// <param name="MeanForgetGate">The mean of the forget gate.</param>
/// <param name="MeanOutputGate">The mean of the output gate.</param>
/// <param name="HalfLife">
/// The half-life in tokens: the median over all tokens s of the tokens until f_(s+1) ... f_t has fallen to 1/2, the
/// <see cref="HeadLifetime.Median"/> of <see cref="TraceLifetimes.HeadLifetimes"/> for a share of <see cref="TraceLifetimes.Half"/>.
/// Infinite where less than half of what the tokens wrote was seen to halve before the text ended.
/// </param>
/// <param name="MeanRateHalfLife">
/// The half-life in tokens of a constant gate that forgets as much per token, ln 2 / -mean(log f): infinite where no gate ever closes, and
/// possibly longer than the text. It is the shorter, the more a head forgets at a few tokens; of a constant gate both are the same.
/// </param>
/// <param name="OpenInputShare">The share of tokens whose input gate exceeds the threshold, from 0 to 1.</param>
/// <param name="MemoryLength">
/// The tokens that the forget gate keeps, mean over t of l_t = 1 + f_t l_(t-1), with l = 1 at a document's first token: 1 / (1 - f) for a
/// constant gate in a long text, and never more than the tokens read. Not the time until a trace has fallen to 1/e, which
/// <see cref="TraceLifetimes"/> measure.
/// </param>
/// <param name="EffectiveTokens">
/// The tokens that make up the memory, whatever is read of it (which is what <see cref="ReadingRange.EffectiveTokens"/> says), mean over t
/// of (sum_j w_j)^2 / sum_j w_j^2 with the weight w_j = i_j f_(j+1) ... f_t of token j:
/// 1 where a single token dominates, t where all weigh alike.
/// </param>
public sealed record GateSummary(
    int Layer,
    int Head,
    double MeanInputGate,
    double MeanForgetGate,
    double MeanOutputGate,
    double HalfLife,
    double MeanRateHalfLife,
    double OpenInputShare,
    double MemoryLength,
    double EffectiveTokens);

/// <summary>Sums recordings up.</summary>
public static class GateSummaries
{
    /// <summary>A summary for each block and head.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="openInputThreshold">The input gate above which a token counts as written, in units of the gate.</param>
    /// <exception cref="ArgumentException">The recording is all padding.</exception>
    public static IReadOnlyList<GateSummary> Summarize(this GateRecording recording, double openInputThreshold = 0.5)
    {
        var halfLives = recording.HeadLifetimes().ToDictionary(h => (h.Layer, h.Head), h => h.Median);
        return
        [
            .. recording.Layers.SelectMany(layer => Enumerable.Range(0, layer.HeadCount)
                .Select(head => Summarize(recording, layer, head, openInputThreshold, halfLives[(layer.Layer, head)]))),
        ];
    }

    private static GateSummary Summarize(GateRecording recording, LayerRecording layer, int head, double threshold, double halfLife)
    {
        var (count, open) = (0, 0);
        double input = 0, forget = 0, output = 0, logForget = 0, memoryLength = 0, effectiveTokens = 0;
        for (var sequence = 0; sequence < recording.SequenceCount; sequence++)
        {
            // The weights are kept relative to exp(scale), like the cell's.
            double length = 0, sum = 0, squares = 0, scale = 0;
            for (var token = 0; token < recording.Length; token++)
            {
                if (recording.IsDocumentStart(sequence, token))
                {
                    (length, sum, squares, scale) = (0, 0, 0, double.NegativeInfinity);
                }

                if (recording.IsPadding(sequence, token))
                {
                    continue;
                }

                var at = (sequence * layer.HeadCount + head) * recording.Length + token;
                double logF = layer[GateQuantity.LogForgetGate][at];
                double logI = layer[GateQuantity.LogInputGate][at];
                var next = Math.Max(logF + scale, logI);
                var (kept, written) = (Math.Exp(logF + scale - next), Math.Exp(logI - next));
                (sum, squares, scale) = (kept * sum + written, kept * kept * squares + written * written, next);
                length = 1 + Math.Exp(logF) * length;

                count++;
                open += layer[GateQuantity.InputGate][at] > threshold ? 1 : 0;
                input += layer[GateQuantity.InputGate][at];
                forget += layer[GateQuantity.ForgetGate][at];
                output += layer[GateQuantity.OutputGate][at];
                logForget += logF;
                memoryLength += length;
                effectiveTokens += sum * sum / squares;
            }
        }

        return new(
            layer.Layer,
            head,
            input / count,
            forget / count,
            output / count,
            halfLife,
            logForget < 0 ? Math.Log(2) * count / -logForget : double.PositiveInfinity,
            (double)open / count,
            memoryLength / count,
            effectiveTokens / count);
    }
}
