using XlstmLab.Operations;

namespace XlstmLab.Analysis;

/// <summary>What a recording holds of every block, head and token. Memory quantities are those after the token was read.</summary>
/// <remarks>Symbols as in xLSTM 7B, eqs. 2-9: C, n and m are the stabilised state, exp(m) C the memory in units of 1.</remarks>
public enum GateQuantity
{
    /// <summary>The input gate's pre-activation after its soft cap, i~.</summary>
    InputPreactivation,

    /// <summary>The forget gate's pre-activation after its soft cap, f~.</summary>
    ForgetPreactivation,

    /// <summary>The input gate: exp(i~), sigmoid(i~), or 1 if there is none.</summary>
    InputGate,

    /// <summary>The forget gate: sigmoid(f~), exp(f~), or 1 if there is none.</summary>
    ForgetGate,

    /// <summary>The logarithm of the input gate, in nats.</summary>
    LogInputGate,

    /// <summary>The logarithm of the forget gate, in nats: exact also where the gate is all but 1.</summary>
    LogForgetGate,

    /// <summary>The stabiliser m, the logarithm of the memory's scale; 0 where no gate is exponential.</summary>
    Stabilizer,

    /// <summary>The product of normaliser and query, n q / sqrt(dqk), stabilised.</summary>
    NormalizerProduct,

    /// <summary>The denominator max(|n q| / sqrt(dqk), exp(-m)) + epsilon, stabilised; 1 where the cell does not normalise.</summary>
    Denominator,

    /// <summary>The Frobenius norm of the memory in units of 1, exp(m) |C|; infinite where float32 cannot hold it.</summary>
    MemoryNorm,

    /// <summary>The Frobenius norm of the stabilised memory, |C|.</summary>
    StabilizedMemoryNorm,

    /// <summary>The output gate sigmoid(o~), mean over the head's channels; NaN in a layer that has none.</summary>
    OutputGate,

    /// <summary>The Euclidean norm of the cell's output h, before the head norm.</summary>
    OutputNorm,
}

/// <summary>One block, head and token of a recording: a row in long format.</summary>
/// <param name="Sequence">The row of the batch.</param>
/// <param name="Layer">The block, from 0.</param>
/// <param name="Head">The head, from 0.</param>
/// <param name="Token">The position in the sequence, from 0.</param>
/// <param name="InputPreactivation"><see cref="GateQuantity.InputPreactivation"/></param>
/// <param name="ForgetPreactivation"><see cref="GateQuantity.ForgetPreactivation"/></param>
/// <param name="InputGate"><see cref="GateQuantity.InputGate"/></param>
/// <param name="ForgetGate"><see cref="GateQuantity.ForgetGate"/></param>
/// <param name="LogInputGate"><see cref="GateQuantity.LogInputGate"/></param>
/// <param name="LogForgetGate"><see cref="GateQuantity.LogForgetGate"/></param>
/// <param name="Stabilizer"><see cref="GateQuantity.Stabilizer"/></param>
/// <param name="NormalizerProduct"><see cref="GateQuantity.NormalizerProduct"/></param>
/// <param name="Denominator"><see cref="GateQuantity.Denominator"/></param>
/// <param name="MemoryNorm"><see cref="GateQuantity.MemoryNorm"/></param>
/// <param name="StabilizedMemoryNorm"><see cref="GateQuantity.StabilizedMemoryNorm"/></param>
/// <param name="OutputGate"><see cref="GateQuantity.OutputGate"/></param>
/// <param name="OutputNorm"><see cref="GateQuantity.OutputNorm"/></param>
public sealed record GateRow(
    int Sequence,
    int Layer,
    int Head,
    int Token,
    float InputPreactivation,
    float ForgetPreactivation,
    float InputGate,
    float ForgetGate,
    float LogInputGate,
    float LogForgetGate,
    float Stabilizer,
    float NormalizerProduct,
    float Denominator,
    float MemoryNorm,
    float StabilizedMemoryNorm,
    float OutputGate,
    float OutputNorm);

/// <summary>The gates and the memory of every mLSTM block over a batch of tokens, in managed memory.</summary>
public sealed class GateRecording
{
    private readonly bool[] _documentStarts;
    private readonly bool[] _padding;

