using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// One token of each of a few sequences through an xLSTM in the shape of the 7B model's, on a GPU: five kernels a block, which read every
/// weight once (<c>TokenProduct.cu</c>, <c>TokenStreamProduct.cu</c>, <c>TokenMemory.cu</c>).
/// </summary>
/// <remarks>
/// The stream is float32, products take bfloat16 operands, as the model's own pass in bfloat16 does; gates' weights keep 16 bits of their
/// fractions. Weights of bfloat16 are read where they are; of others there are copies, made anew when libtorch's operations have changed
/// them. In a format of one byte there are copies of all projections, beside the model's own weights, which stay in memory for prompts.
/// </remarks>
internal sealed class XlstmGpuStep : IDisposable
{
    private static readonly string[] Projections = ["q.weight", "k.weight", "v.weight", "ogate_preact.weight"];

    private readonly XlstmConfig _config;
    private readonly List<Copied> _copies = [];
    private readonly List<Tensor> _own = [];
    private readonly Block[] _blocks;
    private readonly Tensor _table;
    private readonly Tensor _head;
    private readonly Tensor? _headUnits;
    private readonly Tensor _outNorm;
    private readonly TokenStream _stream;
    private readonly Tensor _projections;
    private readonly Tensor _mixed;
    private readonly Tensor _inner;

    private XlstmGpuStep(XlstmConfig config, StepWeights weights, long sequences, WeightFormat format)
    {
        (_config, Format) = (config, format);
        _table = weights.Find("backbone.embeddings.weight")!;
        var device = _table.device;
        (_head, _headUnits) = weights.Find("lm_head.weight") is { } head ? Pack(head) : (Narrow(_table), null);
        _outNorm = Wide(weights.Find("backbone.out_norm.weight")!);
        _blocks = [.. Enumerable.Range(0, config.BlockCount).Select(
            b => new Block(this, (MLstmMixerConfig)config.MixerAt(b), weights.Below($"backbone.blocks.{b}")))];
        var mixer = (MLstmMixerConfig)config.MixerAt(0);
        var (qk, v) = (mixer.QkDim(config.EmbeddingDim), mixer.VDim(config.EmbeddingDim));
        _stream = TokenStream.Empty(sequences, config.EmbeddingDim, device);
        _projections = Own(empty(sequences, 2 * qk + 2 * v + 4 * mixer.HeadCount, ScalarType.Float32, device));
        _mixed = Own(empty(sequences, v, ScalarType.BFloat16, device));
        _inner = Own(empty(sequences, config.FeedForwardDim, ScalarType.BFloat16, device));
        Logits = Own(empty(sequences, config.VocabularySize, ScalarType.Float32, device));
        Refresh();
    }

    /// <summary>What <see cref="Read"/> leaves, [B, V] float32.</summary>
    public Tensor Logits { get; }

    /// <summary>What projections are kept as.</summary>
    public WeightFormat Format { get; }

    /// <summary>The bytes of weights that a token reads: all but the embedding's, of which it reads a row.</summary>
    public long WeightBytes { get; private set; }

    /// <summary>
    /// The step of a model; null for one of another shape, of other activations than bfloat16, of weights that do not lie as the kernels
    /// load them, or for a state that it cannot write.
    /// </summary>
    /// <param name="model">The model, on a device with kernels.</param>
    /// <param name="state">The sequences' state.</param>
    /// <param name="format">What projections are kept as; float32, as they are, is bfloat16 here.</param>
    public static XlstmGpuStep? Of(LanguageModel model, ModelState state, WeightFormat format = WeightFormat.Float32)
    {
        var narrow = state.Tensors.Any(pair => StateFormats.IsMemory(pair.Key) && pair.Value.dtype == ScalarType.BFloat16);
        if (!MayRead(model, state.BatchSize, narrow ? StateFormat.BFloat16 : StateFormat.Float32)
            || state.Tensors.Any(pair => !pair.Value.is_contiguous()
                || pair.Value.dtype != (narrow && StateFormats.IsMemory(pair.Key) ? ScalarType.BFloat16 : ScalarType.Float32)))
        {
            return null;
        }

        return new((XlstmConfig)model.Config, new(model.state_dict(), ""), state.BatchSize, format.Known());
    }

