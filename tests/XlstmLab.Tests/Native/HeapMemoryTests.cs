using System.Runtime.InteropServices;
using XlstmLab.Inference;
using XlstmLab.Models;
using XlstmLab.Native;
using XlstmLab.Text;
using Xunit;

namespace XlstmLab.Tests.Native;

public sealed class HeapMemoryTests
{
    [Fact]
    public void Keep_GlibcAndNobodyHasSaidOtherwise_LastsAsLongAsAnyTraining()
    {
        var isGlibc = OperatingSystem.IsLinux() && !RuntimeInformation.RuntimeIdentifier.Contains("musl", StringComparison.Ordinal);
        string?[] said =
            [.. new[] { "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_" }.Select(Environment.GetEnvironmentVariable)];
        var isPossible = isGlibc && said.All(string.IsNullOrEmpty);
        Assert.False(HeapMemory.IsKept);
        var first = HeapMemory.Keep();
        using (HeapMemory.Keep())
        {
            Assert.Equal(isPossible, HeapMemory.IsKept);
            first.Dispose();
            first.Dispose();
            Assert.Equal(isPossible, HeapMemory.IsKept);
        }

        Assert.False(HeapMemory.IsKept);
    }

    /// <summary>
    /// Each token's keys and values are a little larger than the last's: what was freed must not stay where they do not fit.
    /// </summary>
    [Fact]
    public void Generate_CacheThatGrows_LeavesNoHoles()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The peak of the resident set is read from /proc.");
        const int Tokens = 700;
        using var model = new LlamaConfig
        {
            VocabularySize = 257,
            EmbeddingDim = 256,
            BlockCount = 2,
            HeadCount = 2,
            FeedForwardDim = 32,
        }.CreateModel();
        var generator = new TextGenerator(model, new ByteTokenizer());
        _ = generator.Generate([[256]], new() { MaxNewTokens = 20, StopAtEndOfDocument = false });
        SystemMemory.ResetPeak();
        var before = SystemMemory.Resident;

        _ = generator.Generate([[256]], new() { MaxNewTokens = Tokens, StopAtEndOfDocument = false });

        // All that the caches ever were would be 1 GB; at the end they are 3 MB.
        Assert.InRange(SystemMemory.PeakResident - before, 0, 250e6);
    }
}
