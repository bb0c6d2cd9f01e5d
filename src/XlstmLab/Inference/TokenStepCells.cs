using System.Numerics;
using XlstmLab.Mixers;
using XlstmLab.Operations;
using static TorchSharp.torch;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Inference;

/// <summary>What mixes the tokens of a block, a token at a time.</summary>
internal abstract unsafe class StepMixer : IDisposable
{
    /// <summary>The names of what it remembers.</summary>
    public abstract IReadOnlyList<string> Memory { get; }

    /// <summary>The bytes of its matrices.</summary>
    public abstract long WeightBytes { get; }

    /// <summary>Reads a token of each of some sequences.</summary>
    /// <param name="x">Rows of the mixer's width.</param>
    /// <param name="xRow">Their distance.</param>
    /// <param name="convolved">Behind the convolution, or x.</param>
    /// <param name="convolvedRow">The distance of its rows.</param>
    /// <param name="stream">What the block reads of the stream, rows side by side.</param>
    /// <param name="rows">The sequences.</param>
    /// <param name="state">The model's state.</param>
    /// <param name="first">The number of the first of <see cref="Memory"/> in it.</param>
    /// <param name="y">Rows of the mixer's width, side by side.</param>
    public abstract void Read(
        float* x, int xRow, float* convolved, int convolvedRow, float* stream, int rows, StepState state, int first, float* y);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>An mLSTM's step (<see cref="MLstmRecurrent"/>), between dense or block-diagonal projections.</summary>
internal sealed unsafe class StepMLstm : StepMixer, ISharedWork
{
    private const long SharedBytes = 1 << 16;

    private readonly MLstmMixerConfig _config;
    private readonly MLstmOptions _cell;
    private readonly StepMatrix? _q;
    private readonly StepMatrix? _k;
    private readonly StepMatrix? _v;
    private readonly StepMatrix? _o;
    private readonly StepMatrix? _qkvo;
    private readonly StepMatrix? _out;
    private readonly StepNorm? _qNorm;
    private readonly StepNorm? _kNorm;
    private readonly StepNorm? _headNorm;
    private readonly (StepMatrix? Weight, nint Bias) _input;
    private readonly (StepMatrix? Weight, nint Bias) _forget;
    private readonly (StepMatrix? Weight, nint Bias) _both;
    private readonly int _heads;
    private readonly int _qkDim;
    private readonly int _vDim;
    private readonly int _width;
    private readonly int _streamWidth;
    private readonly int _row;
    private readonly FloatBlock _room;

    // What is being read.
    private StepState? _state;
    private int _first;

    public StepMLstm(MLstmMixerConfig config, MixerSite site, StepWeights weights)
    {
        (_config, _cell, _heads, _width, _streamWidth) = (config, config.Cell, config.HeadCount, site.Width, site.StreamWidth);
        (_qkDim, _vDim) = (config.QkDim(site.Width), config.VDim(site.Width));
        var (suffix, projection, inner) = config.Headwise ? ("", "_proj", weights.Below("mlstm_cell")) : ("_preact", "", weights);
        (_q, _k, _v) = (weights.Matrix("q" + projection), weights.Matrix("k" + projection), weights.Matrix("v" + projection));
        (_o, _qkvo, _out) = (weights.Matrix("ogate_preact"), weights.Matrix("qkv_opreact"), weights.Matrix("out_proj"));
        (_input, _forget, _both) = (Gate("igate"), Gate("fgate"), Gate("ifgate"));
        _qNorm = inner.Norm("q_norm", center: false, config.NormEpsilon, _heads);
        _kNorm = inner.Norm("k_norm", center: false, config.NormEpsilon, _heads);
        _headNorm = inner.Norm(
            config.Headwise ? "outnorm" : "multihead_norm", config.HeadNorm != HeadNormKind.Rms,
            config.HeadNormEpsilon ?? config.NormEpsilon,
            config.HeadNorm == HeadNormKind.Group ? config.HeadNormGroups ?? _heads : _heads);
        _row = 2 * _qkDim + 2 * _vDim + 2 * _heads; // q, k, v, o and both gates of a token
        _room = new(XlstmTokenStep.MostRows * (nint)_row);

        (StepMatrix? Weight, nint Bias) Gate(string name) => (inner.Matrix(name + suffix), (nint)inner.At(name + suffix + ".bias"));
    }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Memory => ["c", "n", "m"];

