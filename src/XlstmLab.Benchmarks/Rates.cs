using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using XlstmLab.Native.Cuda;
using XlstmLab.Operations;
using static TorchSharp.torch;

namespace XlstmLab.Benchmarks;

/// <summary>What the machine can do at most, measured: the limits that other numbers are held against.</summary>
public static class Rates
{
    /// <summary>The median seconds of an operation, after two calls that are not counted.</summary>
    /// <param name="operation">The operation.</param>
    /// <param name="minSeconds">The time to go on measuring for.</param>
    /// <param name="minCount">The calls to measure at least.</param>
    /// <param name="cancellationToken">Stops between calls.</param>
    public static (double Seconds, int Count) Median(Action operation, double minSeconds, int minCount, CancellationToken cancellationToken)
    {
        var warmUp = Stopwatch.StartNew();
        for (var k = 0; k < 2 || (k < 10 && warmUp.Elapsed.TotalSeconds < minSeconds / 4); k++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            operation();
        }

        var times = new List<double>();
        var all = Stopwatch.StartNew();
        while (times.Count < minCount || all.Elapsed.TotalSeconds < minSeconds)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var start = Stopwatch.GetTimestamp();
            operation();
            times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        times.Sort();
        return ((times[(times.Count - 1) / 2] + times[times.Count / 2]) / 2, times.Count);
    }

    /// <summary>As <see cref="Median"/>, of what a GPU does by itself.</summary>
    /// <remarks>
    /// Before each call the GPU is given other work for as long as the host takes to launch the call, as in training it has some.
    /// </remarks>
    /// <param name="operation">Launches the operation; told how often it was called before, to take another input each time.</param>
    /// <param name="device">The GPU's index.</param>
    /// <param name="minSeconds">The time to go on measuring for.</param>
    /// <param name="minCount">The calls to measure at least; fewer if they take more than five times as long.</param>
    /// <param name="cancellationToken">Stops between groups of calls.</param>
    public static (double Seconds, int Count) MedianOnGpu(
        Action<int> operation, int device, double minSeconds, int minCount, CancellationToken cancellationToken)
    {
        // Compiles kernels, takes memory, and wakes the clock.
        var calls = 0;
        var warmUp = Stopwatch.StartNew();
        var (last, launching) = (TimeSpan.Zero, double.PositiveInfinity);
        for (var k = 0; k < 2 || (k < 1000 && warmUp.Elapsed.TotalSeconds < minSeconds / 4); k++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            var start = warmUp.Elapsed;
            operation(calls++);
            launching = Math.Min(launching, (warmUp.Elapsed - start).TotalSeconds);
            cuda.synchronize();
            last = warmUp.Elapsed - start;
        }

        using var scope = NewDisposeScope();
        const int size = 8192; // a product of this size takes an H100 some 1.6 ms
        var other = randn(size, size, dtype: ScalarType.BFloat16, device: new Device(TorchSharp.DeviceType.CUDA, device));
        var products = (int)Math.Ceiling(1.5 * launching / 1.6e-3);

        var timers = Enumerable.Range(0, (int)Math.Clamp(0.05 / last.TotalSeconds, 1, 50)).Select(_ => new GpuTimer(device)).ToArray();
        try
        {
            var times = new List<double>();
            var all = Stopwatch.StartNew();
            while ((times.Count < minCount || all.Elapsed.TotalSeconds < minSeconds)
                && (times.Count == 0 || all.Elapsed.TotalSeconds < 5 * minSeconds))
            {
                cancellationToken.ThrowIfCancellationRequested();
                foreach (var timer in timers)
                {
                    for (var k = 0; k < products; k++)
                    {
                        other.matmul(other).Dispose();
                    }

                    timer.Start();
                    operation(calls++);
                    timer.Stop();
                }

                times.AddRange(timers.Select(timer => timer.Seconds()));
            }

            times.Sort();
            return ((times[(times.Count - 1) / 2] + times[times.Count / 2]) / 2, times.Count);
        }
        finally
        {
            foreach (var timer in timers)
            {
                timer.Dispose();
            }
        }
    }

