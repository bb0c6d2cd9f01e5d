using System.Runtime.InteropServices;
using XlstmLab.Native;
using Xunit;

namespace XlstmLab.Tests.Native;

public sealed class HeapMemoryTests
{
    [Fact]
    public void Keep_WithGlibcAndNoWordOfTheUsers_Keeps()
    {
        string?[] said = [.. new[] { "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_" }.Select(Environment.GetEnvironmentVariable)];
        var isGlibc = OperatingSystem.IsLinux() && !RuntimeInformation.RuntimeIdentifier.Contains("musl", StringComparison.Ordinal);
        Assert.Equal(isGlibc && said.All(string.IsNullOrEmpty), HeapMemory.Keep());
    }
}
