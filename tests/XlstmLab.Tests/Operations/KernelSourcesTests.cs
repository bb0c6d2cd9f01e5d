using System.Text.RegularExpressions;
using XlstmLab.Native.Cuda;
using Xunit;

namespace XlstmLab.Tests.Operations;

public sealed partial class KernelSourcesTests
{
    /// <summary>
    /// A kernel is started before those in front of it have ended: one that touches memory first would read what is not there yet.
    /// </summary>
    [Fact]
    public void EveryKernel_WaitsForItsPredecessorsFirst()
    {
        var count = 0;
        foreach (var file in KernelSources.Names().Where(name => name.EndsWith(".cu", StringComparison.Ordinal)))
        {
            foreach (Match kernel in Kernels().Matches(KernelSources.Read(file)))
            {
                count++;
                var waitsLater = kernel.Groups["first"].Value == "start_dependents();" && kernel.Groups["rest"].Value.Contains(
                    "\n    wait_for_results();\n", StringComparison.Ordinal);
                Assert.True(
                    kernel.Groups["first"].Value == "wait_for_predecessors();" || waitsLater,
                    $"{file}: {kernel.Groups["signature"].Value.Split('\n')[0]} begins with '{kernel.Groups["first"].Value}'.");
            }
        }

        Assert.InRange(count, 41, 200);
    }

    [GeneratedRegex(
        @"^KERNEL void (?<signature>.*?)\n\{\n\s*(?<first>[^\n]*)(?<rest>.*?)\n\}", RegexOptions.Multiline | RegexOptions.Singleline)]
    private static partial Regex Kernels();
}
