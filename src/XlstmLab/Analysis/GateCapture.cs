using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace XlstmLab.Analysis;

/// <summary>Records the gates and the memory of every mLSTM block of a model while it reads a batch.</summary>
/// <remarks>
/// The model shows its q, k, v, gates and outputs through <see cref="LanguageModel.Observer"/>. Its state over the tokens is computed from
/// them once more by xLSTM 7B, eqs. 2-9, one (C, n, m) a head at a time, so the memory needed does not grow with C.
/// </remarks>
public static class GateCapture
{
    /// <summary>What an mLSTM shows, its output h at last.</summary>
    internal static readonly string[] OfMLstm = ["q", "k", "v", "igate_preact", "fgate_preact", "ogate_preact", "h"];

    /// <summary>Whether a block showed all that an mLSTM needs; one without an output gate lacks that.</summary>
    internal static bool IsMLstm(IReadOnlyDictionary<string, Tensor> seen) => OfMLstm.All(
        name => name == "ogate_preact" || seen.ContainsKey(name));

    /// <summary>Records a single sequence.</summary>
    /// <param name="model">The model; it is left as it is, its observer too.</param>
    /// <param name="tokens">The token ids, at least one.</param>
    /// <param name="cell">As in <see cref="Run(LanguageModel, Tensor, SequenceLayout, MLstmOptions)"/>.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the model does not know them.</exception>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public static GateRecording Run(LanguageModel model, ReadOnlySpan<int> tokens, MLstmOptions? cell = null)
    {
        using var scope = NewDisposeScope();
        return Run(model, BlockActivations.Sequence(model, tokens), null, cell);
    }

    /// <summary>Records a batch, from an empty state.</summary>
    /// <param name="model">
    /// The model; it is left as it is. An observer that it has does not see this pass and is there again afterwards.
    /// </param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="cell">
    /// What the model's mLSTM computes; null takes it from an <see cref="XlstmLanguageModel"/>, or the 7B model's.
    /// </param>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public static GateRecording Run(LanguageModel model, Tensor tokens, SequenceLayout? layout = null, MLstmOptions? cell = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        var (sequences, length) = BlockActivations.Shape(tokens);
        var starts = BlockActivations.Flags(layout?.DocumentStarts, sequences * length);
        var padding = BlockActivations.Flags(layout?.Padding, sequences * length);
        var layers = new List<LayerRecording>();
        BlockActivations.Observe(model, tokens, layout, OfMLstm, ["h"], (block, seen) =>
        {
            if (IsMLstm(seen))
            {
                layers.Add(Record(block, seen, starts, padding, cell ?? BlockActivations.CellOf(model, block)));
            }
        });
        return layers.Count > 0
            ? new(sequences, length, starts, padding, layers)
            : throw new InvalidOperationException("The model showed no mLSTM to its observer: there are no gates to record.");
    }

    private static LayerRecording Record(
        int block, IReadOnlyDictionary<string, Tensor> seen, bool[] starts, bool[] padding, MLstmOptions cell)
    {
        var shape = seen["q"].shape;
        var (sequences, heads, length, dk) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3]);
        var dv = (int)seen["v"].shape[3];
        var layer = new LayerRecording(block, heads, sequences, length, cell.InputGate);
        var (q, k, v, h) = (Values("q"), Values("k"), Values("v"), Values("h"));
        var (i, f) = (Values("igate_preact"), Values("fgate_preact"));
        var o = seen.ContainsKey("ogate_preact") ? Values("ogate_preact") : null;
        float[] Values(string name) => BlockActivations.ToArray(seen[name]);

        Parallel.For(0, sequences * heads, row =>
        {
            var (sequence, head) = (row / heads, row % heads);
            var outputGate = new float[dv];
            var memory = new MemoryOfHead(dk, dv, cell);
            for (var t = 0; t < length; t++)
            {
                var at = row * length + t;
                if (starts[sequence * length + t])
                {
                    memory.Reset();
                }

                if (padding[sequence * length + t])
                {
                    foreach (var quantity in Enum.GetValues<GateQuantity>())
                    {
                        layer[quantity][at] = float.NaN;
                    }

                    continue;
                }

                memory.Read(q.AsSpan(at * dk, dk), k.AsSpan(at * dk, dk), v.AsSpan(at * dv, dv), i[at], f[at]);
                layer[GateQuantity.InputPreactivation][at] = i[at];
                layer[GateQuantity.ForgetPreactivation][at] = f[at];
                layer[GateQuantity.LogInputGate][at] = (float)memory.LogInput;
                layer[GateQuantity.LogForgetGate][at] = (float)memory.LogForget;
                layer[GateQuantity.InputGate][at] = (float)Math.Exp(memory.LogInput);
                layer[GateQuantity.ForgetGate][at] = (float)Math.Exp(memory.LogForget);
                layer[GateQuantity.Stabilizer][at] = (float)memory.M;
                layer[GateQuantity.NormalizerProduct][at] = (float)memory.NormalizerProduct;
                layer[GateQuantity.Denominator][at] = (float)memory.Denominator;
                layer[GateQuantity.StabilizedMemoryNorm][at] = (float)memory.Norm;
                layer[GateQuantity.MemoryNorm][at] = (float)Math.Exp(memory.LogNormInUnits);
                layer[GateQuantity.OutputGate][at] = float.NaN;
                if (o is not null)
                {
                    TensorPrimitives.Sigmoid(o.AsSpan(((sequence * length + t) * heads + head) * dv, dv), outputGate);
                    layer[GateQuantity.OutputGate][at] = TensorPrimitives.Sum<float>(outputGate) / dv;
                }

                layer[GateQuantity.OutputNorm][at] = TensorPrimitives.Norm<float>(h.AsSpan(at * dv, dv));
            }
        });
        return layer;
    }
}

