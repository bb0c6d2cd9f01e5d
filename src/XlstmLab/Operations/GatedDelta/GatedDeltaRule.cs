using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>The two ways to compute one and the same delta rule.</summary>
public enum DeltaRuleForm
{
    /// <summary>Parallel inside a chunk, recurrent between chunks: time linear in the length. For training.</summary>
    Chunkwise,

    /// <summary>Token by token. For generation, and the reference for the other.</summary>
    Recurrent,
}

/// <summary>
/// The gated delta rule (Yang, Kautz and Hatamizadeh 2024, section 3.1): a matrix memory that decays, in which each token replaces a share
/// of what its key reads by its value. Without a decay it is DeltaNet (Yang et al. 2024).
/// </summary>
/// <remarks>
/// For each head, with the state S a matrix [DK, DV] (the papers write its transpose):
/// <code>
/// S_t = a_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T
/// o_t = DK^-1/2 S_t^T q_t
/// </code>
/// With keys of length 1 (<see cref="Normalize"/>) the matrix in brackets has an eigenvalue 1 - beta along the key and else 1. So beta in
/// (0, 1) keeps eigenvalues in [0, 1], and beta in (0, 2) lets them be negative, down to -1, as tracking of states needs (Grazzi et al.
/// 2024).
/// </remarks>
public static class GatedDeltaRule
{
    /// <summary>The logarithm of what counts as no decay left: its exponential is 0 in every type.</summary>
    private const double Nothing = -800;

    /// <summary>Reads a sequence.</summary>
    /// <param name="q">[B, NH, S, DK] queries: float32, float64 or bfloat16, S at least 1.</param>
    /// <param name="k">[B, NH, S, DK] keys; longer than 1 with a large beta they make the state grow without bound.</param>
    /// <param name="v">[B, NH, S, DV] values.</param>
    /// <param name="beta">[B, NH, S], the share of what the key reads that is replaced, from 0 to 2.</param>
    /// <param name="logDecay">[B, NH, S], log a, at most 0 (-infinity forgets all); null for no decay: DeltaNet.</param>
    /// <param name="initial">[B, NH, DK, DV], the state S to start from; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <param name="form">The form of the computation; a single token is always a recurrent step.</param>
    /// <param name="chunkSize">The chunkwise form's number of tokens in a chunk, L.</param>
    /// <returns>o [B, NH, S, DV] in the values' type, and the last state, float32 or wider, if it was asked for.</returns>
    /// <exception cref="ArgumentException">Shapes or types do not fit, or the form is none of its enum's.</exception>
    public static (Tensor Output, Tensor? Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? logDecay = null, Tensor? initial = null, SequenceLayout? layout = null,
        bool returnState = false, DeltaRuleForm form = DeltaRuleForm.Chunkwise, int chunkSize = 64)
    {
        Check(q, k, v, beta, logDecay, initial, layout, form, chunkSize);
        using var scope = NewDisposeScope();
        var type = q.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        (q, k, var values, beta) = (q.to(type), k.to(type), v.to(type), beta.to(type));
        var log = logDecay?.to(type).clamp_min(Nothing) ?? zeros_like(beta, requires_grad: false);
        if (layout?.Padding is { } padding)
        {
            var absent = padding.unsqueeze(1); // (B, 1, S)
            (beta, log) = (beta.masked_fill(absent, 0.0), log.masked_fill(absent, 0.0));
        }

        var state = initial?.to(type) ?? zeros(q.shape[0], q.shape[1], q.shape[3], v.shape[3], dtype: type, device: q.device);
        var starts = layout?.StartsIfAny();
        var (output, last) = (q.shape[2] == 1 ? DeltaRuleForm.Recurrent : form) switch
        {
            DeltaRuleForm.Recurrent => GatedDeltaRecurrent.Forward(q, k, values, beta, log, state, starts),
            DeltaRuleForm.Chunkwise => GatedDeltaChunkwise.Forward(q, k, values, beta, log, state, starts, chunkSize),
            _ => throw UnknownValue.Of(form),
        };
        return (output.to(v.dtype).MoveToOuterDisposeScope(), returnState ? last.MoveToOuterDisposeScope() : null);
    }

    /// <summary>Queries or keys at length 1: x / sqrt(sum x^2 + epsilon), over the last dimension and in the type of x.</summary>
    /// <param name="x">[..., D].</param>
    /// <param name="epsilon">Added to the square of the length, so that a zero stays one.</param>
    public static Tensor Normalize(Tensor x, double epsilon = 1e-6)
    {
        using var scope = NewDisposeScope();
        var wide = x.Widened();
        return (wide * (wide.square().sum(-1, keepdim: true) + epsilon).rsqrt()).to(x.dtype).MoveToOuterDisposeScope();
    }

    private static void Check(
        Tensor q, Tensor k, Tensor v, Tensor beta, Tensor? logDecay, Tensor? initial, SequenceLayout? layout, DeltaRuleForm form,
        int chunkSize)
    {
        _ = form.Known();
        MLstmCell.CheckSequence(q, k, v, layout, chunkSize);
        var (batch, heads, length, dk, dv) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3], v.shape[3]);
        MLstmCell.Require(beta, nameof(beta), batch, heads, length);
        if (logDecay is not null)
        {
            MLstmCell.Require(logDecay, nameof(logDecay), batch, heads, length);
        }

        if (initial is not null)
        {
            MLstmCell.Require(initial, nameof(initial), batch, heads, dk, dv);
        }
    }
}
