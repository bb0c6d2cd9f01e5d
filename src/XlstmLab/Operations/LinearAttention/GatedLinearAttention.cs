using static TorchSharp.torch;

namespace XlstmLab.Operations;

/// <summary>
/// Linear attention with one data-dependent decay a head: S_t = a_t S_(t-1) + k_t v_t^T, o_t = DK^-1/2 S_t^T q_t
/// (Yang et al. 2023, eq. 3, with G_t = a_t).
/// </summary>
/// <remarks>
/// That is an mLSTM with an input gate of 1, a forget gate a and no normaliser, and so it is computed: in chunks, or token by token
/// (<see cref="MLstmForm"/>).
/// </remarks>
public static class GatedLinearAttention
{
    /// <summary>Reads a sequence.</summary>
    /// <param name="q">[B, NH, S, DK] queries: float32, float64 or bfloat16, S at least 1.</param>
    /// <param name="k">[B, NH, S, DK] keys.</param>
    /// <param name="v">[B, NH, S, DV] values.</param>
    /// <param name="logDecay">[B, NH, S], log a, at most 0.</param>
    /// <param name="initial">[B, NH, DK, DV], the state S to start from; null is the empty state.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="returnState">Whether the last state is wanted.</param>
    /// <param name="form">The form of the computation; a single token is always a recurrent step.</param>
    /// <param name="chunkSize">The chunkwise form's number of tokens in a chunk.</param>
    /// <returns>o [B, NH, S, DV] in the values' type, and the last state, float32 or wider, if it was asked for.</returns>
    /// <exception cref="ArgumentException">Shapes or types do not fit.</exception>
    public static (Tensor Output, Tensor? Last) Forward(
        Tensor q, Tensor k, Tensor v, Tensor logDecay, Tensor? initial = null, SequenceLayout? layout = null,
        bool returnState = false, MLstmForm form = MLstmForm.Chunkwise, int chunkSize = 64)
    {
        using var scope = NewDisposeScope();
        var type = q.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;

        // With gates that are never above 1 the cell keeps the state's scale at 1.
        var options = new MLstmOptions { InputGate = InputGate.None, Normalize = false, Form = form, ChunkSize = chunkSize };
        var logF = logDecay.to(type);
        var logI = zeros_like(logF, requires_grad: false);
        var state = initial is null ? null : new MLstmState(initial.to(type), Sums(initial), Scales(initial));
        MLstmCell.Check(q, k, v, logI, logF, state, layout, options);
        var (output, last) = MLstmCell.FromLogGates(q, k, v, logI, logF, state, layout, options, returnState);
        return (output.MoveToOuterDisposeScope(), last?.C.MoveToOuterDisposeScope());

        // Without a normaliser nothing reads n, and m stays 0.
        Tensor Sums(Tensor s) => zeros(s.shape[..^1], dtype: type, device: s.device);
        Tensor Scales(Tensor s) => zeros(s.shape[0], s.shape[1], 1, dtype: type, device: s.device);
    }
}
