using XlstmLab.Layers;
using XlstmLab.Mixers;
using XlstmLab.Models;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Inference;

/// <summary>
/// One token of each of a few sequences through an xLSTM on the CPU, without libtorch: loops over the memory of weights and states.
/// </summary>
/// <remarks>
/// A small model spends its time between libtorch's operations. Weights are read where they are, so that the next token sees what they
/// became; the state is written in place, and has to be the caller's own (<see cref="Own"/>). A sequence's logits do not depend on those
/// beside it.
/// </remarks>
internal sealed unsafe class XlstmTokenStep : IDisposable
{
    /// <summary>The sequences that it reads side by side at most.</summary>
    public const int MostRows = 8;

    private readonly LanguageModel _model;
    private readonly XlstmConfig _config;
    private readonly TensorPlaces _places;
    private readonly StepPacking? _packing;
    private readonly StepBlock[] _blocks;
    private readonly string[] _memory;
    private readonly float* _embedding;
    private readonly StepNorm? _outNorm;
    private readonly StepMatrix _head;
    private readonly FloatBlock _stream;
    private readonly FloatBlock _normed;
    private readonly FloatBlock _logits;

    private XlstmTokenStep(LanguageModel model, XlstmConfig config, IReadOnlyDictionary<string, Tensor> tensors, WeightFormat format)
    {
        (_model, _config, _places) = (model, config, new(tensors.Values));
        _packing = format.Known() == WeightFormat.Float32 ? null : new(format, RoundedWeights.Names(model));
        var weights = new StepWeights(tensors, "") { Packing = _packing };
        _embedding = weights.At("backbone.embeddings.weight");
        _outNorm = weights.Norm("backbone.out_norm", config.PreNorm == NormKind.Layer, config.NormEpsilon);
        _head = weights.Matrix("lm_head") ?? weights.Matrix("backbone.embeddings")!;
        _stream = new(MostRows * (nint)config.EmbeddingDim);
        _normed = new(MostRows * (nint)config.EmbeddingDim);
        _logits = new(MostRows * (nint)config.VocabularySize);
        _blocks = new StepBlock[config.BlockCount];
        var memory = new List<string>();
        for (var b = 0; b < _blocks.Length; b++)
        {
            _blocks[b] = new(config, b, weights.Below($"backbone.blocks.{b}"), memory.Count);
            memory.AddRange(_blocks[b].Memory.Select(name => FormattableString.Invariant($"blocks.{b}.{name}")));
        }

        _memory = [.. memory];
    }

    /// <summary>Whether nobody looks at a model's activations, and they have no other type than its weights.</summary>
    public static bool MayRead(LanguageModel model) => model is { Observer: null, ComputeType: null or ScalarType.Float32 };

    /// <summary>The bytes of weights that a token reads: all but the embedding's, of which it reads a row.</summary>
    public long WeightBytes => _head.Bytes + _config.EmbeddingDim * sizeof(float) + _blocks.Sum(block => block.WeightBytes);

    /// <summary>The step of a model; null for a model, or a format, that it cannot read.</summary>
    /// <param name="model">The model.</param>
    /// <param name="format">What its projections are kept as; in fewer bits than they have, they are copies.</param>
    public static XlstmTokenStep? Of(LanguageModel model, WeightFormat format = WeightFormat.Float32) =>
        format.Known() != WeightFormat.Float8 && Reads(model) ? new(model, (XlstmConfig)model.Config, model.state_dict(), format) : null;

    /// <summary>Whether there is a step of a model.</summary>
    public static bool Reads(LanguageModel model) =>
        model is XlstmLanguageModel { Config: XlstmConfig config } && MayRead(model)
        && Enumerable.Range(0, config.BlockCount).All(b => config.MixerAt(b) is MLstmMixerConfig or SLstmMixerConfig)
        && model.state_dict().Values.All(CpuMemory.IsFloats);

    /// <summary>Whether the model's weights still lie where they did when the step was made, and nobody looks at activations.</summary>
    public bool Serves(int rows) => rows <= MostRows && MayRead(_model) && _places.AreKept();

    /// <summary>A copy of a state that <see cref="Read"/> may write into, and where it lies.</summary>
    public (ModelState Copy, StepState Places) Own(ModelState state)
    {
        var copy = state.Map(t => t.detach().to(ScalarType.Float32).contiguous().clone());
        return (copy, new(copy, _memory));
    }

