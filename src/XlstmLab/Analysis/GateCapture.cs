using XlstmLab.Cells;
using XlstmLab.Models;
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
    /// <summary>What an mLSTM shows before its output h; blocks of another kind lack some of it.</summary>
    private static readonly string[] OfMLstm = ["q", "k", "v", "igate_preact", "fgate_preact"];

    /// <summary>Records a single sequence.</summary>
    /// <param name="model">The model; it is left as it is, its observer too.</param>
    /// <param name="tokens">The token ids, at least one.</param>
    /// <param name="cell">As in <see cref="Run(LanguageModel, Tensor, SequenceLayout, MLstmOptions)"/>.</param>
    /// <exception cref="ArgumentException">There are no tokens, or the model does not know them.</exception>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public static GateRecording Run(LanguageModel model, ReadOnlySpan<int> tokens, MLstmOptions? cell = null)
    {
        if (tokens.IsEmpty)
        {
            throw new ArgumentException("Expected at least one token, got none.", nameof(tokens));
        }

        using var scope = NewDisposeScope();
        var device = model.parameters().FirstOrDefault()?.device ?? CPU;
        return Run(model, tensor(tokens.ToArray(), [1, tokens.Length], int64, device), null, cell);
    }

    /// <summary>Records a batch, from an empty state.</summary>
    /// <param name="model">The model; it is left as it is. An observer that it has does not see this pass and is there again afterwards.</param>
    /// <param name="tokens">[B, S] int64 on the model's device.</param>
    /// <param name="layout">Document starts and padding.</param>
    /// <param name="cell">What the model's mLSTM computes; null takes it from an <see cref="XlstmLanguageModel"/>, or the 7B model's.</param>
    /// <exception cref="ArgumentException">Shapes or tokens do not fit the model.</exception>
    /// <exception cref="InvalidOperationException">The model has no mLSTM block.</exception>
    public static GateRecording Run(LanguageModel model, Tensor tokens, SequenceLayout? layout = null, MLstmOptions? cell = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(tokens);
        if (tokens.dim() != 2 || tokens.NumberOfElements == 0)
        {
            throw new ArgumentException($"Expected tokens of shape [B, S], at least one, got [{string.Join(", ", tokens.shape)}].", nameof(tokens));
        }

        cell ??= (model.Config as XlstmConfig)?.Cell ?? new();
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        var (sequences, length) = ((int)tokens.shape[0], (int)tokens.shape[1]);
        var starts = Flags(layout?.DocumentStarts, sequences * length);
        var padding = Flags(layout?.Padding, sequences * length);
        var layers = new List<LayerRecording>();
        var seen = new Dictionary<string, (float[] Values, long[] Shape)>();

        var previous = model.Observer;
        model.Observer = (block, name, value) =>
        {
            if (name is not ("h" or "ogate_preact") && !OfMLstm.Contains(name))
            {
                return;
            }

            seen[name] = (ToArray(value), value.shape);
            if (name == "h")
            {
                if (OfMLstm.All(seen.ContainsKey))
                {
                    layers.Add(Record(block, seen, starts, padding, cell));
                }

                seen.Clear();
            }
        };
        try
        {
            model.Forward(tokens, layout: layout);
        }
        finally
        {
            model.Observer = previous;
        }

        return layers.Count > 0
            ? new(sequences, length, starts, padding, layers)
            : throw new InvalidOperationException("The model showed no mLSTM to its observer: there are no gates to record.");
    }

    private static LayerRecording Record(
        int block, Dictionary<string, (float[] Values, long[] Shape)> seen, bool[] starts, bool[] padding, MLstmOptions cell)
    {
        var (q, shape) = seen["q"];
        var (sequences, heads, length, dk) = ((int)shape[0], (int)shape[1], (int)shape[2], (int)shape[3]);
        var dv = (int)seen["v"].Shape[3];
        var layer = new LayerRecording(block, heads, sequences, length, cell);
        var (k, v, h) = (seen["k"].Values, seen["v"].Values, seen["h"].Values);
        var o = seen.TryGetValue("ogate_preact", out var shown) ? shown.Values : null; // a layer without output gate shows none
        var (i, f) = (seen["igate_preact"].Values, seen["fgate_preact"].Values);
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
                layer[GateQuantity.InputGate][at] = (float)Math.Exp(memory.LogInput);
                layer[GateQuantity.ForgetGate][at] = (float)Math.Exp(memory.LogForget);
                layer[GateQuantity.Stabilizer][at] = (float)memory.M;
                layer[GateQuantity.NormalizerProduct][at] = (float)memory.NormalizerProduct;
                layer[GateQuantity.Denominator][at] = (float)memory.Denominator;
                layer[GateQuantity.StabilizedMemoryNorm][at] = (float)memory.Norm;
                layer[GateQuantity.MemoryNorm][at] = (float)(Math.Exp(memory.M) * memory.Norm);
                if (o is null)
                {
                    layer[GateQuantity.OutputGate][at] = 1;
                }
                else
                {
                    TensorPrimitives.Sigmoid(o.AsSpan(((sequence * length + t) * heads + head) * dv, dv), outputGate);
                    layer[GateQuantity.OutputGate][at] = TensorPrimitives.Sum<float>(outputGate) / dv;
                }

                layer[GateQuantity.OutputNorm][at] = TensorPrimitives.Norm<float>(h.AsSpan(at * dv, dv));
            }
        });
        return layer;
    }

    private static float[] ToArray(Tensor value)
    {
        using var scope = NewDisposeScope();
        return value.detach().to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray();
    }

    private static bool[] Flags(Tensor? mask, int count)
    {
        if (mask is null)
        {
            return new bool[count];
        }

        if (mask.NumberOfElements != count || mask.dtype != ScalarType.Bool)
        {
            throw new ArgumentException($"Expected a layout of {count} bools like the tokens, got [{string.Join(", ", mask.shape)}] {mask.dtype}.");
        }

        using var scope = NewDisposeScope();
        return mask.cpu().contiguous().data<bool>().ToArray();
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
}
