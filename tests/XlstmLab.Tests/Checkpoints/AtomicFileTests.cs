using XlstmLab.Checkpoints;
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