    /// <inheritdoc/>
    public override long WeightBytes =>
        new[] { _q, _k, _v, _o, _qkvo, _out, _input.Weight, _forget.Weight, _both.Weight }.Sum(matrix => matrix?.Bytes ?? 0);

    /// <inheritdoc/>
    public override void Dispose() => _room.Dispose();

    /// <inheritdoc/>
    public override void Read(
        float* x, int xRow, float* convolved, int convolvedRow, float* stream, int rows, StepState state, int first, float* y)
    {
        float* q = _room.Data, k = q + _qkDim, v = k + _qkDim, o = v + _vDim, gates = o + _vDim;
        if (_qkvo is not null)
        {
            _qkvo.Apply(x, xRow, rows, q, _row);
        }
        else
        {
            _q!.Apply(convolved, convolvedRow, rows, q, _row);
            _k!.Apply(convolved, convolvedRow, rows, k, _row);
            _v!.Apply(x, xRow, rows, v, _row);
            _o?.Apply(x, xRow, rows, o, _row);
        }

        for (nint at = 0; at < rows * (nint)_row; at += _row)
        {
            _qNorm?.Apply(q + at, q + at);
            _kNorm?.Apply(k + at, k + at);
        }

        var seesHeads = _config.LooksAt == GateSource.Qkv;
        Gates(seesHeads ? q : stream, seesHeads ? _row : _streamWidth, rows, gates);
        (_state, _first) = (state, first);
        var pieces = rows * _heads;
        WorkTeam.Run(this, pieces, pieces * (long)state.RowOf(first) / _heads * sizeof(float) < SharedBytes ? 1 : get_num_threads());
        var isGated = _config is { OutputGate: true, Headwise: false };
        for (var row = 0; row < rows; row++)
        {
            var at = row * (nint)_row;

            // h has taken the place of v.
            if (_headNorm is not null)
            {
                _headNorm.Apply(v + at, v + at, isGated ? o + at : null);
            }
            else if (isGated)
            {
                VectorLoops.Gate(v + at, o + at, _vDim);
            }

            if (_out is null)
            {
                VectorLoops.Copy(v + at, y + row * (nint)_width, _width);
            }
        }

        _out?.Apply(v, _row, rows, y, _width);
    }

    /// <summary>A head of a sequence.</summary>
    void ISharedWork.Do(int piece)
    {
        var (row, head) = Math.DivRem(piece, _heads);
        var (dk, dv) = (_qkDim / _heads, _vDim / _heads);
        float* q = _room.Data + row * (nint)_row, k = q + _qkDim, v = k + _qkDim, gates = v + 2 * _vDim;
        Cell(
            q + head * dk, k + head * dk, v + head * dv, gates[head], gates[_heads + head], _state!.At(_first, row) + (nint)head * dk * dv,
            _state.At(_first + 1, row) + (nint)head * dk, _state.At(_first + 2, row) + head, dk, dv);
    }

    /// <summary>Both gates' pre-activations under their cap; 0 for a gate that does not exist.</summary>
    private void Gates(float* source, int sourceRow, int rows, float* gates)
    {
        for (nint row = 0; row < rows; row++)
        {
            new Span<float>(gates + row * _row, 2 * _heads).Clear();
        }

        Gate(_both, 2 * _heads, gates);
        Gate(_input, _heads, gates);
        Gate(_forget, _heads, gates + _heads);
        for (nint row = 0; row < rows; row++)
        {
            VectorLoops.Cap(gates + row * _row, 2 * _heads, _config.GateSoftCap);
        }

        void Gate((StepMatrix? Weight, nint Bias) gate, int count, float* target)
        {
            gate.Weight?.Apply(source, sourceRow, rows, target, _row);
            for (nint row = 0; row < rows && gate is { Weight: null, Bias: not 0 }; row++)
            {
                VectorLoops.Copy((float*)gate.Bias, target + row * _row, count);
            }
        }
    }

