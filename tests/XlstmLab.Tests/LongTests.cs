using Xunit;

namespace XlstmLab.Tests;

/// <summary>What takes too long for every run of the tests.</summary>
internal static class LongTests
{
    /// <summary>Whether this run takes the time.</summary>
    public static bool Run { get; } = Environment.GetEnvironmentVariable("XLSTM_TESTS") == "all";

    /// <summary>Skips the test that calls it, unless this run takes the time.</summary>
    public static void Skip() => Assert.SkipUnless(Run, "Long: runs with XLSTM_TESTS=all, as .ci/run does.");
}