    /// <summary>Whether there is a step of a model for so many sequences of a usual state.</summary>
    /// <param name="model">The model.</param>
    /// <param name="sequences">How many.</param>
    /// <param name="states">What its memories are kept as.</param>
    public static bool MayRead(LanguageModel model, long sequences, StateFormat states = StateFormat.Float32)
    {
        if (model is not XlstmLanguageModel { Config: XlstmConfig config } || model.Observer is not null || !HasShape(config, states)
            || sequences > TokenStepKernels.MostSequences)
        {
            return false;
        }

        var tensors = model.state_dict();
        var matrix = tensors["backbone.blocks.0.ffn.proj_down.weight"];
        var computesInHalves = (model.ComputeType ?? matrix.dtype) == ScalarType.BFloat16;

        // The kernels take 16 bytes of a row at a time.
        return computesInHalves && Kernel.Reaches(matrix) && tensors.Values.All(t =>
            t.is_contiguous() && Kernel.Address(t) % 16 == 0
            && (t.dtype == ScalarType.BFloat16 || (t.dtype == ScalarType.Float32 && TrainedProducts.HasVersion(t))));
    }

    /// <summary>Makes the copies of weights anew that have changed.</summary>
    public void Refresh()
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        foreach (var copy in _copies)
        {
            copy.Refresh();
        }
    }

    /// <summary>Reads tokens, and does not wait for it.</summary>
    /// <param name="tokens">[B, 1] int64.</param>
    /// <param name="state">The sequences' state, changed in place.</param>
    public void Read(Tensor tokens, ModelState state)
    {
        TokenStepKernels.Embed(tokens, _table, _stream, _blocks[0].Norm);
        for (var b = 0; b < _blocks.Length; b++)
        {
            _blocks[b].Read(this, state, b, b + 1 < _blocks.Length ? _blocks[b + 1].Norm : _outNorm);
        }

        TokenStepKernels.Multiply(
            TokenStepKernels.Result.Capped, [_head], _stream.Scaled, _stream, Logits, epsilon: _config.NormEpsilon,
            cap: _config.OutputLogitSoftCap ?? 0,
            units: _headUnits);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stream.Dispose();
        foreach (var tensor in _own)
        {
            tensor.Dispose();
        }
    }

    private static bool HasShape(XlstmConfig config, StateFormat states)
    {
        var dim = config.EmbeddingDim;
        return config is { BlockStyle: BlockStyle.PostUp, PreNorm: NormKind.Rms, PostNorm: NormKind.None }
            && config is { AddOutNorm: true, UseBias: false, BlockCount: > 0 }
            && config.FeedForward == FeedForwardKind.SwiGlu && dim % TokenStepKernels.InputStep == 0
            && config.FeedForwardDim % TokenStepKernels.InputStep == 0
            && Enumerable.Range(0, config.BlockCount).All(b =>
                config.MixerAt(b) is MLstmMixerConfig mixer && mixer == config.MixerAt(0) && config.TapsBefore(mixer) == 0
                    && HasShape(mixer, dim, states));
    }

    private static bool HasShape(MLstmMixerConfig mixer, int dim, StateFormat states) =>
        mixer is
        {
            Headwise: false, OutputGate: true, UseBias: false, QkNorm: false, ForgetGate: ForgetGate.Sigmoid,
            InputGate: InputGate.Exponential or InputGate.Sigmoid,
            InputGatePreactivation: GatePreactivation.Learned, ForgetGatePreactivation: GatePreactivation.Learned,
            LooksAt: GateSource.Input,
        }
        && (mixer.HeadNorm is HeadNormKind.Rms or HeadNormKind.Layer
            || (mixer.HeadNorm == HeadNormKind.Group && (mixer.HeadNormGroups ?? mixer.HeadCount) == mixer.HeadCount))
        && mixer.VDim(dim) % TokenStepKernels.InputStep == 0
        && TokenStepKernels.Slices(
            mixer.QkDim(dim) / mixer.HeadCount, mixer.VDim(dim) / mixer.HeadCount, states == StateFormat.Float32 ? 4 : 8) > 0;

    private Tensor Own(Tensor tensor)
    {
        _own.Add(tensor.DetachFromDisposeScope());
        return tensor;
    }

    /// <summary>A weight in bfloat16: itself, or a copy that follows it.</summary>
    private Tensor Narrow(Tensor weight) => OfType(ScalarType.BFloat16, weight);

    /// <summary>A projection's weight in the step's format, with a unit a row where it is of one byte.</summary>
    private (Tensor Numbers, Tensor? Units) Pack(Tensor weight)
    {
        var (parts, units) = PackTogether([weight]);
        return (parts[0], units);
    }

    /// <summary>
    /// The same of weights that are read together: of one byte they become one matrix, each below the other.
    /// </summary>
    private (Tensor[] Parts, Tensor? Units) PackTogether(Tensor[] weights)
    {
        if (!PackedRows.HasUnits(Format))
        {
            return ([.. weights.Select(Narrow)], null);
        }

        var (rows, columns, device) = (weights.Sum(w => w.shape[0]), weights[0].shape[1], weights[0].device);
        var units = Count(Own(empty(rows, ScalarType.Float32, device)));
        var numbers = Copy(empty(rows, columns, Format == WeightFormat.Int8 ? ScalarType.Int8 : ScalarType.Byte, device), copy =>
        {
            var first = 0L;
            foreach (var weight in weights)
            {
                var count = weight.shape[0];
                PackedRows.Pack(Format, weight, copy.narrow(0, first, count), units.narrow(0, first, count));
                first += count;
            }
        }, weights);
        return ([numbers], units);
    }

    /// <summary>A weight in float32, likewise.</summary>
    private Tensor Wide(Tensor weight) => OfType(ScalarType.Float32, weight);

    private Tensor OfType(ScalarType type, Tensor weight) =>
        weight.dtype == type ? Count(weight) : Copy(empty(weight.shape, type, weight.device), copy => copy.copy_(weight), weight);

    private Tensor Copy(Tensor copy, Action<Tensor> write, params Tensor[] sources)
    {
        _copies.Add(new(Own(copy), write, sources));
        return Count(copy);
    }

    /// <summary>Notes that each token reads it.</summary>
    private Tensor Count(Tensor weight)
    {
        WeightBytes += weight.NumberOfElements * weight.ElementSize;
        return weight;
    }

    /// <summary>What is made of weights, and follows them.</summary>
    private sealed record Copied(Tensor Copy, Action<Tensor> Write, Tensor[] Sources)
    {
        private readonly SourceVersions _versions = new(Sources);

        public void Refresh()
        {
            if (_versions.HaveChanged())
            {
                Write(Copy);
            }
        }
    }

    /// <summary>x + mLSTM(norm(x)), then x + FFN(norm(x)).</summary>
    private sealed class Block
    {
        private readonly MLstmMixerConfig _mixer;
        private readonly Tensor[] _projections;
        private readonly Tensor? _projectionUnits;
        private readonly Tensor _gateBiases;
        private readonly Tensor _headNorm;
        private readonly Tensor _out;
        private readonly Tensor? _outUnits;
        private readonly Tensor _innerNorm;
        private readonly Tensor[] _gateAndUp;
        private readonly Tensor? _gateAndUpUnits;
        private readonly Tensor _down;
        private readonly Tensor? _downUnits;

        public Block(XlstmGpuStep step, MLstmMixerConfig mixer, StepWeights weights)
        {
            _mixer = mixer;
            var layer = weights.Below("mlstm_layer");
            Norm = step.Wide(weights.Find("norm_mlstm.weight")!);
            Tensor[] gates = layer.Find("ifgate_preact.weight") is { } both ? [both]
                : [layer.Find("igate_preact.weight")!, layer.Find("fgate_preact.weight")!];
            Tensor[] biases = layer.Find("ifgate_preact.bias") is { } joint ? [joint]
                : [layer.Find("igate_preact.bias")!, layer.Find("fgate_preact.bias")!];
            var (heads, dim, device) = (mixer.HeadCount, gates[0].shape[1], gates[0].device);
            Tensor[] projections = layer.Find("qkv_opreact.weight") is { } fused ? [fused]
                : [.. Projections.Select(name => layer.Find(name)!)];
            (projections, _projectionUnits) = step.PackTogether(projections);

            // Of each gate the upper halves of the weights, and the lower ones: what the upper ones leave.
            var halves = step.Copy(empty(4 * heads, dim, ScalarType.BFloat16, device), copy =>
            {
                var all = cat(gates, 0).to(ScalarType.Float32); // (2 NH, d)
                var upper = copy.narrow(0, 0, 2 * heads);
                upper.copy_(all);
                copy.narrow(0, 2 * heads, 2 * heads).copy_(all - upper.to(ScalarType.Float32));
            }, gates);
            _projections = [.. projections, halves];
            _gateBiases = step.Copy(empty(2 * heads, ScalarType.Float32, device), copy => copy.copy_(cat(biases, 0)), biases);
            _headNorm = step.Wide(layer.Find("multihead_norm.weight")!);
            (_out, _outUnits) = step.Pack(layer.Find("out_proj.weight")!);
            _innerNorm = step.Wide(weights.Find("norm_ffn.weight")!);
            Tensor[] gateAndUp = weights.Find("ffn.proj_up_gate_z.weight") is { } joined
                ? [joined]
                : [weights.Find("ffn.proj_up_gate.weight")!, weights.Find("ffn.proj_up.weight")!];
            (gateAndUp, _gateAndUpUnits) = step.PackTogether(gateAndUp);
            _gateAndUp = gateAndUp is [var whole] ? [.. whole.chunk(2).Select(step.Own)] : gateAndUp;
            (_down, _downUnits) = step.Pack(weights.Find("ffn.proj_down.weight")!);
        }

        /// <summary>[d] float32: the weights of the norm in front of the mixer.</summary>
        public Tensor Norm { get; }

        public void Read(XlstmGpuStep step, ModelState state, int block, Tensor nextNorm)
        {
            var (stream, epsilon) = (step._stream, step._config.NormEpsilon);
            TokenStepKernels.Multiply(
                TokenStepKernels.Result.Plain, _projections, stream.Scaled, stream, step._projections, epsilon: epsilon,
                units: _projectionUnits);
            var prefix = FormattableString.Invariant($"blocks.{block}.");
            TokenStepKernels.Remember(
                step._projections, _gateBiases, state[prefix + "c"], state[prefix + "n"], state[prefix + "m"], _headNorm, step._mixed,
                _mixer.Cell, _mixer.GateSoftCap ?? 0, _mixer.HeadNorm != HeadNormKind.Rms, _mixer.HeadNormEpsilon ?? _mixer.NormEpsilon);
            TokenStepKernels.Multiply(
                TokenStepKernels.Result.Stream, [_out], step._mixed, null, stream: stream, scale: _innerNorm, units: _outUnits);
            TokenStepKernels.Multiply(
                TokenStepKernels.Result.Gated, _gateAndUp, stream.Scaled, stream, step._inner, epsilon: epsilon, units: _gateAndUpUnits);
            TokenStepKernels.Multiply(
                TokenStepKernels.Result.Stream, [_down], step._inner, null, stream: stream, scale: nextNorm, units: _downUnits);
        }
    }
}