    /// <summary>Reads a token of each sequence.</summary>
    /// <param name="tokens">The ids, one a sequence, at most <see cref="MostRows"/>.</param>
    /// <param name="state">The sequences' state, which becomes that after the tokens.</param>
    /// <returns>The logits of each sequence one after the other, until the next call.</returns>
    public ReadOnlySpan<float> Read(ReadOnlySpan<int> tokens, StepState state)
    {
        _packing?.Refresh();
        var (rows, dim, vocabulary) = (tokens.Length, _config.EmbeddingDim, _config.VocabularySize);
        for (var row = 0; row < rows; row++)
        {
            VectorLoops.Copy(_embedding + (nint)tokens[row] * dim, _stream.Data + row * dim, dim);
        }

        foreach (var block in _blocks)
        {
            block.Read(_stream.Data, rows, state);
        }

        _outNorm?.Apply(_stream.Data, rows, _normed.Data);
        _head.Apply(_outNorm is null ? _stream.Data : _normed.Data, dim, rows, _logits.Data, vocabulary);
        VectorLoops.Cap(_logits.Data, rows * vocabulary, _config.OutputLogitSoftCap);
        GC.KeepAlive(_places);
        return new(_logits.Data, rows * vocabulary);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stream.Dispose();
        _normed.Dispose();
        _logits.Dispose();
        _packing?.Dispose();
        foreach (var block in _blocks)
        {
            block.Dispose();
        }
    }

    /// <summary>A block of any of the styles: what it does not have is null.</summary>
    private sealed class StepBlock : IDisposable
    {
        private readonly int _first;
        private readonly int _dim;
        private readonly int _width;
        private readonly StepNorm? _norm;
        private readonly StepMatrix? _up;
        private readonly bool _isGated;
        private readonly StepConvolution? _convolution;
        private readonly StepMixer _mixer;
        private readonly float* _skip;
        private readonly StepMatrix? _down;
        private readonly StepNorm? _postNorm;
        private readonly StepFeedForward? _feedForward;
        private readonly FloatBlock _normed;
        private readonly FloatBlock _widened;
        private readonly FloatBlock _convolved;
        private readonly FloatBlock _mixed;

        /// <summary>The block of that number, whose memory begins at a number of the state's tensors.</summary>
        public StepBlock(XlstmConfig config, int block, StepWeights weights, int first)
        {
            var mixer = config.MixerAt(block);
            var site = config.Site(mixer, block);
            var isPreUp = config.BlockStyle == BlockStyle.PreUp;
            var isWidened = isPreUp && mixer is MLstmMixerConfig;
            var (norm, layer) = isPreUp ? ("xlstm_norm", "xlstm")
                : mixer is MLstmMixerConfig ? ("norm_mlstm", "mlstm_layer")
                : ("norm_slstm", "slstm_layer");
            var inner = weights.Below(layer);
            (_first, _dim, _width) = (first, config.EmbeddingDim, site.Width);
            _norm = weights.Norm(norm, config.PreNorm == NormKind.Layer, config.NormEpsilon);
            _postNorm = weights.Norm(isPreUp ? "xlstm_post_norm" : norm + "_post", config.PostNorm == NormKind.Layer, config.NormEpsilon);
            var convolution = (isPreUp ? inner : weights).Below("conv1d.conv");
            _convolution = convolution.Find("weight") is { } taps ? new(taps, convolution.Find("bias")) : null;
            _mixer = mixer switch
            {
                MLstmMixerConfig mlstm => new StepMLstm(mlstm, site, isWidened && !mlstm.Headwise ? inner.Below("mixer") : inner),
                SLstmMixerConfig slstm => new StepSLstm(slstm, site, inner),
                _ => throw new ArgumentException($"There is no step of the mixer {mixer.Kind}.", nameof(config)),
            };
            if (isWidened)
            {
                (_up, _down, _isGated) = (inner.Matrix("proj_up"), inner.Matrix("proj_down"), config.OutputGate);
                _skip = inner.At("learnable_skip");
            }
            else
            {
                _feedForward = StepFeedForward.Of(config, weights);
            }

            Memory = [.. _mixer.Memory, .. _convolution is { Taps: > 1 } ? ["conv"] : Array.Empty<string>()];
            _normed = new(MostRows * (nint)_dim);
            _widened = new(MostRows * (nint)(_up?.Outputs ?? 0));
            _convolved = new(MostRows * (nint)_width);
            _mixed = new(MostRows * (nint)_width);
        }

        /// <summary>The names of what it remembers.</summary>
        public IReadOnlyList<string> Memory { get; }

        /// <summary>The bytes of its matrices.</summary>
        public long WeightBytes => (_up?.Bytes ?? 0) + (_down?.Bytes ?? 0) + _mixer.WeightBytes + (_feedForward?.WeightBytes ?? 0);

