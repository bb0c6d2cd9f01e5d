using System.Diagnostics;
using System.Globalization;

namespace XlstmLab.Native;

/// <summary>The memory of the machine and of this process.</summary>
internal static class SystemMemory
{
    /// <summary>The bytes that processes may use, the container's limit included.</summary>
    public static long Total => GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;

    /// <summary>The bytes that are free or can be made free without swapping; without a system's answer, half of all.</summary>
    public static long Available
    {
        get
        {
            const string info = "/proc/meminfo";
            var line = File.Exists(info)
                ? File.ReadLines(info).FirstOrDefault(l => l.StartsWith("MemAvailable:", StringComparison.Ordinal)) : null;
            var free = line is not null
                && long.TryParse(
                    line.AsSpan("MemAvailable:".Length).Trim().TrimEnd("kB ").ToString(), NumberStyles.None,
                    CultureInfo.InvariantCulture, out var kib)
                ? kib * 1024
                : Total / 2;
            return Math.Min(free, Total);
        }
    }

    /// <summary>The bytes of this process that are in memory.</summary>
    public static long Resident
    {
        get
        {
            using var process = Process.GetCurrentProcess();
            return process.WorkingSet64;
        }
    }

    /// <summary>The most bytes of this process that ever were in memory, since <see cref="ResetPeak"/> where the system has one.</summary>
    public static long PeakResident
    {
        get
        {
            using var process = Process.GetCurrentProcess();
            return process.PeakWorkingSet64;
        }
    }

    /// <summary>Forgets the peak, on Linux; elsewhere what loading the program took stays the least peak there is.</summary>
    public static void ResetPeak()
    {
        try
        {
            File.WriteAllText("/proc/self/clear_refs", "5");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Not Linux, or a container that forbids it: the peak is only a little too high.
        }
    }
}
