namespace XlstmLab.Native;

/// <summary>The folder for what can be made again: weakened libraries, compiled kernels.</summary>
/// <remarks>
/// It lies in <c>XDG_CACHE_HOME</c> where that names a folder, else in the user's folder for local data and, where neither can be written,
/// as on a machine whose home is read-only, in a folder of the user's own in the temporary one.
/// </remarks>
internal static class UserCache
{
    private const string Name = "xlstmlab";

    /// <summary>A folder of the cache, which is there and can be written when this returns.</summary>
    /// <exception cref="IOException">No place can be written; the message says which were tried.</exception>
    public static string Folder(params string[] names)
    {
        var tried = new List<string>();
        foreach (var (root, isShared) in Roots())
        {
            try
            {
                return Prepare(root, isShared, names);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                tried.Add($"{root} ({e.Message.TrimEnd('.')})");
            }
        }

        throw new IOException(
            $"No folder for compiled and adapted libraries can be written; tried {string.Join(", ", tried)}. "
            + "Set XDG_CACHE_HOME to one that can.");
    }

    private static IEnumerable<(string Root, bool IsShared)> Roots()
    {
        if (Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } cache && Path.IsPathRooted(cache))
        {
            yield return (Path.Combine(cache, Name), false);
        }

        // Without a home there is no such folder, and the name is empty.
        if (Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData,
            Environment.SpecialFolderOption.DoNotVerify) is { Length: > 0 } data)
        {
            yield return (Path.Combine(data, Name), false);
        }

        yield return (Path.Combine(Path.GetTempPath(), $"{Name}-{Environment.UserName}"), !OperatingSystem.IsWindows());
    }

    private static string Prepare(string root, bool isShared, string[] names)
    {
        if (isShared && !OperatingSystem.IsWindows())
        {
            // What is loaded from here runs: nobody else may put something there.
            Directory.CreateDirectory(root, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            if ((File.GetUnixFileMode(root) & (UnixFileMode.GroupWrite | UnixFileMode.OtherWrite)) != 0
                || new DirectoryInfo(root).LinkTarget is not null)
            {
                throw new IOException("others may write there");
            }
        }

        var folder = Directory.CreateDirectory(Path.Combine([root, .. names])).FullName;
        var probe = Path.Combine(folder, $".probe-{Guid.NewGuid():N}");
        File.WriteAllBytes(probe, []);
        File.Delete(probe);
        return folder;
    }
}