    /// <summary>A head's step; h takes the place of v.</summary>
    private void Cell(float* q, float* k, float* v, float input, float forget, float* c, float* n, float* m, int dk, int dv)
    {
        var (logI, logF) = ((float)_cell.InputGate.Log((double)input), (float)_cell.ForgetGate.Log((double)forget));
        var past = logF + *m;
        var now = !_cell.Stabilizes ? 0 : past <= logI ? logI : past;
        var (keep, write) = (MathF.Exp(past - now), MathF.Exp(logI - now));
        var scale = 1 / MathF.Sqrt(dk);
        var products = Vector<float>.Zero;
        for (var d = 0; d < dk; d += Vector<float>.Count)
        {
            var left = dk - d;
            var next = LoadPart(n + d, left) * keep + LoadPart(k + d, left) * write;
            StorePart(next, n + d, left);
            products = MultiplyAdd(LoadPart(q + d, left) * scale, next, products);
        }

        var low = MathF.Min(now, 0);
        var unit = MathF.Exp(low);
        var (magnitude, floor) = (MathF.Abs(Vector.Sum(products)) * unit, MathF.Exp(low - now));
        var divisor = (magnitude <= floor ? floor : magnitude) + unit * (float)_cell.Epsilon;
        var factor = _cell.Normalize ? unit / divisor : 1;
        *m = now;
        var first = 0;
        for (; first <= dv - 4 * Vector<float>.Count; first += 4 * Vector<float>.Count)
        {
            FourVectors(q, k, v + first, c + first, keep, write, scale, factor, dk, dv);
        }

        for (var e = first; e < dv; e += Vector<float>.Count)
        {
            var left = dv - e;
            var value = LoadPart(v + e, left);
            var h = Vector<float>.Zero;
            for (var d = 0; d < dk; d++)
            {
                var at = c + (nint)d * dv + e;
                var cell = LoadPart(at, left) * keep + value * (write * k[d]);
                StorePart(cell, at, left);
                h = MultiplyAdd(cell, new Vector<float>(q[d] * scale), h);
            }

            StorePart(h * factor, v + e, left);
        }
    }

    /// <summary>Of four vectors of v at once: the memory is read in longer pieces.</summary>
    private static void FourVectors(
        float* q, float* k, float* v, float* c, float keep, float write, float scale, float factor, int dk, int dv)
    {
        var width = Vector<float>.Count;
        Vector<float> v0 = Vector.Load(v), v1 = Vector.Load(v + width), v2 = Vector.Load(v + 2 * width), v3 = Vector.Load(v + 3 * width);
        Vector<float> h0 = default, h1 = default, h2 = default, h3 = default;
        for (var d = 0; d < dk; d++)
        {
            var added = new Vector<float>(write * k[d]);
            var asked = new Vector<float>(q[d] * scale);
            var c0 = Vector.Load(c) * keep + v0 * added;
            var c1 = Vector.Load(c + width) * keep + v1 * added;
            var c2 = Vector.Load(c + 2 * width) * keep + v2 * added;
            var c3 = Vector.Load(c + 3 * width) * keep + v3 * added;
            Vector.Store(c0, c);
            Vector.Store(c1, c + width);
            Vector.Store(c2, c + 2 * width);
            Vector.Store(c3, c + 3 * width);
            h0 = MultiplyAdd(c0, asked, h0);
            h1 = MultiplyAdd(c1, asked, h1);
            h2 = MultiplyAdd(c2, asked, h2);
            h3 = MultiplyAdd(c3, asked, h3);
            c += dv;
        }

        Vector.Store(h0 * factor, v);
        Vector.Store(h1 * factor, v + width);
        Vector.Store(h2 * factor, v + 2 * width);
        Vector.Store(h3 * factor, v + 3 * width);
    }
}

/// <summary>An sLSTM's step (<see cref="SLstmRecurrent"/>).</summary>
internal sealed unsafe class StepSLstm : StepMixer
{
    private static readonly string[] Gates = ["igate", "fgate", "zgate", "ogate"];

    private readonly StepMatrix[] _gates;
    private readonly StepMatrix? _out;
    private readonly StepNorm? _headNorm;
    private readonly float* _recurrentKernel;
    private readonly float* _bias;
    private readonly bool _hasExponentialForgetGate;
    private readonly int _heads;
    private readonly int _dim;
    private readonly int _row;
    private readonly FloatBlock _room;

