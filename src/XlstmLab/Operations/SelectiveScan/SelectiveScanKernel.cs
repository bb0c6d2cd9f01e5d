using System.Numerics;
using static XlstmLab.Operations.VectorFunctions;

namespace XlstmLab.Operations;

/// <summary>The loops of <see cref="SelectiveScanFused"/>, over contiguous memory.</summary>
/// <remarks>
/// Work is shared out by rows of the batch and groups of channels. Each sum is taken by one thread in an order that depends on the
/// shapes alone, so that the number of threads changes no bit of the results.
/// </remarks>
/// <param name="batch">B.</param>
/// <param name="length">S.</param>
/// <param name="dim">D, a multiple of <see cref="Panel"/>.</param>
/// <param name="states">N.</param>
/// <param name="starts">[B, S], true where the state is emptied before the token; or null.</param>
/// <param name="threads">How many threads may work.</param>
internal sealed unsafe class SelectiveScanKernel<T>(int batch, int length, int dim, int states, bool[]? starts, int threads)
    where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>The channels that are worked on side by side: those of a cache line of floats.</summary>
    public const int Panel = 16;

    /// <summary>Every how many tokens the state is kept for the backward pass.</summary>
    public const int ChunkSize = 32;

    private const int WantedUnits = 16;
    private const long SmallestSharedWork = 1 << 15;

    private readonly int _length = length;
    private readonly int _states = states;
    private readonly nint _dim = dim;

    /// <summary>The number of kept states of a row, NC.</summary>
    public int Chunks => (_length + ChunkSize - 1) / ChunkSize;

    /// <summary>How many groups the channels are worked on in, for each row.</summary>
    public int Groups { get; } = (dim / Panel + PanelsOfGroup(batch, dim) - 1) / PanelsOfGroup(batch, dim);

    /// <summary>The elements that backward needs for each row and group: the states and decays of a chunk.</summary>
    public int Room => (2 * ChunkSize + 1) * _states * Panel;

    /// <summary>All tokens forward.</summary>
    /// <param name="x">[B, S, D].</param>
    /// <param name="dt">[B, S, D].</param>
    /// <param name="a">[N, D].</param>
    /// <param name="b">[B, S, N].</param>
    /// <param name="c">[B, S, N].</param>
    /// <param name="y">Is given the outputs, [B, S, D].</param>
    /// <param name="h">The initial, then the last state, [B, N, D].</param>
    /// <param name="kept">Is given the state before each chunk, [B, NC, N, D]; or null.</param>
    public void Forward(T* x, T* dt, T* a, T* b, T* c, T* y, T* h, T* kept) =>
        Share((row, _, channel) =>
        {
            var state = h + row * _states * _dim + channel;
            for (var t = 0; t < _length; t++)
            {
                var token = (nint)row * _length + t;
                if (kept is not null && t % ChunkSize == 0)
                {
                    Copy(state, _dim, kept + Kept(row, t / ChunkSize) + channel, _dim);
                }

                if (starts is not null && starts[token])
                {
                    Clear(state);
                }

                var bNow = b + token * _states;
                var cNow = c + token * _states;
                var at = token * _dim + channel;
                for (var v = 0; v < Panel; v += Vector<T>.Count)
                {
                    var dtNow = Vector.Load(dt + at + v);
                    var written = dtNow * Vector.Load(x + at + v);
                    var output = Vector<T>.Zero;
                    for (var n = 0; n < _states; n++)
                    {
                        var place = n * _dim + v;
                        var decay = ExpOfNegative(dtNow * Vector.Load(a + place + channel));
                        var next = MultiplyAdd(decay, Vector.Load(state + place), written * new Vector<T>(bNow[n]));
                        Vector.Store(next, state + place);
                        output = MultiplyAdd(next, new Vector<T>(cNow[n]), output);
                    }

                    Vector.Store(output, y + at + v);
                }
            }
        });

    /// <summary>All tokens backward.</summary>
    /// <param name="x">[B, S, D].</param>
    /// <param name="dt">[B, S, D].</param>
    /// <param name="a">[N, D].</param>
    /// <param name="b">[B, S, N].</param>
    /// <param name="c">[B, S, N].</param>
    /// <param name="kept">The state before each chunk, [B, NC, N, D].</param>
    /// <param name="dY">[B, S, D].</param>
    /// <param name="room">[B * <see cref="Groups"/>, <see cref="Room"/>].</param>
    /// <param name="dX">Is given the gradient of x.</param>
    /// <param name="dDt">Is given the gradient of dt.</param>
    /// <param name="dA">Zeros; is given the gradient of A in parts to be added up, [B, N, D].</param>
    /// <param name="dB">Zeros; the same of B, [<see cref="Groups"/>, B, S, N].</param>
    /// <param name="dC">Zeros; the same of C.</param>
    /// <param name="dH">The gradient of the last, then of the initial state, [B, N, D].</param>
    public void Backward(
        T* x, T* dt, T* a, T* b, T* c, T* kept, T* dY, T* room, T* dX, T* dDt, T* dA, T* dB, T* dC, T* dH) =>
        Share((row, group, channel) =>
        {
            var size = (nint)_states * Panel;
            var before = room + ((nint)row * Groups + group) * Room; // [ChunkSize + 1, N, Panel]
            var decays = before + (ChunkSize + 1) * size; // [ChunkSize, N, Panel]
            var dState = dH + row * _states * _dim + channel; // [N, D]
            var dRates = dA + row * _states * _dim + channel; // [N, D]
            for (var chunk = Chunks - 1; chunk >= 0; chunk--)
            {
                var first = chunk * ChunkSize;
                var count = Math.Min(ChunkSize, _length - first);
                Copy(kept + Kept(row, chunk) + channel, _dim, before, Panel);
                for (var i = 0; i < count; i++)
                {
                    var token = (nint)row * _length + first + i;
                    var keeps = starts is not null && starts[token] ? Vector<T>.Zero : Vector<T>.One;
                    Advance(
                        x + token * _dim + channel, dt + token * _dim + channel, a + channel, b + token * _states, keeps, before + i * size,
                        decays + i * size);
                }

                for (var i = count - 1; i >= 0; i--)
                {
                    var token = (nint)row * _length + first + i;
                    var at = token * _dim + channel;
                    var ofToken = ((nint)group * batch * _length + token) * _states;
                    Retreat(
                        x + at, dt + at, a + channel, b + token * _states, c + token * _states, before + i * size, decays + i * size,
                        dY + at,
                        dX + at, dDt + at, dRates, dB + ofToken, dC + ofToken, dState);
                }
            }
        });

    /// <summary>
    /// The state after a token, behind that before it, and the token's decays; <paramref name="keeps"/> is 0 at a document's start.
    /// </summary>
    private void Advance(T* x, T* dt, T* a, T* b, Vector<T> keeps, T* before, T* decays)
    {
        for (var v = 0; v < Panel; v += Vector<T>.Count)
        {
            var dtNow = Vector.Load(dt + v);
            var written = dtNow * Vector.Load(x + v);
            for (var n = 0; n < _states; n++)
            {
                var place = (nint)n * Panel + v;
                var decay = keeps * ExpOfNegative(dtNow * Vector.Load(a + n * _dim + v));
                Vector.Store(decay, decays + place);
                Vector.Store(
                    MultiplyAdd(decay, Vector.Load(before + place), written * new Vector<T>(b[n])), before + (nint)_states * Panel + place);
            }
        }
    }

    /// <summary>One token's gradients; that of the state after it becomes that of the state before it.</summary>
    private void Retreat(T* x, T* dt, T* a, T* b, T* c, T* before, T* decays, T* dY, T* dX, T* dDt, T* dA, T* dB, T* dC, T* dState)
    {
        var after = before + (nint)_states * Panel;
        for (var v = 0; v < Panel; v += Vector<T>.Count)
        {
            var (xNow, dtNow, dYNow) = (Vector.Load(x + v), Vector.Load(dt + v), Vector.Load(dY + v));
            var written = dtNow * xNow;
            var (dWritten, dRate) = (Vector<T>.Zero, Vector<T>.Zero);
            for (var n = 0; n < _states; n++)
            {
                var (place, far) = ((nint)n * Panel + v, n * _dim + v);
                var g = MultiplyAdd(dYNow, new Vector<T>(c[n]), Vector.Load(dState + far));
                dC[n] += Vector.Sum(dYNow * Vector.Load(after + place));
                dB[n] += Vector.Sum(g * written);
                dWritten = MultiplyAdd(g, new Vector<T>(b[n]), dWritten);
                var through = g * Vector.Load(decays + place);
                var dLog = through * Vector.Load(before + place);
                dRate = MultiplyAdd(dLog, Vector.Load(a + far), dRate);
                Vector.Store(MultiplyAdd(dLog, dtNow, Vector.Load(dA + far)), dA + far);
                Vector.Store(through, dState + far);
            }

            Vector.Store(dWritten * dtNow, dX + v);
            Vector.Store(MultiplyAdd(dWritten, xNow, dRate), dDt + v);
        }
    }

    private delegate void PanelBody(int row, int group, nint channel);

    private void Share(PanelBody body)
    {
        var panelsOfGroup = PanelsOfGroup(batch, (int)_dim);
        void Unit(int unit)
        {
            var (row, group) = (unit / Groups, unit % Groups);
            var end = Math.Min((group + 1) * panelsOfGroup, (int)_dim / Panel);
            for (var panel = group * panelsOfGroup; panel < end; panel++)
            {
                body(row, group, (nint)panel * Panel);
            }
        }

        var units = batch * Groups;
        if (threads == 1 || units == 1 || (long)batch * _length * _dim * _states < SmallestSharedWork)
        {
            for (var unit = 0; unit < units; unit++)
            {
                Unit(unit);
            }
        }
        else
        {
            Parallel.For(0, units, new ParallelOptions { MaxDegreeOfParallelism = threads }, Unit);
        }
    }

    private static int PanelsOfGroup(int batch, int dim)
    {
        var panels = dim / Panel;
        var groups = Math.Clamp((WantedUnits + batch - 1) / batch, 1, panels);
        return (panels + groups - 1) / groups;
    }

    private nint Kept(int row, int chunk) => ((nint)row * Chunks + chunk) * _states * _dim;

    private void Copy(T* source, nint sourceStride, T* target, nint targetStride)
    {
        for (var n = 0; n < _states; n++)
        {
            new Span<T>(source + n * sourceStride, Panel).CopyTo(new Span<T>(target + n * targetStride, Panel));
        }
    }

    private void Clear(T* state)
    {
        for (var n = 0; n < _states; n++)
        {
            new Span<T>(state + n * _dim, Panel).Clear();
        }
    }
}