        /// <summary>Adds to the stream of each sequence what the block makes of it.</summary>
        public void Read(float* stream, int rows, StepState state)
        {
            var x = stream;
            if (_norm is not null)
            {
                _norm.Apply(stream, rows, _normed.Data);
                x = _normed.Data;
            }

            var widened = _up is null ? x : _widened.Data; // x_m and, if gated, z
            var row = _up?.Outputs ?? _dim;
            _up?.Apply(x, _dim, rows, widened, row);
            var convolved = widened;
            var convolvedRow = row;
            if (_convolution is not null)
            {
                convolved = _convolved.Data;
                convolvedRow = _width;
                for (var k = 0; k < rows; k++)
                {
                    var past = _convolution.Taps > 1 ? state.At(_first + Memory.Count - 1, k) : null;
                    _convolution.Apply(widened + k * (nint)row, past, convolved + k * (nint)_width);
                }
            }

            var mixed = _mixed.Data;
            _mixer.Read(widened, row, convolved, convolvedRow, x, rows, state, _first, mixed);
            if (_down is not null)
            {
                for (nint k = 0; k < rows; k++)
                {
                    var h = mixed + k * _width;
                    if (_skip is not null)
                    {
                        VectorLoops.AddProduct(h, _skip, convolved + k * convolvedRow, _width);
                    }

                    if (_isGated)
                    {
                        GluFused.Apply(FeedForwardKind.SwiGlu, widened + k * row + _width, h, h, _width);
                    }
                }

                _down.Apply(mixed, _width, rows, _normed.Data, _dim);
                mixed = _normed.Data;
            }

            _postNorm?.Apply(mixed, rows, mixed);
            VectorLoops.Add(stream, mixed, rows * _dim);
            _feedForward?.Read(stream, rows, _normed.Data);
        }

        /// <inheritdoc/>
        public void Dispose()
        {
            _normed.Dispose();
            _widened.Dispose();
            _convolved.Dispose();
            _mixed.Dispose();
            _mixer.Dispose();
            _feedForward?.Dispose();
        }
    }

    /// <summary>x + FFN(norm(x)) behind a mixer.</summary>
    private sealed class StepFeedForward : IDisposable
    {
        private readonly FeedForwardKind _kind;
        private readonly StepNorm? _norm;
        private readonly StepNorm? _postNorm;
        private readonly StepMatrix? _gate;
        private readonly StepMatrix? _up;
        private readonly StepMatrix? _gateAndUp;
        private readonly StepMatrix _down;
        private readonly int _dim;
        private readonly FloatBlock _inner;

        private StepFeedForward(XlstmConfig config, FeedForwardKind kind, StepWeights weights)
        {
            var isPreUp = config.BlockStyle == BlockStyle.PreUp;
            var isGated = kind is FeedForwardKind.SwiGlu or FeedForwardKind.GeGlu;
            (_kind, _dim) = (kind, config.EmbeddingDim);
            _norm = weights.Norm(isPreUp ? "ffn_norm" : "norm_ffn", config.PreNorm == NormKind.Layer, config.NormEpsilon);
            _postNorm = weights.Norm(isPreUp ? "ffn_post_norm" : "norm_ffn_post", config.PostNorm == NormKind.Layer, config.NormEpsilon);
            (_gate, _up, _down) = (weights.Matrix("ffn.proj_up_gate"), weights.Matrix("ffn.proj_up"), weights.Matrix("ffn.proj_down")!);
            _gateAndUp = weights.Matrix("ffn.proj_up_gate_z");
            if (isPreUp && isGated)
            {
                (_gateAndUp, _up) = (_up, null); // the first paper's code has both under this name
            }

            _inner = new(MostRows * 2 * (nint)_down.Inputs);
        }

        /// <summary>A block's; null where it has none.</summary>
        public static StepFeedForward? Of(XlstmConfig config, StepWeights weights)
        {
            var kind = config.BlockStyle == BlockStyle.PreUp ? config.SLstmFeedForward : config.FeedForward;
            return kind == FeedForwardKind.None ? null : new(config, kind, weights);
        }

        /// <summary>The bytes of its matrices.</summary>
        public long WeightBytes => (_gate?.Bytes ?? 0) + (_up?.Bytes ?? 0) + (_gateAndUp?.Bytes ?? 0) + _down.Bytes;

        /// <summary>Adds to the stream of each sequence what the layer makes of it.</summary>
        /// <param name="stream">[rows, d].</param>
        /// <param name="rows">The sequences.</param>
        /// <param name="room">[rows, d], to be written over.</param>
        public void Read(float* stream, int rows, float* room)
        {
            _norm?.Apply(stream, rows, room);
            var x = _norm is null ? stream : room;
            var inner = _down.Inputs;
            var row = 2 * inner; // f(g) u in the place of g, and u
            var g = _inner.Data;
            var u = _gateAndUp is null && _gate is null ? null : g + inner;
            if (_gateAndUp is not null)
            {
                _gateAndUp.Apply(x, _dim, rows, g, row);
            }
            else
            {
                _gate?.Apply(x, _dim, rows, g, row);
                _up!.Apply(x, _dim, rows, u is null ? g : u, row);
            }

            for (nint at = 0; at < rows * (nint)row; at += row)
            {
                GluFused.Apply(_kind, g + at, u is null ? null : u + at, g + at, inner);
            }

            _down.Apply(g, row, rows, room, _dim);
            _postNorm?.Apply(room, rows, room);
            VectorLoops.Add(stream, room, rows * _dim);
        }

        /// <inheritdoc/>
        public void Dispose() => _inner.Dispose();
    }
}