    /// <summary>Operations a second of a product of two square matrices.</summary>
    public static double MatrixProduct(ScalarType type, int size, double minSeconds, CancellationToken cancellationToken)
    {
        using var scope = NewDisposeScope();
        var (a, b) = (rand(size, size).to(type), rand(size, size).to(type));
        var (seconds, _) = Median(
            () =>
            {
                using var product = a.matmul(b);
            },
            minSeconds, 3, cancellationToken);
        return 2.0 * size * size * size / seconds;
    }

    /// <summary>Bytes a second of a copy that no cache holds, each byte counted once.</summary>
    public static double MemoryCopy(long bytes, double minSeconds, CancellationToken cancellationToken)
    {
        using var scope = NewDisposeScope();
        var (from, to) = (ones(bytes / 4), zeros(bytes / 4));
        var (seconds, _) = Median(() => to.copy_(from), minSeconds, 3, cancellationToken);
        return bytes / seconds;
    }

    /// <summary>Bytes a second at which threads read memory again and again, at best.</summary>
    /// <param name="bytes">The bytes of a round; where a cache holds them all, it is the cache that is read.</param>
    /// <param name="threads">The threads, which a piece is shared out to as a token's products are.</param>
    /// <param name="minSeconds">The time to go on for.</param>
    /// <param name="cancellationToken">Stops between pieces.</param>
    public static double MemoryRead(long bytes, int threads, double minSeconds, CancellationToken cancellationToken)
    {
        const long piece = 16 << 20; // short enough that other programs leave one alone
        var pieces = (int)Math.Max(1, bytes / piece);
        using var work = new MemoryReading(bytes / pieces, pieces, threads);
        var best = double.PositiveInfinity;
        var all = Stopwatch.StartNew();
        for (var round = 0; round < 3 || all.Elapsed.TotalSeconds < minSeconds; round++)
        {
            for (work.Piece = 0; work.Piece < pieces; work.Piece++)
            {
                cancellationToken.ThrowIfCancellationRequested();
                var start = Stopwatch.GetTimestamp();
                WorkTeam.Run(work, work.Shares, threads);
                best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
            }
        }

        return work.PieceBytes / best;
    }

    /// <summary>Adds up a piece of memory, share by share.</summary>
    private sealed unsafe class MemoryReading : ISharedWork, IDisposable
    {
        private const int Stride = 8;

        private readonly nint _length;
        private readonly FloatBlock _memory;
        private readonly float[] _sums;

        public MemoryReading(long bytes, int pieces, int threads)
        {
            Shares = 8 * threads;
            var step = Stride * Vector512<float>.Count;
            _length = (nint)Math.Max(1, bytes / sizeof(float) / Shares / step) * step;
            _memory = new(_length * Shares * pieces);
            _sums = new float[Shares];
            for (nint at = 0; at < _length * Shares * pieces; at++)
            {
                _memory.Data[at] = 1;
            }
        }

        public int Piece { get; set; }

        public int Shares { get; }

        public double PieceBytes => (double)_length * Shares * sizeof(float);

        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        public void Do(int share)
        {
            var from = _memory.Data + ((nint)Piece * Shares + share) * _length;
            Vector512<float> a = default, b = default, c = default, d = default;
            for (nint at = 0; at < _length; at += Stride * Vector512<float>.Count)
            {
                a += Vector512.Load(from + at) + Vector512.Load(from + at + 16);
                b += Vector512.Load(from + at + 32) + Vector512.Load(from + at + 48);
                c += Vector512.Load(from + at + 64) + Vector512.Load(from + at + 80);
                d += Vector512.Load(from + at + 96) + Vector512.Load(from + at + 112);
            }

            _sums[share] = Vector512.Sum(a + b + (c + d));
        }

        /// <inheritdoc/>
        public void Dispose() => _memory.Dispose();
    }
}
