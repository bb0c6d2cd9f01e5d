using System.Reflection;
using System.Runtime.CompilerServices;
using TorchSharp;
using XlstmLab.Native;
using Xunit;
using Xunit.Sdk;
using Xunit.v3;

// Tests count the live tensors of the whole process and set its number of threads: one at a time. Beside them run those that make no tensor
// here: of texts (TextCollection), and such as mostly wait for processes of their own (ProcessCollection) and hardly take a core.
[assembly: CollectionBehavior(CollectionBehavior.CollectionPerAssembly)]
[assembly: Parallelization(Mode = ParallelMode.Collections, MaxThreads = 3)]

namespace XlstmLab.Tests;

/// <summary>Tests of other processes, which run beside all that may run beside something.</summary>
[CollectionDefinition(nameof(ProcessCollection))]
#pragma warning disable CA1711 // What xunit calls it.
public sealed class ProcessCollection;
#pragma warning restore CA1711

/// <summary>What every test relies on: libtorch is loaded before the first tensor, and files of the clone are found.</summary>
internal static class TestSetup
{
    /// <summary>The root of the clone.</summary>
    public static string RepositoryRoot { get; } = Path.GetFullPath(
        typeof(TestSetup).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().First(a => a.Key == "RepositoryRoot").Value!);

    /// <summary>
    /// What the processes of tests are started with: they end before code that is compiled again, and faster, pays for itself.
    /// </summary>
    public static IReadOnlyDictionary<string, string> ShortLived { get; } = new Dictionary<string, string>
    {
        ["DOTNET_TieredPGO"] = "0",
        ["DOTNET_TC_CallCountingDelayMs"] = "3000",
        ["DOTNET_EnableWriteXorExecute"] = "0",
    };

    /// <summary>A path inside <c>tests/golden</c>.</summary>
    public static string Golden(params string[] parts) => Path.Combine([RepositoryRoot, "tests", "golden", .. parts]);

#pragma warning disable CA2255 // A test assembly is a program: nothing else runs before its first test.
    [ModuleInitializer]
    internal static void LoadTorch()
    {
        NativeTorch.EnsureLoaded();
        foreach (var (name, value) in ShortLived)
        {
            Environment.SetEnvironmentVariable(name, value);
        }

        // Two programs of tests run side by side: threads of both that wait in a loop for work would take the cores from each other.
        torch.set_num_threads(1);
    }
#pragma warning restore CA2255
}
