using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Mamba2's state space with one decay a head (Dao and Gu 2024, section 6 and listing 1): chunks in the attention-like form, states between
/// them.
/// </summary>
/// <remarks>
/// For each token and head, with A below zero and h a matrix [P, N]:
/// <code>
/// h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T
/// y_t = h_t C_t
/// </code>
/// At a document's start h_{t-1} is zero. Where dt is zero the state stays as it is. In bfloat16 it is computed as
/// <see cref="GatedLinearAttention"/> with keys B, queries C and values dt x, where there are kernels for that.
/// </remarks>
public static class StateSpaceDual
{
    /// <summary>Whether x, b and c may be bfloat16, [B, S, H, P] and [B, S, G, N].</summary>
    internal static bool Serves(Tensor x, Tensor b) => MLstmSequenceKernel.Serves(b.transpose(1, 2), x.transpose(1, 2));

    /// <summary>Reads the tokens.</summary>
    /// <param name="x">[B, S, H, P], float32 or float64 as all others; S at least 1.</param>
    /// <param name="dt">[B, S, H], at least 0.</param>
    /// <param name="a">A, [H], at most 0.</param>
    /// <param name="b">B, [B, S, G, N], for groups of H / G heads.</param>
    /// <param name="c">C, [B, S, G, N].</param>
    /// <param name="chunkSize">L, the number of tokens that are treated in parallel; at least 1.</param>
    /// <param name="initial">The state before the first token, [B, H, P, N], left as it is; null is zero.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="returnLast">Whether the last state is wanted, which may be null if it is not.</param>
    /// <returns>y [B, S, H, P] and the state after the last token [B, H, P, N], in the caller's dispose scope.</returns>
    public static (Tensor Y, Tensor? Last) Forward(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, int chunkSize, Tensor? initial = null, Tensor? starts = null,
        bool returnLast = true)
    {
        using var scope = NewDisposeScope();
        var (batch, length, heads, width) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
        var (groups, states) = (b.shape[2], b.shape[3]);
        if (Serves(x, b))
        {
            var (byKernel, state) = AsLinearAttention(x, dt, a, b, c, initial, starts, returnLast);
            return (byKernel.MoveToOuterDisposeScope(), state?.MoveToOuterDisposeScope());
        }

        var size = Math.Min(chunkSize, length);
        var chunks = (length + size - 1) / size;
        var missing = chunks * size - length;

        // [B, S, K, ...] to [B, K, NC, L, ...]; what fills up the last chunk writes nothing and forgets nothing.
        Tensor Split(Tensor t)
        {
            long[] padding = [.. Enumerable.Repeat(0L, 2 * ((int)t.dim() - 2)), 0, missing];
            return (missing == 0 ? t : nn.functional.pad(t, padding)).unflatten(1, [chunks, size]).movedim([3], [1]);
        }

        var written = Split(x * dt.unsqueeze(3)); // (B, H, NC, L, P)
        var (keys, queries) = (Split(b), Split(c)); // (B, G, NC, L, N)
        var log = LogSums.Running(Split(dt * a)); // (B, H, NC, L)
        var causal = ones(size, size, dtype: ScalarType.Bool, device: x.device).tril();
        var logWrite = log.narrow(3, size - 1, 1) - log; // (B, H, NC, L)
        var logRead = log;
        if (starts is not null)
        {
            var documents = Split(starts.unsqueeze(2).to(ScalarType.Int64)).cumsum(3); // (B, 1, NC, L)
            causal = causal.logical_and(documents.unsqueeze(4).eq(documents.unsqueeze(3))); // (B, 1, NC, L, L)
            logWrite = logWrite.masked_fill(documents.ne(documents.narrow(3, size - 1, 1)), double.NegativeInfinity);
            logRead = log.masked_fill(documents.ne(0), double.NegativeInfinity);
        }

        var decays = LogSums.Decays(log, -log, causal, x.dtype); // (B, H, NC, L, L)
        var read = exp(logRead).to(x.dtype); // (B, H, NC, L): what is left of the state before the chunk
        var scores = PerHead(queries.matmul(keys.transpose(3, 4))) * decays; // (B, H, NC, L, L)
        var additions = (written * exp(logWrite).to(x.dtype).unsqueeze(4)).transpose(3, 4).matmul(PerHead(keys)); // (B, H, NC, P, N)
        var keep = read.select(3, size - 1).unsqueeze(3).unsqueeze(4); // (B, H, NC, 1, 1)
        var h = initial ?? zeros(batch, heads, width, states, dtype: x.dtype, device: x.device);
        var before = new List<Tensor>();
        for (var chunk = 0L; chunk < chunks; chunk++)
        {
            before.Add(h);
            h = keep.select(2, chunk) * h + additions.select(2, chunk); // (B, H, P, N)
        }

        var fromBefore = PerHead(queries).matmul(stack(before, 2).transpose(3, 4)) * read.unsqueeze(4); // (B, H, NC, L, P)
        var y = (scores.matmul(written) + fromBefore).flatten(2, 3).narrow(2, 0, length).transpose(1, 2); // (B, S, H, P)
        return (y.MoveToOuterDisposeScope(), h.MoveToOuterDisposeScope());

        Tensor PerHead(Tensor t) => groups == heads ? t : t.unsqueeze(2).expand(-1, -1, heads / groups, -1, -1, -1).flatten(1, 2);
    }

    private static (Tensor Y, Tensor? Last) AsLinearAttention(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial, Tensor? starts, bool returnLast)
    {
        var (heads, groups) = (x.shape[2], b.shape[2]);
        var scale = Math.Sqrt(b.shape[3]); // by which queries are divided there
        var values = x * (dt * scale).to(x.dtype).unsqueeze(3);
        var (y, last) = GatedLinearAttention.Forward(
            PerHead(c), PerHead(b), values.transpose(1, 2), (dt * a).transpose(1, 2),
            initial is null ? null : initial.transpose(2, 3) * scale,
            starts is null ? null : new SequenceLayout(starts), returnLast);
        return (y.transpose(1, 2), last is null ? null : last.transpose(2, 3) / scale);

        // [B, S, G, N] to [B, H, S, N]; one group's tokens are not copied.
        Tensor PerHead(Tensor t) => groups == 1
            ? t.transpose(1, 2).expand(-1, heads, -1, -1)
            : t.repeat_interleave(heads / groups, 2).transpose(1, 2);
    }
}
