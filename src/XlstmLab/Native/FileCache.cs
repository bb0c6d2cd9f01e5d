using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace XlstmLab.Native;

/// <summary>What the system keeps of files in memory.</summary>
internal static partial class FileCache
{
    private const int NotNeeded = 4; // POSIX_FADV_DONTNEED

    /// <summary>
    /// Has the system forget a file's contents, so that the next reading is the disk's; false where it cannot be asked to.
    /// </summary>
    /// <param name="path">The file.</param>
    public static bool Drop(string path)
    {
        if (!OperatingSystem.IsLinux())
        {
            return false;
        }

        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite);

        // What is not on the disk yet stays in memory.
        RandomAccess.FlushToDisk(file);
        return Advise(file, 0, 0, NotNeeded) == 0;
    }

    [LibraryImport("libc", EntryPoint = "posix_fadvise")]
    private static partial int Advise(SafeFileHandle file, nint offset, nint length, int advice);
}