/// <summary>The state of one head, token after token.</summary>
internal sealed class MemoryOfHead(int dk, int dv, MLstmOptions cell)
{
    private readonly float[] _c = new float[dk * dv];
    private readonly float[] _n = new float[dk];
    private readonly double _queryScale = 1 / Math.Sqrt(dk);

    public double M { get; private set; }

    public double LogInput { get; private set; }

    public double LogForget { get; private set; }

    public double NormalizerProduct { get; private set; }

    public double Denominator { get; private set; }

    public double Norm { get; private set; }

    /// <summary>log(exp(m) |C|): exp(m) alone may overflow, or meet a |C| of 0.</summary>
    public double LogNormInUnits => M + Math.Log(Norm);

    public void Reset()
    {
        Array.Clear(_c);
        Array.Clear(_n);
        M = 0;
    }

    public void Read(ReadOnlySpan<float> q, ReadOnlySpan<float> k, ReadOnlySpan<float> v, double igatePreact, double fgatePreact)
    {
        LogForget = cell.ForgetGate.Log(fgatePreact);
        LogInput = cell.InputGate.Log(igatePreact);
        var m = cell.Stabilizes ? Math.Max(LogForget + M, LogInput) : 0;
        var forget = (float)Math.Exp(LogForget + M - m);
        var input = (float)Math.Exp(LogInput - m);
        M = m;

        var square = 0.0;
        for (var row = 0; row < dk; row++)
        {
            var c = _c.AsSpan(row * dv, dv);
            var written = input * k[row];
            TensorPrimitives.Multiply(c, forget, c);
            TensorPrimitives.MultiplyAdd(v, written, c, c);
            square += TensorPrimitives.SumOfSquares<float>(c);
            _n[row] = forget * _n[row] + written;
        }

        Norm = Math.Sqrt(square);
        NormalizerProduct = TensorPrimitives.Dot(q, _n) * _queryScale;
        Denominator = cell.Normalize ? Math.Max(Math.Abs(NormalizerProduct), Math.Exp(-m)) + cell.Epsilon : 1;
    }

    /// <summary>The logarithm of the Frobenius distance of two memories in units of 1, |exp(m) C - exp(m') C'|.</summary>
    public double LogDistanceTo(MemoryOfHead other)
    {
        var scale = Math.Max(M, other.M);
        var (own, others) = (Math.Exp(M - scale), Math.Exp(other.M - scale));
        var square = 0.0;
        for (var at = 0; at < _c.Length; at++)
        {
            var difference = own * _c[at] - others * other._c[at];
            square += difference * difference;
        }

        return scale + Math.Log(Math.Sqrt(square));
    }
}
