using System.Text;
using XlstmLab.Native;
using Xunit;
using static TorchSharp.torch;

namespace XlstmLab.Tests.Native;

public sealed class NativeTorchTests
{
    [Fact]
    public void Tensors_AfterLoading_Compute()
    {
        using var sum = ones(2, 3).sum();
        Assert.Equal(6f, sum.item<float>());
        Assert.True(Directory.Exists(NativeTorch.Folder));
    }

    [Fact]
    public void CandidateFolders_NothingChosen_BeginBesideTheProgram()
    {
        var folders = NativeTorch.CandidateFolders("linux-x64").ToList();

        Assert.Equal(AppContext.BaseDirectory, folders[0]);
        Assert.Contains(folders, f => f.EndsWith(Path.Combine("runtimes", "linux-x64", "native"), StringComparison.Ordinal));
    }

    [Fact]
    public void Weaken_BridgeOfThePackage_ChangesOneFlagOnce()
    {
        var bridge = Path.Combine(AppContext.BaseDirectory, "runtimes", "linux-x64", "native", "libLibTorchSharp.so");
        Assert.SkipUnless(File.Exists(bridge), "This platform's package has no Linux bridge.");
        var before = File.ReadAllBytes(bridge);
        var after = before.ToArray();

        Assert.True(ElfSymbolVersions.Weaken(after, "GLIBCXX_3.4.32"));

        var changed = Enumerable.Range(0, before.Length).Where(i => before[i] != after[i]).ToList();
        Assert.Single(changed);
        Assert.Equal(before[changed[0]] | 2, after[changed[0]]);
        Assert.False(ElfSymbolVersions.Weaken(after, "GLIBCXX_9.9.9"));
    }

    [Fact]
    public void Weaken_NoElfLibrary_IsRefused() =>
        Assert.Throws<BadImageFormatException>(
            () => ElfSymbolVersions.Weaken(Encoding.ASCII.GetBytes(new string('x', 100)), "GLIBCXX_3.4.32"));
}
