using XlstmLab.Native;
using XlstmLab.Tests.Training;
using Xunit;

namespace XlstmLab.Tests.Native;

[Collection(nameof(AloneCollection))]
public sealed class UserCacheTests
{
    [Fact]
    public void Folder_CacheVariable_IsHonoured()
    {
        using var temp = new TempFolder();
        using var _ = new Variable("XDG_CACHE_HOME", temp.Path);
        Assert.Equal(temp["xlstmlab", "kernels"], UserCache.Folder("kernels"));
        Assert.Empty(Directory.EnumerateFileSystemEntries(temp["xlstmlab", "kernels"]));
    }

    /// <summary>A file in the folder's place refuses whoever is root, too, as a read-only home does others.</summary>
    [Fact]
    public void Folder_HomeThatCannotBeWritten_IsInTheTemporaryFolder()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows keeps no home in a variable.");
        using var temp = new TempFolder();
        var file = temp.Write("file", "");
        using var cache = new Variable("XDG_CACHE_HOME", Path.Combine(file, "cache"));
        using var data = new Variable("XDG_DATA_HOME", Path.Combine(file, "data"));
        using var home = new Variable("HOME", file);
        using var place = new Variable("TMPDIR", temp.Path);
        Assert.StartsWith(temp.Path, UserCache.Folder("native"), StringComparison.Ordinal);
    }

    [Fact]
    public void Folder_TemporaryFolderOpenToOthers_IsRefused()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no such modes.");
        using var temp = new TempFolder();
        var file = temp.Write("file", "");
        using var cache = new Variable("XDG_CACHE_HOME", Path.Combine(file, "cache"));
        using var data = new Variable("XDG_DATA_HOME", Path.Combine(file, "data"));
        using var home = new Variable("HOME", file);
        using var place = new Variable("TMPDIR", temp.Path);
        var shared = Directory.CreateDirectory(temp[$"xlstmlab-{Environment.UserName}"]).FullName;
        if (!OperatingSystem.IsWindows())
        {
            File.SetUnixFileMode(
                shared, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.OtherWrite);
        }

        Assert.Contains("XDG_CACHE_HOME", Assert.Throws<IOException>(() => UserCache.Folder("native")).Message, StringComparison.Ordinal);
    }

    /// <summary>A variable of the environment that is as before when this is disposed.</summary>
    private sealed class Variable : IDisposable
    {
        private readonly string _name;
        private readonly string? _before;

        public Variable(string name, string value)
        {
            (_name, _before) = (name, Environment.GetEnvironmentVariable(name));
            Environment.SetEnvironmentVariable(name, value);
        }

        public void Dispose() => Environment.SetEnvironmentVariable(_name, _before);
    }
}
