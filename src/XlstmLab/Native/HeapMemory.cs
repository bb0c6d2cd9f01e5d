using System.Runtime.InteropServices;

namespace XlstmLab.Native;

/// <summary>Lets the C library keep what a training step frees for the next one.</summary>
/// <remarks>
/// glibc gives freed memory back to the system, which has to find and clear it again page by page in the next step: a tenth of the time for
/// a small model's step.
/// </remarks>
internal static partial class HeapMemory
{
    private const int TrimThreshold = -1;
    private const int MapThreshold = -3;

    /// <summary>Keeps up to a GiB, or an eighth of a smaller machine's memory, unless the environment says what is to be kept.</summary>
    /// <returns>Whether it is kept.</returns>
    public static bool Keep()
    {
        string[] variables = ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"];
        if (!OperatingSystem.IsLinux() || variables.Any(name => Environment.GetEnvironmentVariable(name) is { Length: > 0 }))
        {
            return false;
        }

        try
        {
            // The greatest piece that glibc lets lie in the heap.
            return mallopt(MapThreshold, 32 << 20) == 1 && mallopt(TrimThreshold, (int)Math.Min(SystemMemory.Total / 8, 1 << 30)) == 1;
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            return false; // another C library
        }
    }

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);
}
