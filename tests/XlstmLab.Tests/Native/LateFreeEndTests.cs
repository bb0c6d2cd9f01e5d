using XlstmLab.Native;
using Xunit;

namespace XlstmLab.Tests.Native;

/// <summary>What waits to be freed when its process ends.</summary>
[Collection(nameof(ProcessCollection))]
public sealed class LateFreeEndTests
{
    private const string ChildVariable = "XLSTM_TEST_LATE_FREE_END";

    [Fact]
    public void Waiting_AtTheEndOfTheProcess_IsLeftToTheSystem()
    {
        Assert.SkipWhen(LateFree.Absence is not null, "The cure is not active here.");

        var (exitCode, output) = ChildTest.Run(
            typeof(LateFreeEndTests), nameof(Child_LeavesTensorsBehindAtItsEnd), new Dictionary<string, string> { [ChildVariable] = "1" },
            TimeSpan.FromMinutes(2));

        Assert.True(exitCode == 0, $"The program ended with {exitCode}: {output}");
    }

    /// <summary>
    /// Not a test but the program: libtorch's memory of a GPU is not to be freed any more when the handlers of the end have begun.
    /// </summary>
    [Fact(Explicit = true)]
    public void Child_LeavesTensorsBehindAtItsEnd()
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable(ChildVariable) is not null, "It runs as a child of another test only.");
        AppDomain.CurrentDomain.ProcessExit += (_, _) =>
        {
            var before = LateFree.Counts;
            Thread.Sleep(3000);
            if (LateFree.Counts is var after && after != before)
            {
                Environment.FailFast($"{before} became {after} at the end.");
            }
        };

        // Of so many bytes tensors wait for a second.
        LateFreeTests.LeaveBehindLarge();
        LateFreeTests.LeaveBehindLarge();
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Assert.True(LateFree.Counts.Bytes >= 1L << 30, $"{LateFree.Counts} wait.");
    }
}