    public StepSLstm(SLstmMixerConfig config, MixerSite site, StepWeights weights)
    {
        (_heads, _dim, _hasExponentialForgetGate) = (config.HeadCount, site.Width, config.ForgetGate == ForgetGate.Exponential);
        var suffix = config.Headwise ? "" : "_preact";
        _gates = [.. Gates.Select(name => weights.Matrix(name + suffix)!)];
        _out = weights.Matrix("out_proj");
        _recurrentKernel = weights.At("slstm_cell._recurrent_kernel_");
        _bias = weights.At("slstm_cell._bias_");
        _headNorm = weights.Norm(
            config.Headwise ? "group_norm" : "multihead_norm", config.HeadNorm != HeadNormKind.Rms, config.HeadNormEpsilon,
            config.HeadNorm == HeadNormKind.Group ? config.HeadNormGroups ?? _heads : _heads);
        _row = 9 * _dim; // the gates of a token, what R makes of the last h for one head, and h
        _room = new(XlstmTokenStep.MostRows * (nint)_row);
    }

    /// <inheritdoc/>
    public override IReadOnlyList<string> Memory => ["h", "c", "n", "m"];

    /// <inheritdoc/>
    public override long WeightBytes => _gates.Append(_out).Sum(matrix => matrix?.Bytes ?? 0) + 4L * _dim * (_dim / _heads) * sizeof(float);

    /// <inheritdoc/>
    public override void Dispose() => _room.Dispose();

    /// <inheritdoc/>
    public override void Read(
        float* x, int xRow, float* convolved, int convolvedRow, float* stream, int rows, StepState state, int first, float* y)
    {
        float* gates = _room.Data, recurrent = gates + 4 * _dim, output = recurrent + 4 * _dim;
        for (var g = 0; g < 4; g++)
        {
            var isEarly = g < 2;
            _gates[g].Apply(isEarly ? convolved : x, isEarly ? convolvedRow : xRow, rows, gates + g * _dim, _row);
        }

        var size = _dim / _heads;
        for (var head = 0; head < _heads; head++)
        {
            // (head, gate and unit written, unit read)
            RowProducts.Multiply(
                _recurrentKernel + (nint)head * 4 * size * size, WeightFormat.Float32, null, 4 * size, size, null,
                state.At(first, 0) + head * size,
                state.RowOf(first), rows, recurrent, _row);
            for (var row = 0; row < rows; row++)
            {
                for (var g = 0; g < 4; g++)
                {
                    VectorLoops.Add(gates + row * (nint)_row + g * _dim + head * size, recurrent + row * (nint)_row + g * size, size);
                }
            }
        }

        for (var row = 0; row < rows; row++)
        {
            var at = row * (nint)_row;
            VectorLoops.Add(gates + at, _bias, 4 * _dim);
            var h = state.At(first, row);
            Cell(gates + at, h, state.At(first + 1, row), state.At(first + 2, row), state.At(first + 3, row));
            var target = _out is null ? y + row * (nint)_dim : output + at;
            if (_headNorm is null)
            {
                VectorLoops.Copy(h, target, _dim);
            }
            else
            {
                _headNorm.Apply(h, target);
            }
        }

        _out?.Apply(output, _row, rows, y, _dim);
    }

    private void Cell(float* gates, float* h, float* c, float* n, float* m)
    {
        for (var d = 0; d < _dim; d += Vector<float>.Count)
        {
            var left = _dim - d;
            var (i, f) = (LoadPart(gates + d, left), LoadPart(gates + _dim + d, left));
            var (z, o) = (Tanh(LoadPart(gates + 2 * _dim + d, left)), Sigmoid(LoadPart(gates + 3 * _dim + d, left)));
            var (cOld, nOld) = (LoadPart(c + d, left), LoadPart(n + d, left));
            var logForget = (_hasExponentialForgetGate ? f : LogSigmoid(f)) + LoadPart(m + d, left);

            // One of i', f' is 1, the other the exponential of the distance; an empty unit keeps nothing.
            var isEmpty = Vector.Equals(nOld, Vector<float>.Zero);
            var inputWins = Vector.BitwiseOr(isEmpty, Vector.GreaterThanOrEqual(i, logForget));
            var smaller = ExpOfNegative<float>(-Vector.Abs(i - logForget));
            var write = Vector.ConditionalSelect(inputWins, Vector<float>.One, smaller);
            var keep = Vector.ConditionalSelect(
                isEmpty, Vector<float>.Zero, Vector.ConditionalSelect(inputWins, smaller, Vector<float>.One));
            var cNew = keep * cOld + write * z;
            var nNew = keep * nOld + write;
            StorePart(o * cNew / nNew, h + d, left);
            StorePart(cNew, c + d, left);
            StorePart(nNew, n + d, left);
            StorePart(Vector.ConditionalSelect(inputWins, i, logForget), m + d, left);
        }
    }
}
