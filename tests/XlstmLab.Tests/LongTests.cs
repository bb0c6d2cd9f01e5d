using Xunit;

namespace XlstmLab.Tests;

/// <summary>What takes too long for every run of the tests.</summary>
internal static class LongTests
{
    /// <summary>Whether this run takes the time.</summary>
    public static bool Run { get; } = Environment.GetEnvironmentVariable("XLSTM_TESTS") == "all";

    /// <summary>Skips the test that calls it, unless this run takes the time.</summary>
    public static void Skip() => Assert.SkipUnless(Run, "Long: runs with XLSTM_TESTS=all, as .ci/run does.");

    /// <summary>Skips a case of a test, unless it is one of the few that every run takes, or this run takes them all.</summary>
    public static void SkipUnless(bool everyRun)
    {
        if (!everyRun)
        {
            Skip();
        }
    }

    /// <summary>What a test is to do: all of it, or in a short run a part.</summary>
    public static T Cases<T>(T all, T few) => Run ? all : few;
}
