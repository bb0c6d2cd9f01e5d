using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Analysis;

/// <summary>
/// Records how the heads of a model read its tokens: a Transformer's attention, and the matrix an mLSTM has in its place.
/// </summary>
public static class AttentionCapture
{
    private static readonly string[] Names = ["q", "k", "igate_preact", "fgate_preact", "h", "attention"];

    /// <summary>Records a single sequence.</summary>
    /// <param name="model">The model; it is left as it is, its observer too.</param>
    /// <param name="tokens">The token ids, at least one.</param>
    /// <param name="layers">As in <see cref="Run(LanguageModel, Tensor, SequenceLayout, IReadOnlyCollection{int}, MLstmOptions)"/>.</param>
    /// <param name="cell">As there.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the model does not know them.</exception>
    /// <exception cref="InvalidOperationException">None of the blocks shows an attention or an mLSTM.</exception>
    public static AttentionRecording Run(
        LanguageModel model, ReadOnlySpan<int> tokens, IReadOnlyCollection<int>? layers = null, MLstmOptions? cell = null)
    {
        using var scope = NewDisposeScope();
        return Run(model, BlockActivations.Sequence(model, tokens), null, layers, cell);
    }

    /// <summary>Records a batch, from an empty state. A block needs B NH S^2 floats.</summary>
    /// <param name="model">
    /// The model; it is left as it is. A block that shows <c>attention</c> [B, NH, S, S] is recorded as it is, one that shows an mLSTM by
    /// <see cref="EffectiveAttention"/>.
    /// </param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="layers">The blocks wanted; null for all.</param>
    /// <param name="cell">
    /// What the model's mLSTM computes; null takes it from an <see cref="XlstmLanguageModel"/>, or the 7B model's.
    /// </param>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    /// <exception cref="InvalidOperationException">None of the blocks shows an attention or an mLSTM.</exception>
    public static AttentionRecording Run(
        LanguageModel model,
        Tensor tokens,
        SequenceLayout? layout = null,
        IReadOnlyCollection<int>? layers = null,
        MLstmOptions? cell = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (sequences, length) = BlockActivations.Shape(tokens);
        var padding = BlockActivations.Flags(layout?.Padding, sequences * length);
        var recorded = new List<LayerAttention>();
        BlockActivations.Observe(model, tokens, layout, Names, ["attention", "h"], (block, seen) =>
        {
            using var scope = NewDisposeScope();
            if (layers?.Contains(block) == false || recorded.Any(l => l.Layer == block)
                || Weights(seen, layout, cell ?? BlockActivations.CellOf(model, block)) is not { } weights)
            {
                return;
            }

            recorded.Add(weights.dim() == 4 && weights.shape[0] == sequences && weights.shape[2] == length && weights.shape[3] == length
                ? new(block, (int)weights.shape[1], BlockActivations.ToArray(weights))
                : throw new InvalidOperationException(
                    $"Block {block} showed an attention of shape [{string.Join(", ", weights.shape)}]; expected [{sequences}, NH, "
                    + $"{length}, {length}]."));
        });
        return recorded.Count > 0
            ? new(sequences, length, padding, recorded)
            : throw new InvalidOperationException(
                $"The model's {(layers is null ? "blocks" : $"blocks {string.Join(", ", layers)}")} showed no attention and no "
                + "mLSTM to the observer.");
    }

    /// <summary>The matrix A by which an mLSTM that starts empty reads the values it was given, h = A v, as attention does.</summary>
    /// <remarks>
    /// A_ts = (q_t k_s / sqrt(DK)) i_s f_(s+1) ... f_t / (max(|n_t q_t|, exp(-m_t)) + epsilon) for s up to t, with the stabiliser cancelled
    /// (xLSTM, appendix A.3: D * Q K^T / sqrt(DK), normalised). Computed as the cell's output for the unit vectors as values.
    /// </remarks>
    /// <param name="q">[B, NH, S, DK] queries: float32, float64 or bfloat16.</param>
    /// <param name="k">[B, NH, S, DK] keys.</param>
    /// <param name="igatePreact">[B, NH, S] pre-activation of the input gate, i~.</param>
    /// <param name="fgatePreact">[B, NH, S] pre-activation of the forget gate, f~.</param>
    /// <param name="layout">Document starts and padding; rows of padding have no meaning, columns of padding are 0.</param>
    /// <param name="cell">What the cell computes.</param>
    /// <returns>[B, NH, S, S], float32 or wider: row t is how token t reads; 0 after t and outside of its document.</returns>
    /// <exception cref="ArgumentException">Shapes or types do not fit.</exception>
    public static Tensor EffectiveAttention(
        Tensor q, Tensor k, Tensor igatePreact, Tensor fgatePreact, SequenceLayout? layout = null, MLstmOptions? cell = null)
    {
        ArgumentNullException.ThrowIfNull(q);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var length = q.shape[^2];
        var type = q.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;
        var units = eye(length, dtype: type, device: q.device).expand(q.shape[0], q.shape[1], length, length);
        var parallel = (cell ?? new()) with { Form = MLstmForm.Parallel };
        return MLstmCell.ForwardOutput(q, k, units, igatePreact, fgatePreact, null, layout, parallel).MoveToOuterDisposeScope();
    }

    private static Tensor? Weights(IReadOnlyDictionary<string, Tensor> seen, SequenceLayout? layout, MLstmOptions cell) =>
        seen.TryGetValue("attention", out var attention) ? attention
        : seen.ContainsKey("q") && seen.ContainsKey("k") && seen.ContainsKey("igate_preact") && seen.ContainsKey("fgate_preact")
            ? EffectiveAttention(seen["q"], seen["k"], seen["igate_preact"], seen["fgate_preact"], layout, cell)
            : null;
}