    internal GateRecording(int sequences, int length, bool[] documentStarts, bool[] padding, IReadOnlyList<LayerRecording> layers)
    {
        SequenceCount = sequences;
        Length = length;
        _documentStarts = documentStarts;
        _padding = padding;
        Layers = layers;
    }

    /// <summary>The number of sequences, B.</summary>
    public int SequenceCount { get; }

    /// <summary>The number of tokens of a sequence, S, padding included.</summary>
    public int Length { get; }

    /// <summary>The blocks that have an mLSTM, in their order.</summary>
    public IReadOnlyList<LayerRecording> Layers { get; }

    /// <summary>The recording of a block.</summary>
    /// <param name="layer">The index of the block, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">That block has no mLSTM, or there is no such block.</exception>
    public LayerRecording Layer(int layer) =>
        Layers.FirstOrDefault(l => l.Layer == layer) ?? throw new ArgumentOutOfRangeException(
            nameof(layer), layer,
            $"There is no recording of that block. Recorded blocks: {string.Join(", ", Layers.Select(l => l.Layer))}.");

    /// <summary>One quantity of one head over the tokens [S]; NaN at padding.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such block, head or sequence.</exception>
    public ReadOnlySpan<float> Values(GateQuantity quantity, int layer, int head, int sequence = 0)
    {
        var recorded = Layer(layer);
        CheckIndex(head, recorded.HeadCount, "head");
        CheckIndex(sequence, SequenceCount, "sequence");
        return recorded[quantity].AsSpan((sequence * recorded.HeadCount + head) * Length, Length);
    }

    /// <summary>Whether a position is the first token of a document: the state is empty before it.</summary>
    public bool IsDocumentStart(int sequence, int token) => token == 0 || _documentStarts[sequence * Length + token];

    /// <summary>Whether a position holds no token.</summary>
    public bool IsPadding(int sequence, int token) => _padding[sequence * Length + token];

    /// <summary>All blocks, heads and tokens in long format; padding is left out.</summary>
    public IEnumerable<GateRow> Rows()
    {
        foreach (var layer in Layers)
        {
            for (var sequence = 0; sequence < SequenceCount; sequence++)
            {
                for (var head = 0; head < layer.HeadCount; head++)
                {
                    for (var token = 0; token < Length; token++)
                    {
                        if (!IsPadding(sequence, token))
                        {
                            yield return layer.Row(sequence, head, token, Length);
                        }
                    }
                }
            }
        }
    }

    private static void CheckIndex(int index, int count, string name)
    {
        if (index < 0 || index >= count)
        {
            throw new ArgumentOutOfRangeException(name, index, $"Expected a {name} from 0 to {count - 1}, got {index}.");
        }
    }
}

/// <summary>One block's part of a <see cref="GateRecording"/>.</summary>
public sealed class LayerRecording
{
    private readonly float[][] _values;

    internal LayerRecording(int layer, int heads, int sequences, int length, InputGate inputGate)
    {
        Layer = layer;
        HeadCount = heads;
        InputGate = inputGate;
        _values = [.. Enum.GetValues<GateQuantity>().Select(_ => new float[sequences * heads * length])];
    }

    /// <summary>The index of the block, from 0.</summary>
    public int Layer { get; }

    /// <summary>The number of heads, NH.</summary>
    public int HeadCount { get; }

    /// <summary>What the input gate is.</summary>
    public InputGate InputGate { get; }

    /// <summary>A quantity over all sequences, heads and tokens: [B, NH, S] row by row; NaN at padding.</summary>
    public float[] this[GateQuantity quantity] => _values[(int)quantity];

    internal GateRow Row(int sequence, int head, int token, int length)
    {
        var at = (sequence * HeadCount + head) * length + token;
        return new(
            sequence,
            Layer,
            head,
            token,
            this[GateQuantity.InputPreactivation][at],
            this[GateQuantity.ForgetPreactivation][at],
            this[GateQuantity.InputGate][at],
            this[GateQuantity.ForgetGate][at],
            this[GateQuantity.LogInputGate][at],
            this[GateQuantity.LogForgetGate][at],
            this[GateQuantity.Stabilizer][at],
            this[GateQuantity.NormalizerProduct][at],
            this[GateQuantity.Denominator][at],
            this[GateQuantity.MemoryNorm][at],
            this[GateQuantity.StabilizedMemoryNorm][at],
            this[GateQuantity.OutputGate][at],
            this[GateQuantity.OutputNorm][at]);
    }
}
