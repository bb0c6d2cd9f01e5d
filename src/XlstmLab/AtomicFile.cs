using System.Text;

namespace XlstmLab;

/// <summary>Writes files and folders that are there as a whole or not at all.</summary>
/// <remarks>
/// All is written beside its place, under the same name with <c>.tmp-</c> and a random end, flushed to the disk, and renamed. A failure or
/// a cancellation removes what was written and leaves what was there before. A killed process leaves the <c>.tmp-</c> entry, never a
/// half-written target; <see cref="Recover"/> clears it. Where the name is a symbolic link, what it points to is written and the link
/// stays; a file that is replaced keeps its permissions. A device such as <c>/dev/null</c> is written as it is.
/// </remarks>
public static class AtomicFile
{
    private const string Mark = ".tmp-";
    private const string OldMark = ".tmp-old-";

    /// <summary>Writes a file by a stream. Its folder is made if there is none; a file of that name is replaced.</summary>
    /// <param name="path">The file.</param>
    /// <param name="write">Fills the stream, and leaves it open.</param>
    /// <exception cref="IOException">The file cannot be written, or a folder has its name.</exception>
    public static void Write(string path, Action<FileStream> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        if (IsDevice(path))
        {
            using var device = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 1 << 16);
            write(device);
            return;
        }

        var target = Normalize(path);
        Directory.CreateDirectory(Parent(target));
        var aside = Aside(target, Mark);
        try
        {
            using (var stream = new FileStream(aside, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }

            if (!OperatingSystem.IsWindows() && File.Exists(target))
            {
                File.SetUnixFileMode(aside, File.GetUnixFileMode(target));
            }

            File.Move(aside, target, overwrite: true);
        }
        catch
        {
            File.Delete(aside);
            throw;
        }
    }

    /// <summary>Writes a text as UTF-8 without a byte order mark.</summary>
    /// <inheritdoc cref="Write" path="/exception"/>
    public static void WriteText(string path, string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        Write(path, stream => stream.Write(Encoding.UTF8.GetBytes(text)));
    }

    /// <summary>Writes a folder with all that is in it.</summary>
    /// <param name="path">The folder.</param>
    /// <param name="write">Fills the empty folder whose path it is given.</param>
    /// <param name="replace">Whether a folder of that name that is not empty is replaced, with everything in it.</param>
    /// <remarks>
    /// A replaced folder is moved aside, not deleted, until the new one is in its place. A process killed between those two renames
    /// leaves no folder of that name; <see cref="Recover"/> brings the old one back.
    /// </remarks>
    /// <exception cref="IOException">The folder cannot be written, or has content and is not to be replaced.</exception>
    public static void WriteFolder(string path, Action<string> write, bool replace = false)
    {
        ArgumentNullException.ThrowIfNull(write);
        var target = Normalize(path);
        if (File.Exists(target))
        {
            throw new IOException($"{target} is a file; a folder was to be written there. Choose another name or delete the file.");
        }

        if (!replace && Directory.Exists(target) && Directory.EnumerateFileSystemEntries(target).Any())
        {
            throw new IOException($"The folder {target} is there already and not empty. Choose another name or delete it.");
        }

        var aside = Aside(target, Mark);
        Directory.CreateDirectory(aside);
        try
        {
            write(aside);
            foreach (var file in Directory.EnumerateFiles(aside, "*", SearchOption.AllDirectories))
            {
                using var handle = File.OpenHandle(file, FileMode.Open, FileAccess.ReadWrite);
                RandomAccess.FlushToDisk(handle);
            }

            MoveIntoPlace(aside, target);
        }
        catch
        {
            if (Directory.Exists(aside))
            {
                Directory.Delete(aside, recursive: true);
            }

            throw;
        }
    }

    /// <summary>Clears what killed writers of a file or folder left beside it, and brings back a folder that was being replaced.</summary>
    /// <remarks>To be called only where no other process is writing the same file or folder.</remarks>
    /// <exception cref="IOException">Something that was left cannot be moved or deleted.</exception>
    public static void Recover(string path)
    {
        var target = Normalize(path);
        if (!Directory.Exists(Parent(target)))
        {
            return;
        }

        if (!Path.Exists(target) && Leftovers(target, OldMark).MaxBy(Directory.GetLastWriteTimeUtc) is { } old)
        {
            Directory.Move(old, target);
        }

        foreach (var entry in Leftovers(target, Mark))
        {
            if (Directory.Exists(entry))
            {
                Directory.Delete(entry, recursive: true);
            }
            else
            {
                File.Delete(entry);
            }
        }
    }

    private static void MoveIntoPlace(string aside, string target)
    {
        if (!Directory.Exists(target))
        {
            Directory.Move(aside, target);
            return;
        }

        var old = Aside(target, OldMark);
        Directory.Move(target, old);
        try
        {
            Directory.Move(aside, target);
        }
        catch
        {
            Directory.Move(old, target);
            throw;
        }

        Directory.Delete(old, recursive: true);
    }

    private static List<string> Leftovers(string target, string mark) =>
        [.. Directory.EnumerateFileSystemEntries(Parent(target))
            .Where(entry => Path.GetFileName(entry).StartsWith(Path.GetFileName(target) + mark, StringComparison.Ordinal))];

    private static string Normalize(string path)
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(path);
        var entry = new FileInfo(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)));
        return entry.LinkTarget is null
            ? entry.FullName
            : Path.TrimEndingDirectorySeparator(entry.ResolveLinkTarget(returnFinalTarget: true)!.FullName);
    }

    private static bool IsDevice(string path) =>
        path is not null
        && path.StartsWith("/dev/", StringComparison.Ordinal)
        && !path.StartsWith("/dev/shm/", StringComparison.Ordinal)
        && File.Exists(path);

    private static string Parent(string target) =>
        Path.GetDirectoryName(target) ?? throw new IOException($"{target} is a root folder and cannot be written as a whole.");

    private static string Aside(string target, string mark) => $"{target}{mark}{Guid.NewGuid().ToString("N")[..8]}";
}
