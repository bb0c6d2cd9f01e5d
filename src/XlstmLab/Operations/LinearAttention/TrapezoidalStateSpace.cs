using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>What a <see cref="TrapezoidalStateSpace"/> remembers.</summary>
/// <param name="H">[B, H, N, P], the state h.</param>
/// <param name="Key">[B, H, N], B of the token before; zero where there was none.</param>
/// <param name="Value">[B, H, P], x of the token before.</param>
public sealed record TrapezoidalState(Tensor H, Tensor Key, Tensor Value);

/// <summary>
/// Mamba-3's state space with one input and output (Lahoti et al. 2026, sections 3.1 and 3.2): a decaying matrix a head whose channels turn
/// in pairs, and an input that is a mean of a step's two ends.
/// </summary>
/// <remarks>
/// For each token and head, with h a matrix [N, P], a = exp(dt A) and R the rotation of pairs of channels (2j, 2j + 1) by dt theta_j:
/// <code>
/// h_t = a_t R_t (h_(t-1) + (1 - lambda_t) dt_t B_(t-1) x_(t-1)^T) + lambda_t dt_t B_t x_t^T
/// y_t = h_t^T C_t
/// </code>
/// (the exponential-trapezoidal rule of proposition 1 with the complex state of proposition 2, in real numbers). With lambda = 1 and no
/// rotation it is Mamba2's. The chunkwise form turns B and C back by the angles summed up so far instead of the state (proposition 4), and
/// writes a token's share of the next step with its own, which leaves a linear attention with a decay
/// (<see cref="GatedLinearAttention"/>):
/// <code>
/// T_t = a_t T_(t-1) + (lambda_t dt_t + next_t) B_t x_t^T,   next_t = (1 - lambda_(t+1)) dt_(t+1)
/// y_t = T_t^T C_t - next_t (B_t C_t) x_t
/// </code>
/// </remarks>
public static class TrapezoidalStateSpace
{
    /// <summary>Reads a sequence.</summary>
    /// <param name="x">[B, S, H, P]: float32, float64 or bfloat16, S at least 1.</param>
    /// <param name="dt">[B, S, H] step sizes, at least 0, float32 or wider as the next three; 0 where there is no token.</param>
    /// <param name="logDecay">[B, S, H], dt A, at most 0; 0 where there is no token.</param>
    /// <param name="lambda">[B, S, H], the share of a step's later end, from 0 to 1.</param>
    /// <param name="angles">[B, S, H, R] what each of the first R pairs of channels turns by, dt theta; null for no rotation.</param>
    /// <param name="b">B, [B, S, H, N], N at least 2 R.</param>
    /// <param name="c">C, [B, S, H, N].</param>
    /// <param name="initial">The state before the first token; null is none.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <param name="real">[B, S] bool, true for tokens, which come first; null where all are.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <param name="form">Recurrent for the equations token by token; all others in chunks.</param>
    /// <param name="chunkSize">The number of tokens that are treated in parallel.</param>
    /// <returns>y [B, S, H, P] in the type of x, and the last state, float32 or wider, if it was asked for.</returns>
    public static (Tensor Y, TrapezoidalState? Last) Forward(
        Tensor x, Tensor dt, Tensor logDecay, Tensor lambda, Tensor? angles, Tensor b, Tensor c, TrapezoidalState? initial = null,
        Tensor? starts = null, Tensor? real = null, bool returnState = false, MLstmForm form = MLstmForm.Chunkwise, int chunkSize = 64)
    {
        _ = form.Known();
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(b);
        var (batch, heads, states, width) = (x.shape[0], x.shape[2], b.shape[3], x.shape[3]);
        using var scope = NewDisposeScope();
        var type = dt.dtype;
        initial = new(
            initial?.H.to(type) ?? zeros(batch, heads, states, width, dtype: type, device: x.device),
            initial?.Key.to(type) ?? zeros(batch, heads, states, dtype: type, device: x.device),
            initial?.Value.to(type) ?? zeros(batch, heads, width, dtype: type, device: x.device));
        var (y, h) = form == MLstmForm.Recurrent
            ? Recurrent(x.to(type), dt, logDecay, lambda, angles, b.to(type), c.to(type), initial, starts)
            : Chunkwise(x, dt, logDecay, lambda, angles, b, c, initial, starts, returnState, chunkSize);
        if (!returnState)
        {
            return (y.to(x.dtype).MoveToOuterDisposeScope(), null);
        }

        var key = LastToken(initial.Key, b.to(type), starts, real);
        var value = LastToken(initial.Value, x.to(type), starts, real);
        return (
            y.to(x.dtype).MoveToOuterDisposeScope(),
            new(h!.MoveToOuterDisposeScope(), key.MoveToOuterDisposeScope(), value.MoveToOuterDisposeScope()));
    }

