using System.Runtime.InteropServices;

namespace XlstmLab.Native;

/// <summary>Has the C library keep what a training step frees for the next one, and give back what grows.</summary>
/// <remarks>
/// glibc gives freed memory back to the system, which has to find and clear it again page by page in the next step: a tenth of the time for
/// a small model's step. What grows with every token, as a Transformer's keys and values do, must not lie in its heap, where glibc puts
/// whatever is no larger than what was freed before: each copy is a little too large for the place of the last, and after two thousand
/// tokens of a small model there were eight gigabytes.
/// </remarks>
internal static partial class HeapMemory
{
    private const int TrimThreshold = -1;
    private const int MapThreshold = -3;

    /// <summary>What glibc begins with for both thresholds, in bytes.</summary>
    private const int Usual = 128 << 10;

    private static readonly Lock Gate = new();
    private static int _count;

    /// <summary>Whether <see cref="GiveBack"/> has nothing to do: it is asked for every token.</summary>
    private static bool _givesBack;

    /// <summary>Whether memory is kept now.</summary>
    public static bool IsKept { get; private set; }

    /// <summary>Keeps up to a GiB, or an eighth of a smaller machine's memory, unless the environment says what is to be kept.</summary>
    /// <returns>Ends it when disposed, if nobody else trains.</returns>
    public static Training Keep()
    {
        lock (Gate)
        {
            if (_count++ == 0)
            {
                // The greatest piece that glibc lets lie in the heap.
                IsKept = Set(32 << 20, (int)Math.Min(SystemMemory.Total / 8, 1 << 30));
                _givesBack = false;
            }
        }

        return new();
    }

    /// <summary>Has large pieces given back as soon as they are freed from now on, but while somebody trains.</summary>
    public static void GiveBack()
    {
        lock (Gate)
        {
            if (!_givesBack && _count == 0)
            {
                _ = Set(Usual, Usual);
                _givesBack = true;
            }
        }
    }

    private static bool Set(int map, int trim)
    {
        string[] variables = ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"];
        if (!OperatingSystem.IsLinux() || variables.Any(name => Environment.GetEnvironmentVariable(name) is { Length: > 0 }))
        {
            return false;
        }

        try
        {
            return mallopt(MapThreshold, map) == 1 && mallopt(TrimThreshold, trim) == 1;
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            return false; // another C library
        }
    }

    /// <summary>A training that lasts.</summary>
    public sealed class Training : IDisposable
    {
        private bool _isOver;

        /// <inheritdoc/>
        public void Dispose()
        {
            lock (Gate)
            {
                if (!_isOver && --_count == 0 && IsKept)
                {
                    _ = Set(Usual, Usual);
                    (IsKept, _givesBack) = (false, true);
                }

                _isOver = true;
            }
        }
    }

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);
}
