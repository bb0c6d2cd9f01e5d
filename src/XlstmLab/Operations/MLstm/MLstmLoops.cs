using System.Numerics;
using System.Runtime.InteropServices;
using static XlstmLab.Operations.MatrixLoops;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>Where the elements of [B, NH, S, D] are, D in one piece.</summary>
internal readonly unsafe record struct HeadRows(nint Data, nint Batch, nint Head, nint Token)
{
    /// <summary>The first token of a head.</summary>
    public float* At(int batch, int head) => (float*)Data + batch * Batch + head * Head;
}

/// <summary>The loops of <see cref="MLstmFused"/>: chunks of L tokens of every head, states between them.</summary>
/// <remarks>
/// The equations are those of <see cref="MLstmChunkwise"/>. Sums of gates and the running maximum are double precision; a column of
/// ones behind the values makes the normaliser one more column of the state. Work is shared out by heads where the states are walked and by
/// heads and chunks elsewhere.
/// </remarks>
/// <param name="batch">B.</param>
/// <param name="heads">NH.</param>
/// <param name="length">S.</param>
/// <param name="dk">DK.</param>
/// <param name="dv">DV.</param>
/// <param name="inputGate">What makes log i of the numbers given.</param>
/// <param name="forgetGate">What makes log f of the numbers given.</param>
/// <param name="options">The rest.</param>
internal sealed unsafe class MLstmLoops(
    int batch, int heads, int length, int dk, int dv, InputGate inputGate, ForgetGate forgetGate, MLstmOptions options) : IDisposable
{
    private readonly int _size = Math.Min(options.ChunkSize, length);
    private readonly int _columns = Padded(dv + 1);
    private readonly int _keys = Padded(dk);
    private readonly float _scale = (float)Math.Pow(dk, -0.5);
    private readonly bool _stabilizes = options.Stabilizes;
    private readonly List<nint> _held = [];

    /// <summary>The number of chunks, NC.</summary>
    public int Count { get; } = (length + Math.Min(options.ChunkSize, length) - 1) / Math.Min(options.ChunkSize, length);

    /// <summary>[B, NH, S, DK].</summary>
    public HeadRows Q { get; init; }

    /// <summary>[B, NH, S, DK].</summary>
    public HeadRows K { get; init; }

    /// <summary>[B, NH, S, DV].</summary>
    public HeadRows V { get; init; }

    /// <summary>[B, NH, S] what log i is made of.</summary>
    public float* Input { get; init; }

    /// <summary>[B, NH, S] what log f is made of.</summary>
    public float* Forget { get; init; }

    /// <summary>[B, S], true where a document starts; or null.</summary>
    public bool* Starts { get; init; }

    /// <summary>The state before: C [B, NH, DK, DV], or null for an empty one.</summary>
    public float* C { get; init; }

    /// <summary>n, [B, NH, DK].</summary>
    public float* N { get; init; }

    /// <summary>m, [B, NH].</summary>
    public double* M { get; init; }

    private int Heads => batch * heads;

    private long Work => (long)Heads * length * (dk + dv) * (_size + dk);

    // What depends on the gates alone, a token each: reader and writer are double shares of a weight's exponent.
    private double* _reader;
    private double* _writer;
    private float* _inter;
    private double* _m;
    private int* _from;
    private bool* _inputWins;
    private double* _mLast;
    private float* _states;
    private float* _dO;
    private float* _dStates;

    /// <summary>Forward.</summary>
    /// <param name="h">Is given h.</param>
    /// <param name="sums">Is given n q, [B, NH, S]; or null.</param>
    /// <param name="last">Is given C, n and m of the state after, [B, NH, DK, DV], [B, NH, DK] and [B, NH]; or null.</param>
    public void Forward(HeadRows h, float* sums, (nint C, nint N, nint M)? last)
    {
        WalkGates();
        WalkStates(upTo: last is null ? Count - 1 : Count);
        CpuMemory.Share(Heads * Count, Work, unit => ForwardChunk(unit / Count, unit % Count, h, sums));
        if (last is var (c, n, m))
        {
            for (var head = 0; head < Heads; head++)
            {
                WriteState(head, (float*)c, (float*)n, (float*)m);
            }
        }
    }

    /// <summary>Backward.</summary>
    /// <param name="h">h of the forward pass.</param>
    /// <param name="sums">n q of the forward pass.</param>
    /// <param name="dH">The gradient of h.</param>
    /// <param name="dLast">The gradients of C, n and m of the state after; or null.</param>
    /// <param name="dQ">Is given the gradient of q; so the others.</param>
    /// <param name="dK">That of k.</param>
    /// <param name="dV">That of v.</param>
    /// <param name="dInput">That of <see cref="Input"/>.</param>
    /// <param name="dForget">That of <see cref="Forget"/>.</param>
    /// <param name="dFirst">Those of the state before; or null.</param>
    public void Backward(
        HeadRows h, float* sums, HeadRows dH, (nint C, nint N, nint M)? dLast,
        HeadRows dQ, HeadRows dK, HeadRows dV, float* dInput, float* dForget, (nint C, nint N, nint M)? dFirst)
    {
        WalkGates();
        WalkStates(upTo: dLast is null ? Count - 1 : Count);
        var dM = Hold<double>((nint)Heads * length);
        _dO = Hold<float>((nint)Heads * length * _columns);
        _dStates = Hold<float>((nint)Heads * (Count + 1) * State);
        CpuMemory.Share(Heads, Work, head => WalkStatesBack(head, h, sums, dH, dLast, dM, withFirst: dFirst is not null));
        var dLogI = Hold<double>((nint)Heads * length);
        var dLogF = Hold<double>((nint)Heads * length);
        var withLast = dLast is not null;
        CpuMemory.Share(
            Heads * Count, 3 * Work, unit => BackwardChunk(unit / Count, unit % Count, dQ, dK, dV, dLogI, dLogF, withLast));
        for (var head = 0; head < Heads; head++)
        {
            var at = (nint)head * length;
            var dM0 = ThroughScale(head, dM + at, dLogI + at, dLogF + at);
            GateGradient(inputGate == InputGate.Sigmoid, inputGate == InputGate.None, dLogI + at, Input + at, dInput + at);
            GateGradient(forgetGate == ForgetGate.Sigmoid, forgetGate == ForgetGate.None, dLogF + at, Forget + at, dForget + at);
            if (dFirst is var (c, n, m))
            {
                var first = _dStates + (nint)head * (Count + 1) * State;
                var given = StateAt(head, 0);
                for (var k = 0; k < dk; k++)
                {
                    for (var d = 0; d < dv; d++)
                    {
                        ((float*)c)[((nint)head * dk + k) * dv + d] = first[k * _columns + d];
                        dM0 += (double)first[k * _columns + d] * given[k * _columns + d];
                    }

                    ((float*)n)[(nint)head * dk + k] = first[k * _columns + dv];
                    dM0 += (double)first[k * _columns + dv] * given[k * _columns + dv];
                }

                ((double*)m)[head] = dM0;
            }
        }
    }

    /// <summary>Frees what was held.</summary>
    public void Dispose()
    {
        foreach (var block in _held)
        {
            NativeMemory.AlignedFree((void*)block);
        }

        _held.Clear();
    }

    private nint State => (nint)dk * _columns;

    private float* StateAt(int head, int chunk) => _states + ((nint)head * (Count + 1) + chunk) * State;

    private T* Hold<T>(nint count)
        where T : unmanaged
    {
        var block = NativeMemory.AlignedAlloc((nuint)(count * sizeof(T)), 64);
        _held.Add((nint)block);
        return (T*)block;
    }

    private void WalkGates()
    {
        var tokens = (nint)Heads * length;
        _reader = Hold<double>(tokens);
        _writer = Hold<double>(tokens);
        _inter = Hold<float>(tokens);
        _m = Hold<double>(tokens);
        _from = Hold<int>(tokens);
        _inputWins = Hold<bool>(tokens);
        _mLast = Hold<double>(Heads);
        CpuMemory.Share(Heads, tokens * 64, WalkGates);
    }

    /// <summary>
    /// Running sums b of log f within a chunk and the running maximum m: what a reader and a writer count, and what is seen of the state
    /// before.
    /// </summary>
    private void WalkGates(int head)
    {
        var at = (nint)head * length;
        var starts = Starts is null ? null : Starts + (nint)(head / heads) * length;
        var m = M is null ? 0.0 : M[head];
        for (var first = 0; first < length; first += _size)
        {
            var count = Math.Min(_size, length - first);
            var (before, b, from, carries) = (m, 0.0, 0, true);
            for (var t = 0; t < count; t++)
            {
                if (starts is not null && starts[first + t])
                {
                    (m, from, carries) = (0, t, false);
                }

                // In double precision, as their sums: a denominator near zero amplifies what a logarithm loses.
                var token = at + first + t;
                var (logI, logF) = (inputGate.Log((double)Input[token]), forgetGate.Log((double)Forget[token]));
                var past = logF + m;
                var wins = past <= logI;
                m = !_stabilizes ? 0 : wins ? logI : past;
                b += logF;
                _reader[token] = b - m;
                _writer[token] = logI - b;
                _inter[token] = carries ? (float)Math.Exp(b + before - m) : 0; // it is multiplied over all chunks: all its digits count
                _m[token] = m;
                _from[token] = from;
                _inputWins[token] = wins;
            }
        }

        _mLast[head] = m;
    }

    /// <summary>The gradient of what a gate is made of.</summary>
    private void GateGradient(bool sigmoid, bool none, double* dLog, float* source, float* target)
    {
        for (var t = 0; t < length; t++)
        {
            target[t] = (float)dLog[t];
        }

        for (var t = 0; (sigmoid || none) && t < length; t += Width)
        {
            var slope = none ? Vector<float>.Zero : Sigmoid(-LoadPart(source + t, length - t));
            StorePart(LoadPart(target + t, length - t) * slope, target + t, length - t);
        }
    }

    private void WalkStates(int upTo)
    {
        _states = Hold<float>((nint)Heads * (Count + 1) * State);
        CpuMemory.Share(Heads, Work / 4, head => WalkStates(head, upTo));
    }

    /// <summary>The states [C, n] at the borders of chunks.</summary>
    private void WalkStates(int head, int upTo)
    {
        var state = StateAt(head, 0);
        new Span<float>(state, (int)State).Clear();
        for (var k = 0; C is not null && k < dk; k++)
        {
            new ReadOnlySpan<float>(C + ((nint)head * dk + k) * dv, dv).CopyTo(new Span<float>(state + k * _columns, dv));
            state[k * _columns + dv] = N[(nint)head * dk + k];
        }

        using var room = new Room(RoomSize);
        var keys = room.Floats(_size * _keys);
        var values = room.Floats(_size * _columns);
        var write = room.Floats(Padded(_size));
        for (var chunk = 0; chunk < upTo; chunk++)
        {
            var (first, count) = Chunk(chunk);
            Writes(head, first, count, write);
            CopyRows(K, head, first, count, dk, keys, _keys, write);
            CopyValues(head, first, count, values, null);
            var next = StateAt(head, chunk + 1);
            var decay = new Vector<float>(_inter[(nint)head * length + first + count - 1]);
            for (nint k = 0; k < State; k += Width)
            {
                Vector.Store(Vector.Load(state + k) * decay, next + k);
            }

            Multiply(keys, 1, _keys, dk, count, values, _columns, _columns, next, _columns, add: true);
            state = next;
        }
    }

    private (int First, int Count) Chunk(int chunk) => (chunk * _size, Math.Min(_size, length - chunk * _size));

    /// <summary>What each token of a chunk writes into the state after it.</summary>
    private void Writes(int head, int first, int count, float* write)
    {
        var at = (nint)head * length + first;
        var last = at + count - 1;
        Decays(_reader[last], _writer + at, _from[last], count, write);
        for (var t = 0; t < Padded(count); t += Width)
        {
            Vector.Store(ExpOfNegative<float>(Vector.Load(write + t)), write + t);
        }
    }

    /// <summary>
    /// Exponents reader + writer_j of the tokens that a reader sees, up to <paramref name="count"/>, and negative infinity for all others.
    /// </summary>
    private static void Decays(double reader, double* writers, int from, int count, float* exponents)
    {
        var r = new Vector<double>(reader);
        var half = Vector<double>.Count;
        var j = 0;
        for (; j <= count - Width; j += Width)
        {
            Vector.Store(Vector.Narrow(Vector.Load(writers + j) + r, Vector.Load(writers + j + half) + r), exponents + j);
        }

        for (; j < count; j++)
        {
            exponents[j] = (float)(writers[j] + reader);
        }

        for (; j < Padded(count); j++)
        {
            exponents[j] = float.NegativeInfinity;
        }

        new Span<float>(exponents, from).Fill(float.NegativeInfinity);
    }

    /// <summary>Rows of a head, each times its factor if there are any, zero behind the last channel.</summary>
    private static void CopyRows(
        HeadRows rows, float* source, int count, int width, float* target, int distance, float* factors, float factor)
    {
        for (var t = 0; t < count; t++, source += rows.Token, target += distance)
        {
            var scale = new Vector<float>(factors is null ? factor : factor * factors[t]);
            for (var d = 0; d < distance; d += Width)
            {
                Vector.Store(d < width ? LoadPart(source + d, width - d) * scale : Vector<float>.Zero, target + d);
            }
        }
    }

    private void CopyRows(
        HeadRows rows, int head, int first, int count, int width, float* target, int distance, float* factors, float factor = 1) =>
        CopyRows(rows, rows.At(head / heads, head % heads) + first * rows.Token, count, width, target, distance, factors, factor);

    /// <summary>[v, 1] of a chunk.</summary>
    private void CopyValues(int head, int first, int count, float* target, float* factors)
    {
        CopyRows(V, head, first, count, dv, target, _columns, factors);
        for (var t = 0; t < count; t++)
        {
            target[t * _columns + dv] = factors is null ? 1 : factors[t];
        }
    }

    private static void Transpose(float* source, int rows, int columns, int distance, float* target, int targetDistance)
    {
        for (var column = 0; column < columns; column++)
        {
            var row = target + (nint)column * targetDistance;
            for (var r = 0; r < rows; r++)
            {
                row[r] = source[(nint)r * distance + column];
            }

            for (var r = rows; r < targetDistance; r++)
            {
                row[r] = 0;
            }
        }
    }

    /// <summary>The rows of a triangle that are computed together: those that a kernel of <see cref="MatrixLoops"/> takes.</summary>
    private static int RowsAt(int row, int count) => count - row >= 6 ? 6 : count - row >= 4 ? 4 : 1;

    private bool ReadsState(int chunk) => chunk > 0 || C is not null;

    private void ForwardChunk(int head, int chunk, HeadRows h, float* sums)
    {
        var (first, count) = Chunk(chunk);
        var at = (nint)head * length + first;
        var width = Padded(count);
        using var room = new Room(RoomSize);
        var queries = room.Floats(count * _keys);
        var keys = room.Floats(count * _keys);
        var keysAcross = room.Floats(dk * width);
        var values = room.Floats(count * _columns);
        var weights = room.Floats(6 * width);
        var exponents = room.Floats(width);
        var numerator = room.Floats(count * _columns);
        var exactSums = room.Floats(count);
        CopyRows(K, head, first, count, dk, keys, _keys, null);
        Transpose(keys, count, dk, _keys, keysAcross, width);
        CopyValues(head, first, count, values, null);
        if (ReadsState(chunk))
        {
            CopyRows(Q, head, first, count, dk, queries, _keys, _inter + at, _scale);
            Multiply(queries, _keys, 1, count, dk, StateAt(head, chunk), _columns, _columns, numerator, _columns, add: false);
        }
        else
        {
            new Span<float>(numerator, count * _columns).Clear();
        }

        CopyRows(Q, head, first, count, dk, queries, _keys, null, _scale);
        for (var row = 0; row < count;)
        {
            var rows = RowsAt(row, count);
            Multiply(queries + row * _keys, _keys, 1, rows, dk, keysAcross, width, Padded(row + rows), weights, width, add: false);
            for (var r = 0; r < rows; r++)
            {
                var token = at + row + r;
                Decays(_reader[token], _writer + at, _from[token], row + r + 1, exponents);
                var weight = weights + r * width;
                var sum = Vector<double>.Zero; // a small one amplifies all that is wrong with it
                for (var j = 0; j < Padded(row + rows); j += Width)
                {
                    var decay = j <= row + r ? ExpOfNegative<float>(Vector.Load(exponents + j)) : Vector<float>.Zero;
                    var decayed = Vector.Load(weight + j) * decay;
                    Vector.Store(decayed, weight + j);
                    Vector.Widen(decayed, out var low, out var high);
                    sum += low + high;
                }

                exactSums[row + r] = (float)(Vector.Sum(sum) + numerator[(row + r) * _columns + dv]);
            }

            Multiply(weights, width, 1, rows, row + rows, values, _columns, _columns, numerator + row * _columns, _columns, add: true);
            row += rows;
        }

        var target = h.At(head / heads, head % heads) + first * h.Token;
        for (var t = 0; t < count; t++, target += h.Token)
        {
            var read = numerator + t * _columns;
            var sum = exactSums[t];
            if (sums is not null)
            {
                sums[at + t] = sum;
            }

            var factor = new Vector<float>(options.Normalize ? Factor(sum, _m[at + t]) : 1);
            for (var d = 0; d < dv; d += Width)
            {
                StorePart(Vector.Load(read + d) * factor, target + d, dv - d);
            }
        }
    }

    /// <summary>u / d: what the numerator is multiplied by (<see cref="MLstmNormalizer"/>).</summary>
    private float Factor(float sum, double m) => Factor(sum, m, out _);

    private float Factor(float sum, double m, out bool fromSum)
    {
        var low = MathF.Min((float)m, 0);
        var unit = MathF.Exp(low);
        var (magnitude, floor) = (MathF.Abs(sum) * unit, MathF.Exp(low - (float)m));
        fromSum = magnitude > floor;
        return unit / ((magnitude <= floor ? floor : magnitude) + unit * (float)options.Epsilon);
    }

    private void WriteState(int head, float* c, float* n, float* m)
    {
        var state = StateAt(head, Count);
        m[head] = (float)_mLast[head];
        var factor = (float)Math.Exp(_mLast[head] - m[head]); // what m lost by rounding
        for (var k = 0; k < dk; k++)
        {
            for (var d = 0; d < dv; d++)
            {
                c[((nint)head * dk + k) * dv + d] = state[k * _columns + d] * factor;
            }

            n[(nint)head * dk + k] = state[k * _columns + dv] * factor;
        }
    }

    /// <summary>The gradients of numerators and sums, and those of the states at the borders of chunks, last to first.</summary>
    private void WalkStatesBack(
        int head, HeadRows h, float* sums, HeadRows dH, (nint C, nint N, nint M)? dLast, double* dM, bool withFirst)
    {
        var at = (nint)head * length;
        OutputGradient(head, h, sums, dH, dM);
        var dState = _dStates + ((nint)head * (Count + 1) + Count) * State;
        new Span<float>(dState, (int)State).Clear();
        if (dLast is var (c, n, m))
        {
            var state = StateAt(head, Count);
            var factor = (float)Math.Exp(_mLast[head] - (float)_mLast[head]);
            double ofMemory = 0;
            for (var k = 0; k < dk; k++)
            {
                for (var d = 0; d <= dv; d++)
                {
                    var gradient = factor * (d == dv ? ((float*)n)[(nint)head * dk + k] : ((float*)c)[((nint)head * dk + k) * dv + d]);
                    dState[k * _columns + d] = gradient;
                    ofMemory += (double)gradient * state[k * _columns + d];
                }
            }

            dM[at + length - 1] += ((float*)m)[head] - ofMemory;
        }

        using var room = new Room(RoomSize);
        var queries = room.Floats(_size * _keys);
        for (var chunk = Count - 1; chunk >= (withFirst ? 0 : 1); chunk--)
        {
            var (first, count) = Chunk(chunk);
            CopyRows(Q, head, first, count, dk, queries, _keys, _inter + at + first, _scale);
            var before = dState - State;
            var decay = new Vector<float>(_inter[at + first + count - 1]);
            for (nint k = 0; k < State; k += Width)
            {
                Vector.Store(Vector.Load(dState + k) * decay, before + k);
            }

            Multiply(queries, 1, _keys, dk, count, _dO + (at + first) * _columns, _columns, _columns, before, _columns, add: true);
            dState = before;
        }
    }

    /// <summary>Through the division h = numerator u / d.</summary>
    private void OutputGradient(int head, HeadRows h, float* sums, HeadRows dH, double* dM)
    {
        var at = (nint)head * length;
        var output = h.At(head / heads, head % heads);
        var gradient = dH.At(head / heads, head % heads);
        var exact = options.NormalizerGradient == NormalizerGradient.Exact;
        for (var t = 0; t < length; t++, output += h.Token, gradient += dH.Token)
        {
            var target = _dO + (at + t) * _columns;
            var fromSum = false;
            var factor = options.Normalize ? Factor(sums[at + t], _m[at + t], out fromSum) : 1;
            var dots = Vector<float>.Zero;
            for (var d = 0; d < _columns; d += Width)
            {
                var g = d < dv ? LoadPart(gradient + d, dv - d) : Vector<float>.Zero;
                dots = d < dv ? MultiplyAdd(g, LoadPart(output + d, dv - d), dots) : dots;
                Vector.Store(g * factor, target + d);
            }

            dM[at + t] = 0;
            if (options.Normalize && exact)
            {
                var dDenominator = -Vector.Sum(dots) * factor;
                target[dv] = fromSum ? dDenominator * MathF.Sign(sums[at + t]) : 0;
                dM[at + t] = dDenominator * (float)options.Epsilon;
            }
        }
    }

    private void BackwardChunk(
        int head, int chunk, HeadRows dQ, HeadRows dK, HeadRows dV, double* dLogI, double* dLogF, bool withLast)
    {
        var (first, count) = Chunk(chunk);
        var at = (nint)head * length + first;
        var width = Padded(count);
        var dO = _dO + at * _columns;
        var (reads, writes) = (ReadsState(chunk), chunk < Count - 1 || withLast);
        using var room = new Room(RoomSize);
        var queries = room.Floats(count * _keys);
        var keys = room.Floats(count * _keys);
        var across = room.Floats(Math.Max(dk, dv + 1) * width);
        var values = room.Floats(count * _columns);
        var scaled = room.Floats(count * Math.Max(_columns, _keys));
        var stateAcross = room.Floats((dv + 1) * _keys);
        var weights = room.Floats(count * width);
        var dScores = room.Floats(count * width);
        var exponents = room.Floats(width);
        var dQueries = room.Floats(count * _keys);
        var dKeys = room.Floats(count * _keys);
        var dValues = room.Floats(count * _columns);
        var write = room.Floats(width);
        CopyRows(Q, head, first, count, dk, queries, _keys, null, _scale);
        CopyRows(K, head, first, count, dk, keys, _keys, null);
        CopyValues(head, first, count, values, null);
        Transpose(keys, count, dk, _keys, across, width);
        Triangle(queries, _keys, dk, across, width, count, weights);
        Transpose(values, count, dv + 1, _columns, across, width);
        Triangle(dO, _columns, dv + 1, across, width, count, dScores);
        for (var row = 0; row < count; row++)
        {
            Decays(_reader[at + row], _writer + at, _from[at + row], row + 1, exponents);
            for (var j = 0; j < width; j += Width)
            {
                var k = (nint)row * width + j;
                var decay = j <= row ? ExpOfNegative<float>(Vector.Load(exponents + j)) : Vector<float>.Zero;
                var isBeyond = j > row;
                Vector.Store(isBeyond ? Vector<float>.Zero : Vector.Load(weights + k) * decay, weights + k);
                Vector.Store(isBeyond ? Vector<float>.Zero : Vector.Load(dScores + k) * decay, dScores + k);
            }
        }

        // Queries: the state before, then the chunk's own keys.
        if (reads)
        {
            Transpose(StateAt(head, chunk), dk, dv + 1, _columns, stateAcross, _keys);
            Scaled(dO, count, _inter + at, scaled);
            Multiply(scaled, _columns, 1, count, dv + 1, stateAcross, _keys, _keys, dQueries, _keys, add: false);
        }

        for (var row = 0; row < count;)
        {
            var rows = RowsAt(row, count);
            Multiply(
                dScores + (nint)row * width, width, 1, rows, row + rows, keys, _keys, _keys, dQueries + row * _keys, _keys, add: reads);
            row += rows;
        }

        // Keys and values: the state after, then the chunk's own queries.
        var dAfter = _dStates + ((nint)head * (Count + 1) + chunk + 1) * State;
        if (writes)
        {
            Writes(head, first, count, write);
            Transpose(dAfter, dk, dv + 1, _columns, stateAcross, _keys);
            Scaled(values, count, write, scaled);
            Multiply(scaled, _columns, 1, count, dv + 1, stateAcross, _keys, _keys, dKeys, _keys, add: false);
            CopyRows(K, head, first, count, dk, scaled, _keys, write);
            Multiply(scaled, _keys, 1, count, dk, dAfter, _columns, _columns, dValues, _columns, add: false);
        }

        for (var row = 0; row < count;)
        {
            var rows = RowsAt(row, count);
            var corner = (nint)row * width + row;
            Multiply(
                dScores + corner, 1, width, rows, count - row, queries + row * _keys, _keys, _keys,
                dKeys + row * _keys, _keys, add: writes);
            Multiply(
                weights + corner, 1, width, rows, count - row, dO + (nint)row * _columns, _columns, _columns,
                dValues + row * _columns, _columns, add: writes);
            row += rows;
        }

        // A log gate scales what its key writes, and a log forget gate all that is read after and written before it.
        double carried = 0;
        for (nint k = 0; writes && k < State; k++)
        {
            carried += (double)dAfter[k] * StateAt(head, chunk + 1)[k];
        }

        for (var t = count - 1; t >= 0; t--)
        {
            var ofKey = Dot(keys + t * _keys, dKeys + t * _keys);
            dLogI[at + t] = ofKey;
            carried += (double)Dot(queries + t * _keys, dQueries + t * _keys) - ofKey;
            var begins = Starts is not null && Starts[(nint)(head / heads) * length + first + t];
            dLogF[at + t] = begins ? 0 : carried; // nothing is kept across a document's start
        }

        WriteRows(dQ, head, first, count, dk, dQueries, _keys, _scale);
        WriteRows(dK, head, first, count, dk, dKeys, _keys, 1);
        WriteRows(dV, head, first, count, dv, dValues, _columns, 1);
    }

    /// <summary>a b below and on the diagonal.</summary>
    private static void Triangle(float* a, int aRow, int depth, float* b, int width, int count, float* c)
    {
        for (var row = 0; row < count;)
        {
            var rows = RowsAt(row, count);
            Multiply(a + (nint)row * aRow, aRow, 1, rows, depth, b, width, Padded(row + rows), c + (nint)row * width, width, add: false);
            row += rows;
        }
    }

    private void Scaled(float* source, int count, float* factors, float* target)
    {
        for (var t = 0; t < count; t++)
        {
            var factor = new Vector<float>(factors[t]);
            for (var d = t * _columns; d < (t + 1) * _columns; d += Width)
            {
                Vector.Store(Vector.Load(source + d) * factor, target + d);
            }
        }
    }

    private float Dot(float* left, float* right)
    {
        var sum = Vector<float>.Zero;
        for (var d = 0; d < _keys; d += Width)
        {
            sum = MultiplyAdd(Vector.Load(left + d), Vector.Load(right + d), sum);
        }

        return Vector.Sum(sum);
    }

    private void WriteRows(HeadRows rows, int head, int first, int count, int width, float* source, int distance, float factor)
    {
        var target = rows.At(head / heads, head % heads) + first * rows.Token;
        for (var t = 0; t < count; t++, target += rows.Token, source += distance)
        {
            for (var d = 0; d < width; d += Width)
            {
                StorePart(Vector.Load(source + d) * factor, target + d, width - d);
            }
        }
    }

    /// <summary>
    /// The gradient of every m handed to what made it: m_t = max(log f_t + m_(t-1), log i_t), where m_(t-1) is 0 at a document's start.
    /// </summary>
    /// <returns>The share of the m before the first token.</returns>
    private double ThroughScale(int head, double* dM, double* dLogI, double* dLogF)
    {
        if (!options.HasPathThroughScale)
        {
            return 0;
        }

        var starts = Starts is null ? null : Starts + (nint)(head / heads) * length;
        double passed = 0;
        for (var t = length - 1; t >= 0; t--)
        {
            passed += dM[t];
            if (_inputWins[(nint)head * length + t])
            {
                dLogI[t] += passed;
                passed = 0;
            }
            else
            {
                dLogF[t] += passed;
                passed = starts is not null && starts[t] ? 0 : passed;
            }
        }

        return passed;
    }

    /// <summary>The floats that one unit of work needs for itself, at most.</summary>
    private int RoomSize =>
        _size * (4 * _keys + 3 * _columns + Math.Max(_keys, _columns) + 2 * Padded(_size)) + Math.Max(dk, dv + 1) * Padded(_size)
        + (dv + 1) * _keys + 8 * Padded(_size) + 16 * Room.Alignment;

    /// <summary>One block of memory that a unit of work takes its arrays from.</summary>
    private ref struct Room(int size)
    {
        public const int Alignment = 16; // floats

        private readonly float* _block = (float*)NativeMemory.AlignedAlloc((nuint)size * sizeof(float), Alignment * sizeof(float));
        private int _taken;

        public float* Floats(int count)
        {
            var part = _block + _taken;
            _taken += (count + Alignment - 1) / Alignment * Alignment;
            return part;
        }

        public readonly void Dispose() => NativeMemory.AlignedFree(_block);
    }
}
