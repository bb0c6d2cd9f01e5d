using static TorchSharp.torch;

namespace XlstmLab.Cells;

/// <summary>The mLSTM with all tokens at once, like attention with decays: time and memory quadratic in the length.</summary>
public static class MLstmParallel
{
    /// <summary>Reads a sequence at once (xLSTM, appendix A.3); arguments and results as <see cref="MLstmRecurrent.Forward"/>.</summary>
    internal static (Tensor H, MLstmState Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor logI, Tensor logF, MLstmState initial, Tensor? documentStarts, MLstmOptions options)
    {
        var constant = options.NormalizerGradient == NormalizerGradient.Constant;
        var length = q.shape[2];
        var b = logF.cumsum(-1); // (B, NH, S)
        var causal = ones(length, length, dtype: ScalarType.Bool, device: q.device).tril();
        var before = zeros_like(b); // b just before the document of each position, (B, NH, S)
        var fromInitial = ones_like(b); // 1 where a position still belongs to the initial state's document
        if (documentStarts is not null)
        {
            var document = documentStarts.to(ScalarType.Int64).cumsum(-1).unsqueeze(1); // (B, 1, S)
            causal = causal.logical_and(document.unsqueeze(3).eq(document.unsqueeze(2)));
            fromInitial = document.eq(0).to(b.dtype).expand_as(b);
            var start = where(documentStarts, arange(length, device: q.device), zeros(1, dtype: ScalarType.Int64, device: q.device))
                .cummax(-1).values.unsqueeze(1).expand_as(b);
            before = (b - logF).gather(2, start) * (1 - fromInitial);
        }

        var logWeights = (b.unsqueeze(3) - b.unsqueeze(2) + logI.unsqueeze(2)).masked_fill(causal.logical_not(), double.NegativeInfinity);
        var logInitial = b - before + initial.M * fromInitial; // weight of the state each document starts from
        var m = options.Stabilizes ? maximum(logInitial, logWeights.amax(-1)) : zeros_like(b);
        m = options.DetachesStabilizer ? m.detach() : m;

        var scaled = q * Math.Pow(q.shape[3], -0.5);
        var weights = scaled.matmul(k.transpose(2, 3)) * exp(logWeights - m.unsqueeze(3)); // (B, NH, S, S)
        var decay = (exp(logInitial - m) * fromInitial).unsqueeze(3); // (B, NH, S, 1)
        var h = weights.matmul(v) + decay * scaled.matmul(initial.C);
        if (options.Normalize)
        {
            var sum = weights.sum(-1) + (decay * scaled).matmul(initial.N.unsqueeze(3)).squeeze(3);
            var denominator = maximum(sum.abs(), exp(-m)) + options.Epsilon;
            h /= (constant ? denominator.detach() : denominator).unsqueeze(3);
        }

        // The state is what a query at the last position would read.
        var mLast = m.narrow(2, length - 1, 1); // (B, NH, 1)
        var write = exp(logWeights.select(2, length - 1) - mLast).unsqueeze(3) * k; // (B, NH, S, DK)
        var keep = decay.narrow(2, length - 1, 1);
        var c = keep * initial.C + write.transpose(2, 3).matmul(v);
        var n = keep.squeeze(3) * initial.N + write.sum(2);
        return (h, new(c, n, mLast));
    }
}
