using Xunit;

namespace XlstmLab.Tests.Checkpoints;

public sealed class AtomicFileTests : IDisposable
{
    private readonly TempFolder _temp = new();

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void WriteText_NewAndOldFile_HasTheTextWithoutMark()
    {
        AtomicFile.WriteText(_temp["new", "folder", "a.txt"], "erste");
        AtomicFile.WriteText(_temp["new", "folder", "a.txt"], "zweite: ä");
        Assert.Equal("zweite: ä"u8.ToArray(), File.ReadAllBytes(_temp["new", "folder", "a.txt"]));
        Assert.Single(Directory.GetFileSystemEntries(_temp["new", "folder"]));
    }

    [Fact]
    public void Write_Fails_LeavesTheOldFileAndNothingElse()
    {
        AtomicFile.WriteText(_temp["a"], "old");
        Assert.Throws<InvalidDataException>(() => AtomicFile.Write(_temp["a"], stream =>
        {
            stream.Write("half"u8);
            throw new InvalidDataException();
        }));
        Assert.Equal(["a"], _temp.Entries);
        Assert.Equal("old", File.ReadAllText(_temp["a"]));
    }

    [Fact]
    public void Write_OverASymbolicLink_WritesWhatItPointsToAndKeepsTheLink()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Links take a privilege there.");
        Directory.CreateDirectory(_temp["far"]);
        File.WriteAllText(_temp["far", "a"], "old");
        File.CreateSymbolicLink(_temp["a"], _temp["far", "a"]);
        File.CreateSymbolicLink(_temp["b"], "a");
        File.CreateSymbolicLink(_temp["new"], _temp["far", "new"]);
        AtomicFile.WriteText(_temp["b"], "1");
        Assert.Equal("1", File.ReadAllText(_temp["far", "a"]));
        AtomicFile.WriteText(_temp["new"], "2");
        Assert.Equal("2", File.ReadAllText(_temp["far", "new"]));
        Assert.Equal(("a", _temp["far", "a"]), (new FileInfo(_temp["b"]).LinkTarget, new FileInfo(_temp["a"]).LinkTarget));
        Assert.Equal(["a", "new"], Directory.EnumerateFiles(_temp["far"]).Select(Path.GetFileName).Order());

        Directory.CreateSymbolicLink(_temp["folder"], _temp["far"]);
        AtomicFile.WriteFolder(_temp["folder"], folder => File.WriteAllText(Path.Combine(folder, "c"), "3"), replace: true);
        Assert.Equal(_temp["far"], new DirectoryInfo(_temp["folder"]).LinkTarget);
        Assert.Equal([_temp["far", "c"]], Directory.GetFileSystemEntries(_temp["far"]));
        Assert.Equal(["a", "b", "far", "folder", "new"], _temp.Entries);
    }

    [Fact]
    public void Write_FileWithPermissionsOrDevice_KeepsThem()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Permissions and devices are others there.");
        File.WriteAllText(_temp["a"], "old");
#pragma warning disable CA1416 // Skipped on Windows.
        File.SetUnixFileMode(_temp["a"], UnixFileMode.UserRead | UnixFileMode.UserWrite);
        AtomicFile.WriteText(_temp["a"], "new");
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(_temp["a"]));
#pragma warning restore CA1416
        AtomicFile.WriteText("/dev/null", "x");
        Assert.Equal("", File.ReadAllText("/dev/null"));
        Assert.Empty(Directory.EnumerateFiles("/dev", "null.tmp-*"));
    }

    [Fact]
    public void Write_OverAFolder_LeavesNothing()
    {
        Directory.CreateDirectory(_temp["a"]);
        Assert.ThrowsAny<Exception>(() => AtomicFile.WriteText(_temp["a"], "x"));
        Assert.Equal(["a"], _temp.Entries);
    }

    [Fact]
    public void WriteFolder_NewEmptyAndFull_IsWholeOrRefused()
    {
        void Fill(string folder) => AtomicFile.WriteText(Path.Combine(folder, "sub", "b"), "1");

        AtomicFile.WriteFolder(_temp["a/"], Fill);
        Assert.Equal("1", File.ReadAllText(_temp["a", "sub", "b"]));
        Assert.Throws<IOException>(() => AtomicFile.WriteFolder(_temp["a"], Fill));

        Directory.CreateDirectory(_temp["empty"]);
        AtomicFile.WriteFolder(_temp["empty"], Fill);
        AtomicFile.WriteFolder(_temp["a"], folder => File.WriteAllText(Path.Combine(folder, "c"), "2"), replace: true);
        Assert.Equal([_temp["a", "c"]], Directory.GetFileSystemEntries(_temp["a"]));
        Assert.Equal(["a", "empty"], _temp.Entries);

        Assert.Throws<IOException>(() => AtomicFile.WriteFolder(_temp["a", "c"], Fill, replace: true));
    }

    [Fact]
    public void WriteFolder_Fails_LeavesTheOldFolder()
    {
        AtomicFile.WriteFolder(_temp["a"], folder => File.WriteAllText(Path.Combine(folder, "c"), "1"));
        Assert.Throws<InvalidDataException>(() => AtomicFile.WriteFolder(
            _temp["a"],
            folder =>
            {
                File.WriteAllText(Path.Combine(folder, "d"), "2");
                throw new InvalidDataException();
            },
            replace: true));
        Assert.Equal([_temp["a", "c"]], Directory.GetFileSystemEntries(_temp["a"]));
        Assert.Equal(["a"], _temp.Entries);
    }

    [Fact]
    public void Recover_AfterAKill_BringsTheOldFolderBackAndClears()
    {
        Directory.CreateDirectory(_temp["a.tmp-old-1"]);
        File.WriteAllText(_temp["a.tmp-old-1", "c"], "old");
        Directory.CreateDirectory(_temp["a.tmp-2"]);
        File.WriteAllText(_temp["a.tmp-3"], "half");
        File.WriteAllText(_temp["ab.tmp-3"], "another's");

        AtomicFile.Recover(_temp["a"]);
        Assert.Equal(["a", "ab.tmp-3"], _temp.Entries);
        Assert.Equal("old", File.ReadAllText(_temp["a", "c"]));

        Directory.CreateDirectory(_temp["a.tmp-old-4"]);
        AtomicFile.Recover(_temp["a"]);
        Assert.Equal(["a", "ab.tmp-3"], _temp.Entries);
        Assert.Equal("old", File.ReadAllText(_temp["a", "c"]));
        AtomicFile.Recover(_temp["none", "at all"]);
    }
}
