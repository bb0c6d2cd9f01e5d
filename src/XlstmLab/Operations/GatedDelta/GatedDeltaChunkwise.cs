using XlstmLab.Native.Cuda;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The gated delta rule in chunks of L tokens: parallel inside a chunk, one matrix product a chunk between them.</summary>
/// <remarks>
/// Every token adds k_i u_i^T to the decayed state, where u_i = beta_i (v_i - what k_i reads). Inside a chunk that starts from S, with
/// g_i the running sum of log decays, what k_i reads are S and the tokens before it:
/// <code>
/// u_i + beta_i sum_(j&lt;i) exp(g_i - g_j) (k_i k_j) u_j = beta_i (v_i - exp(g_i) S^T k_i)
/// </code>
/// a unit lower triangular system for all u at once: the UT transform of Yang et al. 2024, with the decays of Yang, Kautz and Hatamizadeh
/// 2024, section 3.3. Its right side is linear in S, so it is solved for values and keys before S is known: U = V' - K' S. Decays are
/// exponentials of differences that are never above 0.
/// </remarks>
internal static class GatedDeltaChunkwise
{
    /// <summary>Reads a sequence in chunks; the other arguments and the results as <see cref="GatedDeltaRecurrent.Forward"/>.</summary>
    public static (Tensor Output, Tensor Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor logDecay, Tensor initial, Tensor? starts, int chunkSize)
    {
        var (type, dk, dv) = (q.dtype, q.shape[3], v.shape[3]);
        var chunks = new TokenChunks(q.shape[2], chunkSize);
        var end = chunks.Size - 1;

        // What fills up the last chunk writes nothing and forgets nothing.
        (q, k, v) = (chunks.Split(q * Math.Pow(dk, -0.5)), chunks.Split(k), chunks.Split(v)); // (B, NH, NC, L, D)
        beta = chunks.Split(beta).unsqueeze(4); // (B, NH, NC, L, 1)
        var log = LogSums.Running(chunks.Split(logDecay)); // (B, NH, NC, L)
        var causal = ones(chunks.Size, chunks.Size, dtype: ScalarType.Bool, device: q.device).tril();
        var logWrite = log.narrow(3, end, 1) - log;
        var logRead = log;
        if (starts is not null)
        {
            var documents = chunks.Split(starts.unsqueeze(1).to(ScalarType.Int64)).cumsum(3); // (B, 1, NC, L)
            causal = causal.logical_and(documents.unsqueeze(4).eq(documents.unsqueeze(3))); // (B, 1, NC, L, L)
            logWrite = logWrite.masked_fill(documents.ne(documents.narrow(3, end, 1)), double.NegativeInfinity);
            logRead = log.masked_fill(documents.ne(0), double.NegativeInfinity);
        }

        var decays = LogSums.Decays(log, -log, causal, type); // (B, NH, NC, L, L)
        var read = exp(logRead).to(type).unsqueeze(4); // (B, NH, NC, L, 1): what is left of the state before the chunk
        var writers = (exp(logWrite).to(type).unsqueeze(4) * k).transpose(3, 4); // (B, NH, NC, DK, L)

        if (q.device_type == TorchSharp.DeviceType.CUDA)
        {
            LinearAlgebra.EnsureLoaded();
        }

        // The solver takes the diagonal for ones and does not look above it.
        var overlaps = beta * k.matmul(k.transpose(3, 4)) * decays; // (B, NH, NC, L, L)
        var solved = linalg.solve_triangular(overlaps, beta * cat([v, read * k], 4), upper: false, unitriangular: true);
        var (values, keys) = (solved.narrow(4, 0, dv), solved.narrow(4, dv, dk)); // V', K'

        // S at the chunk's end: what is left of it, and the writers' share of U.
        var keep = read.narrow(3, end, 1) * eye(dk, dtype: type, device: q.device) - writers.matmul(keys); // (B, NH, NC, DK, DK)
        var addition = writers.matmul(values); // (B, NH, NC, DK, DV)
        var state = initial;
        var states = new List<Tensor>();
        for (long c = 0; c < chunks.Count; c++)
        {
            states.Add(state);
            state = keep.select(2, c).matmul(state) + addition.select(2, c); // (B, NH, DK, DV)
        }

        var before = stack(states, 2); // (B, NH, NC, DK, DV)
        var changes = values - keys.matmul(before); // U, (B, NH, NC, L, DV)
        var output = (q.matmul(k.transpose(3, 4)) * decays).matmul(changes) + (read * q).matmul(before);
        return (chunks.Flatten(output), state);
    }
}
