using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The mLSTM token by token: the reference that the other forms are tested against.</summary>
public static class MLstmRecurrent
{
    /// <summary>Reads a sequence token by token (xLSTM 7B, eqs. 2-9).</summary>
    /// <param name="q">[B, NH, S, DK].</param>
    /// <param name="k">[B, NH, S, DK].</param>
    /// <param name="v">[B, NH, S, DV].</param>
    /// <param name="logI">[B, NH, S], the logarithm of the input gate.</param>
    /// <param name="logF">[B, NH, S], the logarithm of the forget gate.</param>
    /// <param name="initial">The state to start from.</param>
    /// <param name="documentStarts">[B, S] bool, or null.</param>
    /// <param name="options">Gates, normaliser and gradient rule.</param>
    /// <returns>H [B, NH, S, DV] and the last state.</returns>
    internal static (Tensor H, MLstmState Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, MLstmState initial, Tensor? documentStarts, MLstmOptions options)
    {
        // Logarithms count in the type of their sums; a lone token, which sums nothing, spares the conversions.
        var type = q.shape[2] == 1 ? q.dtype : LogSums.Type(q);
        (logI, logF) = (logI.to(type), logF.to(type));
        var state = initial with { M = initial.M.to(type) };
        var outputs = new List<Tensor>();
        for (long t = 0; t < q.shape[2]; t++)
        {
            if (documentStarts is not null)
            {
                var first = documentStarts.select(1, t).reshape(-1, 1, 1); // (B, 1, 1)
                state = new(
                    state.C.masked_fill(first.unsqueeze(3), 0.0),
                    state.N.masked_fill(first, 0.0),
                    state.M.masked_fill(first, 0.0));
            }

            (var h, state) = Step(
                q.select(2, t), k.select(2, t), v.select(2, t), logI.select(2, t), logF.select(2, t), state, options);
            outputs.Add(h);
        }

        return (stack(outputs, 2), MLstmNormalizer.Narrowed(state.C, state.N, state.M));
    }

    /// <summary>One token: q, k [B, NH, DK], v [B, NH, DV], log gates [B, NH].</summary>
    private static (Tensor H, MLstmState State) Step(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, MLstmState state, MLstmOptions options)
    {
        logI = logI.unsqueeze(2); // (B, NH, 1)
        logF = logF.unsqueeze(2);
        var past = logF + state.M; // (B, NH, 1)
        var m = options.Stabilizes ? MLstmNormalizer.Larger(past, logI) : zeros_like(state.M);
        if (options.DetachesStabilizer)
        {
            m = m.detach();
        }

        var forget = exp(past - m).to(q.dtype);
        var input = exp(logI - m).to(q.dtype);
        var c = forget.unsqueeze(3) * state.C + (input * k).unsqueeze(3) * v.unsqueeze(2); // (B, NH, DK, DV)
        var n = forget * state.N + input * k; // (B, NH, DK)

        var scaled = q * Math.Pow(q.shape[2], -0.5);
        var h = scaled.unsqueeze(2).matmul(c).squeeze(2); // (B, NH, DV)
        if (options.Normalize)
        {
            h = MLstmNormalizer.Divide(h, (scaled * n).sum(-1), m.squeeze(2).to(q.dtype), options);
        }

        return (h, new(c, n, m));
    }
}
