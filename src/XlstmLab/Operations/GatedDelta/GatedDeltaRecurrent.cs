using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The gated delta rule token by token: the reference that the chunkwise form is tested against.</summary>
internal static class GatedDeltaRecurrent
{
    /// <summary>Reads a sequence token by token (Yang, Kautz and Hatamizadeh 2024, section 3.1).</summary>
    /// <param name="q">[B, NH, S, DK].</param>
    /// <param name="k">[B, NH, S, DK].</param>
    /// <param name="v">[B, NH, S, DV].</param>
    /// <param name="beta">[B, NH, S].</param>
    /// <param name="logDecay">[B, NH, S].</param>
    /// <param name="initial">[B, NH, DK, DV].</param>
    /// <param name="starts">[B, S] bool, or null.</param>
    /// <returns>o [B, NH, S, DV] and the last state [B, NH, DK, DV].</returns>
    public static (Tensor Output, Tensor Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor logDecay, Tensor initial, Tensor? starts)
    {
        var decay = exp(logDecay).unsqueeze(3).unsqueeze(4); // (B, NH, S, 1, 1)
        var share = beta.unsqueeze(3).unsqueeze(4);
        var queries = (q * Math.Pow(q.shape[3], -0.5)).unsqueeze(3); // (B, NH, S, 1, DK)
        var (keys, values) = (k.unsqueeze(3), v.unsqueeze(3));
        var state = initial;
        var outputs = new List<Tensor>();
        for (long t = 0; t < q.shape[2]; t++)
        {
            if (starts is not null)
            {
                state = state.masked_fill(starts.select(1, t).reshape(-1, 1, 1, 1), 0.0);
            }

            var key = keys.select(2, t); // (B, NH, 1, DK)
            state = decay.select(2, t) * state; // (B, NH, DK, DV)
            var change = share.select(2, t) * (values.select(2, t) - key.matmul(state)); // (B, NH, 1, DV)
            state = state + key.transpose(2, 3) * change;
            outputs.Add(queries.select(2, t).matmul(state));
        }

        return (cat(outputs, 2), state);
    }
}
