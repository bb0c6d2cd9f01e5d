using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The mLSTM with all tokens at once, like attention with decays: time and memory quadratic in the length.</summary>
public static class MLstmParallel
{
    /// <summary>Reads a sequence at once (xLSTM, appendix A.3); arguments and results as <see cref="MLstmRecurrent.Forward"/>.</summary>
    internal static (Tensor H, MLstmState Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, MLstmState initial, Tensor? documentStarts, MLstmOptions options)
    {
        var (type, length) = (q.dtype, q.shape[2]);
        var b = LogSums.Running(logF); // (B, NH, S)
        var causal = ones(length, length, dtype: ScalarType.Bool, device: q.device).tril();
        var before = zeros_like(b); // b just before the document of each position, (B, NH, S)
        var fromInitial = ones_like(before); // 1 where a position still belongs to the initial state's document
        Tensor? document = null; // (B, 1, S)
        if (documentStarts is not null)
        {
            document = documentStarts.to(ScalarType.Int64).cumsum(-1).unsqueeze(1);
            causal = causal.logical_and(document.unsqueeze(3).eq(document.unsqueeze(2)));
            fromInitial = document.eq(0).to(b.dtype).expand_as(b);
            var start = where(documentStarts, arange(length, device: q.device), zeros(1, dtype: ScalarType.Int64, device: q.device))
                .cummax(-1).values.unsqueeze(1).expand_as(b);
            before = (b - logF).gather(2, start) * (1 - fromInitial);
        }

        var u = logI - b; // a key's weight, up to the query's share b - m
        var logInitial = b - before + initial.M * fromInitial; // weight of the state each document starts from
        var m = options.Stabilizes ? MLstmNormalizer.Larger(logInitial, b + LogSums.LargestSoFar(u, document)) : zeros_like(before);
        m = options.DetachesStabilizer ? m.detach() : m;

        var scaled = q * Math.Pow(q.shape[3], -0.5);
        var decays = LogSums.Decays(b - m, u, causal, type); // (B, NH, S, S)
        var weights = scaled.matmul(k.transpose(2, 3)) * decays;
        var decay = (exp(logInitial - m) * fromInitial).to(type).unsqueeze(3); // (B, NH, S, 1)
        var h = weights.matmul(v) + decay * scaled.matmul(initial.C);
        if (options.Normalize)
        {
            var sum = weights.sum(-1) + (decay * scaled).matmul(initial.N.unsqueeze(3)).squeeze(3);
            h = MLstmNormalizer.Divide(h, sum, m.to(type), options);
        }

        // The state is what a query at the last position would read.
        var mLast = m.narrow(2, length - 1, 1); // (B, NH, 1)
        var write = decays.select(2, length - 1).unsqueeze(3) * k; // (B, NH, S, DK)
        var keep = decay.narrow(2, length - 1, 1);
        var c = keep * initial.C + write.transpose(2, 3).matmul(v);
        var n = keep.squeeze(3) * initial.N + write.sum(2);
        return (h, MLstmNormalizer.Narrowed(c, n, mLast));
    }
}
