using System.Diagnostics;
using static TorchSharp.torch;

namespace XlstmLab.Cli.Machine;

/// <summary>What the machine can do at most, measured: the limits that other numbers are held against.</summary>
internal static class Rates
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
}
