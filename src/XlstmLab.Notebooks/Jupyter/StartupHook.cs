using XlstmLab.Notebooks;

#pragma warning disable CA1050 // The runtime looks for this name, outside of all namespaces.
/// <summary>
/// Runs before .NET Interactive's own tool, whose kernels name this library in <c>DOTNET_STARTUP_HOOKS</c>: a cell may touch TorchSharp
/// before this library, and TorchSharp would not find libtorch by itself.
/// </summary>
internal static class StartupHook
{
    /// <summary>The variable that brings the runtime here.</summary>
    public const string Variable = "DOTNET_STARTUP_HOOKS";

    /// <summary>Called by the runtime.</summary>
    public static void Initialize()
    {
        // Programs that the tool starts have not this library.
        Environment.SetEnvironmentVariable(Variable, null);
        CellEngine.LoadTorch();
    }
}
#pragma warning restore CA1050
