using XlstmLab.Native;
using Xunit;

namespace XlstmLab.Tests.Native;

public sealed class LibtorchVersionTests
{
    [Fact]
    public void Version_OfWhatIsLoaded_IsKnown() => Assert.Matches(@"^2\.1\d\.\d", NativeTorch.Version);

    [Fact]
    public void VersionOf_PyTorch_IsWhatItsScriptSays()
    {
        using var folder = new TempFolder();
        folder.Write("torch/version.py", "from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n");
        Directory.CreateDirectory(folder["torch", "lib"]);

        Assert.Equal("2.11.0+cu130", NativeTorch.VersionOf(folder["torch", "lib"]));
        Assert.Equal("2.11.0+cu130", NativeTorch.VersionOf(folder["torch", "lib"] + Path.DirectorySeparatorChar));
    }

    [Fact]
    public void VersionOf_UnpackedLibtorch_IsItsBuildVersion()
    {
        using var folder = new TempFolder();
        folder.Write("libtorch/build-version", "2.10.1+cpu\n");
        Directory.CreateDirectory(folder["libtorch", "lib"]);

        Assert.Equal("2.10.1+cpu", NativeTorch.VersionOf(folder["libtorch", "lib"]));
    }

    [Fact]
    public void VersionOf_FolderWithoutAWord_IsUnknown()
    {
        using var folder = new TempFolder();
        Assert.Equal("unknown", NativeTorch.VersionOf(folder["lib"]));
    }
}