    private static (Tensor Y, Tensor? H) Recurrent(
        Tensor x, Tensor dt, Tensor logDecay, Tensor lambda, Tensor? angles, Tensor b, Tensor c, TrapezoidalState initial, Tensor? starts)
    {
        var (h, key, value) = (initial.H, initial.Key, initial.Value);
        var outputs = new List<Tensor>();
        for (var t = 0L; t < x.shape[1]; t++)
        {
            if (starts?.select(1, t) is { } isStart)
            {
                var (ofState, ofToken) = (isStart.view(-1, 1, 1, 1), isStart.view(-1, 1, 1));
                (h, key, value) = (h.masked_fill(ofState, 0), key.masked_fill(ofToken, 0), value.masked_fill(ofToken, 0));
            }

            var (step, later) = (dt.select(1, t).unsqueeze(2).unsqueeze(3), lambda.select(1, t).unsqueeze(2).unsqueeze(3)); // (B, H, 1, 1)
            h = h + (1 - later) * step * Outer(key, value); // (B, H, N, P)
            if (angles is not null)
            {
                var angle = angles.select(1, t); // (B, H, R)
                h = Turn(h.transpose(2, 3), angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)).transpose(2, 3);
            }

            (key, value) = (b.select(1, t), x.select(1, t));
            h = exp(logDecay.select(1, t)).unsqueeze(2).unsqueeze(3) * h + later * step * Outer(key, value);
            outputs.Add(c.select(1, t).unsqueeze(2).matmul(h).squeeze(2)); // (B, H, P)
        }

        return (stack(outputs, 1), h);

        static Tensor Outer(Tensor key, Tensor value) => key.unsqueeze(3) * value.unsqueeze(2);
    }

    private static (Tensor Y, Tensor? H) Chunkwise(
        Tensor x, Tensor dt, Tensor logDecay, Tensor lambda, Tensor? angles, Tensor b, Tensor c, TrapezoidalState initial, Tensor? starts,
        bool returnState, int chunkSize)
    {
        var earlier = (1 - lambda) * dt; // (B, S, H), the share of a step's earlier end
        var following = earlier.narrow(1, 1, x.shape[1] - 1);
        if (starts is not null)
        {
            following = following.masked_fill(starts.narrow(1, 1, x.shape[1] - 1).unsqueeze(2), 0.0);
        }

        var next = nn.functional.pad(following, [0, 0, 0, 1]); // (B, S, H)
        var overlap = (b * c).Widened().sum(-1); // (B, S, H), which no rotation changes
        Tensor? sums = null;
        if (angles is not null)
        {
            sums = angles.to(LogSums.Type(angles)).cumsum(1); // (B, S, H, R)
            var (cos, sin) = (sums.cos().to(dt.dtype), -sums.sin().to(dt.dtype));
            (b, c) = (Turn(b, cos, sin), Turn(c, cos, sin));
        }

        var scale = Math.Sqrt(b.shape[3]); // by which queries are divided there
        var values = x * ((lambda * dt + next) * scale).to(x.dtype).unsqueeze(3);
        var first = earlier.select(1, 0).unsqueeze(2).unsqueeze(3); // (B, H, 1, 1)
        var state = (initial.H + first * initial.Key.unsqueeze(3) * initial.Value.unsqueeze(2)) * scale;
        var (y, last) = GatedLinearAttention.Forward(
            c.transpose(1, 2), b.transpose(1, 2), values.transpose(1, 2), logDecay.transpose(1, 2), state,
            starts is null ? null : new SequenceLayout(starts), returnState, chunkSize: chunkSize); // (B, H, S, P), (B, H, N, P)
        var output = y.transpose(1, 2) - (next * overlap).to(x.dtype).unsqueeze(3) * x;
        if (last is not null && sums is not null)
        {
            var all = sums.select(1, -1).unsqueeze(2); // (B, H, 1, R)
            last = Turn(last.transpose(2, 3), all.cos().to(dt.dtype), all.sin().to(dt.dtype)).transpose(2, 3);
        }

        return (output, last is null ? null : last / scale);
    }

    /// <summary>What the next token follows, [B, H, ...] of [B, S, H, ...]; zero where a document that has no token yet does.</summary>
    private static Tensor LastToken(Tensor before, Tensor tokens, Tensor? starts, Tensor? real)
    {
        if (starts is null && real is null)
        {
            return tokens.select(1, -1).clone();
        }

        return PastTokens.Of(tokens.flatten(2), before.flatten(1).unsqueeze(1), 1, starts).Last(1, real).view_as(before); // (B, 1, H ...)
    }

    /// <summary>Turns pairs of channels (2j, 2j + 1) of [..., N] by angles of which there are R; the channels behind them stay.</summary>
    private static Tensor Turn(Tensor x, Tensor cos, Tensor sin)
    {
        var turned = 2 * cos.shape[^1];
        var pairs = x.narrow(-1, 0, turned).unflatten(x.dim() - 1, [turned / 2, 2]).to(cos.dtype);
        var (a, b) = (pairs.select(-1, 0), pairs.select(-1, 1)); // (..., R)
        var y = stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(x.dim() - 1).to(x.dtype);
        return turned == x.shape[^1] ? y : cat([y, x.narrow(-1, turned, x.shape[^1] - turned)], -1);
    }
}
