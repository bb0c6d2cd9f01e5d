using System.Runtime.InteropServices;

namespace XlstmLab.Native;

/// <summary>How libtorch's threads wait for each other.</summary>
/// <remarks>
/// GNU's OpenMP spins for milliseconds by default. Where another program wants the same cores, a thread spins for one that
/// does not run: small training steps then take ten times as long. A short spin costs little where the cores are free.
/// </remarks>
internal static partial class OpenMp
{
    /// <summary>Sets the spin count, unless the user chose how to wait. It must come before OpenMP is loaded.</summary>
    public static void WaitBriefly()
    {
        // .NET keeps its own copy of the environment, which native libraries do not see.
        if (OperatingSystem.IsLinux() && Environment.GetEnvironmentVariable("OMP_WAIT_POLICY") is null)
        {
            _ = SetEnvironment("GOMP_SPINCOUNT", "1000", overwrite: 0);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetEnvironment(string name, string value, int overwrite);
}
