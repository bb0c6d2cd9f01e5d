using System.Runtime.InteropServices;

namespace XlstmLab.Native;

/// <summary>All that native loading has to know of an operating system.</summary>
/// <param name="Rid">The runtime identifier that names the packages' folders.</param>
/// <param name="Prefix">What a library's file name begins with.</param>
/// <param name="Suffix">What a library's file name ends with.</param>
/// <param name="LoadOrder">libtorch's libraries, each after those it needs; missing ones are skipped.</param>
internal sealed record NativePlatform(string Rid, string Prefix, string Suffix, string[] LoadOrder)
{
    public static NativePlatform Current { get; } =
        OperatingSystem.IsWindows()
            ? new($"win-{Processor}", "", ".dll", ["libiomp5md", "c10", "torch_cpu", "c10_cuda", "torch_cuda", "torch"])
            : OperatingSystem.IsMacOS()
                ? new($"osx-{Processor}", "lib", ".dylib", ["omp", "c10", "torch_cpu", "torch"])
                : new($"linux-{Processor}", "lib", ".so", ["c10", "torch_cpu", "c10_cuda", "torch_cuda", "torch"]);

    private static string Processor => RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "arm64" : "x64";

    /// <summary>Only glibc systems bind symbols to versions.</summary>
    public bool MayWeakenSymbolVersions => Rid.StartsWith("linux", StringComparison.Ordinal);

    public string FileName(string library) => Prefix + library + Suffix;
}
