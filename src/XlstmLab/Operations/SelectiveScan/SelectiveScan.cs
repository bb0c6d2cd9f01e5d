using TorchSharp;
using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Mamba's selective state space (Gu and Dao 2023, algorithm 2): each channel has N states that decay and are written at rates that the
/// token sets.
/// </summary>
/// <remarks>
/// For each token and channel, with A below zero:
/// <code>
/// h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t
/// y_t = C_t h_t
/// </code>
/// At a document's start h_{t-1} is zero. Where dt is zero the state stays as it is, to the last bit.
/// </remarks>
public static class SelectiveScan
{
    /// <summary>
    /// Reads the tokens: one by <see cref="Recurrent"/>, more on the CPU by <see cref="SelectiveScanFused"/>, elsewhere by
    /// <see cref="SelectiveScanChunked"/>.
    /// </summary>
    /// <param name="x">[B, S, D], float32 or float64 as all others; S at least 1.</param>
    /// <param name="dt">[B, S, D], at least 0.</param>
    /// <param name="a">A, [D, N], at most 0.</param>
    /// <param name="b">B, [B, S, N].</param>
    /// <param name="c">C, [B, S, N].</param>
    /// <param name="initial">The state before the first token, [B, D, N], left as it is; null is zero.</param>
    /// <param name="starts">[B, S] bool, true where a document begins; or null.</param>
    /// <returns>y [B, S, D] and the state after the last token [B, D, N], in the caller's dispose scope.</returns>
    /// <exception cref="ArgumentException">A shape or type does not fit.</exception>
    public static (Tensor Y, Tensor Last) Forward(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial = null, Tensor? starts = null) =>
        x.shape is [_, 1, _] ? Recurrent(x, dt, a, b, c, initial, starts)
        : x.device_type == DeviceType.CPU ? SelectiveScanFused.Forward(x, dt, a, b, c, initial, starts)
        : SelectiveScanChunked.Forward(x, dt, a, b, c, initial, starts);

    /// <summary>The equations, token by token: what the other forms are held against.</summary>
    /// <inheritdoc cref="Forward"/>
    public static (Tensor Y, Tensor Last) Recurrent(
        Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial = null, Tensor? starts = null)
    {
        Check(x, dt, a, b, c, initial, starts);
        using var scope = NewDisposeScope();
        var h = initial ?? zeros(x.shape[0], x.shape[2], a.shape[1], dtype: x.dtype, device: x.device); // (B, D, N)
        var outputs = new List<Tensor>();
        for (var t = 0L; t < x.shape[1]; t++)
        {
            if (starts is not null)
            {
                h = h.masked_fill(starts.select(1, t).unsqueeze(1).unsqueeze(2), 0.0);
            }

            var (dtNow, xNow) = (dt.select(1, t), x.select(1, t)); // (B, D)
            h = exp(dtNow.unsqueeze(2) * a) * h + (dtNow * xNow).unsqueeze(2) * b.select(1, t).unsqueeze(1);
            outputs.Add((h * c.select(1, t).unsqueeze(1)).sum(-1)); // (B, D)
        }

        return (stack(outputs, 1).MoveToOuterDisposeScope(), h.MoveToOuterDisposeScope());
    }

    /// <summary>Refuses what does not fit together, before any native code sees it.</summary>
    internal static void Check(Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor? initial, Tensor? starts)
    {
        if (x.dim() != 3 || x.shape.Contains(0) || x.dtype is not (ScalarType.Float32 or ScalarType.Float64))
        {
            throw new ArgumentException($"x must be [B, S, D] of float32 or float64 with no size zero, but is {Show(x)}.", nameof(x));
        }

        var (batch, length, dim, states) = (x.shape[0], x.shape[1], x.shape[2], a.shape[^1]);
        Fit("dt", "[B, S, D]", dt, x.dtype, batch, length, dim);
        Fit("a", "[D, N]", a, x.dtype, dim, states);
        Fit("b", "[B, S, N]", b, x.dtype, batch, length, states);
        Fit("c", "[B, S, N]", c, x.dtype, batch, length, states);
        Fit("initial", "[B, D, N]", initial, x.dtype, batch, dim, states);
        Fit("starts", "[B, S]", starts, ScalarType.Bool, batch, length);

        void Fit(string name, string form, Tensor? tensor, ScalarType type, params ReadOnlySpan<long> shape)
        {
            if (tensor is not null && (!tensor.shape.AsSpan().SequenceEqual(shape) || tensor.dtype != type))
            {
                throw new ArgumentException($"{name} must be {form} of {type} to fit x {Show(x)}, but is {Show(tensor)}.", name);
            }
        }
    }

    private static string Show(Tensor tensor) => $"[{string.Join(", ", tensor.shape)}] {tensor.dtype}";
}
