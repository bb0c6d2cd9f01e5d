namespace XlstmLab.Analysis;

/// <summary>How long what one token wrote stays in the memory of one head.</summary>
/// <param name="Sequence">The row of the batch.</param>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Token">The position of the token that wrote, from 0.</param>
/// <param name="Tokens">
/// The tokens read until the product of the forget gates has fallen to the share asked for; between two tokens it falls exponentially, so
/// that a constant gate f gives ln(share) / ln(f). Where the document ends before, the tokens that were left of it.
/// </param>
/// <param name="IsCensored">Whether the document ended before: <paramref name="Tokens"/> is then a lower bound.</param>
public sealed record TraceLifetime(int Sequence, int Layer, int Head, int Token, double Tokens, bool IsCensored);

/// <summary>The distribution of one head's trace lifetimes, in tokens.</summary>
/// <remarks>
/// Quantiles are those of the product-limit estimator (Kaplan and Meier 1958), which uses traces that a document's end cut off for as long
/// as they were seen. A quantile is infinite where not so many traces fell within the text.
/// </remarks>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Share">What is left of a trace at the end of its lifetime: 1/2 for half-lives, 1/e for the effective memory length.</param>
/// <param name="Traces">The traces, one a token.</param>
/// <param name="CensoredShare">The share of traces that the document's end cut off, from 0 to 1.</param>
/// <param name="Quantile05">The lifetime that 5 % of traces do not exceed.</param>
/// <param name="Quantile25">The lifetime that 25 % of traces do not exceed.</param>
/// <param name="Median">The lifetime that half of the traces do not exceed; with a share of 1/2, the head's half-life in tokens.</param>
/// <param name="Quantile75">The lifetime that 75 % of traces do not exceed.</param>
/// <param name="Quantile95">The lifetime that 95 % of traces do not exceed.</param>
public sealed record HeadLifetime(
    int Layer,
    int Head,
    double Share,
    int Traces,
    double CensoredShare,
    double Quantile05,
    double Quantile25,
    double Median,
    double Quantile75,
    double Quantile95);

/// <summary>How long heads remember, by their forget gates.</summary>
public static class TraceLifetimes
{
    /// <summary>The share left of a trace after its half-life.</summary>
    public const double Half = 0.5;

    /// <summary>
    /// The share left of a trace after the effective memory length, for a constant gate f 1 / -ln(f) tokens or about 1 / (1 - f).
    /// </summary>
    public const double OneOverE = 1 / Math.E;

    /// <summary>
    /// The lifetime of every trace. A document's end or the recording's ends what can be seen; padding counts as no token.
    /// </summary>
    /// <param name="recording">The recording.</param>
    /// <param name="share">What is left of a trace at the end of its lifetime, above 0 and below 1.</param>
    /// <exception cref="ArgumentOutOfRangeException">The share is not between 0 and 1.</exception>
    public static IEnumerable<TraceLifetime> Lifetimes(this GateRecording recording, double share = Half)
    {
        CheckShare(share);
        return recording.Layers.SelectMany(
            layer => Enumerable.Range(0, layer.HeadCount).SelectMany(head => OfHead(recording, layer.Layer, head, share)));
    }

    /// <summary>The distribution of every head's lifetimes.</summary>
    /// <param name="recording">The recording.</param>
    /// <param name="share">
    /// What is left of a trace at the end of its lifetime: <see cref="Half"/>, <see cref="OneOverE"/> or another.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException">The share is not between 0 and 1.</exception>
    /// <exception cref="ArgumentException">The recording is all padding.</exception>
    public static IReadOnlyList<HeadLifetime> HeadLifetimes(this GateRecording recording, double share = Half)
    {
        CheckShare(share);
        return
        [
            .. recording.Layers.SelectMany(layer => Enumerable.Range(0, layer.HeadCount).Select(
                head => Distribution(layer.Layer, head, share, [.. OfHead(recording, layer.Layer, head, share)]))),
        ];
    }

    private static void CheckShare(double share)
    {
        if (share is not (> 0 and < 1))
        {
            throw new ArgumentOutOfRangeException(
                nameof(share), share, "Expected a share above 0 and below 1, such as 1/2 for half-lives.");
        }
    }

    private static IEnumerable<TraceLifetime> OfHead(GateRecording recording, int layer, int head, double share)
    {
        for (var sequence = 0; sequence < recording.SequenceCount; sequence++)
        {
            var logForget = recording.Values(GateQuantity.LogForgetGate, layer, head, sequence).ToArray();
            for (var token = 0; token < recording.Length; token++)
            {
                if (!recording.IsPadding(sequence, token))
                {
                    var (tokens, ended) = Follow(recording, sequence, token, logForget, -Math.Log(share));
                    yield return new(sequence, layer, head, token, tokens, !ended);
                }
            }
        }
    }

    /// <summary>The tokens until the logarithms of the gates after a token add up to a loss in nats, and whether they do.</summary>
    private static (double Tokens, bool Ended) Follow(GateRecording recording, int sequence, int token, float[] logForget, double loss)
    {
        var read = 0;
        for (var t = token + 1; t < recording.Length && !recording.IsDocumentStart(sequence, t); t++)
        {
            if (recording.IsPadding(sequence, t))
            {
                continue;
            }

            var lost = -(double)logForget[t];
            if (lost >= loss)
            {
                return (read + loss / lost, true);
            }

            loss -= lost;
            read++;
        }

        return (read, false);
    }

    private static HeadLifetime Distribution(int layer, int head, double share, TraceLifetime[] traces)
    {
        if (traces.Length == 0)
        {
            throw new ArgumentException("The recording holds no token, only padding.");
        }

        // Where a trace ends at the moment another is cut off, that other one was still seen.
        var ordered = traces.OrderBy(t => t.Tokens).ThenBy(t => t.IsCensored).ToArray();
        double[] wanted = [0.05, 0.25, 0.5, 0.75, 0.95];
        var found = Enumerable.Repeat(double.PositiveInfinity, wanted.Length).ToArray();
        var (surviving, next) = (1.0, 0);
        for (var at = 0; at < ordered.Length; at++)
        {
            surviving *= ordered[at].IsCensored ? 1 : 1 - 1.0 / (ordered.Length - at);
            for (; next < wanted.Length && 1 - surviving >= wanted[next] - 1e-12; next++)
            {
                found[next] = ordered[at].Tokens;
            }
        }

        return new(
            layer,
            head,
            share,
            traces.Length,
            (double)traces.Count(t => t.IsCensored) / traces.Length,
            found[0],
            found[1],
            found[2],
            found[3],
            found[4]);
    }
}
